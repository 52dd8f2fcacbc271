#include "actors/expert_balance.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::actors {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Layer 0 is dense, 1 to 3 have four routed experts each.
model::ModelConfig small_model() {
  return {.num_layers = 4, .num_routed_experts = 4, .first_k_dense_replace = 1};
}

cluster::NodeInfo shard(uint64_t node, std::string name) {
  return {.id = NodeId{node}, .name = std::move(name)};
}

const std::vector<cluster::NodeInfo> kShards = {shard(7, "shard-0"), shard(3, "shard-1")};

/// Rows of the four experts of a layer.
std::vector<experts::ExpertRows> rows_of(LayerIdx layer, const std::vector<uint64_t>& rows) {
  std::vector<experts::ExpertRows> report;
  for (ExpertIdx e = 0; e < rows.size(); ++e) report.push_back({{layer, e}, rows[e]});
  return report;
}

class ExpertBalanceTest : public ::testing::Test {
 protected:
  ExpertBalanceTest() { form(1); }

  /// Without load shard-0 gets experts 0 and 1 of each layer, shard-1 gets 2 and 3.
  void form(uint64_t epoch) {
    const auto placed = balance.place(Epoch{epoch}, kShards);
    ASSERT_TRUE(placed.ok()) << placed.error().message;
    balance.formed(*placed, kShards);
  }
  /// In every layer with experts.
  void report(const std::vector<uint64_t>& rows) {
    for (LayerIdx layer = 1; layer < 4; ++layer) report(layer, rows);
  }
  void report(LayerIdx layer, const std::vector<uint64_t>& rows) {
    balance.report(NodeId{7}, rows_of(layer, {rows[0], rows[1]}), {});
    auto others = rows_of(layer, rows);
    others.erase(others.begin(), others.begin() + 2);
    balance.report(NodeId{3}, others, {});
  }

  ExpertBalance balance{small_model(), {}, {.min_gain = 0.1}};
};

TEST_F(ExpertBalanceTest, ShowsLoadsHoldersAndHowEvenTheShardsAre) {
  report(1, {10, 20, 30, 30});
  report(2, {30, 30, 20, 10});
  const ExpertsStatus status = balance.status();
  EXPECT_EQ(status.epoch, Epoch{1});
  EXPECT_EQ(status.num_layers, 4U);
  EXPECT_EQ(status.num_experts, 4U);
  ASSERT_EQ(status.shards.size(), 2U);
  EXPECT_EQ(status.shards[0].name, "shard-0");
  EXPECT_EQ(status.shards[0].num_replicas, 6U);
  EXPECT_EQ(status.shards[0].rows, 30 + 60);
  EXPECT_EQ(status.shards[1].rows, 60 + 30);
  EXPECT_EQ(status.balancedness, 90.0 / 120) << "each layer has one shard that the other waits for";
  EXPECT_THAT(status.layer_balancedness, ElementsAre(1, 45.0 / 60, 45.0 / 60, 1));
  EXPECT_EQ(status.rows[4], 10);
  EXPECT_TRUE(status.holders[0].empty()) << "a dense layer";
  EXPECT_THAT(status.holders[5], ElementsAre(0));
  EXPECT_THAT(status.holders[6], ElementsAre(1));
  EXPECT_FALSE(status.changing);
}

TEST_F(ExpertBalanceTest, TellsOfAChangeFromItsBeginningToItsEnd) {
  report({900, 900, 100, 100});
  ASSERT_TRUE(balance.propose(false));
  EXPECT_TRUE(balance.status().changing);
  EXPECT_EQ(balance.status().epoch, Epoch{1}) << "until it is made";
  EXPECT_THAT(balance.last_change(), HasSubstr("loading 6 replicas to bring balancedness from "
                                               "55.6% to 100.0%"));
  const experts::Placement placement = balance.proposed(Epoch{2});
  EXPECT_EQ(placement.epoch, Epoch{2});
  EXPECT_EQ(placement.held_by(NodeId{7}).size(), 6U);
  balance.accepted();
  const ExpertsStatus status = balance.status();
  EXPECT_FALSE(status.changing);
  EXPECT_EQ(status.epoch, Epoch{2});
  EXPECT_EQ(status.num_changes, 1U);
  EXPECT_THAT(status.last_change, HasSubstr("6 replicas newly loaded, in force since epoch 2"));
  EXPECT_NE(status.holders[4], status.holders[5]) << "the two busy ones lie apart";
}

TEST_F(ExpertBalanceTest, KeepsItsPlacementWhenAChangeIsAbandonedAndKnowsWhy) {
  report({900, 900, 100, 100});
  ASSERT_TRUE(balance.propose(false));
  balance.abandoned("node shard-1 was lost");
  EXPECT_FALSE(balance.status().changing);
  EXPECT_EQ(balance.status().epoch, Epoch{1});
  EXPECT_EQ(balance.num_changes(), 0U);
  EXPECT_THAT(balance.last_change(), HasSubstr("abandoned: node shard-1 was lost"));
  balance.abandoned("an epoch ended");
  EXPECT_THAT(balance.last_change(), HasSubstr("shard-1")) << "there was nothing to abandon";
  form(2);
  EXPECT_TRUE(balance.propose(false)) << "the loads have not changed";
}

TEST_F(ExpertBalanceTest, WaitsForAHundredRowsPerExpert) {
  report({150, 150, 50, 49});
  EXPECT_FALSE(balance.propose(false)) << "3 * 399 rows of twelve experts";
  EXPECT_EQ(balance.last_change(), "");
  report({0, 0, 0, 1});
  EXPECT_TRUE(balance.propose(false));
}

TEST_F(ExpertBalanceTest, IsContentWithAnyRowsWhenAsked) {
  report({3, 3, 1, 1});
  EXPECT_FALSE(balance.propose(false));
  EXPECT_TRUE(balance.propose(true));
}

TEST_F(ExpertBalanceTest, LooksForItsGainInTheSumOfLayersUnlessAsked) {
  report(1, {900, 900, 100, 100});  // 1,800 on the busiest, 1,000 can be had
  report(2, {3000, 3000, 3000, 3000});
  report(3, {3000, 3000, 3000, 3000});
  EXPECT_FALSE(balance.propose(false)) << "800 of 13,800 are less than a tenth";
  EXPECT_TRUE(balance.propose(true));
  EXPECT_THAT(balance.last_change(), HasSubstr("loading 2 replicas"));
}

TEST_F(ExpertBalanceTest, SaysThatNoPlacementIsBetterOnlyToWhomAsked) {
  report({300, 300, 300, 300});
  EXPECT_FALSE(balance.propose(false));
  EXPECT_EQ(balance.last_change(), "");
  EXPECT_FALSE(balance.propose(true));
  EXPECT_THAT(balance.last_change(), HasSubstr("none fits the recent load better"));
  EXPECT_FALSE(balance.status().changing);
}

TEST_F(ExpertBalanceTest, KeepsTheExpertsLoadsWhenAShardIsGoneAndHearsNoStrangers) {
  report({100, 200, 300, 400});
  balance.report(NodeId{99}, rows_of(1, {1'000'000, 0, 0, 0}), {});
  const std::vector<cluster::NodeInfo> rest = {kShards[1]};
  balance.formed(*balance.place(Epoch{2}, rest), rest);
  balance.report(NodeId{7}, rows_of(1, {1'000'000, 0, 0, 0}), {});
  const ExpertsStatus alone = balance.status();
  EXPECT_EQ(alone.rows[4], 100);
  ASSERT_EQ(alone.shards.size(), 1U);
  EXPECT_EQ(alone.shards[0].num_replicas, 12U);
  EXPECT_EQ(alone.shards[0].rows, 3 * 700);
  form(3);
  EXPECT_EQ(balance.status().shards[0].rows, 0) << "it comes back with nothing";
}

TEST_F(ExpertBalanceTest, RespectsPinsOfTheShardsThatAreThere) {
  const ExpertBalance pinned(small_model(),
                             {{.node = "shard-1", .first_expert = 0, .last_expert = 1},
                              {.node = "shard-9", .first_expert = 0, .last_expert = 3}},
                             {});
  const auto placed = pinned.place(Epoch{4}, kShards);
  ASSERT_TRUE(placed.ok()) << placed.error().message;
  EXPECT_EQ(placed->epoch, Epoch{4});
  for (LayerIdx layer = 1; layer < 4; ++layer) {
    EXPECT_THAT(placed->at(layer, 0), ElementsAre(NodeId{3}));
    EXPECT_THAT(placed->at(layer, 1), ElementsAre(NodeId{3}));
  }
  const ExpertBalance twice(small_model(), {{.node = "shard-0"}, {.node = "shard-1"}}, {});
  EXPECT_EQ(twice.place(Epoch{1}, kShards).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace troupe::actors
