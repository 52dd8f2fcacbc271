// Answers that follow grammars are those of one process, byte for byte, whatever happens around
// them, and follow them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/actors/guided_requests.hpp"
#include "tests/actors/test_cluster.hpp"

namespace troupe::actors {
namespace {

TEST(GuidedCluster, AnswersFollowTheirGrammarsAndAreThoseOfOneProcess) {
  const auto requests = guided_requests(16);
  const auto expected = generated_alone(kDemoModel, specs_of(requests));
  for (const uint32_t shards : {1U, 3U}) {
    TestCluster cluster({.model = kDemoModel, .num_shards = shards, .num_threads = shards % 2 + 1});
    ASSERT_TRUE(cluster.wait_serving());
    std::vector<std::shared_future<Stream>> streams;
    for (const GuidedRequest& request : requests) streams.push_back(cluster.submit(request.spec));
    for (size_t i = 0; i < requests.size(); ++i) {
      const Stream stream = TestCluster::wait(streams[i]);
      expect_same(stream, expected[i], "request " + std::to_string(i));
      expect_follows(stream, requests[i]);
    }
  }
}

TEST(GuidedCluster, PreemptionAndSmallChunksChangeNoToken) {
  const auto requests = guided_requests(16);
  const auto expected = generated_alone(kDemoModel, specs_of(requests));
  TestCluster cluster({.model = kDemoModel,
                       .batcher = {.max_step_tokens = 12, .max_running = 10},
                       .kv_blocks = 26,
                       .kv_block_tokens = 8});
  ASSERT_TRUE(cluster.wait_serving());
  std::vector<std::shared_future<Stream>> streams;
  for (const GuidedRequest& request : requests) streams.push_back(cluster.submit(request.spec));
  for (size_t i = 0; i < requests.size(); ++i) {
    expect_same(TestCluster::wait(streams[i]), expected[i], "request " + std::to_string(i));
  }
  uint64_t num_preempted = 0;
  for (const NodeStatus& node : cluster.status().nodes) num_preempted += node.num_preempted;
  EXPECT_GT(num_preempted, 2U);
}

TEST(GuidedCluster, AnotherRouterGoesOnInTheMiddleOfAnAnswer) {
  const auto requests = guided_requests(1);
  const Stream expected = generated_alone(kDemoModel, specs_of(requests))[0];
  ASSERT_GT(expected.tokens.size(), 20U);
  for (const size_t after : {1U, 7U, 15U}) {
    TestCluster cluster({.model = kDemoModel, .num_routers = 2, .num_shards = 2});
    ASSERT_TRUE(cluster.wait_serving());
    std::promise<void> under_way;
    std::vector<std::shared_future<Stream>> streams;  // some at each router
    for (int i = 0; i < 4; ++i) {
      streams.push_back(cluster.submit(requests[0].spec, [&, i](RequestId, size_t count) {
        if (i == 3 && count == after) under_way.set_value();
      }));
    }
    under_way.get_future().wait();
    cluster.nodes().kill("router-0");
    for (const auto& stream : streams) {
      expect_same(TestCluster::wait(stream), expected);
      expect_follows(TestCluster::wait(stream), requests[0]);
    }
    EXPECT_GE(cluster.status().counts.resumed_total, 1U);
  }
}

TEST(GuidedCluster, ARouterWithoutATokenizerSaysSoAndServesOn) {
  TestCluster cluster({.model = golden_model("v3-groups"), .num_shards = 1});
  ASSERT_TRUE(cluster.wait_serving());
  scheduler::RequestSpec guided = greedy(4);
  guided.sampling.grammar = std::make_shared<const model::GrammarSpec>(
      model::GrammarSpec{.kind = model::GrammarSpec::Kind::kJsonObject});
  const auto plain = cluster.submit(greedy(4));
  const Stream failed = TestCluster::wait(cluster.submit(guided));
  ASSERT_TRUE(failed.error.has_value());
  EXPECT_EQ(failed.error->code, Code::kInvalidArgument);
  EXPECT_THAT(failed.error->message, testing::HasSubstr("tokenizer"));
  EXPECT_EQ(TestCluster::wait(plain).tokens.size(), 4U);
}

TEST(GuidedCluster, AGrammarThatLeavesNoTokenEndsItsRequestAlone) {
  auto requests = guided_requests(2);
  const auto expected = generated_alone(kDemoModel, specs_of(requests));
  scheduler::RequestSpec stuck = requests[0].spec;
  stuck.sampling.allowed_token_ids = {1};  // the end, which cannot come first
  TestCluster cluster({.model = kDemoModel, .num_shards = 2});
  ASSERT_TRUE(cluster.wait_serving());
  const auto first = cluster.submit(requests[0].spec);
  const Stream failed = TestCluster::wait(cluster.submit(stuck));
  const auto second = cluster.submit(requests[1].spec);
  ASSERT_TRUE(failed.error.has_value());
  EXPECT_EQ(failed.error->code, Code::kInvalidArgument);
  EXPECT_THAT(failed.error->message, testing::HasSubstr("leave no token"));
  expect_same(TestCluster::wait(first), expected[0]);
  expect_same(TestCluster::wait(second), expected[1]);
}

}  // namespace
}  // namespace troupe::actors
