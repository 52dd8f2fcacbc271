#include "experts/placement.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.hpp"

namespace troupe::experts {
namespace {

using ::testing::HasSubstr;

constexpr NodeId kA{70}, kB{30}, kC{50};

PlacementRequest request_of(std::vector<bool> is_moe_layer, uint32_t num_experts,
                            std::vector<NodeId> shards) {
  return {.epoch = Epoch{1},
          .num_layers = static_cast<uint32_t>(is_moe_layer.size()),
          .num_experts = num_experts,
          .is_moe_layer = std::move(is_moe_layer),
          .shards = std::move(shards),
          .pins = {}};
}

std::vector<NodeId> layer_of(const Placement& placement, LayerIdx layer) {
  std::vector<NodeId> holders;
  for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
    const std::vector<NodeId>& of = placement.at(layer, expert);
    EXPECT_LE(of.size(), 1U);
    holders.push_back(of.empty() ? NodeId{} : of[0]);
  }
  return holders;
}

TEST(PlaceExperts, GivesEachShardARunOfNeighboursInConfigurationOrder) {
  const auto placed = place_experts(request_of({false, true}, 6, {kA, kB, kC}));
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(layer_of(*placed, 0), std::vector<NodeId>(6)) << "a dense layer has no experts";
  EXPECT_EQ(layer_of(*placed, 1), (std::vector<NodeId>{kA, kA, kB, kB, kC, kC}));
  EXPECT_EQ(placed->held_by(kB), (std::vector<ExpertKey>{{1, 2}, {1, 3}}));
}

TEST(PlaceExperts, RotatesTheSurplusOverLayers) {
  const auto placed = place_experts(request_of({true, true, true}, 4, {kA, kB, kC}));
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(layer_of(*placed, 0), (std::vector<NodeId>{kA, kA, kB, kC}));
  EXPECT_EQ(layer_of(*placed, 1), (std::vector<NodeId>{kA, kB, kB, kC}));
  EXPECT_EQ(layer_of(*placed, 2), (std::vector<NodeId>{kA, kB, kC, kC}));
}

TEST(PlaceExperts, HonoursPinsAndBalancesTheRestAroundThem) {
  PlacementRequest request = request_of({true, true}, 6, {kA, kB});
  request.pins = {
      {.node = kB, .first_layer = 0, .last_layer = 0, .first_expert = 0, .last_expert = 1},
      {.node = kA, .first_layer = 1, .last_layer = 1, .first_expert = 0, .last_expert = 4}};
  const auto placed = place_experts(request);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(layer_of(*placed, 0), (std::vector<NodeId>{kB, kB, kA, kA, kA, kB}));
  EXPECT_EQ(layer_of(*placed, 1), (std::vector<NodeId>{kA, kA, kA, kA, kA, kB}));
}

TEST(PlaceExperts, SkipsDenseLayersWithinAPin) {
  PlacementRequest request = request_of({false, true}, 2, {kA, kB});
  request.pins = {
      {.node = kB, .first_layer = 0, .last_layer = 1, .first_expert = 0, .last_expert = 1}};
  const auto placed = place_experts(request);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(layer_of(*placed, 0), std::vector<NodeId>(2));
  EXPECT_EQ(layer_of(*placed, 1), (std::vector<NodeId>{kB, kB}));
}

TEST(PlaceExperts, IgnoresPinsOfShardsThatAreNotLive) {
  PlacementRequest request = request_of({true}, 2, {kA});
  request.pins = {
      {.node = kB, .first_layer = 0, .last_layer = 9, .first_expert = 0, .last_expert = 9}};
  const auto placed = place_experts(request);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(layer_of(*placed, 0), (std::vector<NodeId>{kA, kA}));
}

TEST(PlaceExperts, RefusesPinsThatOverlapLeaveTheModelOrRunBackwards) {
  struct Case {
    std::vector<PlacementPin> pins;
    const char* message;
  };
  const std::vector<Case> cases = {
      {{{kA, 0, 0, 0, 2}, {kB, 0, 0, 2, 3}}, "overlaps another pin at layer 0, expert 2"},
      {{{kA, 0, 0, 0, 2}, {kA, 0, 0, 2, 3}}, "overlaps another pin at layer 0, expert 2"},
      {{{kA, 0, 2, 0, 3}}, "layers 0-2, experts 0-3 to node 70 leaves the model"},
      {{{kA, 0, 1, 0, 4}}, "has layers 0-1 and experts 0-3"},
      {{{kA, 1, 0, 0, 3}}, "leaves the model"},
      {{{kA, 0, 1, 3, 2}}, "leaves the model"},
      {{{kA, 0, 1, 0, UINT32_MAX}}, "leaves the model"}};
  for (const Case& wrong : cases) {
    PlacementRequest request = request_of({true, true}, 4, {kA, kB});
    request.pins = wrong.pins;
    const auto placed = place_experts(request);
    ASSERT_FALSE(placed.ok()) << wrong.message;
    EXPECT_EQ(placed.error().code, Code::kInvalidArgument);
    EXPECT_THAT(placed.error().message, HasSubstr(wrong.message));
  }
}

TEST(PlaceExperts, NeedsAShard) {
  const auto placed = place_experts(request_of({true}, 4, {}));
  ASSERT_FALSE(placed.ok());
  EXPECT_EQ(placed.error().code, Code::kUnavailable);
}

TEST(PlaceExperts, SpreadsRedundantReplicasOverExpertsAndShards) {
  PlacementRequest request = request_of({true, true}, 6, {kA, kB, kC});
  request.redundant = 3;
  const auto placed = place_experts(request);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->at(0, 2), (std::vector<NodeId>{kB, kA})) << "ascending by id";
  for (const NodeId shard : {kA, kB, kC}) EXPECT_EQ(placed->held_by(shard).size(), 6U);
  for (const ExpertIdx twice : {0U, 2U, 4U}) EXPECT_EQ(placed->at(0, twice).size(), 2U);
}

TEST(CheckPlacement, FindsWhatIsWrong) {
  const PlacementRequest request = request_of({false, true}, 4, {kA, kB});
  const Placement placement = *place_experts(request);
  EXPECT_EQ(check(placement, request), "");
  const auto of_request = [&](auto change) {
    PlacementRequest other = request;
    change(other);
    return check(placement, other);
  };
  EXPECT_THAT(of_request([](auto& r) { r.epoch = Epoch{2}; }), HasSubstr("epoch 1, not of 2"));
  EXPECT_THAT(of_request([](auto& r) { r.shards = {kA}; }), HasSubstr("layer 1, expert 2 is held"));
  EXPECT_THAT(of_request([](auto& r) {
                r.is_moe_layer = {true, true};
              }),
              HasSubstr("layer 0, expert 0 has no holder"));
  EXPECT_THAT(of_request([](auto& r) { r.is_moe_layer[1] = false; }), HasSubstr("a dense layer"));
  EXPECT_THAT(of_request([](auto& r) { r.num_layers = 1; }), HasSubstr("shape"));
  EXPECT_THAT(of_request([](auto& r) { r.num_experts = 8, r.num_layers = 1; }), HasSubstr("shape"));
  EXPECT_THAT(of_request([](auto& r) {
                r.pins = {{kB, 0, 1, 0, 0}};
              }),
              HasSubstr("expert 0 is not held by node 30, to which it is pinned"));
  EXPECT_THAT(of_request([](auto& r) { r.pins = {{kB, 0, 1, 0, 4}}; }), HasSubstr("leaves"));
  const auto of_expert_0 = [&](std::vector<NodeId> holders, uint32_t redundant) {
    Placement other = placement;
    other.holders[4] = std::move(holders);
    PlacementRequest with = request;
    with.redundant = redundant;
    return check(other, with);
  };
  EXPECT_THAT(of_expert_0({}, 2), HasSubstr("layer 1, expert 0 has no holder"));
  EXPECT_THAT(of_expert_0({kA, kA}, 2), HasSubstr("out of order or twice"));
  EXPECT_EQ(of_expert_0({kB, kA}, 2), "");
  EXPECT_THAT(of_expert_0({kB, kA}, 0), HasSubstr("layer 1 has 5 replicas"));
  EXPECT_THAT(of_expert_0({kB}, 0), HasSubstr("node 30 holds 3 replicas of layer 1 in 2 slots"));
}

uint64_t spread(const std::vector<uint64_t>& counts) {
  const auto [least, most] = std::ranges::minmax(counts);
  return most - least;
}

TEST(PlaceExperts, IsBalancedInEachLayerAndOverAllForRandomShapes) {
  constexpr uint64_t kSeed = 7;
  uint64_t num_redundant = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", case " + std::to_string(i));
    const auto draw = [&](uint64_t stream, uint64_t n) {
      return random_bits(kSeed, i, stream) % n;
    };
    std::vector<bool> is_moe_layer;
    for (uint64_t layer = 0; layer < 1 + draw(0, 8); ++layer) {
      is_moe_layer.push_back(draw(100 + layer, 4) != 0);
    }
    std::vector<NodeId> shards;
    for (uint64_t s = 0; s < 1 + draw(1, 7); ++s) shards.push_back(NodeId{1 + (s * 5) % 11});
    const auto num_experts = static_cast<uint32_t>(1 + draw(2, 40));
    PlacementRequest request = request_of(is_moe_layer, num_experts, shards);
    const auto placed = place_experts(request);
    ASSERT_TRUE(placed.ok());
    ASSERT_EQ(check(*placed, request), "");
    std::vector<uint64_t> totals;
    for (const NodeId shard : shards) totals.push_back(placed->held_by(shard).size());
    EXPECT_LE(spread(totals), 1U);
    for (LayerIdx layer = 0; layer < is_moe_layer.size(); ++layer) {
      const std::vector<NodeId> holders = layer_of(*placed, layer);
      std::vector<uint64_t> counts;
      for (const NodeId shard : shards) {
        counts.push_back(static_cast<uint64_t>(std::ranges::count(holders, shard)));
      }
      EXPECT_LE(spread(counts), 1U) << "layer " << layer;
    }
    request.redundant = static_cast<uint32_t>(draw(3, 30));
    const auto redundant = place_experts(request);
    ASSERT_TRUE(redundant.ok());
    ASSERT_EQ(check(*redundant, request), "");
    for (LayerIdx layer = 0; layer < is_moe_layer.size(); ++layer) {
      uint64_t replicas = 0;
      for (ExpertIdx expert = 0; expert < num_experts; ++expert) {
        replicas += redundant->at(layer, expert).size();
      }
      const uint64_t most = num_experts * shards.size();
      const uint64_t wanted = std::min<uint64_t>(num_experts + request.redundant, most);
      ASSERT_EQ(replicas, is_moe_layer[layer] ? wanted : 0);
      std::vector<uint64_t> counts;
      for (const NodeId shard : shards) {
        counts.push_back(static_cast<uint64_t>(std::ranges::count_if(
            redundant->held_by(shard), [&](const ExpertKey& key) { return key.layer == layer; })));
      }
      ASSERT_LE(spread(counts), 1U);
      num_redundant += replicas > num_experts ? 1 : 0;
    }
  }
  EXPECT_GT(num_redundant, 100U);
}

}  // namespace
}  // namespace troupe::experts
