// Clusters whose routers and expert shards compute on devices of their own: each stream shows the
// tokens and, bit by bit, the log-probabilities of one process on one device.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/actors/test_cluster.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/support/requests.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {
namespace {

const std::string kModel = golden_model("v3-groups");

kernels::Backend device() {
  auto backend = kernels::make_test_backend({.workspace_bytes = size_t{16} << 20U});
  CHECK(backend.ok());
  return std::move(*backend);
}

/// Prompts and answers of at most so many tokens.
std::vector<scheduler::RequestSpec> requests(size_t count, size_t prompt, uint32_t answer) {
  auto specs = mixed_requests(opened_model(kModel).config().vocab_size, count);
  for (auto& spec : specs) {
    const size_t given = spec.prompt.size();
    for (size_t i = given; i < prompt; ++i) spec.prompt.push_back(spec.prompt[i % given]);
    spec.prompt.resize(prompt);
    spec.max_tokens = answer;
  }
  return specs;
}

/// Two whose steps take the same time: without log-probabilities of the prompt.
std::vector<scheduler::RequestSpec> plain_requests(size_t prompt, uint32_t answer) {
  auto specs = requests(2, prompt, answer);
  for (auto& spec : specs) spec.sampling.num_prompt_logprobs.reset();
  return specs;
}

std::vector<Stream> alone(const std::vector<scheduler::RequestSpec>& specs) {
  return generated_alone(kModel, specs, DType::kF32, device());
}

/// Skipped without a GPU, where there is no emulator.
using CudaCluster = kernels::Cuda;

TEST_F(CudaCluster, GivesTheTokensOfOneProcessInChunksAndBesideOthers) {
  auto specs = requests(4, 11, 4);
  specs[2].prompt.resize(3);
  const auto expected = alone(specs);
  TestCluster cluster({.model = kModel,
                       .num_shards = 2,
                       .batcher = {.max_step_tokens = 8, .max_running = 4},
                       .micro_batches = 2,
                       .make_backend = device});
  ASSERT_TRUE(cluster.wait_serving());
  expect_same_together(cluster, specs, expected);
}

void expect_same_streams(const VirtualCluster::Streams& streams,
                         const std::vector<Stream>& expected) {
  for (size_t i = 0; i < streams.size(); ++i) {
    expect_same(*streams[i], expected[i], "request " + std::to_string(i));
  }
}

/// All streams show at least so many tokens.
bool run_until_shown(VirtualCluster& cluster, const VirtualCluster::Streams& streams,
                     size_t count) {
  return cluster.run_until([&] {
    return std::ranges::all_of(streams,
                               [&](const auto& stream) { return stream->tokens.size() >= count; });
  });
}

TEST_F(CudaCluster, ChangesNoTokenWhenBlocksRunOutAndComeBackFromTheHost) {
  const auto specs = requests(3, 14, 7);  // grow to 6 blocks each
  const auto expected = alone(specs);
  VirtualCluster cluster({.model = kModel,
                          .num_shards = 1,
                          .batcher = {.max_step_tokens = 16, .max_running = 3},
                          .kv_blocks = 13,
                          .kv_host_blocks = 24,
                          .kv_block_tokens = 4,
                          .make_backend = device},
                         {.seed = 1});
  ASSERT_TRUE(cluster.run_until_serving());
  for (int round = 0; round < 2; ++round) {
    const auto streams = cluster.submit_all(specs);
    ASSERT_TRUE(cluster.run_until_ended(streams));
    expect_same_streams(streams, expected);
  }
  const NodeStatus router = cluster.status().nodes.at(0);
  EXPECT_GT(router.num_preempted, 0U);
  EXPECT_GT(router.prefix_cache.host_hit_tokens, 0U);
  EXPECT_EQ(cluster.left_over(), "");
}

TEST_F(CudaCluster, ChangesNoTokenWhenKvMovesToAnotherRouter) {
  const auto specs = plain_requests(34, 9);  // from 32 on it is guessed who has them
  const auto expected = alone(specs);
  VirtualCluster cluster(
      {.model = kModel,
       .num_routers = 2,
       .num_shards = 1,
       .scheduler = {.max_queued = 8, .max_running = 4, .min_fetch_tokens = 4, .max_context = 64},
       .kv_blocks = 32,
       .kv_block_tokens = 4,
       .make_backend = device},
      {.seed = 1, .max_job_time = milliseconds(1)});
  ASSERT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all(specs);
  ASSERT_TRUE(run_until_shown(cluster, streams, 1));
  cluster.nodes().client().drain("router-0", true);
  ASSERT_TRUE(run_until_shown(cluster, streams, 5));
  cluster.nodes().client().drain("router-0", false);
  cluster.nodes().client().drain("router-1", true);
  ASSERT_TRUE(cluster.run_until_ended(streams));
  expect_same_streams(streams, expected);
  uint64_t fetched = 0;
  for (const NodeStatus& node : cluster.status().nodes) fetched += node.num_fetched_blocks;
  EXPECT_GE(fetched, 8U) << "a request's prompt at least";
  EXPECT_EQ(cluster.left_over(), "");
}

TEST_F(CudaCluster, ChangesNoTokenWhenExpertsMoveAndWhenAShardDies) {
  const auto specs = plain_requests(5, 12);
  const auto expected = alone(specs);
  VirtualCluster cluster(
      {.model = kModel, .num_shards = 2, .balance = {.redundant = 1}, .make_backend = device},
      {.seed = 1, .max_job_time = milliseconds(1)});
  ASSERT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all(specs);
  ASSERT_TRUE(run_until_shown(cluster, streams, 1));
  caf::anon_send(
      cluster.nodes().scheduler(),
      skewed_load(opened_model(kModel).config(), cluster.nodes().at("shard-0").services.self, 1));
  bool ordered = false;
  cluster.nodes().client().experts(
      true, [&](const Result<ExpertsStatus>& status) { ordered = status.ok(); });
  ASSERT_TRUE(cluster.run_until([&] { return ordered; }));
  ASSERT_TRUE(run_until_shown(cluster, streams, 5));
  EXPECT_EQ(cluster.status().num_placement_changes, 1U);
  EXPECT_FALSE(streams[0]->ended());
  cluster.nodes().kill("shard-0");
  ASSERT_TRUE(cluster.run_until_ended(streams));
  expect_same_streams(streams, expected);
  EXPECT_EQ(cluster.left_over(), "");
}

}  // namespace
}  // namespace troupe::actors
