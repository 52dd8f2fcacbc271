// A cluster of actors gives the tokens of one process, and survives what goes wrong around it.

#include <gtest/gtest.h>

#include <atomic>

#include "tests/actors/test_cluster.hpp"
#include "tests/support/requests.hpp"

namespace troupe::actors {
namespace {

struct ServedModel {
  std::string directory;
  DType kv_dtype = DType::kF32;
};

class SameTokens : public testing::TestWithParam<ServedModel> {};

TEST_P(SameTokens, WhateverTheNumberOfShardsAndTheRequestsAround) {
  const auto& [model, kv_dtype] = GetParam();
  const auto specs = mixed_requests(opened_model(model).config().vocab_size, 16);
  const std::vector<Stream> expected = generated_alone(model, specs, kv_dtype);
  for (const uint32_t shards : {1U, 2U, 3U, 5U}) {
    for (const size_t in_flight : {size_t{1}, size_t{4}, size_t{16}}) {
      TestCluster cluster({.model = model,
                           .num_shards = shards,
                           .num_threads = shards % 2 + 1,
                           .micro_batches = in_flight == 16 ? 2U : 0U,
                           .kv_dtype = kv_dtype});
      ASSERT_TRUE(cluster.wait_serving());
      // Requests join while others are in the middle: each second token of one starts the next.
      std::vector<std::shared_future<Stream>> streams(specs.size());
      std::vector<std::promise<void>> started(specs.size());
      std::atomic<size_t> next{0};
      std::function<void()> start_next = [&] {
        const size_t i = next.fetch_add(1);
        if (i >= specs.size()) return;
        streams[i] = cluster.submit(specs[i], [&](RequestId, size_t count) {
          if (count == 2) start_next();
        });
        started[i].set_value();
      };
      for (size_t i = 0; i < in_flight; ++i) start_next();
      for (size_t i = 0; i < specs.size(); ++i) {
        ASSERT_EQ(started[i].get_future().wait_for(TestCluster::kPatience),
                  std::future_status::ready);
        expect_same(TestCluster::wait(streams[i]), expected[i], "request " + std::to_string(i));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, SameTokens,
    testing::Values(ServedModel{std::string(TROUPE_SOURCE_DIR) + "/models/demo"},
                    ServedModel{golden_model("v3-groups")}, ServedModel{golden_model("v2-lite")},
                    ServedModel{golden_model("v3-groups"), DType::kBF16}),
    [](const auto& info) {
      const std::string& path = info.param.directory;
      std::string name = path.substr(path.rfind('/') + 1);
      std::replace(name.begin(), name.end(), '-', '_');
      return info.param.kv_dtype == DType::kF32 ? name : name + "_kv_bf16";
    });

class FaultyLinks : public testing::TestWithParam<std::pair<const char*, transport::FaultOptions>> {
};

TEST_P(FaultyLinks, ChangeNoToken) {
  const std::string model = golden_model("v3-groups");
  Stream clean;
  {
    TestCluster cluster({.model = model});
    ASSERT_TRUE(cluster.wait_serving());
    clean = TestCluster::wait(cluster.submit(greedy(40)));
  }
  TestCluster cluster(
      {.model = model, .micro_batches = 2, .combine = {.resend_after = milliseconds(5)}},
      GetParam().second);
  ASSERT_TRUE(cluster.wait_serving());
  std::vector<std::shared_future<Stream>> streams;
  for (int i = 0; i < 3; ++i) streams.push_back(cluster.submit(greedy(40)));
  for (const auto& stream : streams) expect_same(TestCluster::wait(stream), clean);
}

TEST(DelayedLinks, ChangeNoTokenWithTwoMicroBatchesOut) {
  const std::string model = golden_model("v3-groups");
  const auto specs = mixed_requests(opened_model(model).config().vocab_size, 16);
  const auto expected = generated_alone(model, specs);
  TestCluster cluster({.model = model, .micro_batches = 2}, std::nullopt, microseconds(300));
  ASSERT_TRUE(cluster.wait_serving());
  expect_same_together(cluster, specs, expected);
}

/// Blocks for a few requests only: they grow until some give theirs up, and come back.
class Pressure : public testing::TestWithParam<std::pair<uint32_t, uint32_t>> {};

TEST_P(Pressure, PreemptionEvictionAndCacheHitsChangeNoToken) {
  const std::string model = golden_model("v3-groups");
  auto specs = mixed_requests(opened_model(model).config().vocab_size, 24);
  for (size_t i = 0; i < specs.size(); ++i) {
    specs[i].max_tokens = 40 + i % 30;
    if (i % 3 == 1) specs[i].prompt = specs[i - 1].prompt;  // a shared prompt, another seed
    if (i % 3 == 2) specs[i].cache_namespace = "alone";
  }
  const auto expected = generated_alone(model, specs);
  TestCluster cluster({.model = model,
                       .batcher = {.max_step_tokens = 32, .max_running = 12},
                       .micro_batches = GetParam().second,
                       .kv_blocks = 30,
                       .kv_host_blocks = GetParam().first,
                       .kv_block_tokens = 8});
  ASSERT_TRUE(cluster.wait_serving());
  for (int round = 0; round < 3; ++round) {
    expect_same_together(cluster, specs, expected);
  }
  const ClusterStatus status = cluster.status();
  const auto router = std::ranges::max_element(
      status.nodes, {}, [](const NodeStatus& node) { return node.kv_blocks_total; });
  EXPECT_GT(router->num_preempted, 10U);
  EXPECT_GT(router->prefix_cache.hit_tokens, 1000U);
  EXPECT_GT(router->prefix_cache.evicted_blocks, 100U);
  EXPECT_EQ(router->prefix_cache.host_hit_tokens > 0, GetParam().first > 0);
  EXPECT_EQ(router->kv_blocks_used, 0U);
}

INSTANTIATE_TEST_SUITE_P(HostBlocksAndMicroBatches, Pressure,
                         testing::Values(std::pair{0U, 1U}, std::pair{100U, 2U}));

INSTANTIATE_TEST_SUITE_P(
    Faults, FaultyLinks,
    testing::Values(
        std::pair{"duplicate", transport::FaultOptions{.seed = 5, .duplicate = 0.5}},
        std::pair{"drop", transport::FaultOptions{.seed = 6, .drop = 0.1}},
        std::pair{"reorder", transport::FaultOptions{.seed = 7, .reorder = 0.3}},
        std::pair{"corrupt", transport::FaultOptions{.seed = 8, .corrupt = 0.1}},
        std::pair{"all",
                  transport::FaultOptions{
                      .seed = 9, .drop = 0.05, .duplicate = 0.1, .reorder = 0.1, .corrupt = 0.05}}),
    [](const auto& info) { return std::string(info.param.first); });

TEST(Cluster, LosingAShardChangesNoTokenAndServesOnWithTheRest) {
  TestCluster cluster({.model = golden_model("v3-groups"), .num_shards = 3});
  ASSERT_TRUE(cluster.wait_serving());
  const Stream before = TestCluster::wait(cluster.submit(greedy(400)));
  std::promise<void> under_way;
  const auto victim = cluster.submit(greedy(400), [&](RequestId, size_t count) {
    if (count == 2) under_way.set_value();
  });
  std::vector<std::shared_future<Stream>> others;
  for (int i = 0; i < 5; ++i) others.push_back(cluster.submit(greedy(300 + i)));
  under_way.get_future().wait();
  cluster.nodes().kill("shard-1");
  expect_same(TestCluster::wait(victim), before);
  for (size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(TestCluster::wait(others[i]).tokens.size(), 300 + i);
  }
  const ClusterStatus status = cluster.status();
  EXPECT_EQ(status.nodes.size(), 3U);
  EXPECT_GE(status.epoch.value, 2U);
  EXPECT_GE(status.counts.resumed_total, 1U);
  EXPECT_EQ(status.counts.failed_total, 0U);
}

TEST(Cluster, ChangesOfPlacementWhileRequestsStreamChangeNoToken) {
  const std::string model = golden_model("v3-groups");
  const auto specs = mixed_requests(opened_model(model).config().vocab_size, 12);
  const std::vector<Stream> expected = generated_alone(model, specs);
  TestCluster cluster({.model = model,
                       .num_routers = 2,
                       .num_shards = 3,
                       .balance = {.redundant = 2, .half_life = seconds(1)}});
  ASSERT_TRUE(cluster.wait_serving());
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::vector<std::shared_future<Stream>> streams;
    for (const auto& spec : specs) streams.push_back(cluster.submit(spec));
    const auto ended = [&] {
      return std::ranges::all_of(streams, [](const auto& stream) {
        return stream.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
      });
    };
    for (uint64_t round = 0; !ended(); ++round) cluster.change_placement(round);
    for (size_t i = 0; i < specs.size(); ++i) {
      expect_same(TestCluster::wait(streams[i]), expected[i], "request " + std::to_string(i));
    }
  }
  const ClusterStatus status = cluster.status();
  EXPECT_GE(status.num_placement_changes, 5U);
  EXPECT_EQ(status.counts.resumed_total, 0U);
}

TEST(Cluster, LosingTheOnlyRouterEndsRequestsWithAnErrorAndRefusesNewOnes) {
  TestCluster cluster({.model = golden_model("v3-groups"), .num_shards = 2});
  ASSERT_TRUE(cluster.wait_serving());
  std::promise<void> under_way;
  const auto victim = cluster.submit(greedy(400), [&](RequestId, size_t count) {
    if (count == 2) under_way.set_value();
  });
  under_way.get_future().wait();
  cluster.nodes().kill("router-0");
  const Stream lost = TestCluster::wait(victim);
  ASSERT_TRUE(lost.error.has_value());
  EXPECT_EQ(lost.error->code, Code::kUnavailable);
  const Stream refused = TestCluster::wait(cluster.submit(greedy(4)));
  ASSERT_TRUE(refused.error.has_value());
  EXPECT_EQ(refused.error->code, Code::kUnavailable);
  EXPECT_FALSE(refused.admitted);
}

TEST(Cluster, DrainingARouterMovesItsRequestsToAnotherWithTheSameTokens) {
  TestCluster cluster({.model = golden_model("v3-groups"), .num_routers = 2, .num_shards = 2});
  ASSERT_TRUE(cluster.wait_serving());
  const Stream before = TestCluster::wait(cluster.submit(greedy(400)));
  std::promise<void> under_way;
  std::vector<std::shared_future<Stream>> streams;
  for (int i = 0; i < 6; ++i) {
    streams.push_back(cluster.submit(greedy(400), [&, i](RequestId, size_t count) {
      if (i == 5 && count == 2) under_way.set_value();
    }));
  }
  under_way.get_future().wait();
  cluster.client().drain("router-0", true);
  for (const auto& stream : streams) expect_same(TestCluster::wait(stream), before);
  const auto rows_of = [&](const std::string& name) {
    const ClusterStatus status = cluster.status();
    for (const NodeStatus& node : status.nodes) {
      if (node.member.info.name == name) return std::pair(node.rows_computed, node.drained);
    }
    return std::pair(uint64_t{0}, false);
  };
  const auto [rows, drained] = rows_of("router-0");
  EXPECT_TRUE(drained);
  EXPECT_GE(cluster.status().counts.resumed_total, 1U);
  expect_same(TestCluster::wait(cluster.submit(greedy(400))), before);
  EXPECT_EQ(rows_of("router-0").first, rows) << "a drained router computes nothing";
  cluster.client().drain("router-0", false);
  EXPECT_FALSE(rows_of("router-0").second);
}

class KvOf : public testing::TestWithParam<DType> {};

/// Requests with long contexts, so that what a drain moves is worth moving.
TEST_P(KvOf, ADrainedRouterGoesWithItsRequests) {
  const std::string model = golden_model("v3-groups");
  auto specs = mixed_requests(opened_model(model).config().vocab_size, 4);
  for (size_t i = 0; i < specs.size(); ++i) {
    specs[i].prompt.assign(150, static_cast<TokenId>(i + 1));
    specs[i].max_tokens = 200;
  }
  const auto expected = generated_alone(model, specs, GetParam());
  TestCluster cluster({.model = model,
                       .num_routers = 2,
                       .num_shards = 2,
                       .scheduler = {.max_running = 8, .min_fetch_tokens = 32, .max_context = 512},
                       .kv_dtype = GetParam()});
  ASSERT_TRUE(cluster.wait_serving());
  for (const std::string drained : {"router-0", "router-1", "router-0"}) {
    std::promise<void> under_way;
    std::vector<std::shared_future<Stream>> streams;
    for (const auto& spec : specs) {
      const bool last = &spec == &specs.back();
      streams.push_back(cluster.submit(spec, [&, last](RequestId, size_t count) {
        if (last && count == 20) under_way.set_value();
      }));
    }
    ASSERT_EQ(under_way.get_future().wait_for(TestCluster::kPatience), std::future_status::ready);
    cluster.client().drain(drained, true);
    for (size_t i = 0; i < specs.size(); ++i) {
      expect_same(TestCluster::wait(streams[i]), expected[i], "request " + std::to_string(i));
    }
    cluster.client().drain(drained, false);
  }
  uint64_t fetched = 0;
  for (const NodeStatus& node : cluster.status().nodes) fetched += node.num_fetched_blocks;
  EXPECT_GT(fetched, 20U) << "KV was computed again instead of moved";
}

INSTANTIATE_TEST_SUITE_P(DTypes, KvOf, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(Cluster, ANodeThatComesBackIsTakenInWhenNothingRuns) {
  TestCluster cluster({.model = golden_model("v3-groups"), .num_shards = 2});
  ASSERT_TRUE(cluster.wait_serving());
  const Stream before = TestCluster::wait(cluster.submit(greedy(30)));
  cluster.nodes().kill("shard-0");
  ASSERT_TRUE(cluster.wait_until([&] { return cluster.status().nodes.size() == 2; }));
  ASSERT_TRUE(cluster.wait_serving());
  cluster.nodes().add("shard-0");
  ASSERT_TRUE(cluster.wait_until([&] {
    const ClusterStatus status = cluster.status();
    size_t holding = 0;
    for (const NodeStatus& node : status.nodes) holding += node.num_experts_held > 0 ? 1 : 0;
    return status.serving && holding == 2;
  }));
  expect_same(TestCluster::wait(cluster.submit(greedy(30))), before);
}

TEST(Cluster, ACancelledRequestFreesItsBlocks) {
  TestCluster cluster({.model = golden_model("v3-groups")});
  ASSERT_TRUE(cluster.wait_serving());
  std::promise<RequestId> id;
  (void)cluster.submit(greedy(450), [&](RequestId request, size_t count) {
    if (count == 3) id.set_value(request);
  });
  const RequestId request = id.get_future().get();
  EXPECT_GT(cluster.status().nodes.front().kv_blocks_used, 0U);
  cluster.client().cancel(request);
  EXPECT_TRUE(cluster.wait_until([&] {
    const ClusterStatus status = cluster.status();
    return status.counts.running == 0 && status.nodes.front().kv_blocks_used == 0;
  }));
}

TEST(Cluster, RequestsBeyondTheQueueAreRefused) {
  TestCluster cluster({.model = golden_model("v3-groups"),
                       .scheduler = {.max_queued = 2, .max_running = 1, .max_context = 512}});
  ASSERT_TRUE(cluster.wait_serving());
  std::vector<std::shared_future<Stream>> streams;
  for (int i = 0; i < 8; ++i) streams.push_back(cluster.submit(greedy(200)));
  size_t refused = 0, finished = 0;
  for (const auto& future : streams) {
    const Stream stream = TestCluster::wait(future);
    if (stream.error) {
      EXPECT_EQ(stream.error->code, Code::kResourceExhausted);
      EXPECT_FALSE(stream.admitted);
      ++refused;
    } else {
      EXPECT_EQ(stream.tokens.size(), 200U);
      ++finished;
    }
  }
  EXPECT_EQ(refused, 5U);
  EXPECT_EQ(finished, 3U);
}

TEST(Cluster, MoreRequestsThanBlocksWaitForEachOther) {
  // Each request needs 4 of the 9 blocks: two run, the others wait for their blocks.
  TestCluster cluster({.model = golden_model("v3-groups"), .kv_blocks = 9});
  ASSERT_TRUE(cluster.wait_serving());
  std::vector<std::shared_future<Stream>> streams;
  for (int i = 0; i < 8; ++i) streams.push_back(cluster.submit(greedy(50)));
  const Stream first = TestCluster::wait(streams[0]);
  for (const auto& future : streams) expect_same(TestCluster::wait(future), first);
}

TEST(Cluster, APromptThatWasSeenBeforeIsNotComputedAgain) {
  TestCluster cluster({.model = golden_model("v3-groups")});
  ASSERT_TRUE(cluster.wait_serving());
  scheduler::RequestSpec spec = greedy(20);
  for (TokenId t = 0; t < 100; ++t) spec.prompt.push_back(t * 7 % 90);
  const Stream first = TestCluster::wait(cluster.submit(spec));
  EXPECT_EQ(first.num_cached, 0U);
  const Stream second = TestCluster::wait(cluster.submit(spec));
  expect_same(second, first);
  EXPECT_EQ(second.num_cached, spec.prompt.size() - 1) << "the last token gives the logits";
  // What was answered is cached, too: the next turn of a conversation computes its own tokens only.
  scheduler::RequestSpec next = spec;
  for (const auto& token : first.tokens) next.prompt.push_back(token.token);
  next.prompt.push_back(5);
  const Stream third = TestCluster::wait(cluster.submit(next));
  EXPECT_EQ(third.num_cached, next.prompt.size() - 2) << "the last token was never computed";
  spec.cache_namespace = "another tenant";
  const Stream other = TestCluster::wait(cluster.submit(spec));
  expect_same(other, first);
  EXPECT_EQ(other.num_cached, 0U);
}

TEST(Cluster, RequestsThatArriveTogetherComputeTheirCommonPrefixOnce) {
  TestCluster cluster(
      {.model = golden_model("v3-groups"), .batcher = {.max_step_tokens = 16, .max_running = 16}});
  ASSERT_TRUE(cluster.wait_serving());
  scheduler::RequestSpec spec = greedy(4);
  for (TokenId t = 0; t < 320; ++t) spec.prompt.push_back(t * 11 % 90);
  std::vector<std::shared_future<Stream>> streams;
  for (TokenId i = 0; i < 12; ++i) {
    scheduler::RequestSpec own = spec;
    own.prompt.push_back(i);
    streams.push_back(cluster.submit(own));
  }
  for (const auto& stream : streams) EXPECT_EQ(TestCluster::wait(stream).tokens.size(), 4U);
  const ClusterStatus status = cluster.status();
  const auto router = std::ranges::max_element(
      status.nodes, {}, [](const NodeStatus& node) { return node.kv_blocks_total; });
  // Once the prefix, and at most a block and its own tokens for each.
  EXPECT_LT(router->rows_computed, 325U + 12 * (16 + 4));
  EXPECT_GT(router->prefix_cache.hit_tokens, 11 * 300U);
}

TEST(Cluster, ADeadlineEndsARequest) {
  TestCluster cluster({.model = golden_model("v3-groups")});
  ASSERT_TRUE(cluster.wait_serving());
  scheduler::RequestSpec spec = greedy(500 - 5);
  spec.timeout = milliseconds(20);
  const Stream late = TestCluster::wait(cluster.submit(spec));
  ASSERT_TRUE(late.error.has_value());
  EXPECT_EQ(late.error->code, Code::kDeadlineExceeded);
  expect_same(TestCluster::wait(cluster.submit(greedy(5))),
              TestCluster::wait(cluster.submit(greedy(5))));
}

TEST(Cluster, TokensOutsideTheVocabularyFailTheRequestAlone) {
  TestCluster cluster({.model = golden_model("v3-groups")});
  ASSERT_TRUE(cluster.wait_serving());
  scheduler::RequestSpec spec = greedy(5);
  spec.prompt.push_back(1 << 24);
  const auto bad = cluster.submit(spec);
  const auto good = cluster.submit(greedy(5));
  EXPECT_EQ(TestCluster::wait(bad).error->code, Code::kInvalidArgument);
  EXPECT_EQ(TestCluster::wait(good).tokens.size(), 5U);
}

}  // namespace
}  // namespace troupe::actors
