// The first byte says how the rest, a server's answer, is cut into pieces. What a client reads of
// it must not depend on the cuts.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.hpp"
#include "gateway/response_parser.hpp"

namespace {

using namespace troupe;
using namespace troupe::gateway;

struct Read {
  std::vector<std::string> events;
  std::string outcome;
  ClientResponse response;
};

Read read(std::string_view bytes, size_t piece) {
  Read got;
  ResponseParser parser(4096, [&](std::string_view data) {
    got.events.emplace_back(data);
    return got.events.size() < 100;
  });
  while (!bytes.empty() && !parser.done()) {
    const auto taken = parser.feed(bytes.substr(0, piece));
    if (!taken.ok()) {
      got.outcome = taken.error().message;
      return got;
    }
    CHECK(*taken > 0);
    bytes.remove_prefix(*taken);
  }
  const auto ended = parser.end();
  got.outcome = ended.ok() ? "done" : ended.error().message;
  got.response = parser.take();
  return got;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Read whole = read(bytes, bytes.size() + 1);
  const Read cut = read(bytes, data[0] % 32 + 1);
  CHECK(whole.events == cut.events);
  CHECK_EQ(whole.outcome, cut.outcome);
  CHECK(whole.response.headers == cut.response.headers);
  CHECK_EQ(whole.response.body, cut.response.body);
  return 0;
}
