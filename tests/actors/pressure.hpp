#pragma once

// Two hundred requests of mixed kind under every pressure that scheduling can put on them: too few
// blocks, shared and repeated prompts, chunks, micro-batches, and at random times drains, changes
// of placement, and further requests with the same prompts that are cancelled. Each stream is what
// the request gives alone.

#include <gtest/gtest.h>

#include <utility>

#include "base/random.hpp"
#include "tests/actors/guided_requests.hpp"
#include "tests/actors/test_cluster.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::actors {

/// Of every eight: two pairs of choices of one prompt, a next turn of each, an answer with a
/// grammar, and one for itself.
inline std::vector<scheduler::RequestSpec> mixed_load() {
  constexpr size_t kRequests = 200;
  auto specs = mixed_requests(opened_model(kDemoModel).config().vocab_size, kRequests);
  const auto guided = guided_requests(kRequests / 8);
  for (size_t i = 0; i < specs.size(); ++i) {
    scheduler::RequestSpec& spec = specs[i];
    spec.max_tokens = 10 + static_cast<uint32_t>(i * 7 % 50);
    if (i % 4 == 0) spec.sampling = {.temperature = 0.9F, .seed = 500 + i, .want_logprobs = true};
    if (i % 4 == 1) {
      spec = specs[i - 1];
      ++spec.sampling.seed;
    }
    if (i % 4 == 2) {
      spec.prompt = specs[i - 2].prompt;
      spec.prompt.insert(spec.prompt.end(), 40, static_cast<TokenId>(i));
    }
    if (i % 8 == 3) spec = guided[i / 8].spec;
    if (i % 5 == 0) spec.sampling.frequency_penalty = 0.5F;
    if (i % 7 == 0) spec.cache_namespace = "alone";
    spec.tenant = std::string(1, static_cast<char>('a' + i % 3));
    spec.priority = static_cast<uint32_t>(i % 4);
    spec.timeout = seconds(300);
  }
  return specs;
}

/// @param num_fetched grows by the KV blocks that went with requests to another router: none in a
/// few runs, where a busy machine has fetches given up
inline void expect_no_token_changes_under_pressure(uint64_t seed, uint64_t& num_fetched) {
  static const auto kSpecs = mixed_load();
  static const auto kExpected = generated_alone(kDemoModel, kSpecs);
  constexpr size_t kInFlight = 40;
  const auto num_specs = static_cast<uint32_t>(kSpecs.size());
  TestCluster cluster({.model = kDemoModel,
                       .num_routers = 2,
                       .num_shards = 3,
                       .scheduler = {.max_queued = 2 * num_specs,
                                     .max_queued_per_tenant = 2 * num_specs,
                                     .max_running = 12,
                                     .min_fetch_tokens = 32,
                                     .max_context = 384},
                       .batcher = {.max_step_tokens = 32, .max_running = 12},
                       .micro_batches = static_cast<uint32_t>((seed + 2) % 3),
                       .balance = {.redundant = 2, .half_life = seconds(1)},
                       .kv_blocks = 48,
                       .kv_host_blocks = 40,
                       .kv_block_tokens = 8});
  ASSERT_TRUE(cluster.wait_serving());
  uint64_t num_draws = 0;
  const auto one_in = [&](uint64_t n) { return random_bits(seed, num_draws++) % n == 0; };
  std::vector<std::shared_future<Stream>> streams;
  std::vector<RequestId> neighbours;  // that will be cancelled
  std::string drained;
  uint64_t num_drains = 0;
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    if (i >= kInFlight) (void)TestCluster::wait(streams[i - kInFlight]);
    streams.push_back(cluster.submit(kSpecs[i]));
    if (one_in(3)) {
      const size_t like = random_bits(seed, num_draws++) % kSpecs.size();
      neighbours.push_back(
          cluster.client().submit(kSpecs[like], [](const scheduler::ClientEvent&) {}));
    }
    std::erase_if(neighbours, [&](RequestId request) {
      if (!one_in(8)) return false;
      cluster.client().cancel(request);
      return true;
    });
    if (one_in(3)) cluster.change_placement(i);
    if (!one_in(8)) continue;
    if (drained.empty()) {
      drained = one_in(2) ? "router-0" : "router-1";
      cluster.client().drain(drained, true);
      ++num_drains;
    } else {
      cluster.client().drain(std::exchange(drained, ""), false);
    }
  }
  for (const RequestId request : neighbours) cluster.client().cancel(request);
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    expect_same(TestCluster::wait(streams[i]), kExpected[i], "request " + std::to_string(i));
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
    num_fetched += node.num_fetched_blocks;
  }
  // Otherwise there was no pressure.
  EXPECT_GT(preempted, 10U);
  EXPECT_GT(hits, 1000U);
  EXPECT_GT(host_hits, 100U);
  EXPECT_GT(num_drains, 5U);
  EXPECT_GT(status.counts.resumed_total, 10U);
  EXPECT_GT(status.counts.cancelled_total, 10U);
  EXPECT_GT(status.counts.yielded_total, 0U);
  EXPECT_GT(status.num_placement_changes, 5U);
}

}  // namespace troupe::actors
