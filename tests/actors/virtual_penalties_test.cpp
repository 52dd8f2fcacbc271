// Penalties and bans look at the whole answer, wherever its parts were computed: what a router
// keeps of it token by token is what anybody makes of the token log.

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "actors/local_model.hpp"
#include "tests/support/requests.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {
namespace {

const std::string kModel = golden_model("v3-groups");
constexpr uint32_t kMaxTokens = 40;

/// Three choices of one prompt.
std::vector<scheduler::RequestSpec> choices() {
  scheduler::RequestSpec spec{.prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5},
                              .max_tokens = kMaxTokens,
                              .stop_token_ids = {7},
                              .timeout = seconds(60)};
  spec.sampling = {.temperature = 0.5F,
                   .presence_penalty = 0.5F,
                   .frequency_penalty = 0.7F,
                   .repetition_penalty = 1.4F,
                   .min_tokens = kMaxTokens,
                   .bad_words = {{11}, {3, 5}, {5, 3}}};
  std::vector<scheduler::RequestSpec> specs(3, spec);
  for (size_t i = 0; i < specs.size(); ++i) specs[i].sampling.seed = 20 + i;
  return specs;
}

/// One token after the other, each of the whole token log anew.
std::vector<TokenId> answer_anew(LocalModel& local, const scheduler::RequestSpec& spec) {
  std::vector<TokenId> known = spec.prompt;
  std::vector<TokenId> emitted;
  while (emitted.size() < spec.max_tokens) {
    const model::TokenHistory history(
        spec.sampling,
        {.prompt = spec.prompt, .emitted = emitted, .stop_token_ids = spec.stop_token_ids});
    model::SampledToken next;
    const auto visited = local.logits(known, [&](uint32_t row, std::span<const float> logits) {
      if (row + 1 < known.size()) return;
      next = model::sample(logits, spec.sampling, known.size(), history);
    });
    EXPECT_TRUE(visited.ok());
    known.push_back(next.token);
    emitted.push_back(next.token);
  }
  return emitted;
}

TEST(Penalties, CountTheWholeAnswerThroughPreemptionsMovesAndReplays) {
  auto local = LocalModel::load(opened_model(kModel), {.max_context = 64});
  ASSERT_TRUE(local.ok());
  std::vector<std::vector<TokenId>> expected;
  for (const auto& spec : choices()) expected.push_back(answer_anew(**local, spec));
  uint64_t num_preempted = 0, num_resumed = 0;
  for_each_seed(20, [&](uint64_t seed) {
    // One router has no room for all three answers.
    VirtualCluster cluster(
        {.model = kModel,
         .num_routers = 2,
         .num_shards = 2,
         .scheduler = {.max_running = 4, .min_fetch_tokens = 4, .max_context = 64},
         .batcher = {.max_step_tokens = 8, .max_running = 4},
         .micro_batches = 1 + static_cast<uint32_t>(seed % 2),
         .kv_blocks = 20,
         .kv_block_tokens = 4},
        {.seed = seed, .max_job_time = milliseconds(1), .max_frame_time = milliseconds(1)});
    ASSERT_TRUE(cluster.run_until_serving());
    const auto drain = [&](const std::string& router, bool drained) {
      cluster.nodes().client().drain(router, drained);
    };
    drain("router-1", true);
    const auto streams = cluster.submit_all(choices());
    const auto most_have = [&](size_t count) {
      return cluster.run_until([&] {
        return std::ranges::count_if(streams, [&](const auto& stream) {
                 return stream->tokens.size() >= count;
               }) >= 2;
      });
    };
    ASSERT_TRUE(most_have(20));
    drain("router-1", false);
    drain("router-0", true);
    ASSERT_TRUE(most_have(30));
    cluster.nodes().kill("shard-1");
    ASSERT_TRUE(cluster.run_until_ended(streams));
    for (size_t i = 0; i < streams.size(); ++i) EXPECT_EQ(streams[i]->ids(), expected[i]) << i;
    const ClusterStatus status = cluster.status();
    for (const NodeStatus& node : status.nodes) num_preempted += node.num_preempted;
    num_resumed += status.counts.resumed_total;
  });
  if (!usual_seeds()) return;
  EXPECT_GE(num_preempted, 20U);
  EXPECT_GE(num_resumed, 60U);
}

}  // namespace
}  // namespace troupe::actors
