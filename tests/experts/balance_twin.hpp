#pragma once

// The rules of placement and balance as their headers put them, as plainly as they can be put: a
// layer is a set of replicas, and every count and every load is summed up anew wherever it is asked
// for. Slow, and with nothing that could fall out of step.

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "base/time.hpp"
#include "experts/balance.hpp"
#include "experts/load.hpp"

namespace troupe::experts {

class BalanceTwin {
 public:
  /// REQUIRES: shards, and pins that are_right().
  explicit BalanceTwin(PlacementRequest request) : r_(std::move(request)) {}

  static bool are_right(const PlacementRequest& r) {
    std::set<std::pair<LayerIdx, ExpertIdx>> pinned;
    for (const PlacementPin& pin : r.pins) {
      if (std::ranges::count(r.shards, pin.node) == 0) continue;
      if (pin.first_layer > pin.last_layer || pin.last_layer >= r.num_layers) return false;
      if (pin.first_expert > pin.last_expert || pin.last_expert >= r.num_experts) return false;
      for (LayerIdx l = pin.first_layer; l <= pin.last_layer; ++l) {
        for (ExpertIdx e = pin.first_expert; e <= pin.last_expert; ++e) {
          if (r.is_moe_layer[l] && !pinned.emplace(l, e).second) return false;
        }
      }
    }
    return true;
  }

  [[nodiscard]] Placement place() const {
    Placement placement = empty();
    const auto put = [&](LayerIdx l, ExpertIdx e, size_t s) {
      of(placement, l, e).push_back(r_.shards[s]);
      std::ranges::sort(of(placement, l, e));
    };
    const auto in_layer = [&](LayerIdx l, size_t s) {
      size_t count = 0;
      for (ExpertIdx e = 0; e < r_.num_experts; ++e) count += holds(placement, l, e, s);
      return count;
    };
    for (LayerIdx l = 0; l < r_.num_layers; ++l) {
      for (ExpertIdx e = 0; e < r_.num_experts; ++e) {
        if (const auto pin = pin_of(l, e)) put(l, e, *pin);
      }
    }
    for (LayerIdx l = 0; l < r_.num_layers; ++l) {
      if (!r_.is_moe_layer[l]) continue;
      std::vector<size_t> shares(num_shards(), 0);
      const auto rank = [&](size_t s) {
        size_t all = 0;
        for (LayerIdx other = 0; other < r_.num_layers; ++other) all += in_layer(other, s);
        return std::tuple(in_layer(l, s) + shares[s], all + shares[s], s);
      };
      for (ExpertIdx e = 0; e < r_.num_experts; ++e) {
        if (!pin_of(l, e)) ++shares[*least(shard_numbers(), rank)];
      }
      for (ExpertIdx e = 0; e < r_.num_experts; ++e) {
        if (pin_of(l, e)) continue;
        size_t s = 0;
        while (shares[s] == 0) ++s;
        --shares[s];
        put(l, e, s);
      }
    }
    for (LayerIdx l = 0; l < r_.num_layers; ++l) {
      if (!r_.is_moe_layer[l]) continue;
      const size_t num_redundant =
          std::min<size_t>(r_.redundant, r_.num_experts * (num_shards() - 1));
      size_t from = l % r_.num_experts;
      for (size_t i = 0; i < num_redundant; ++i) {
        const size_t s =
            *least(shard_numbers(), [&](size_t s) { return std::pair(in_layer(l, s), s); });
        std::vector<size_t> experts;
        for (ExpertIdx e = 0; e < r_.num_experts; ++e) {
          if (!holds(placement, l, e, s)) experts.push_back(e);
        }
        const size_t next = *least(experts, [&](size_t e) {
          return std::pair(of(placement, l, static_cast<ExpertIdx>(e)).size(),
                           (e + r_.num_experts - from) % r_.num_experts);
        });
        put(l, static_cast<ExpertIdx>(next), s);
        from = next + std::max<size_t>(1, r_.num_experts / num_redundant);
        from %= r_.num_experts;
      }
    }
    return placement;
  }

  [[nodiscard]] std::optional<Placement> rebalance(const std::vector<double>& load,
                                                   const Placement& current,
                                                   double min_gain) const {
    Placement better = empty();
    double before = 0, after = 0;
    for (LayerIdx l = 0; l < r_.num_layers; ++l) {
      if (!r_.is_moe_layer[l]) continue;
      const auto begin = load.begin() + int64_t{l} * r_.num_experts;
      const Layer layer{*this, l, {begin, begin + r_.num_experts}};
      Replicas held;
      for (ExpertIdx e = 0; e < r_.num_experts; ++e) {
        for (const size_t s : shard_numbers()) {
          if (holds(current, l, e, s)) held.emplace(e, s);
        }
      }
      const Replicas changed = layer.changed(held, min_gain);
      before += layer.most(held);
      after += layer.most(changed);
      for (const auto& [e, s] : changed) of(better, l, e).push_back(r_.shards[s]);
    }
    for (auto& holders : better.holders) std::ranges::sort(holders);
    if (after >= before * (1 - min_gain)) return std::nullopt;
    return better;
  }

  /// As experts::balancedness.
  [[nodiscard]] double balancedness(const std::vector<double>& load,
                                    const Placement& placement) const {
    double means = 0, maxima = 0;
    for (LayerIdx l = 0; l < r_.num_layers; ++l) {
      double sum = 0, most = 0;
      for (const size_t s : shard_numbers()) {
        double own = 0;
        for (ExpertIdx e = 0; e < r_.num_experts; ++e) {
          if (!holds(placement, l, e, s)) continue;
          own += load[l * r_.num_experts + e] / static_cast<double>(placement.at(l, e).size());
        }
        sum += own;
        most = std::max(most, own);
      }
      means += sum / static_cast<double>(num_shards());
      maxima += most;
    }
    return maxima > 0 ? means / maxima : 1;
  }

 private:
  using Replicas = std::set<std::pair<ExpertIdx, size_t>>;  ///< of one layer: expert, shard number

  /// One layer under load.
  struct Layer {
    const BalanceTwin& twin;
    LayerIdx number;
    std::vector<double> load;  ///< [experts]

    [[nodiscard]] static size_t count(const Replicas& of, ExpertIdx e) {
      return std::ranges::count(of, e, &Replicas::value_type::first);
    }
    [[nodiscard]] static size_t used(const Replicas& of, size_t s) {
      return std::ranges::count(of, s, &Replicas::value_type::second);
    }
    [[nodiscard]] bool has_slot(const Replicas& of, size_t s) const {
      const size_t shards = twin.num_shards();
      const size_t even = (load.size() + twin.r_.redundant + shards - 1) / shards;
      size_t pinned = 0;
      for (ExpertIdx e = 0; e < load.size(); ++e) pinned += twin.pin_of(number, e) == s;
      return used(of, s) < std::max(even, pinned);
    }
    [[nodiscard]] double load_of(const Replicas& of, size_t s) const {
      double sum = 0;
      for (const auto& [e, shard] : of) {
        if (shard == s) sum += load[e] / static_cast<double>(count(of, e));
      }
      return sum;
    }
    [[nodiscard]] double most(const Replicas& of) const {
      double most = 0;
      for (const size_t s : twin.shard_numbers()) most = std::max(most, load_of(of, s));
      return most;
    }
    [[nodiscard]] bool is_pinned(ExpertIdx e, size_t s) const {
      return twin.pin_of(number, e) == s;
    }
    /// Shards that could get a replica of this expert.
    [[nodiscard]] std::vector<size_t> open_to(const Replicas& of, ExpertIdx e) const {
      std::vector<size_t> open;
      for (const size_t s : twin.shard_numbers()) {
        if (has_slot(of, s) && !of.contains({e, s})) open.push_back(s);
      }
      return open;
    }

    [[nodiscard]] Replicas changed(const Replicas& held, double min_gain) const {
      const std::vector<size_t> numbers = replicas_of_each();
      const Replicas packed = pack(numbers);
      const double now = most(held), then = most(packed);
      if (then >= now * (1 - min_gain)) return held;
      const double nearly = then * 1.03;
      return refined(held, numbers, nearly < now * (1 - min_gain) ? nearly : then).value_or(packed);
    }
    [[nodiscard]] std::vector<size_t> replicas_of_each() const {
      std::vector<size_t> numbers(load.size(), 1);
      for (uint32_t i = 0; i < twin.r_.redundant; ++i) {
        std::optional<ExpertIdx> hottest;
        for (ExpertIdx e = 0; e < load.size(); ++e) {
          if (numbers[e] == twin.num_shards()) continue;
          const auto per_replica = [&](ExpertIdx x) {
            return load[x] / static_cast<double>(numbers[x]);
          };
          if (!hottest || per_replica(e) > per_replica(*hottest)) hottest = e;
        }
        if (hottest) ++numbers[*hottest];
      }
      return numbers;
    }
    [[nodiscard]] Replicas pack(const std::vector<size_t>& numbers) const {
      Replicas packed;
      std::vector<ExpertIdx> order;
      for (ExpertIdx e = 0; e < load.size(); ++e) {
        if (const auto pin = twin.pin_of(number, e)) packed.emplace(e, *pin);
        order.push_back(e);
      }
      const auto per_replica = [&](ExpertIdx e) {
        return load[e] / static_cast<double>(numbers[e]);
      };
      std::ranges::stable_sort(order, std::greater{}, per_replica);
      for (const ExpertIdx e : order) {
        while (count(packed, e) < numbers[e]) {
          size_t wanted = 0, free = 0;  // by experts without a replica; slots
          for (ExpertIdx other = 0; other < load.size(); ++other) {
            wanted += count(packed, other) == 0;
          }
          for (const size_t s : twin.shard_numbers()) {
            for (Replicas filled = packed; has_slot(filled, s); ++free) {
              filled.emplace(static_cast<ExpertIdx>(load.size() + free), s);
            }
          }
          if (count(packed, e) > 0 && free <= wanted) break;
          const auto lightest = twin.least(open_to(packed, e), [&](size_t s) {
            double sum = 0;
            for (const auto& [other, shard] : packed) sum += shard == s ? per_replica(other) : 0;
            return std::tuple(sum, used(packed, s), s);
          });
          if (!lightest) break;
          packed.emplace(e, *lightest);
        }
      }
      return packed;
    }
    [[nodiscard]] std::optional<Replicas> refined(const Replicas& held,
                                                  const std::vector<size_t>& numbers,
                                                  double target) const {
      Replicas now = held;
      for (ExpertIdx e = 0; e < load.size(); ++e) {
        while (count(now, e) > numbers[e]) {
          std::vector<size_t> from;
          for (const size_t s : twin.shard_numbers()) {
            if (now.contains({e, s}) && !is_pinned(e, s)) from.push_back(s);
          }
          now.erase(
              {e, *twin.least(from, [&](size_t s) { return std::pair(-load_of(held, s), s); })});
        }
      }
      const Replicas fewer = now;
      for (ExpertIdx e = 0; e < load.size(); ++e) {
        while (count(now, e) < numbers[e]) {
          const auto lightest = twin.least(
              open_to(now, e), [&](size_t s) { return std::pair(load_of(fewer, s), s); });
          if (!lightest) break;
          now.emplace(e, *lightest);
        }
      }
      for (size_t i = 0; most(now) > target; ++i) {
        if (i == 2 * load.size()) return std::nullopt;
        auto next = less_on_the_busiest(now);
        if (!next) return std::nullopt;
        now = *std::move(next);
      }
      return now;
    }
    [[nodiscard]] std::optional<Replicas> less_on_the_busiest(const Replicas& now) const {
      std::vector<size_t> others = twin.shard_numbers();
      const size_t busiest =
          *twin.least(others, [&](size_t s) { return std::pair(-load_of(now, s), s); });
      std::erase(others, busiest);
      std::ranges::stable_sort(others, {}, [&](size_t s) { return load_of(now, s); });
      const auto movable = [&](ExpertIdx e, size_t from, size_t to) {
        return now.contains({e, from}) && !now.contains({e, to}) && !is_pinned(e, from);
      };
      for (const size_t other : others) {
        std::optional<Replicas> best;
        double best_most = load_of(now, busiest) * (1 - 1e-9);
        const auto consider = [&](const Replicas& next) {
          const double most = std::max(load_of(next, busiest), load_of(next, other));
          if (most >= best_most) return;
          best_most = most;
          best = next;
        };
        for (ExpertIdx e = 0; e < load.size(); ++e) {
          if (!movable(e, busiest, other)) continue;
          Replicas given = now;
          given.erase({e, busiest});
          given.emplace(e, other);
          if (has_slot(now, other)) consider(given);
          for (ExpertIdx f = 0; f < load.size(); ++f) {
            if (!movable(f, other, busiest)) continue;
            Replicas exchanged = given;
            exchanged.erase({f, other});
            exchanged.emplace(f, busiest);
            consider(exchanged);
          }
        }
        if (best) return best;
      }
      return std::nullopt;
    }
  };

  /// Of equal ones the first.
  template <class Candidates, class Rank>
  static auto least(const Candidates& candidates, Rank rank)
      -> std::optional<typename Candidates::value_type> {
    const auto at = std::ranges::min_element(candidates, {}, rank);
    if (at == candidates.end()) return std::nullopt;
    return *at;
  }
  [[nodiscard]] Placement empty() const {
    return {.epoch = r_.epoch,
            .num_layers = r_.num_layers,
            .num_experts = r_.num_experts,
            .holders = std::vector<std::vector<NodeId>>(size_t{r_.num_layers} * r_.num_experts)};
  }
  [[nodiscard]] size_t num_shards() const { return r_.shards.size(); }
  [[nodiscard]] std::vector<size_t> shard_numbers() const {
    std::vector<size_t> numbers;
    for (size_t s = 0; s < num_shards(); ++s) numbers.push_back(s);
    return numbers;
  }
  [[nodiscard]] std::vector<NodeId>& of(Placement& placement, LayerIdx l, ExpertIdx e) const {
    return placement.holders[size_t{l} * r_.num_experts + e];
  }
  [[nodiscard]] bool holds(const Placement& placement, LayerIdx l, ExpertIdx e, size_t s) const {
    return std::ranges::count(placement.at(l, e), r_.shards[s]) > 0;
  }
  [[nodiscard]] std::optional<size_t> pin_of(LayerIdx l, ExpertIdx e) const {
    if (!r_.is_moe_layer[l]) return std::nullopt;
    for (const PlacementPin& pin : r_.pins) {
      if (l < pin.first_layer || l > pin.last_layer) continue;
      if (e < pin.first_expert || e > pin.last_expert) continue;
      for (const size_t s : shard_numbers()) {
        if (r_.shards[s] == pin.node) return s;
      }
    }
    return std::nullopt;
  }

  PlacementRequest r_;
};

/// The head's view of the loads: every report is kept, and summed up when somebody asks. Time is
/// counted in half-lives.
class LoadTwin {
 public:
  LoadTwin(uint32_t num_layers, uint32_t num_experts)
      : num_layers_(num_layers), num_experts_(num_experts) {}

  void add(NodeId shard, const std::vector<ExpertRows>& rows, int64_t now) {
    now_ = std::max(now_, now);
    for (const ExpertRows& part : rows) reports_.push_back({shard, part, now_});
  }
  void forget(NodeId shard) {
    for (Report& report : reports_) {
      if (report.shard == shard) report.shard = NodeId{};
    }
  }
  [[nodiscard]] std::vector<double> by_expert() const {
    std::vector<double> rows(size_t{num_layers_} * num_experts_, 0);
    for (const Report& r : reports_) {
      if (is_of_model(r)) rows[r.part.key.layer * num_experts_ + r.part.key.expert] += weight_of(r);
    }
    return rows;
  }
  [[nodiscard]] double of_shard(NodeId shard, LayerIdx layer) const {
    double rows = 0;
    for (const Report& r : reports_) {
      if (r.shard == shard && r.part.key.layer == layer && is_of_model(r)) rows += weight_of(r);
    }
    return rows;
  }
  [[nodiscard]] double balancedness(const std::vector<NodeId>& shards) const {
    double means = 0, maxima = 0;
    for (LayerIdx l = 0; l < num_layers_; ++l) {
      double all = 0, most = 0;
      for (const NodeId shard : shards) {
        all += of_shard(shard, l);
        most = std::max(most, of_shard(shard, l));
      }
      means += shards.empty() ? 0 : all / static_cast<double>(shards.size());
      maxima += most;
    }
    return maxima > 0 ? means / maxima : 1;
  }

 private:
  struct Report {
    NodeId shard;  ///< none: it is gone
    ExpertRows part;
    int64_t at = 0;
  };
  [[nodiscard]] bool is_of_model(const Report& r) const {
    return r.part.key.layer < num_layers_ && r.part.key.expert < num_experts_;
  }
  [[nodiscard]] double weight_of(const Report& r) const {
    auto rows = static_cast<double>(r.part.rows);
    for (int64_t t = r.at; t < now_; ++t) rows /= 2;
    return rows;
  }

  uint32_t num_layers_, num_experts_;
  std::vector<Report> reports_;
  int64_t now_ = 0;
};

}  // namespace troupe::experts
