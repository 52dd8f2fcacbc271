// What goes wrong at every point of a short run: the run is repeated, and each time the disaster
// strikes one step later, from the first join to the last message. No request may hang, and none
// may show a wrong, doubled or missing token.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/actors/struck_run.hpp"

namespace troupe::actors {
namespace {

enum class Requests : uint8_t { kAllFinish, kFinishOrFail };

void kill_after_every_step(const ClusterOptions& options, const std::string& victim,
                           bool comes_back, Requests requests) {
  strike_after_every_step([&](uint64_t seed, uint64_t num_steps) {
    StruckRun run(options, seed);
    ClusterNodes& nodes = run.cluster().nodes();
    run.strike_after(num_steps, [&] {
      nodes.kill(victim);
      if (!comes_back) return;
      nodes.add(victim);
      run.cluster().supervise(victim);  // the head may not know yet that its name is free
    });
    if (!run.run_until_serving()) return false;
    run.submit();
    if (!run.run_until_ended() || !run.struck()) return false;
    for (size_t i = 0; i < run.streams().size(); ++i) {
      if (requests == Requests::kAllFinish) {
        expect_same(*run.streams()[i], expected()[i]);
      } else {
        expect_right_or_one_clear_error(*run.streams()[i], expected()[i]);
      }
    }
    run.cluster().run_for(seconds(2));  // until the head has heard of it
    expect_good_service(run.cluster());
    return true;
  });
}

TEST(AfterAnyStep, AShardMayDieAndTheOthersFinishWhatWasAccepted) {
  kill_after_every_step({.model = kModel, .num_shards = 3}, "shard-1", false, Requests::kAllFinish);
}

TEST(AfterAnyStep, AShardMayDieAndComeBack) {
  kill_after_every_step({.model = kModel, .num_shards = 2}, "shard-1", true, Requests::kAllFinish);
}

TEST(AfterAnyStep, OneOfTwoRoutersMayDieAndTheOtherFinishesWhatWasAccepted) {
  kill_after_every_step({.model = kModel, .num_routers = 2, .num_shards = 2}, "router-0", false,
                        Requests::kAllFinish);
}

TEST(AfterAnyStep, TheOnlyRouterMayDieAndComeBack) {
  kill_after_every_step({.model = kModel, .num_shards = 2}, "router-0", true,
                        Requests::kFinishOrFail);
}

TEST(KvHolder, TakesItsRouterWithItWhenItDies) {
  VirtualCluster cluster({.model = kModel, .num_routers = 2, .num_shards = 2}, {.seed = 1});
  ASSERT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all(two_requests());
  ASSERT_TRUE(cluster.run_until([&] { return !streams[0]->tokens.empty(); }));
  ClusterNodes::Node& router = cluster.nodes().at("router-0");
  cluster.world().end(router.kv_holder);
  router.kv_holder = nullptr;
  ASSERT_TRUE(cluster.run_until_ended(streams));
  for (size_t i = 0; i < streams.size(); ++i) expect_same(*streams[i], expected()[i]);
  ASSERT_TRUE(router.ended.has_value());
  EXPECT_EQ(cluster.status().nodes.size(), 3U);
}

TEST(AfterAnyStep, TheGatewayActorMayDieAndNothingIsLeftOfItsRequests) {
  strike_after_every_step([&](uint64_t seed, uint64_t num_steps) {
    StruckRun run({.model = kModel, .num_shards = 2}, seed);
    run.strike_after(num_steps, [&] { run.cluster().crash_client(); });
    if (!run.run_until_serving()) return false;
    if (!run.struck()) run.submit();
    if (!run.run_until([&] { return run.struck() || all_ended(run.streams()); })) return false;
    if (!run.struck()) return false;
    for (size_t i = 0; i < run.streams().size(); ++i) {
      expect_nothing_wrong(*run.streams()[i], expected()[i]);
    }
    EXPECT_EQ(run.cluster().left_over(), "");
    expect_good_service(run.cluster());
    return true;
  });
}

TEST(AfterAnyStep, TheHeadMayDieAndEverybodyHearsOfIt) {
  strike_after_every_step([&](uint64_t seed, uint64_t num_steps) {
    StruckRun run({.model = kModel, .num_shards = 2}, seed);
    VirtualCluster& cluster = run.cluster();
    run.strike_after(num_steps, [&] { cluster.world().end(cluster.nodes().scheduler()); });
    if (!run.run_until([&] { return run.struck() || cluster.nodes().client().serving(); })) {
      return false;
    }
    run.submit();
    if (!run.run_until_ended() || !run.struck()) return false;
    for (size_t i = 0; i < run.streams().size(); ++i) {
      expect_right_or_one_clear_error(*run.streams()[i], expected()[i]);
    }
    cluster.run_for(seconds(1));
    EXPECT_FALSE(cluster.nodes().client().serving());
    for (const char* name : {"router-0", "shard-0", "shard-1"}) {
      EXPECT_TRUE(cluster.nodes().at(name).ended.has_value()) << name;
    }
    return true;
  });
}

TEST(AfterAnyStep, ARequestMayBeCancelledAndTheOtherGoesOn) {
  strike_after_every_step([&](uint64_t seed, uint64_t num_steps) {
    StruckRun run({.model = kModel, .num_shards = 2}, seed);
    if (!run.run_until_serving()) return false;
    run.submit();
    const Stream& cancelled = *run.streams()[0];
    const Stream& other = *run.streams()[1];
    run.strike_after(num_steps, [&] { run.cluster().nodes().client().cancel(cancelled.request); });
    if (!run.run_until([&] { return other.ended() && (cancelled.ended() || run.struck()); })) {
      return false;
    }
    expect_nothing_wrong(cancelled, expected()[0]);
    EXPECT_FALSE(cancelled.error.has_value());
    expect_same(other, expected()[1]);
    EXPECT_EQ(run.cluster().left_over(), "");
    expect_good_service(run.cluster());
    return run.struck();
  });
}

TEST(AfterAnyStep, AllRequestsMayBeCancelledAndNothingIsLeftOfThem) {
  strike_after_every_step([&](uint64_t seed, uint64_t num_steps) {
    StruckRun run({.model = kModel, .num_shards = 2}, seed);
    if (!run.run_until_serving()) return false;
    run.submit();
    run.strike_after(num_steps, [&] {
      for (const auto& stream : run.streams()) {
        run.cluster().nodes().client().cancel(stream->request);
      }
    });
    if (!run.run_until([&] { return run.struck() || all_ended(run.streams()); })) return false;
    EXPECT_EQ(run.cluster().left_over(), "");
    expect_good_service(run.cluster());
    return run.struck();
  });
}

}  // namespace
}  // namespace troupe::actors
