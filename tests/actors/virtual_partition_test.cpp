// A process for each node, joined by CAF's own network protocol with its heartbeats, under virtual
// time: messages are serialised, processes die and connections fall silent.

#include <gtest/gtest.h>

#include "tests/actors/short_requests.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::actors {
namespace {

VirtualWorldOptions networked(uint64_t seed) {
  return {.seed = seed,
          .max_job_time = milliseconds(1),
          .max_frame_time = milliseconds(1),
          .networked = true};
}

/// The most time from a silent cut until CAF tells of it.
const Duration kMostUntilNoticed =
    SystemOptions{}.heartbeat_timeout + SystemOptions{}.heartbeat_interval;

TEST(Processes, GiveTheTokensOfOneProcessWhateverTheOrderOfEvents) {
  for_each_seed(50, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel, .num_routers = 1 + static_cast<uint32_t>(seed % 2)},
                           networked(seed));
    expect_good_service(cluster);
  });
}

TEST(Processes, AKilledOneIsNoticedAtOnce) {
  for_each_seed(50, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel}, networked(seed));
    ASSERT_TRUE(cluster.run_until_serving());
    const Instant killed = cluster.world().now();
    cluster.nodes().kill("shard-1");
    ASSERT_TRUE(cluster.run_until([&] { return !cluster.nodes().client().serving(); }));
    EXPECT_EQ(cluster.world().now(), killed);
    expect_good_service(cluster);
    EXPECT_EQ(cluster.status().nodes.size(), 3U);
  });
}

TEST(Partition, OfANodeIsNoticedWithinTimeoutAndIntervalAtBothEnds) {
  for_each_seed(50, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel}, networked(seed));
    ASSERT_TRUE(cluster.run_until_serving());
    cluster.run_for(milliseconds(static_cast<int64_t>(seed * 37)));
    const Instant cut = cluster.world().now();
    cluster.world().control().cut("shard-1");
    const ClusterNodes::Node& node = cluster.nodes().at("shard-1");
    std::optional<Instant> head_noticed, node_noticed;
    ASSERT_TRUE(cluster.run_until([&] {
      const Instant now = cluster.world().now();
      if (!head_noticed && !cluster.nodes().client().serving()) head_noticed = now;
      if (!node_noticed && node.ended) node_noticed = now;
      return head_noticed && node_noticed;
    }));
    for (const auto& noticed : {head_noticed, node_noticed}) {
      EXPECT_GE(*noticed - cut + SystemOptions{}.heartbeat_interval,
                SystemOptions{}.heartbeat_timeout);
      EXPECT_LE(*noticed - cut, kMostUntilNoticed);
    }
    EXPECT_EQ(node.ended->code, Code::kUnavailable);
    expect_good_service(cluster);
    EXPECT_EQ(cluster.status().nodes.size(), 3U);
  });
}

TEST(Partition, OfAShardChangesNoTokenOfARouterIsToldAndBothHealWithTheNextLife) {
  auto specs = two_requests();
  for (auto& spec : specs) spec.max_tokens = 400;
  const std::vector<Stream> alone = generated_alone(kModel, specs);
  for (const std::string name : {"shard-1", "router-0"}) {
    for_each_seed(50, [&](uint64_t seed) {
      const Situation situation("of " + name);
      VirtualCluster cluster({.model = kModel}, networked(seed));
      ASSERT_TRUE(cluster.run_until_serving());
      const auto victim = cluster.submit(specs[seed % 2]);
      ASSERT_TRUE(cluster.run_until([&] { return victim->tokens.size() > seed % 5; }));
      const Instant cut = cluster.world().now();
      cluster.world().control().cut(name);
      cluster.world().network().cut(cluster.nodes().at(name).services.self);
      ASSERT_TRUE(cluster.run_until_ended({victim}));
      EXPECT_EQ(victim->violation, "");
      if (name == "shard-1") {
        expect_same(*victim, alone[seed % 2]);
      } else {
        ASSERT_TRUE(victim->error.has_value());
        EXPECT_EQ(victim->error->code, Code::kUnavailable);
        EXPECT_LE(victim->ended_at - cut, seconds(2));
      }
      cluster.supervise(name);
      ASSERT_TRUE(cluster.run_until([&] { return cluster.status().nodes.size() == 4; }));
      expect_good_service(cluster);
    });
  }
}

}  // namespace
}  // namespace troupe::actors
