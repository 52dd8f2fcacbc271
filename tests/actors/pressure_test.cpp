// Two hundred requests of mixed kind under every pressure that scheduling can put on them: too few
// blocks, shared and repeated prompts, chunks, micro-batches, drains at random times. Each stream
// is what the request gives alone.

#include <gtest/gtest.h>

#include "base/random.hpp"
#include "tests/actors/test_cluster.hpp"
#include "tests/support/requests.hpp"

namespace troupe::actors {
namespace {

constexpr size_t kRequests = 200, kInFlight = 40;

std::vector<scheduler::RequestSpec> mixed_load(uint32_t vocab_size) {
  auto specs = mixed_requests(vocab_size, kRequests);
  for (size_t i = 0; i < specs.size(); ++i) {
    scheduler::RequestSpec& spec = specs[i];
    spec.max_tokens = 10 + static_cast<uint32_t>(i * 7 % 50);
    spec.tenant = std::string(1, static_cast<char>('a' + i % 3));
    spec.priority = static_cast<uint32_t>(i % 4);
    if (i % 4 == 1) spec.prompt = specs[i - 1].prompt;  // a second choice: another seed
    if (i % 4 == 2) {                                   // a next turn
      spec.prompt = specs[i - 2].prompt;
      spec.prompt.insert(spec.prompt.end(), 40, static_cast<TokenId>(i % vocab_size));
    }
    if (i % 5 == 0) spec.sampling.frequency_penalty = 0.5F;
    if (i % 7 == 0) spec.cache_namespace = "alone";
  }
  return specs;
}

TEST(SchedulingPressure, ChangesNoTokenOfTwoHundredRequests) {
  const std::string model = golden_model("v3-groups");
  const auto specs = mixed_load(opened_model(model).config().vocab_size);
  const auto expected = generated_alone(model, specs);
  constexpr uint64_t kSeed = 20;
  uint64_t draws = 0;
  TestCluster cluster({.model = model,
                       .num_routers = 2,
                       .num_shards = 3,
                       .scheduler = {.max_queued = kRequests,
                                     .max_queued_per_tenant = kRequests,
                                     .max_running = 12,
                                     .min_fetch_tokens = 32,
                                     .max_context = 512},
                       .batcher = {.max_step_tokens = 32, .max_running = 12},
                       .kv_blocks = 48,
                       .kv_host_blocks = 40,
                       .kv_block_tokens = 8});
  ASSERT_TRUE(cluster.wait_serving());
  std::vector<std::shared_future<Stream>> streams;
  std::string drained;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (i >= kInFlight) streams[i - kInFlight].wait_for(TestCluster::kPatience);
    streams.push_back(cluster.submit(specs[i]));
    if (random_bits(kSeed, ++draws) % 8 != 0) continue;
    if (drained.empty()) {
      drained = random_bits(kSeed, ++draws) % 2 == 0 ? "router-0" : "router-1";
      cluster.client().drain(drained, true);
    } else {
      cluster.client().drain(std::exchange(drained, ""), false);
    }
  }
  for (size_t i = 0; i < specs.size(); ++i) {
    expect_same(TestCluster::wait(streams[i]), expected[i], "request " + std::to_string(i));
  }
  const ClusterStatus status = cluster.status(true);
  EXPECT_TRUE(status.checked);
  EXPECT_EQ(status.problem, "");
  uint64_t preempted = 0, hits = 0, host_hits = 0;
  for (const NodeStatus& node : status.nodes) {
    EXPECT_EQ(node.problem, "") << node.member.info.name;
    preempted += node.num_preempted;
    hits += node.prefix_cache.hit_tokens;
    host_hits += node.prefix_cache.host_hit_tokens;
  }
  // Otherwise there was no pressure.
  EXPECT_GT(preempted, 10U);
  EXPECT_GT(hits, 1000U);
  EXPECT_GT(host_hits, 100U);
  EXPECT_GT(status.counts.resumed_total, 10U);
  EXPECT_GT(status.counts.yielded_total, 0U);
}

}  // namespace
}  // namespace troupe::actors
