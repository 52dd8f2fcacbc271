#include "experts/dispatch_plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/random.hpp"

namespace troupe::experts {
namespace {

using ::testing::ElementsAre;

constexpr NodeId kA{10}, kB{20}, kC{30};

using Holders = std::vector<std::vector<NodeId>>;

Placement placement_of(Holders holders) {
  const auto num_experts = static_cast<uint32_t>(holders.size());
  return {.epoch = Epoch{1},
          .num_layers = 1,
          .num_experts = num_experts,
          .holders = std::move(holders)};
}

TEST(PlanDispatch, SendsARowOnceToEachShardAndKeepsTheSlots) {
  const Placement placement = placement_of({{kB}, {kA}, {kB}, {kA}});
  // row 0 -> experts 2, 1; row 1 -> experts 0, 2 (both of B)
  const std::vector<ExpertIdx> topk_idx = {2, 1, 0, 2};
  const DispatchPlan plan = plan_dispatch(0, topk_idx, 2, 2, placement);
  ASSERT_EQ(plan.shards.size(), 2U);
  const auto& [a, b] = std::tie(plan.shards[0], plan.shards[1]);
  EXPECT_EQ(a.shard, kA);
  EXPECT_THAT(a.rows, ElementsAre(0));
  EXPECT_EQ(a.first_result, 0U);
  EXPECT_EQ(b.shard, kB);
  EXPECT_THAT(b.rows, ElementsAre(0, 1));
  EXPECT_EQ(b.first_result, 1U);
  ASSERT_EQ(b.assignments.size(), 3U);
  EXPECT_EQ(b.assignments[2].row, 1U);
  EXPECT_EQ(b.assignments[2].expert, 2U);
  EXPECT_THAT(plan.slot_row, ElementsAre(2, 0, 1, 3)) << "of B first expert 0's";
  EXPECT_EQ(plan.num_results, 4U);
}

TEST(PlanDispatch, LeavesOutShardsWithoutWork) {
  const std::vector<ExpertIdx> topk_idx = {2};
  const DispatchPlan plan = plan_dispatch(0, topk_idx, 1, 1, placement_of({{kA}, {kB}, {kC}}));
  ASSERT_EQ(plan.shards.size(), 1U);
  EXPECT_EQ(plan.shards[0].shard, kC);
  EXPECT_TRUE(plan_dispatch(0, {}, 0, 1, placement_of({{kA}})).shards.empty());
}

TEST(PlanDispatchDeathTest, StopsTheProcessOnExpertsAndLayersOutsideTheModel) {
  const Placement placement = placement_of({{kA}, {}});
  const std::vector<ExpertIdx> outside = {2}, unplaced = {1}, right = {0};
  EXPECT_DEATH(plan_dispatch(0, outside, 1, 1, placement), "num_experts");
  EXPECT_DEATH(plan_dispatch(0, unplaced, 1, 1, placement), "holders");
  EXPECT_DEATH(plan_dispatch(1, right, 1, 1, placement), "num_layers");
  EXPECT_DEATH(plan_dispatch(0, right, 1, 2, placement), "topk");
}

// Follows every (row, slot) by hand through the plan: it must arrive at its expert on the right
// shard with the right row, and its result must come back to a place of its own.
void expect_right(const DispatchPlan& plan, const std::vector<ExpertIdx>& topk_idx,
                  uint32_t num_rows, uint32_t topk, const Placement& placement) {
  ASSERT_EQ(plan.slot_row.size(), topk_idx.size());
  ASSERT_EQ(plan.num_results, topk_idx.size());
  ASSERT_TRUE(std::ranges::is_sorted(plan.shards, {}, &ShardDispatch::shard));
  ASSERT_EQ(std::set(plan.slot_row.begin(), plan.slot_row.end()).size(), topk_idx.size());
  for (uint32_t row = 0; row < num_rows; ++row) {
    for (uint32_t slot = 0; slot < topk; ++slot) {
      const ExpertIdx expert = topk_idx[row * topk + slot];
      const uint32_t result = plan.slot_row[row * topk + slot];
      const auto to = std::ranges::find_if(plan.shards, [&](const ShardDispatch& shard) {
        return result >= shard.first_result &&
               result - shard.first_result < shard.assignments.size();
      });
      ASSERT_NE(to, plan.shards.end());
      ASSERT_EQ(std::ranges::count(placement.at(0, expert), to->shard), 1);
      const PlannedAssignment& work = to->assignments[result - to->first_result];
      ASSERT_EQ(work.expert, expert);
      ASSERT_EQ(to->rows.at(work.row), row);
    }
  }
  for (const ShardDispatch& to : plan.shards) {
    ASSERT_FALSE(to.assignments.empty());
    const std::set<uint32_t> distinct(to.rows.begin(), to.rows.end());
    ASSERT_EQ(distinct.size(), to.rows.size()) << "a row travels twice";
    ASSERT_TRUE(std::ranges::is_sorted(to.rows));
    ASSERT_TRUE(std::ranges::is_sorted(to.assignments, {}, [](const PlannedAssignment& work) {
      return std::pair(work.expert, work.row);
    }));
  }
}

template <class Draw>
Placement random_placement(uint32_t num_experts, uint32_t num_shards, const Draw& draw) {
  Holders holders(num_experts);
  for (auto& of : holders) {
    of.push_back(NodeId{1 + draw(num_shards)});
    for (uint32_t s = 1; s <= num_shards; ++s) {
      if (of[0] != NodeId{s} && draw(4) == 0) of.push_back(NodeId{s});
    }
    std::ranges::sort(of);
  }
  return placement_of(std::move(holders));
}

std::vector<size_t> loads_of(const DispatchPlan& plan) {
  std::vector<size_t> loads;
  for (const ShardDispatch& to : plan.shards) loads.push_back(to.assignments.size());
  return loads;
}

TEST(PlanDispatch, SplitsAHotExpertOverItsHoldersAroundWhatHasNoChoice) {
  const Placement placement = placement_of({{kA, kB, kC}, {kA}});
  // Expert 1, without a choice, puts four rows on A; eight rows for expert 0 fill up B and C.
  std::vector<ExpertIdx> topk_idx(12, 0);
  std::fill_n(topk_idx.begin(), 4, 1);
  EXPECT_THAT(loads_of(plan_dispatch(0, topk_idx, 12, 1, placement)), ElementsAre(4, 4, 4));
}

TEST(PlanDispatch, SendsARowToAReplicaWhereItGoesAnywayIfThatIsAsEven) {
  const Placement placement = placement_of({{kA}, {kB}, {kA, kB}, {kA, kB}});
  // Row 0 goes to B for expert 1, row 1 to A for expert 0; both want a replicated one besides.
  const std::vector<ExpertIdx> topk_idx = {1, 2, 0, 3};
  const DispatchPlan plan = plan_dispatch(0, topk_idx, 2, 2, placement);
  ASSERT_EQ(plan.shards.size(), 2U);
  EXPECT_THAT(plan.shards[0].rows, ElementsAre(1));
  EXPECT_THAT(plan.shards[1].rows, ElementsAre(0));
}

// No replica of a row's expert on another shard is lighter by more than the row itself.
TEST(PlanDispatch, LeavesNoRowThatAReplicaElsewhereWouldEvenOutForRandomGates) {
  constexpr uint64_t kSeed = 12;
  uint64_t draws = 0, num_choices = 0;
  const auto draw = [&](uint64_t n) {
    return static_cast<uint32_t>(random_bits(kSeed, draws++) % n);
  };
  for (int i = 0; i < 500; ++i) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", case " + std::to_string(i));
    const Placement placement = random_placement(16, 2, draw);
    std::vector<ExpertIdx> topk_idx;
    for (uint32_t j = 0; j < 120; ++j) topk_idx.push_back(draw(16) * draw(16) / 16);
    const DispatchPlan plan = plan_dispatch(0, topk_idx, 60, 2, placement);
    std::map<NodeId, int64_t> load;
    for (const ShardDispatch& to : plan.shards) {
      load[to.shard] = static_cast<int64_t>(to.assignments.size());
    }
    for (const ShardDispatch& to : plan.shards) {
      for (const PlannedAssignment& work : to.assignments) {
        for (const NodeId other : placement.at(0, work.expert)) {
          if (other == to.shard) continue;
          ++num_choices;
          ASSERT_LE(load[to.shard] - load[other], 1);
        }
      }
    }
  }
  EXPECT_GT(num_choices, 1'000U);
}

TEST(PlanDispatch, AgreesWithFollowingEverySlotByHandForRandomGates) {
  constexpr uint64_t kSeed = 11;
  uint64_t draws = 0;
  const auto draw = [&](uint64_t n) {
    return static_cast<uint32_t>(random_bits(kSeed, draws++) % n);
  };
  uint64_t num_slots = 0;
  for (int i = 0; num_slots < 100'000; ++i) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", case " + std::to_string(i));
    const uint32_t num_experts = 1 + draw(64), num_shards = 1 + draw(6);
    const Placement placement = random_placement(num_experts, num_shards, draw);
    const uint32_t num_rows = draw(40), topk = 1 + draw(8);
    std::vector<ExpertIdx> topk_idx;
    for (uint32_t j = 0; j < num_rows * topk; ++j) topk_idx.push_back(draw(num_experts));
    num_slots += topk_idx.size();
    const DispatchPlan plan = plan_dispatch(0, topk_idx, num_rows, topk, placement);
    ASSERT_NO_FATAL_FAILURE(expect_right(plan, topk_idx, num_rows, topk, placement));
  }
}

}  // namespace
}  // namespace troupe::experts
