// Answers that follow a grammar, under virtual time and over CAF's network: the grammar travels in
// the token log, and a router dies at every stage of an answer.

#include <gtest/gtest.h>

#include "tests/actors/guided_requests.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {
namespace {

TEST(VirtualGuided, ARouterMayDieAtEveryTokenAndTheAnswerIsTheSame) {
  const auto requests = guided_requests(4);
  const auto expected = generated_alone(kDemoModel, specs_of(requests));
  uint64_t num_resumed = 0;
  for_each_seed(6, [&](uint64_t seed) {
    VirtualCluster cluster({.model = kDemoModel, .num_routers = 2, .num_shards = 2},
                           {.seed = seed,
                            .max_job_time = milliseconds(1),
                            .max_frame_time = milliseconds(1),
                            .networked = seed % 2 == 1});
    ASSERT_TRUE(cluster.run_until_serving());
    const auto streams = cluster.submit_all(specs_of(requests));
    const size_t after = 1 + 5 * seed;  // tokens of the longest answer
    ASSERT_TRUE(cluster.run_until([&] { return streams[0]->tokens.size() >= after; }));
    cluster.nodes().kill(seed % 3 == 0 ? "router-0" : "router-1");
    ASSERT_TRUE(cluster.run_until_ended(streams));
    for (size_t i = 0; i < streams.size(); ++i) {
      expect_same(*streams[i], expected[i], "request " + std::to_string(i));
      expect_follows(*streams[i], requests[i]);
    }
    num_resumed += cluster.status().counts.resumed_total;
    EXPECT_EQ(cluster.left_over(), "");
  });
  EXPECT_GT(num_resumed, 3U);
}

}  // namespace
}  // namespace troupe::actors
