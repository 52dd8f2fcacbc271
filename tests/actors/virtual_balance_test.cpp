// Changes of placement while requests run: whatever the order of events and whoever dies on the
// way, every stream shows the tokens of one process, and without a death nothing stops.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "actors/messages.hpp"
#include "base/check.hpp"
#include "tests/actors/skewed_load.hpp"
#include "tests/actors/struck_run.hpp"

namespace troupe::actors {
namespace {

using ::testing::HasSubstr;

void skew(VirtualCluster& cluster, uint64_t round) {
  ClusterNodes& nodes = cluster.nodes();
  caf::anon_send(nodes.scheduler(), skewed_load(opened_model(kModel).config(),
                                                nodes.at("shard-0").services.self, round));
}

using Answer = std::optional<Result<ExpertsStatus>>;

std::shared_ptr<Answer> ask(VirtualCluster& cluster, bool rebalance) {
  auto answer = std::make_shared<Answer>();
  cluster.nodes().client().experts(
      rebalance, [answer](Result<ExpertsStatus> status) { *answer = std::move(status); });
  return answer;
}

/// The answer to an order to change the placement.
Result<ExpertsStatus> order(VirtualCluster& cluster) {
  const auto answer = ask(cluster, true);
  CHECK(cluster.run_until([&] { return answer->has_value(); }));
  return **answer;
}

ExpertsStatus experts(VirtualCluster& cluster) {
  const auto answer = ask(cluster, false);
  CHECK(cluster.run_until([&] { return answer->has_value(); }));
  return (**answer).value();
}

std::vector<scheduler::RequestSpec> longer_requests() {
  auto specs = mixed_requests(opened_model(kModel).config().vocab_size, 3);
  for (auto& spec : specs) {
    spec.prompt.resize(std::min<size_t>(spec.prompt.size(), 12));
    spec.max_tokens = 12;
  }
  return specs;
}

TEST(PlacementChange, HappensWhileRequestsRunAndNoStreamShowsIt) {
  static const std::vector<Stream> kExpected = generated_alone(kModel, longer_requests());
  uint64_t num_changes = 0, num_during = 0;
  for_each_seed(40, [&](uint64_t seed) {
    VirtualCluster cluster({.model = kModel,
                            .num_routers = 1 + static_cast<uint32_t>(seed % 2),
                            .num_shards = 2 + static_cast<uint32_t>(seed % 3),
                            .batcher = {.max_step_tokens = 8, .max_running = 3},
                            .balance = {.redundant = static_cast<uint32_t>(seed % 4)}},
                           {.seed = seed,
                            .max_job_time = milliseconds(static_cast<int64_t>(seed % 3)),
                            .max_frame_time = milliseconds(static_cast<int64_t>(seed % 5)),
                            .duplicate = seed % 5 == 0 ? 0.2 : 0,
                            .networked = seed % 7 == 0});
    ASSERT_TRUE(cluster.run_until_serving());
    const auto streams = cluster.submit_all(longer_requests());
    uint64_t round = 0;
    ASSERT_TRUE(cluster.run_until([&] { return !streams[0]->tokens.empty(); }));
    while (!all_ended(streams)) {
      skew(cluster, ++round);
      const auto answer = ask(cluster, true);
      ASSERT_TRUE(cluster.run_until([&] {
        EXPECT_TRUE(cluster.nodes().client().serving());
        return answer->has_value();
      }));
      if (all_ended(streams)) break;
      cluster.run_for(milliseconds(20));
      num_during += all_ended(streams) ? 0 : 1;
    }
    for (size_t i = 0; i < streams.size(); ++i) {
      expect_same(*streams[i], kExpected[i], "request " + std::to_string(i));
    }
    EXPECT_EQ(cluster.left_over(), "");
    const ClusterStatus status = cluster.status();
    EXPECT_EQ(status.counts.resumed_total, 0U) << "no request was disturbed";
    const ExpertsStatus after = experts(cluster);
    EXPECT_EQ(status.epoch, after.epoch);
    EXPECT_EQ(status.epoch.value, 1 + after.num_changes) << after.last_change;
    num_changes += after.num_changes;
    uint64_t num_replicas = 0, num_held = 0;
    for (const auto& holders : after.holders) num_replicas += holders.size();
    for (const NodeStatus& node : status.nodes) num_held += node.num_experts_held;
    EXPECT_EQ(num_held, num_replicas) << "what is old was dropped";
  });
  if (!usual_seeds()) return;
  EXPECT_GT(num_changes, 80U) << "several in each run";
  EXPECT_GT(num_during, 40U);
}

TEST(PlacementChange, ComesByItselfWhenLoadsCallForItAndNotOftenerThanItsInterval) {
  VirtualCluster cluster(
      {.model = kModel, .balance = {.redundant = 2, .interval = seconds(10), .min_gain = 0.05}},
      {.seed = 3});
  ASSERT_TRUE(cluster.run_until_serving());
  cluster.run_for(seconds(25));
  EXPECT_EQ(experts(cluster).num_changes, 0U) << "without load there is no reason";
  for (uint64_t round = 1; round <= 20; ++round) {
    skew(cluster, round);
    cluster.run_for(seconds(1));
  }
  const ExpertsStatus after = experts(cluster);
  EXPECT_GE(after.num_changes, 1U) << after.last_change;
  EXPECT_LE(after.num_changes, 3U);
}

TEST(PlacementChange, IsOverWhenItsEpochEndsAndTooFewNodesAreLeftForAnother) {
  VirtualCluster cluster({.model = kModel, .num_shards = 2}, {.seed = 4});
  ASSERT_TRUE(cluster.run_until_serving());
  skew(cluster, 1);
  const auto begun = order(cluster);
  ASSERT_TRUE(begun.ok() && begun->changing);
  cluster.nodes().kill("router-0");
  cluster.run_for(seconds(3));
  const ExpertsStatus after = experts(cluster);
  EXPECT_FALSE(after.changing);
  EXPECT_EQ(after.num_changes, 0U);
  EXPECT_THAT(after.last_change, HasSubstr("a change was abandoned: node router-0 was lost"));
}

TEST(PlacementChange, ThatCannotBeginIsAnErrorWithItsCause) {
  VirtualCluster cluster({.model = kModel, .num_shards = 2}, {.seed = 4});
  const auto early = order(cluster);
  ASSERT_FALSE(early.ok());
  EXPECT_EQ(early.error().code, Code::kUnavailable);
  EXPECT_THAT(early.error().message, HasSubstr("cannot be changed now: waiting for"));
  ASSERT_TRUE(cluster.run_until_serving());
  skew(cluster, 1);
  ASSERT_TRUE(order(cluster).ok());
  const auto second = order(cluster);
  ASSERT_FALSE(second.ok()) << "one at a time";
  EXPECT_THAT(second.error().message, HasSubstr("changing to epoch 2"));
  for (int i = 0;; ++i) {
    cluster.run_for(seconds(1));
    const auto next = order(cluster);
    ASSERT_TRUE(next.ok()) << next.error().message;
    ASSERT_GE(next->num_changes, 1U);
    if (!next->changing) break;  // no placement is better now, which is no error
    ASSERT_LT(i, 10) << "the same loads call for ever other placements";
  }
  caf::anon_send_exit(cluster.nodes().scheduler(), caf::exit_reason::kill);
  const auto unheard = order(cluster);
  ASSERT_FALSE(unheard.ok());
  EXPECT_THAT(unheard.error().message, HasSubstr("the scheduler did not answer"));
}

/// Two requests run, a change of placement is ordered, and some steps later a disaster strikes:
/// before it begins, while it goes on, and when it is made.
void strike_a_change(const ClusterOptions& options,
                     const std::function<void(StruckRun&)>& disaster) {
  uint64_t num_stopped = 0, num_made = 0;
  strike_after_every_step([&](uint64_t seed, uint64_t num_steps) {
    StruckRun run(options, seed);
    if (!run.run_until_serving()) return false;
    skew(run.cluster(), seed);
    run.submit();
    const auto answer = ask(run.cluster(), true);
    bool begun_before = false;
    run.strike_after(num_steps, [&] {
      begun_before = answer->has_value();
      disaster(run);
    });
    if (!run.run_until_ended()) return false;
    for (size_t i = 0; i < run.streams().size(); ++i) {
      expect_same(*run.streams()[i], expected()[i]);
    }
    const bool struck = run.struck();
    run.cluster().run_for(seconds(3));  // until the head has heard of it
    expect_good_service(run.cluster());
    if (!struck || begun_before) {
      CHECK(answer->has_value());
      EXPECT_TRUE((*answer)->ok() && (**answer)->changing) << "the loads call for a change";
    }
    const ExpertsStatus after = experts(run.cluster());
    EXPECT_FALSE(after.changing) << "it is over, one way or the other";
    (after.num_changes > 0 ? num_made : num_stopped) += begun_before ? 1 : 0;
    return struck;
  });
  EXPECT_GT(num_stopped, 20U) << "by disasters that struck while it went on";
  EXPECT_GT(num_made, 20U);
}

TEST(PlacementChange, AShardMayDieAfterAnyStepOfIt) {
  strike_a_change({.model = kModel, .num_shards = 3, .balance = {.redundant = 1}},
                  [](StruckRun& run) { run.cluster().nodes().kill("shard-1"); });
}

TEST(PlacementChange, OneOfTwoRoutersMayDieAfterAnyStepOfIt) {
  strike_a_change({.model = kModel, .num_routers = 2, .num_shards = 2},
                  [](StruckRun& run) { run.cluster().nodes().kill("router-0"); });
}

TEST(PlacementChange, AShardMayBeCutOffFromTheRoutersAfterAnyStepOfIt) {
  strike_a_change({.model = kModel, .num_shards = 3, .balance = {.redundant = 1}},
                  [](StruckRun& run) {
                    VirtualCluster& cluster = run.cluster();
                    cluster.world().network().cut(cluster.nodes().at("shard-2").services.self);
                  });
}

}  // namespace
}  // namespace troupe::actors
