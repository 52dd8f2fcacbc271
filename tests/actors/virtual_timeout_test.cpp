// Every wait of the cluster has a bound, and under virtual time it is exact.

#include <gtest/gtest.h>

#include "actors/router_actor.hpp"
#include "tests/support/requests.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {
namespace {

const std::string kModel = golden_model("v3-groups");
constexpr uint64_t kNumSeeds = 50;

/// Jobs and frames take time, so that a request takes some.
VirtualWorldOptions slow_world(uint64_t seed) {
  return {.seed = seed, .max_job_time = milliseconds(2), .max_frame_time = milliseconds(1)};
}

TEST(VirtualTime, ARequestsDeadlineIsKeptToTheNanosecond) {
  for_each_seed(kNumSeeds, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel, .scheduler = {.max_running = 2, .max_context = 512}},
                           slow_world(seed));
    ASSERT_TRUE(cluster.run_until_serving());
    const Instant submitted = cluster.world().now();
    std::vector<scheduler::RequestSpec> specs(5, greedy(400));
    for (size_t i = 0; i < specs.size(); ++i) {
      specs[i].timeout = milliseconds(20) + nanoseconds(static_cast<int64_t>(i * seed * 999'983));
    }
    const auto streams = cluster.submit_all(specs);
    ASSERT_TRUE(cluster.run_until_ended(streams));
    for (size_t i = 0; i < specs.size(); ++i) {
      ASSERT_TRUE(streams[i]->error.has_value());
      EXPECT_EQ(streams[i]->error->code, Code::kDeadlineExceeded);
      EXPECT_EQ((streams[i]->ended_at - submitted).ns, specs[i].timeout.ns);
    }
    EXPECT_EQ(cluster.left_over(), "");
  });
}

TEST(VirtualTime, RequestsWaitForARouterForASecondAndAHalf) {
  for_each_seed(kNumSeeds, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel, .scheduler = {.max_running = 1, .max_context = 512}},
                           slow_world(seed));
    ASSERT_TRUE(cluster.run_until_serving());
    const auto runs = cluster.submit(greedy(400));
    const auto queued = cluster.submit(greedy(400));
    ASSERT_TRUE(cluster.run_until([&] { return runs->tokens.size() > 1; }));
    const Instant killed = cluster.world().now();
    cluster.nodes().kill("router-0");
    ASSERT_TRUE(cluster.run_until_ended({runs, queued}));
    for (const auto& stream : {runs, queued}) {
      EXPECT_EQ(stream->error->code, Code::kUnavailable);
      EXPECT_EQ((stream->ended_at - killed).ns, milliseconds(1500).ns);
    }
  });
}

TEST(VirtualTime, AClusterWithAnAbsentNodeServesAfterTheAssembleTimeout) {
  for_each_seed(kNumSeeds, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel, .absent = {"shard-2"}}, {.seed = seed});
    const Instant start = cluster.world().now();
    ASSERT_TRUE(cluster.run_until_serving());
    EXPECT_EQ(cluster.world().now() - start, cluster::MembershipOptions{}.assemble_timeout);
  });
}

TEST(VirtualTime, ANodeThatIsNotReadyInTimeIsLeftOut) {
  for_each_seed(kNumSeeds, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel, .num_routers = 2}, {.seed = seed});
    const Instant start = cluster.world().now();
    ClusterNodes::Node& hung = cluster.nodes().at("router-1");
    cluster.world().stall(hung.worker);
    ASSERT_TRUE(cluster.run_until_serving());
    EXPECT_EQ(cluster.world().now() - start, cluster::MembershipOptions{}.ready_timeout);
    EXPECT_EQ(cluster.status().nodes.size(), 4U);
    cluster.run_for({});
    ASSERT_TRUE(hung.ended.has_value());
    EXPECT_EQ(hung.ended->code, Code::kDeadlineExceeded);
  });
}

/// From the silence of a shard until its router tells.
const Duration kMostUntilSilenceIsTold =
    ShardLinkOptions{}.heartbeat_timeout + ShardLinkOptions{}.heartbeat_interval;

TEST(VirtualTime, AShardWithoutASignOfLifeIsLeftOutAfterThreeTries) {
  for_each_seed(kNumSeeds, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel}, {.seed = seed});
    const Instant start = cluster.world().now();
    ClusterNodes::Node& hung = cluster.nodes().at("shard-1");
    cluster.world().stall(hung.worker);
    ASSERT_TRUE(cluster.run_until_serving());
    EXPECT_LE(cluster.world().now() - start, kMostUntilSilenceIsTold * 3 + seconds(1) * 2);
    EXPECT_EQ(cluster.status().nodes.size(), 3U);
    cluster.run_for({});
    ASSERT_TRUE(hung.ended.has_value());
    EXPECT_EQ(hung.ended->code, Code::kUnavailable);
  });
}

TEST(VirtualTime, ANodeGivesUpOnAHeadThatDoesNotAnswerItsJoinWithinTenSeconds) {
  VirtualCluster cluster({.model = kModel}, {});
  const Instant start = cluster.world().now();
  cluster.world().stall(cluster.nodes().scheduler());
  ClusterNodes::Node& node = cluster.nodes().at("shard-0");
  ASSERT_TRUE(cluster.run_until([&] { return node.ended.has_value(); }));
  EXPECT_EQ(node.ended->code, Code::kDeadlineExceeded);
  EXPECT_EQ(cluster.world().now() - start, seconds(10));
}

TEST(VirtualTime, ACutBetweenRouterAndShardChangesNoToken) {
  const auto alone = generated_alone(kModel, {greedy(400)});
  for_each_seed(kNumSeeds, [&](uint64_t seed) {
    VirtualCluster cluster({.model = kModel}, slow_world(seed));
    ASSERT_TRUE(cluster.run_until_serving());
    const auto stream = cluster.submit(greedy(400));
    ASSERT_TRUE(cluster.run_until([&] { return stream->tokens.size() > 1; }));
    const Instant cut = cluster.world().now();
    cluster.world().network().cut(cluster.nodes().at("shard-1").services.self);
    ASSERT_TRUE(cluster.run_until([&] { return !cluster.nodes().client().serving(); }));
    const Duration waited = cluster.world().now() - cut;
    EXPECT_GE(waited + ShardLinkOptions{}.heartbeat_interval, ShardLinkOptions{}.heartbeat_timeout);
    EXPECT_LE(waited, kMostUntilSilenceIsTold);
    ASSERT_TRUE(cluster.run_until_ended({stream}));
    expect_same(*stream, alone[0]);
    EXPECT_EQ(cluster.status().nodes.size(), 3U);
    EXPECT_EQ(cluster.left_over(), "");
  });
}

/// How long the status takes, and what it is, while an actor hangs.
std::pair<Duration, ClusterStatus> status_while_stalled(VirtualCluster& cluster,
                                                        const caf::actor& hung) {
  cluster.world().stall(hung);
  const Instant asked = cluster.world().now();
  ClusterStatus status = cluster.status();
  return {cluster.world().now() - asked, std::move(status)};
}

TEST(VirtualTime, AStatusIsAnsweredWithinItsBoundWhoeverHangs) {
  for_each_seed(kNumSeeds, [](uint64_t seed) {
    VirtualCluster cluster({.model = kModel}, {.seed = seed});
    ASSERT_TRUE(cluster.run_until_serving());
    EXPECT_EQ(cluster.status().nodes.at(2).num_experts_held, 11U);
    {
      const auto [took, status] =
          status_while_stalled(cluster, cluster.nodes().at("router-0").kv_holder);
      EXPECT_EQ(took, milliseconds(500));
      EXPECT_EQ(status.nodes.size(), 4U);
    }
    {
      const auto [took, status] =
          status_while_stalled(cluster, cluster.nodes().at("shard-1").worker);
      EXPECT_EQ(took, seconds(1));
      EXPECT_TRUE(status.serving);
      EXPECT_EQ(status.nodes.size(), 4U);
      EXPECT_EQ(status.nodes.at(2).num_experts_held, 0U);
      EXPECT_GT(status.nodes.at(1).num_experts_held, 0U);
    }
    {
      const auto [took, status] = status_while_stalled(cluster, cluster.nodes().scheduler());
      EXPECT_EQ(took, seconds(2));
      EXPECT_EQ(status.condition, "the scheduler did not answer within two seconds");
    }
  });
}

TEST(VirtualTime, AnIdleHourCostsHeartbeatsAlone) {
  for (const bool networked : {false, true}) {
    VirtualWorldOptions world = slow_world(1);
    world.networked = networked;
    VirtualCluster cluster({.model = kModel}, world);
    ASSERT_TRUE(cluster.run_until_serving());
    const auto streams = cluster.submit_all({greedy(20), greedy(20), greedy(20)});
    ASSERT_TRUE(cluster.run_until_ended(streams));
    // The deadlines of these requests, their watchdogs, and what CAF does once per connection.
    cluster.run_for(seconds(600));
    const uint64_t messages = cluster.world().num_messages();
    const uint64_t steps = cluster.world().num_steps();
    cluster.run_for(seconds(3600));
    // Five times a second the router asks three shards over its links, and they answer.
    constexpr uint64_t kBeats = 5 * 3600, kFrames = kBeats * 3 * 2;
    EXPECT_EQ(cluster.world().num_messages() - messages, kBeats + kFrames);
    // So often, too, CAF does each way on each of four connections.
    EXPECT_EQ(cluster.world().num_steps() - steps,
              kBeats + 2 * kFrames + (networked ? 2U * 4 * kBeats : 0U));
  }
}

}  // namespace
}  // namespace troupe::actors
