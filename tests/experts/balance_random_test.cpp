// Placement and balance beside their slow twin, which must do the same, under random events: rows
// that shards report, shards that come and go, other pins and other numbers of redundant replicas,
// changes by load that are made or abandoned. After each event the placement's invariants are
// checked. Rows are multiples of 840 and times are half-lives, so that no load is rounded, however
// it is summed up: then the twin has to agree in every tie.

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "base/random.hpp"
#include "tests/experts/balance_twin.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::experts {
namespace {

constexpr Duration kHalfLife{int64_t{1} << 30};  // exact in seconds, too, but for a factor
constexpr uint32_t kMaxShards = 6;               // 840 / 1 .. 840 / 8 are whole

struct Seen {
  uint64_t events = 0, formed = 0, refused = 0, changed = 0, kept = 0, moved = 0, uneven = 0;
};

class World {
 public:
  World(uint64_t seed, Seen& seen) : seed_(seed), seen_(seen), request_(new_request()) {}

  void act() {
    ++seen_.events;
    ASSERT_NO_FATAL_FAILURE(happen());
    if (placement_) {
      ASSERT_NO_FATAL_FAILURE(expect_invariants());
    }
  }

 private:
  void happen() {
    switch (draw(16)) {
      case 0: return join_or_leave();
      case 1: return configure();
      case 2:
      case 3:
      case 4:
      case 5: return change_by_load();
      default: return report();
    }
  }
  uint64_t draw(uint64_t n) { return random_bits(seed_, draws_++) % n; }
  uint32_t draw32(uint64_t n) { return static_cast<uint32_t>(draw(n)); }

  PlacementRequest new_request() {
    PlacementRequest request;
    request.num_layers = 1 + draw32(3);
    request.num_experts = 1 + draw32(16);
    for (uint32_t l = 0; l < request.num_layers; ++l) request.is_moe_layer.push_back(draw(4) != 0);
    request.redundant = draw32(2) * draw32(8);
    return request;
  }

  void report() {
    if (num_half_lives_ < 20 && draw(8) == 0) {
      const int64_t time = 1 + static_cast<int64_t>(draw(2));
      now_ += time;
      num_half_lives_ += time;
    }
    // Now and then an old report, or of a node that has left; of experts that there are, mostly.
    const int64_t at = draw(16) == 0 ? now_ - 1 : now_;
    const NodeId shard = shard_of(draw(kMaxShards));
    std::vector<ExpertRows> rows;
    for (uint64_t i = draw(6); i > 0; --i) {
      const ExpertKey key{draw32(request_.num_layers + (draw(16) == 0 ? 1 : 0)),
                          draw32(request_.num_experts + (draw(16) == 0 ? 1 : 0))};
      rows.push_back({key, 840 * draw(draw(3) == 0 ? 50 : 3)});
    }
    load_.add(shard, rows, Instant{at * kHalfLife.ns});
    load_twin_.add(shard, rows, at);
    ASSERT_EQ(load_.by_expert(), load_twin_.by_expert());
    if (draw(8) != 0) return;
    double all = 0;
    for (LayerIdx l = 0; l < request_.num_layers; ++l) all += load_twin_.of_shard(shard, l);
    ASSERT_EQ(load_.of_shard(shard), all);
    ASSERT_DOUBLE_EQ(load_.balancedness(request_.shards), load_twin_.balancedness(request_.shards));
  }
  void join_or_leave() {
    const NodeId shard = shard_of(draw(kMaxShards));
    if (std::erase(request_.shards, shard) > 0) {
      load_.forget(shard);
      load_twin_.forget(shard);
    } else {
      const auto before = draw(request_.shards.size() + 1);
      request_.shards.insert(request_.shards.begin() + static_cast<int64_t>(before), shard);
    }
    form();
  }
  void configure() {
    request_.redundant = draw32(2) * draw32(8);
    request_.pins.clear();
    for (uint64_t i = draw(4); i > 0; --i) {
      const uint32_t beyond = draw(30) == 0 ? 1 : 0;
      const LayerIdx last_layer = draw32(request_.num_layers + beyond);
      const ExpertIdx last_expert = draw32(request_.num_experts + beyond);
      request_.pins.push_back({.node = shard_of(draw(kMaxShards)),
                               .first_layer = draw32(last_layer + 1 + beyond),
                               .last_layer = last_layer,
                               .first_expert = draw32(last_expert + 1 + beyond),
                               .last_expert = last_expert});
    }
    form();
    if (!placement_) request_.pins.clear();
  }
  /// An epoch with these shards.
  void form() {
    placement_.reset();
    request_.epoch = Epoch{++epoch_};
    const auto placed = place_experts(request_);
    if (request_.shards.empty()) {
      ++seen_.refused;
      ASSERT_EQ(placed.error().code, Code::kUnavailable);
      return;
    }
    ASSERT_EQ(placed.ok(), BalanceTwin::are_right(request_));
    if (!placed.ok()) {
      ++seen_.refused;
      ASSERT_EQ(placed.error().code, Code::kInvalidArgument);
      return;
    }
    ++seen_.formed;
    placement_ = *placed;
    ASSERT_EQ(placement_->holders, BalanceTwin(request_).place().holders);
    ASSERT_NO_FATAL_FAILURE(expect_even_counts());
  }
  void change_by_load() {
    if (!placement_) return form();
    const BalanceTwin twin(request_);
    const std::vector<double>& load = load_.by_expert();
    const double min_gain = std::array{0.0, 0.1, 0.25}[draw(3)];
    const double before = balancedness(*placement_, load, request_.shards);
    ASSERT_DOUBLE_EQ(before, twin.balancedness(load, *placement_));
    PlacementRequest next = request_;
    next.epoch = Epoch{epoch_ + 1};
    const auto better = rebalance(next, load, *placement_, min_gain);
    ASSERT_TRUE(better.ok());
    const auto twins = twin.rebalance(load, *placement_, min_gain);
    ASSERT_EQ(better->has_value(), twins.has_value());
    if (!better->has_value()) {
      ++seen_.kept;
      return;
    }
    ++seen_.changed;
    ASSERT_EQ((*better)->holders, twins->holders);
    ASSERT_EQ(check(**better, next), "");
    ASSERT_GT(balancedness(**better, load, request_.shards) * (1 - min_gain), before * (1 - 1e-9));
    uint64_t num_new = 0;
    for (size_t i = 0; i < twins->holders.size(); ++i) {
      for (const NodeId holder : twins->holders[i]) {
        num_new += std::ranges::count(placement_->holders[i], holder) == 0 ? 1 : 0;
      }
    }
    ASSERT_EQ(num_new_replicas(*placement_, **better), num_new);
    seen_.moved += num_new;
    if (draw(4) == 0) return;  // a change that is abandoned leaves no trace
    ASSERT_GT((*better)->epoch, placement_->epoch);
    request_.epoch = next.epoch;
    ++epoch_;
    placement_ = **better;
  }

  void expect_invariants() {
    ASSERT_EQ(check(*placement_, request_), "");
    ASSERT_EQ(placement_->epoch, Epoch{epoch_});
    size_t num_replicas = 0, num_held = 0;
    for (const auto& holders : placement_->holders) num_replicas += holders.size();
    for (const NodeId shard : request_.shards) num_held += placement_->held_by(shard).size();
    ASSERT_EQ(num_replicas, num_held);
  }
  /// What place_experts promises where nothing is pinned.
  void expect_even_counts() {
    if (!request_.pins.empty()) {
      ++seen_.uneven;
      return;
    }
    const size_t most = request_.num_experts * request_.shards.size();
    const size_t wanted = std::min<size_t>(request_.num_experts + request_.redundant, most);
    for (LayerIdx l = 0; l < request_.num_layers; ++l) {
      std::vector<size_t> counts(request_.shards.size(), 0);
      size_t sum = 0;
      for (ExpertIdx e = 0; e < request_.num_experts; ++e) {
        for (const NodeId holder : placement_->at(l, e)) {
          ++counts[static_cast<size_t>(std::ranges::find(request_.shards, holder) -
                                       request_.shards.begin())];
          ++sum;
        }
      }
      ASSERT_EQ(sum, request_.is_moe_layer[l] ? wanted : 0);
      const auto [fewest, highest] = std::ranges::minmax(counts);
      ASSERT_LE(highest - fewest, 1U);
    }
  }

  /// Ids do not ascend as configurations do.
  static NodeId shard_of(uint64_t number) { return NodeId{1 + number * 5 % 11}; }

  uint64_t seed_, draws_ = 0, epoch_ = 0;
  Seen& seen_;
  int64_t now_ = 1, num_half_lives_ = 0;
  PlacementRequest request_;
  RecentLoad load_{request_.num_layers, request_.num_experts, kHalfLife};
  LoadTwin load_twin_{request_.num_layers, request_.num_experts};
  std::optional<Placement> placement_;
};

/// A million events in ten parts, so that processors may share them.
class RandomBalanceTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(RandomBalanceTest, DoesWhatItsTwinDoesThroughAHundredThousandEvents) {
  constexpr uint64_t kEvents = 100'000, kEventsOfWorld = 100;
  const uint64_t first = GetParam() * kEvents;
  Seen seen;
  const auto run = [&](uint64_t seed) {
    World world(seed, seen);
    for (uint64_t i = 0; i < kEventsOfWorld; ++i) {
      ASSERT_NO_FATAL_FAILURE(world.act()) << "event " << i;
    }
  };
  for_each_seed(kEvents / kEventsOfWorld, run, first);
  std::cout << seen.events << " events: " << seen.formed << " epochs formed, " << seen.refused
            << " refused, " << seen.changed << " changes by load of " << seen.moved << " replicas, "
            << seen.kept << " kept\n";
  if (!usual_seeds()) return;
  EXPECT_GT(seen.formed, kEvents / 20);
  EXPECT_GT(seen.uneven, kEvents / 100);
  EXPECT_GT(seen.refused, kEvents / 100);
  EXPECT_GT(seen.changed, kEvents / 30);
  EXPECT_GT(seen.kept, kEvents / 50);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomBalanceTest, ::testing::Range<uint64_t>(0, 10));

}  // namespace
}  // namespace troupe::experts
