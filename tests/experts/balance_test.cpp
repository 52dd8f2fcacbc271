#include "experts/balance.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/random.hpp"
#include "experts/load.hpp"

namespace troupe::experts {
namespace {

constexpr NodeId kA{70}, kB{30}, kC{50};

PlacementRequest one_layer(uint32_t num_experts, std::vector<NodeId> shards, uint32_t redundant) {
  return {.epoch = Epoch{2},
          .num_layers = 1,
          .num_experts = num_experts,
          .is_moe_layer = {true},
          .shards = std::move(shards),
          .pins = {},
          .redundant = redundant};
}

std::vector<double> loads_of(const Placement& placement, std::span<const double> load,
                             const std::vector<NodeId>& shards) {
  std::vector<double> loads(shards.size(), 0);
  for (ExpertIdx e = 0; e < placement.num_experts; ++e) {
    for (const NodeId holder : placement.at(0, e)) {
      loads[static_cast<size_t>(std::ranges::find(shards, holder) - shards.begin())] +=
          load[e] / static_cast<double>(placement.at(0, e).size());
    }
  }
  return loads;
}

double busiest(const Placement& placement, std::span<const double> load,
               const std::vector<NodeId>& shards) {
  return std::ranges::max(loads_of(placement, load, shards));
}

TEST(Rebalance, ReplicatesTheHottestExpertAndEvensTheShardsOut) {
  const auto request = one_layer(4, {kA, kB}, 1);
  const Placement current = *place_experts(request);
  const std::vector<double> load = {90, 10, 30, 30};
  const auto placed = rebalance(request, load, current, 0.01);
  ASSERT_TRUE(placed.ok() && placed->has_value());
  EXPECT_EQ((*placed)->epoch, Epoch{2});
  EXPECT_EQ((*placed)->at(0, 0).size(), 2U);
  EXPECT_EQ(busiest(**placed, load, {kA, kB}), 85) << "45 and 30 each, and 10 on one";
}

TEST(Rebalance, KeepsAPlacementThatIsNearlyAsGood) {
  const auto request = one_layer(4, {kA, kB}, 0);
  Placement current = *place_experts(request);        // 0 and 1 on A, 2 and 3 on B
  const std::vector<double> load = {30, 23, 20, 27};  // 53 and 47; 50 and 50 can be had
  EXPECT_FALSE(rebalance(request, load, current, 0.10)->has_value());
  const auto placed = rebalance(request, load, current, 0.05);
  ASSERT_TRUE(placed->has_value());
  EXPECT_EQ(busiest(**placed, load, {kA, kB}), 50);
  EXPECT_EQ(num_new_replicas(current, **placed), 2U);
}

TEST(Rebalance, ChangesNothingWithoutLoad) {
  const auto request = one_layer(8, {kA, kB, kC}, 3);
  const std::vector<double> load(8, 0);
  EXPECT_FALSE(rebalance(request, load, *place_experts(request), 0)->has_value());
}

TEST(Rebalance, MovesFewReplicasWhenLoadsChangeALittle) {
  constexpr uint64_t kSeed = 23;
  uint64_t draws = 0, num_new = 0, num_rounds = 0;
  const auto draw = [&](uint64_t n) { return random_bits(kSeed, draws++) % n; };
  std::vector<NodeId> shards;
  for (uint64_t s = 1; s <= 8; ++s) shards.push_back(NodeId{s});
  const auto request = one_layer(64, shards, 8);
  std::vector<double> load;
  for (uint32_t e = 0; e < 64; ++e) load.push_back(1e6 / static_cast<double>(1 + draw(64)));
  Placement current = *place_experts(request);
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", round " + std::to_string(round));
    auto next = rebalance(request, load, current, 0.05);
    ASSERT_TRUE(next.ok());
    if (next->has_value()) {
      if (round > 0) num_new += num_new_replicas(current, **next);
      num_rounds += round > 0 ? 1 : 0;
      current = **std::move(next);
    }
    ASSERT_GT(balancedness(current, load, shards), 0.9);
    for (double& rows : load) rows *= 0.9 + static_cast<double>(draw(200)) / 1e3;
  }
  ASSERT_GT(num_rounds, 10U);
  EXPECT_LT(num_new, num_rounds * 72 / 4) << num_new << " in " << num_rounds << " changes;"
                                          << " packed anew, most of 72 would move each time";
}

TEST(Rebalance, ExchangesTheFewReplicasThatHaveToMove) {
  const auto request = one_layer(6, {kA, kB, kC}, 0);
  Placement current = *place_experts(request);
  // Only 1 and 2 have to change places; packed anew, {5, 2}, {4, 3} and {0, 1} would move about.
  const std::vector<double> load = {50, 50, 10, 90, 48, 52};
  const auto placed = rebalance(request, load, current, 0);
  ASSERT_FALSE(placed->has_value()) << "all carry 100";
  const std::vector<double> skewed = {50, 58, 2, 90, 48, 52};
  const auto better = rebalance(request, skewed, current, 0);
  ASSERT_TRUE(better->has_value());
  EXPECT_LT(busiest(**better, skewed, {kA, kB, kC}), 108);
  EXPECT_LE(num_new_replicas(current, **better), 4U);
}

TEST(Rebalance, LeavesPinnedExpertsWhereTheyArePinned) {
  auto request = one_layer(6, {kA, kB}, 2);
  request.pins = {
      {.node = kA, .first_layer = 0, .last_layer = 0, .first_expert = 0, .last_expert = 3}};
  const Placement current = *place_experts(request);
  const std::vector<double> load = {100, 90, 80, 70, 1, 1};
  const auto placed = rebalance(request, load, current, 0);
  ASSERT_TRUE(placed->has_value());
  for (ExpertIdx e = 0; e < 4; ++e) {
    EXPECT_EQ(std::ranges::count((*placed)->at(0, e), kA), 1) << e;
  }
  EXPECT_EQ((*placed)->at(0, 0).size(), 2U);
  EXPECT_EQ((*placed)->at(0, 1).size(), 2U);
}

/// The least load of the busiest shard over every placement with these numbers of replicas.
double best_by_trying_all(std::span<const double> weights, uint32_t num_shards, uint32_t slots) {
  std::vector<double> loads(num_shards, 0);
  std::vector<uint32_t> used(num_shards, 0);
  double best = std::accumulate(weights.begin(), weights.end(), 0.0);
  const std::function<void(size_t)> place = [&](size_t i) {
    if (i == weights.size()) {
      best = std::min(best, std::ranges::max(loads));
      return;
    }
    for (uint32_t s = 0; s < num_shards; ++s) {
      if (used[s] == slots) continue;
      ++used[s], loads[s] += weights[i];
      place(i + 1);
      --used[s], loads[s] -= weights[i];
    }
  };
  place(0);
  return best;
}

TEST(Rebalance, ComesNearTheBestOfAllPlacementsInTinyCases) {
  constexpr uint64_t kSeed = 21;
  double worst = 1;
  uint64_t draws = 0, num_cases = 0, num_best = 0;
  const auto draw = [&](uint64_t n) { return random_bits(kSeed, draws++) % n; };
  for (int i = 0; i < 300; ++i) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", case " + std::to_string(i));
    const auto num_experts = static_cast<uint32_t>(2 + draw(6));
    const auto num_shards = static_cast<uint32_t>(2 + draw(2));
    std::vector<NodeId> shards;
    for (uint32_t s = 0; s < num_shards; ++s) shards.push_back(NodeId{s + 1});
    const auto request = one_layer(num_experts, shards, 0);
    std::vector<double> load;
    for (uint32_t e = 0; e < num_experts; ++e) load.push_back(static_cast<double>(1 + draw(50)));
    const Placement current = *place_experts(request);
    const auto placed = rebalance(request, load, current, 0);
    const double ours = busiest(placed->value_or(current), load, shards);
    const double best =
        best_by_trying_all(load, num_shards, (num_experts + num_shards - 1) / num_shards);
    ASSERT_GE(ours, best - 1e-9);
    worst = std::max(worst, ours / best);
    ++num_cases;
    num_best += ours <= best + 1e-9 ? 1 : 0;
  }
  EXPECT_LE(worst, 4.0 / 3) << "heaviest first is this good without slots";
  EXPECT_GE(num_best * 2, num_cases) << "in most tiny cases it finds the best";
}

TEST(Rebalance, KeepsItsPromisesForRandomLoads) {
  constexpr uint64_t kSeed = 22;
  uint64_t num_changed = 0, draws = 0;
  const auto draw = [&](uint64_t n) { return random_bits(kSeed, draws++) % n; };
  for (int i = 0; i < 400; ++i) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", case " + std::to_string(i));
    PlacementRequest request{.epoch = Epoch{9}};
    request.num_layers = static_cast<uint32_t>(1 + draw(4));
    request.num_experts = static_cast<uint32_t>(1 + draw(40));
    for (uint32_t l = 0; l < request.num_layers; ++l) request.is_moe_layer.push_back(draw(4) != 0);
    for (uint64_t s = 0; s < 1 + draw(7); ++s) request.shards.push_back(NodeId{1 + (s * 5) % 11});
    request.redundant = static_cast<uint32_t>(draw(20));
    const auto last_pinned = static_cast<uint32_t>(draw(request.num_experts));
    if (draw(2) == 0) {
      request.pins.push_back({.node = request.shards.back(),
                              .first_layer = 0,
                              .last_layer = request.num_layers - 1,
                              .first_expert = last_pinned / 2,
                              .last_expert = last_pinned});
    }
    Placement current = *place_experts(request);
    // Loads change from round to round, as they would; each placement starts from the last.
    for (int round = 0; round < 4; ++round) {
      std::vector<double> load;
      for (size_t e = 0; e < current.holders.size(); ++e) {
        load.push_back(1e6 / static_cast<double>(1 + draw(1'000)));
      }
      const double min_gain = static_cast<double>(draw(3)) * 0.1;
      const auto placed = rebalance(request, load, current, min_gain);
      ASSERT_TRUE(placed.ok());
      const auto again = rebalance(request, load, current, min_gain);
      ASSERT_EQ(placed->has_value(), again->has_value());
      if (!placed->has_value()) continue;
      ++num_changed;
      const Placement& next = **placed;
      ASSERT_EQ(next.holders, (*again)->holders) << "the same again";
      ASSERT_EQ(check(next, request), "") << "pins and slots kept, too";
      const double before = balancedness(current, load, request.shards);
      const double after = balancedness(next, load, request.shards);
      ASSERT_GT(after * (1 - min_gain), before * (1 - 1e-9)) << "as much better as was asked";
      current = next;
    }
  }
  EXPECT_GT(num_changed, 400U);
}

TEST(Balancedness, IsTheMeanOverTheMaximumAndOneWithoutLoad) {
  const auto request = one_layer(2, {kA, kB}, 0);
  const Placement placement = *place_experts(request);
  EXPECT_EQ(balancedness(placement, std::vector<double>{30, 10}, std::vector{kA, kB}), 20.0 / 30);
  EXPECT_EQ(balancedness(placement, std::vector<double>{0, 0}, std::vector{kA, kB}), 1);
}

TEST(LoadCount, TellsWhatWasAddedSinceTheLastTime) {
  LoadCount count(2, 8);
  count.add(1, 7);
  count.add(0, 3);
  count.add(1, 7);
  EXPECT_THAT(count.take(), ::testing::ElementsAre(ExpertRows{{0, 3}, 1}, ExpertRows{{1, 7}, 2}));
  EXPECT_TRUE(count.empty());
  EXPECT_TRUE(count.take().empty());
}

TEST(RecentLoad, HalvesAfterAHalfLifeAndIgnoresWhatIsOutsideTheModel) {
  RecentLoad load(2, 4, seconds(10));
  const Instant start{seconds(100).ns};
  load.add(kA, {{{0, 1}, 80}, {{1, 3}, 40}, {{2, 0}, 9}, {{0, 4}, 9}}, start);
  EXPECT_EQ(load.total(), 120);
  load.add(kB, {{{0, 1}, 20}}, start + seconds(10));
  EXPECT_EQ(load.by_expert()[1], 60);
  EXPECT_EQ(load.by_expert()[7], 20);
  EXPECT_EQ(load.of_shard(kA), 60);
  EXPECT_EQ(load.of_shard(kB), 20);
  EXPECT_EQ(load.balancedness({kA, kB}), (30.0 + 10.0) / (40.0 + 20.0));
  EXPECT_EQ(load.balancedness({kA, kB}, 0), 30.0 / 40);
  EXPECT_EQ(load.balancedness({kA, kB}, 1), 10.0 / 20);
  EXPECT_EQ(load.balancedness({kB}, 1), 1) << "without rows";
  load.add(kB, {}, start + seconds(5));
  EXPECT_EQ(load.total(), 80) << "time does not run backwards";
  load.forget(kA);
  EXPECT_EQ(load.of_shard(kA), 0);
  EXPECT_EQ(load.total(), 80);
}

}  // namespace
}  // namespace troupe::experts
