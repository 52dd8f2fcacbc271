#pragma once

// Two short requests, and what may be seen of them when something goes wrong around them.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/requests.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {

inline const std::string kModel = golden_model("v3-groups");

inline std::vector<scheduler::RequestSpec> two_requests() {
  auto specs = mixed_requests(opened_model(kModel).config().vocab_size, 2);
  for (auto& spec : specs) {
    spec.prompt.resize(std::min<size_t>(spec.prompt.size(), 6));
    spec.max_tokens = 3;
  }
  return specs;
}

inline const std::vector<Stream>& expected() {
  static const std::vector<Stream> kExpected = generated_alone(kModel, two_requests());
  return kExpected;
}

inline bool all_ended(const VirtualCluster::Streams& streams) {
  return std::ranges::all_of(streams, [](const auto& stream) { return stream->ended(); });
}

/// Whatever the stream shows is right: its events in order, its tokens the first of `expected`.
inline void expect_nothing_wrong(const Stream& stream, const Stream& expected) {
  EXPECT_EQ(stream.violation, "");
  const auto ids = stream.ids(), all = expected.ids();
  EXPECT_TRUE(ids.size() <= all.size() && std::equal(ids.begin(), ids.end(), all.begin()));
  if (stream.finished) expect_same(stream, expected);
}

inline void expect_right_or_one_clear_error(const Stream& stream, const Stream& expected) {
  ASSERT_TRUE(stream.ended());
  expect_nothing_wrong(stream, expected);
  if (!stream.error) return;
  EXPECT_EQ(stream.error->code, Code::kUnavailable) << stream.error->message;
  EXPECT_NE(stream.error->message, "");
}

/// The cluster serves again, and as if nothing had happened.
inline void expect_good_service(VirtualCluster& cluster) {
  ASSERT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all(two_requests());
  ASSERT_TRUE(cluster.run_until_ended(streams));
  for (size_t i = 0; i < streams.size(); ++i) expect_same(*streams[i], expected()[i]);
  EXPECT_EQ(cluster.left_over(), "");
}

}  // namespace troupe::actors
