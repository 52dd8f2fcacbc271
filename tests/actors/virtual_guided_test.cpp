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

constexpr uint32_t kBlockTokens = 4;

/// A guided request, whose prompt fills its blocks, and others that begin with this prompt and have
/// no grammar.
std::vector<scheduler::RequestSpec> one_guided(uint64_t seed) {
  scheduler::RequestSpec guided = specs_of(guided_requests(5))[seed % 5];
  guided.prompt.resize(guided.prompt.size() / kBlockTokens * kBlockTokens);
  std::vector<scheduler::RequestSpec> specs(3, guided);
  for (size_t i = 1; i < specs.size(); ++i) {
    specs[i].sampling.grammar.reset();
    specs[i].max_tokens = 12;
    for (size_t t = 0; t < i * seed; ++t) {
      specs[i].prompt.push_back(guided.prompt[t % guided.prompt.size()]);
    }
  }
  return specs;
}

ClusterOptions one_router() {
  return {.model = kDemoModel,
          .num_shards = 1,
          .batcher = {.max_step_tokens = 16, .max_running = 4},
          .kv_block_tokens = kBlockTokens};
}

TEST(VirtualGuided, AMaskThatNeverComesKeepsNobodyElseWaitingAndALateOneChangesNoToken) {
  for_each_seed(10, [](uint64_t seed) {
    const auto specs = one_guided(seed);
    const auto expected = generated_alone(kDemoModel, specs);
    VirtualCluster cluster(one_router(), {.seed = seed, .max_job_time = milliseconds(1)});
    ASSERT_TRUE(cluster.run_until_serving());
    Executor& background = *cluster.nodes().at("router-0").background;
    const size_t before = seed % 3;
    if (before == 0) cluster.world().stall(background);
    auto streams = cluster.submit_all({specs[0]});
    ASSERT_TRUE(cluster.run_until([&] { return streams[0]->tokens.size() >= before; }));
    cluster.world().stall(background);
    for (size_t i = 1; i < specs.size(); ++i) streams.push_back(cluster.submit(specs[i]));
    ASSERT_TRUE(cluster.run_until_ended({streams[1], streams[2]}));
    EXPECT_FALSE(streams[0]->ended());
    // And no step is run for nothing.
    const auto num_rows = [&] {
      uint64_t sum = 0;
      for (const NodeStatus& node : cluster.status().nodes) sum += node.rows_computed;
      return sum;
    };
    cluster.run_for(seconds(1));
    const uint64_t rows = num_rows();
    cluster.run_for(seconds(1));
    EXPECT_EQ(num_rows(), rows);
    const size_t num_tokens = streams[0]->tokens.size();
    EXPECT_LT(num_tokens, expected[0].tokens.size());
    cluster.world().unstall_all();
    ASSERT_TRUE(cluster.run_until_ended(streams));
    for (size_t i = 0; i < streams.size(); ++i) {
      expect_same(*streams[i], expected[i], "request " + std::to_string(i));
    }
    EXPECT_EQ(cluster.left_over(), "");
  });
}

TEST(VirtualGuided, ARequestMayBeCancelledWhileItsMaskIsMade) {
  for_each_seed(40, [](uint64_t seed) {
    const auto specs = one_guided(seed % 5);
    const auto expected = generated_alone(kDemoModel, {specs[0]});
    VirtualCluster cluster(one_router(), {.seed = seed, .max_job_time = milliseconds(1)});
    ASSERT_TRUE(cluster.run_until_serving());
    Executor& background = *cluster.nodes().at("router-0").background;
    const auto cancelled = cluster.submit_all({specs[0], specs[0], specs[1]});
    cluster.run_for(seconds(1), 400 + 37 * seed);
    if (seed % 2 == 0) {  // in the queue; else made, or just told
      cluster.world().stall(background);
      cluster.run_for(milliseconds(30));
    }
    for (const auto& stream : cancelled) cluster.nodes().client().cancel(stream->request);
    const auto stream = cluster.submit(specs[0]);
    if (seed % 4 == 0) cluster.run_for(seconds(1));
    cluster.world().unstall_all();
    ASSERT_TRUE(cluster.run_until_ended({stream}));
    expect_same(*stream, expected[0]);
    EXPECT_EQ(cluster.left_over(), "");
  });
}

TEST(VirtualGuided, LateMasksAndPreemptionChangeNoToken) {
  const auto requests = guided_requests(12);
  const auto expected = generated_alone(kDemoModel, specs_of(requests));
  uint64_t num_preempted = 0;
  for_each_seed(6, [&](uint64_t seed) {
    ClusterOptions options = one_router();
    options.batcher.max_running = 10;
    options.kv_blocks = 50;
    options.micro_batches = 1 + static_cast<uint32_t>(seed % 2);  // 2: sampled at different times
    VirtualCluster cluster(options, {.seed = seed, .max_job_time = milliseconds(1)});
    ASSERT_TRUE(cluster.run_until_serving());
    Executor& background = *cluster.nodes().at("router-0").background;
    const auto streams = cluster.submit_all(specs_of(requests));
    for (uint64_t i = 0; i < 60; ++i) {
      cluster.world().stall(background);
      cluster.run_for(milliseconds(20), 20 + i * 37 % 150);  // for a part of a step, or some steps
      cluster.world().unstall_all();
      cluster.run_for(milliseconds(20), 50);
    }
    ASSERT_TRUE(cluster.run_until_ended(streams));
    for (size_t i = 0; i < streams.size(); ++i) {
      expect_same(*streams[i], expected[i], "request " + std::to_string(i));
    }
    for (const NodeStatus& node : cluster.status().nodes) num_preempted += node.num_preempted;
    EXPECT_EQ(cluster.left_over(), "");
  });
  EXPECT_GT(num_preempted, 6U);
}

}  // namespace
}  // namespace troupe::actors
