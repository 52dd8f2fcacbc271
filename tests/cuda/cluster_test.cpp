// Clusters whose routers and expert shards compute on devices of their own: each stream shows the
// tokens and, bit by bit, the log-probabilities of one process on one device.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>

#include "model/grammar.hpp"
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

kernels::Backend two_devices() {
  auto group = kernels::make_test_group({.workspace_bytes = size_t{16} << 20U}, 2);
  CHECK(group.ok());
  return std::move(*group);
}

using MakeBackend = std::function<kernels::Backend()>;

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

/// Whose routers have two; skipped where there are fewer GPUs.
class CudaClusterOfTwo : public kernels::Cuda {
 protected:
  void SetUp() override {
    kernels::Backend group;
    kernels::start_test_group({.workspace_bytes = size_t{1} << 20U}, 2, group);
  }
};

void expect_same_in_chunks_and_beside_others(const MakeBackend& router) {
  auto specs = requests(4, 11, 4);
  specs[2].prompt.resize(3);
  const auto expected = alone(specs);
  TestCluster cluster({.model = kModel,
                       .num_shards = 2,
                       .batcher = {.max_step_tokens = 8, .max_running = 4},
                       .micro_batches = 2,
                       .make_backend = device,
                       .make_router_backend = router});
  ASSERT_TRUE(cluster.wait_serving());
  expect_same_together(cluster, specs, expected);
}

TEST_F(CudaCluster, GivesTheTokensOfOneProcessInChunksAndBesideOthers) {
  expect_same_in_chunks_and_beside_others(device);
}

TEST_F(CudaClusterOfTwo, GivesTheTokensOfOneProcessInChunksAndBesideOthers) {
  expect_same_in_chunks_and_beside_others(two_devices);
}

void expect_same_streams(const VirtualCluster::Streams& streams,
                         const std::vector<Stream>& expected) {
  for (size_t i = 0; i < streams.size(); ++i) {
    expect_same(*streams[i], expected[i], "request " + std::to_string(i));
  }
}

/// Counts what is asked of another one.
class CountingSampler final : public kernels::RowSampler {
 public:
  CountingSampler(std::unique_ptr<kernels::RowSampler> asked, std::atomic<size_t>& num_rows)
      : asked_(std::move(asked)), num_rows_(num_rows) {}
  void ask(std::span<const kernels::AskedRow> rows, size_t vocab) override {
    num_rows_ += rows.size();
    asked_->ask(rows, vocab);
  }
  [[nodiscard]] AnsweredRow answer(size_t i) const override { return asked_->answer(i); }

 private:
  std::unique_ptr<kernels::RowSampler> asked_;
  std::atomic<size_t>& num_rows_;
};

/// With a tokenizer, for grammars, and 3,072 tokens.
std::string demo_model() {
  const char* folder = std::getenv("TROUPE_TEST_MODELS");
  return folder != nullptr ? std::string(folder) + "/demo"
                           : std::string(TROUPE_SOURCE_DIR) + "/models/demo";
}

/// One for each way in which a token is chosen.
std::vector<scheduler::RequestSpec> requests_of_every_kind() {
  const auto grammar = std::make_shared<const model::GrammarSpec>(
      model::GrammarSpec{.kind = model::GrammarSpec::Kind::kRegex, .text = "[0-9]{4,9}"});
  const std::vector<model::SamplingParams> kinds = {
      {.temperature = 0},
      {.temperature = 0, .want_logprobs = true, .num_top_logprobs = 5},
      {.temperature = 0.9F},
      {.temperature = 1, .want_logprobs = true, .num_top_logprobs = 20},
      {.temperature = 1.3F, .top_p = 0.95F, .top_k = 40},
      {.temperature = 2, .top_k = 500, .want_logprobs = true},  // above kMaxLikely
      {.temperature = 0.7F, .top_p = 0.9F, .want_logprobs = true, .num_top_logprobs = 1},
      {.temperature = 2, .top_p = 0.9999F},  // keeps more than is looked at on a device
      {.temperature = 0.8F, .min_p = 0.05F, .num_prompt_logprobs = 2},
      {.temperature = 0,
       .presence_penalty = 0.5F,
       .frequency_penalty = 0.25F,
       .repetition_penalty = 1.3F,
       .min_tokens = 3,
       .logit_bias = {{7, 3.0F}, {300, -100.0F}},
       .bad_words = {{5}, {9, 11}}},
      {.temperature = 1.5F,
       .want_logprobs = true,
       .repetition_penalty = 0.8F,
       .logit_bias = {{20, 9.0F}, {1500, 10.0F}}},
      {.temperature = 1, .top_p = 0.8F, .allowed_token_ids = {40, 90, 91, 2000, 3000}},
      {.temperature = 0, .grammar = grammar},
      {.temperature = 1.2F, .want_logprobs = true, .num_top_logprobs = 2, .grammar = grammar},
  };
  std::vector<scheduler::RequestSpec> specs;
  for (const model::SamplingParams& sampling : kinds) {
    scheduler::RequestSpec spec{.max_tokens = 3, .stop_token_ids = {1}, .timeout = seconds(600)};
    const auto i = static_cast<TokenId>(specs.size());
    spec.prompt = {300 + i, 41 + i};
    spec.sampling = sampling;
    spec.sampling.seed = 100 + static_cast<uint64_t>(i);
    specs.push_back(std::move(spec));
  }
  return specs;
}

TEST_F(CudaCluster, ChoosesOnTheDeviceTheTokensThatTheHostChooses) {
  const auto specs = requests_of_every_kind();
  const auto expected = generated_alone(demo_model(), specs, DType::kF32, device());
  std::atomic<size_t> num_asked = 0;
  VirtualCluster cluster({.model = demo_model(),
                          .num_shards = 1,
                          .batcher = {.max_step_tokens = 64, .max_running = 16},
                          .make_backend =
                              [&] {
                                kernels::Backend backend = device();
                                backend.sampler = std::make_unique<CountingSampler>(
                                    std::move(backend.sampler), num_asked);
                                return backend;
                              }},
                         {.seed = 1});
  ASSERT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all(specs);
  ASSERT_TRUE(cluster.run_until_ended(streams));
  expect_same_streams(streams, expected);
  // All but those of a top-k of 500, and steps whose only sum is done on the host.
  EXPECT_GT(num_asked, specs.size() * 2);
}

/// All streams show at least so many tokens.
bool run_until_shown(VirtualCluster& cluster, const VirtualCluster::Streams& streams,
                     size_t count) {
  return cluster.run_until([&] {
    return std::ranges::all_of(streams,
                               [&](const auto& stream) { return stream->tokens.size() >= count; });
  });
}

void expect_same_when_blocks_run_out(const MakeBackend& router) {
  const auto specs = requests(3, 14, 7);  // grow to 6 blocks each
  const auto expected = alone(specs);
  VirtualCluster cluster({.model = kModel,
                          .num_shards = 1,
                          .batcher = {.max_step_tokens = 16, .max_running = 3},
                          .kv_blocks = 13,
                          .kv_host_blocks = 24,
                          .kv_block_tokens = 4,
                          .make_backend = device,
                          .make_router_backend = router},
                         {.seed = 1});
  ASSERT_TRUE(cluster.run_until_serving());
  for (int round = 0; round < 2; ++round) {
    const auto streams = cluster.submit_all(specs);
    ASSERT_TRUE(cluster.run_until_ended(streams));
    expect_same_streams(streams, expected);
  }
  const NodeStatus status = cluster.status().nodes.at(0);
  EXPECT_GT(status.num_preempted, 0U);
  EXPECT_GT(status.prefix_cache.host_hit_tokens, 0U);
  EXPECT_EQ(cluster.left_over(), "");
}

TEST_F(CudaCluster, ChangesNoTokenWhenBlocksRunOutAndComeBackFromTheHost) {
  expect_same_when_blocks_run_out(device);
}

TEST_F(CudaClusterOfTwo, ChangesNoTokenWhenBlocksRunOutAndComeBackFromTheHost) {
  expect_same_when_blocks_run_out(two_devices);
}

void expect_same_when_kv_moves(const MakeBackend& router) {
  const auto specs = plain_requests(34, 9);  // from 32 on it is guessed who has them
  const auto expected = alone(specs);
  VirtualCluster cluster(
      {.model = kModel,
       .num_routers = 2,
       .num_shards = 1,
       .scheduler = {.max_queued = 8, .max_running = 4, .min_fetch_tokens = 4, .max_context = 64},
       .kv_blocks = 32,
       .kv_block_tokens = 4,
       .make_backend = device,
       .make_router_backend = router},
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

TEST_F(CudaCluster, ChangesNoTokenWhenKvMovesToAnotherRouter) { expect_same_when_kv_moves(device); }

TEST_F(CudaClusterOfTwo, ChangesNoTokenWhenKvMovesToARouterOfOneAndBack) {
  size_t num_routers = 0;
  expect_same_when_kv_moves([&] { return num_routers++ == 0 ? two_devices() : device(); });
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
