#include "experts/balance.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>

#include "base/check.hpp"

namespace troupe::experts {
namespace {

/// A layer packed anew moves most of its replicas; one with this much more on its busiest shard is
/// as good if it moves few.
constexpr double kNearlyAsGood = 1.03;
/// Loads that differ by less are taken for equal where a change has to pay.
constexpr double kRounding = 1e-9;

/// One layer with its shards numbered 0, 1, ... in configuration order.
struct Layer {
  std::span<const double> load;               ///< [experts]
  std::vector<std::optional<uint32_t>> pins;  ///< [experts]
  std::vector<uint32_t> slots;                ///< [shards]
};

using Holders = std::vector<std::vector<uint32_t>>;

std::vector<double> loads_of_shards(const Holders& holders, std::span<const double> load,
                                    size_t num_shards) {
  std::vector<double> loads(num_shards, 0);
  for (size_t e = 0; e < holders.size(); ++e) {
    for (const uint32_t s : holders[e]) {
      loads[s] += load[e] / static_cast<double>(holders[e].size());
    }
  }
  return loads;
}

/// Fills every redundant slot by copying the expert with the highest load per replica.
std::vector<uint32_t> replicas_of(std::span<const double> load, uint32_t redundant,
                                  size_t num_shards) {
  std::vector<uint32_t> num_replicas(load.size(), 1);
  for (uint32_t i = 0; i < redundant; ++i) {
    std::optional<size_t> hottest;
    for (size_t e = 0; e < load.size(); ++e) {
      if (num_replicas[e] == num_shards) continue;
      if (!hottest || load[e] * num_replicas[*hottest] > load[*hottest] * num_replicas[e]) {
        hottest = e;
      }
    }
    if (!hottest) break;
    ++num_replicas[*hottest];
  }
  return num_replicas;
}

Holders pack(const Layer& layer, const std::vector<uint32_t>& num_replicas) {
  const size_t num_shards = layer.slots.size();
  Holders holders(layer.load.size());
  std::vector<double> loads(num_shards, 0);
  std::vector<uint32_t> used(num_shards, 0);
  const auto weight = [&](size_t e) { return layer.load[e] / num_replicas[e]; };
  const auto put = [&](size_t e, uint32_t s) {
    holders[e].push_back(s);
    loads[s] += weight(e);
    ++used[s];
  };
  std::vector<uint32_t> order;
  uint64_t open = 0;  // experts that have no replica yet: each keeps a slot for itself
  uint64_t free = 0;
  for (const uint32_t slots : layer.slots) free += slots;
  for (uint32_t e = 0; e < layer.load.size(); ++e) {
    order.push_back(e);
    if (layer.pins[e]) {
      put(e, *layer.pins[e]);
      --free;
    } else {
      ++open;
    }
  }
  std::ranges::stable_sort(order, std::ranges::greater{}, weight);
  for (const uint32_t e : order) {
    while (holders[e].size() < num_replicas[e]) {
      if (!holders[e].empty() && free <= open) break;
      std::optional<uint32_t> lightest;
      for (uint32_t s = 0; s < num_shards; ++s) {
        if (used[s] >= layer.slots[s] || std::ranges::count(holders[e], s) != 0) continue;
        if (!lightest ||
            std::tie(loads[s], used[s]) < std::tie(loads[*lightest], used[*lightest])) {
          lightest = s;
        }
      }
      if (!lightest) break;
      if (holders[e].empty()) --open;
      put(e, *lightest);
      --free;
    }
    CHECK(!holders[e].empty());
  }
  return holders;
}

/// The layer as it is held, with these numbers of replicas and then, one replica moved or two
/// exchanged at a time, with less on the busiest shard, until that has at most `target`. Nothing if
/// it gets stuck above. Lists of shards and of experts ascend, so that ties go as they should.
std::optional<Holders> refine(const Layer& layer, Holders holders,
                              const std::vector<uint32_t>& num_replicas, double target) {
  const size_t num_shards = layer.slots.size();
  const auto holds = [&](uint32_t e, uint32_t s) { return std::ranges::count(holders[e], s) != 0; };
  const auto movable = [&](uint32_t e, uint32_t s) { return layer.pins[e] != s; };
  std::vector<double> loads = loads_of_shards(holders, layer.load, num_shards);
  std::vector<uint32_t> used(num_shards, 0);
  for (uint32_t e = 0; e < holders.size(); ++e) {
    while (holders[e].size() > num_replicas[e]) {
      std::optional<uint32_t> busiest;
      for (const uint32_t s : holders[e]) {
        if (movable(e, s) && (!busiest || loads[s] > loads[*busiest])) busiest = s;
      }
      std::erase(holders[e], *busiest);  // a pin binds one of several
    }
    for (const uint32_t s : holders[e]) ++used[s];
  }
  loads = loads_of_shards(holders, layer.load, num_shards);
  for (uint32_t e = 0; e < holders.size(); ++e) {
    while (holders[e].size() < num_replicas[e]) {
      std::optional<uint32_t> lightest;
      for (uint32_t s = 0; s < num_shards; ++s) {
        if (used[s] >= layer.slots[s] || holds(e, s)) continue;
        if (!lightest || loads[s] < loads[*lightest]) lightest = s;
      }
      if (!lightest) break;
      holders[e].push_back(*lightest);
      ++used[*lightest];
    }
  }
  std::vector<std::vector<uint32_t>> held_by(num_shards);  // ascending
  for (uint32_t e = 0; e < holders.size(); ++e) {
    for (const uint32_t s : holders[e]) held_by[s].push_back(e);
  }
  loads = loads_of_shards(holders, layer.load, num_shards);
  const auto weight = [&](uint32_t e) {
    return layer.load[e] / static_cast<double>(holders[e].size());
  };
  const auto give = [&](uint32_t e, uint32_t from, uint32_t to) {
    *std::ranges::find(holders[e], from) = to;
    std::erase(held_by[from], e);
    held_by[to].insert(std::ranges::upper_bound(held_by[to], e), e);
    loads[from] -= weight(e);
    loads[to] += weight(e);
    --used[from], ++used[to];
  };
  std::vector<uint32_t> by_load(num_shards);
  for (size_t num_changes = 0;; ++num_changes) {
    const auto busiest = static_cast<uint32_t>(std::ranges::max_element(loads) - loads.begin());
    if (loads[busiest] <= target) return holders;
    if (num_changes == 2 * holders.size()) return std::nullopt;
    std::iota(by_load.begin(), by_load.end(), 0U);
    std::ranges::stable_sort(by_load, {}, [&](uint32_t s) { return loads[s]; });
    struct Exchange {
      uint32_t other = 0, gives = 0;
      std::optional<uint32_t> takes;
      double most = 0;  ///< of the two shards' loads, afterwards
    };
    std::optional<Exchange> best;
    for (const uint32_t other : by_load) {
      if (best) break;
      if (other == busiest) continue;
      const auto consider = [&](const Exchange& exchange) {
        if (exchange.most >= (best ? best->most : loads[busiest] * (1 - kRounding))) return;
        best = exchange;
      };
      for (const uint32_t e : held_by[busiest]) {
        if (!movable(e, busiest) || holds(e, other)) continue;
        const double less = loads[busiest] - weight(e), more = loads[other] + weight(e);
        if (used[other] < layer.slots[other]) {
          consider({other, e, std::nullopt, std::max(less, more)});
        }
        for (const uint32_t f : held_by[other]) {
          if (!movable(f, other) || holds(f, busiest)) continue;
          consider({other, e, f, std::max(less + weight(f), more - weight(f))});
        }
      }
    }
    if (!best) return std::nullopt;
    give(best->gives, busiest, best->other);
    if (best->takes) give(*best->takes, best->other, busiest);
  }
}

}  // namespace

double balancedness(const Placement& placement, std::span<const double> load,
                    std::span<const NodeId> shards) {
  CHECK_EQ(load.size(), placement.holders.size());
  double means = 0, maxima = 0;
  for (LayerIdx layer = 0; layer < placement.num_layers; ++layer) {
    std::vector<double> loads(shards.size(), 0);
    for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
      const std::vector<NodeId>& holders = placement.at(layer, expert);
      for (const NodeId holder : holders) {
        const auto s = std::ranges::find(shards, holder) - shards.begin();
        CHECK_LT(static_cast<size_t>(s), shards.size());
        loads[static_cast<size_t>(s)] += load[size_t{layer} * placement.num_experts + expert] /
                                         static_cast<double>(holders.size());
      }
    }
    double sum = 0;
    for (const double l : loads) sum += l;
    means += sum / static_cast<double>(shards.size());
    maxima += *std::ranges::max_element(loads);
  }
  return maxima > 0 ? means / maxima : 1;
}

uint64_t num_new_replicas(const Placement& from, const Placement& to) {
  CHECK_EQ(from.holders.size(), to.holders.size());
  uint64_t count = 0;
  for (size_t i = 0; i < to.holders.size(); ++i) {
    count += static_cast<uint64_t>(std::ranges::count_if(to.holders[i], [&](NodeId holder) {
      return !std::ranges::binary_search(from.holders[i], holder);
    }));
  }
  return count;
}

Result<std::optional<Placement>> rebalance(const PlacementRequest& request,
                                           std::span<const double> load, const Placement& current,
                                           double min_gain) {
  const size_t num_shards = request.shards.size();
  if (num_shards == 0) return Error{Code::kUnavailable, "no expert node is live"};
  CHECK_EQ(load.size(), size_t{request.num_layers} * request.num_experts);
  CHECK_EQ(load.size(), current.holders.size());
  const std::vector<NodeId> pinned = TRY(pinned_holders(request));
  const auto number_of = [&](NodeId shard) {
    const auto found = std::ranges::find(request.shards, shard);
    CHECK(found != request.shards.end());
    return static_cast<uint32_t>(found - request.shards.begin());
  };
  Placement placement = current;
  placement.epoch = request.epoch;
  double before = 0, after = 0;  // loads of the busiest shards, summed over layers
  for (LayerIdx l = 0; l < request.num_layers; ++l) {
    if (!request.is_moe_layer[l]) continue;
    const size_t begin = size_t{l} * request.num_experts;
    Layer layer{
        .load = load.subspan(begin, request.num_experts),
        .pins = std::vector<std::optional<uint32_t>>(request.num_experts),
        .slots = slots_of_shards(request, std::span(pinned).subspan(begin, request.num_experts))};
    Holders held(request.num_experts);
    for (ExpertIdx e = 0; e < request.num_experts; ++e) {
      for (const NodeId holder : current.at(l, e)) held[e].push_back(number_of(holder));
      std::ranges::sort(held[e]);
      if (pinned[begin + e] != NodeId{}) layer.pins[e] = number_of(pinned[begin + e]);
    }
    const auto num_replicas = replicas_of(layer.load, request.redundant, num_shards);
    Holders packed = pack(layer, num_replicas);
    const double now = std::ranges::max(loads_of_shards(held, layer.load, num_shards));
    double then = std::ranges::max(loads_of_shards(packed, layer.load, num_shards));
    before += now;
    if (then >= now * (1 - min_gain)) {
      after += now;
      continue;
    }
    const bool room = then * kNearlyAsGood < now * (1 - min_gain);
    const double enough = room ? then * kNearlyAsGood : then;
    if (auto refined = refine(layer, held, num_replicas, enough)) {
      packed = *std::move(refined);
      then = std::ranges::max(loads_of_shards(packed, layer.load, num_shards));
    }
    after += then;
    for (ExpertIdx e = 0; e < request.num_experts; ++e) {
      std::vector<NodeId>& holders = placement.holders[begin + e];
      holders.clear();
      for (const uint32_t s : packed[e]) holders.push_back(request.shards[s]);
      std::ranges::sort(holders);
    }
  }
  if (after >= before * (1 - min_gain)) return std::optional<Placement>();
  return std::optional<Placement>(std::move(placement));
}

}  // namespace troupe::experts
