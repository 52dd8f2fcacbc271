// Costs of dispatch planning and of balancing at DeepSeek-V3's size (58 layers of 256 experts, top
// 8), and how even the shards are under skewed loads.
//
//   experts_bench --benchmark_repetitions=5
//
// Loads are Zipf's: the expert of rank r gets 1 / r^s of the rows, ranks drawn anew in each layer.
// `even` is the balancedness (mean over shards / busiest shard, both summed over layers) by the
// loads that the placement was made for; `dispatched` is that of the plans of fresh steps of 4,096
// rows (prefill) or 256 rows (decode), drawn from the same loads.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.hpp"
#include "base/random.hpp"
#include "experts/balance.hpp"
#include "experts/dispatch_plan.hpp"

namespace troupe::experts {
namespace {

constexpr uint32_t kLayers = 58, kExperts = 256, kTopk = 8, kRedundant = 32;
constexpr uint64_t kSeed = 5;

/// [kLayers * kExperts]: rows per expert, `skew` in hundredths is Zipf's exponent.
std::vector<double> zipf_loads(int64_t skew) {
  std::vector<double> loads;
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    std::vector<double> layer_loads;
    for (uint32_t rank = 1; rank <= kExperts; ++rank) {
      layer_loads.push_back(1e6 / std::pow(rank, static_cast<double>(skew) / 100));
    }
    for (size_t i = kExperts - 1; i > 0; --i) {
      std::swap(layer_loads[i], layer_loads[random_bits(kSeed, i, layer) % (i + 1)]);
    }
    loads.insert(loads.end(), layer_loads.begin(), layer_loads.end());
  }
  return loads;
}

PlacementRequest request_for(int64_t num_shards, uint32_t redundant) {
  PlacementRequest request{.epoch = Epoch{1}, .num_layers = kLayers, .num_experts = kExperts};
  request.is_moe_layer.assign(kLayers, true);
  for (int64_t s = 0; s < num_shards; ++s) request.shards.push_back(NodeId{uint64_t(s) + 1});
  request.redundant = redundant;
  return request;
}

/// Distinct experts for each row, by the layer's loads.
std::vector<ExpertIdx> draw_topk(const std::vector<double>& loads, LayerIdx layer, uint32_t rows) {
  std::vector<double> until(kExperts);
  double sum = 0;
  for (uint32_t e = 0; e < kExperts; ++e) until[e] = sum += loads[layer * kExperts + e];
  std::vector<ExpertIdx> topk;
  uint64_t draws = 0;
  for (uint32_t row = 0; row < rows; ++row) {
    const size_t first = topk.size();
    while (topk.size() < first + kTopk) {
      const double at = random_uniform(kSeed, draws++, 1'000 + layer) * sum;
      const auto e = static_cast<ExpertIdx>(std::ranges::upper_bound(until, at) - until.begin());
      const auto expert = std::min(e, kExperts - 1);
      if (std::find(topk.begin() + static_cast<std::ptrdiff_t>(first), topk.end(), expert) ==
          topk.end()) {
        topk.push_back(expert);
      }
    }
  }
  return topk;
}

/// Mean over busiest of the assignments that each shard gets, summed over layers of one step each.
double dispatched(const Placement& placement, const std::vector<double>& loads, uint32_t rows,
                  size_t num_shards) {
  double means = 0, maxima = 0;
  for (LayerIdx layer = 0; layer < kLayers; ++layer) {
    const auto topk = draw_topk(loads, layer, rows);
    const DispatchPlan plan = plan_dispatch(layer, topk, rows, kTopk, placement);
    size_t most = 0;
    for (const ShardDispatch& to : plan.shards) most = std::max(most, to.assignments.size());
    means += static_cast<double>(topk.size()) / static_cast<double>(num_shards);
    maxima += static_cast<double>(most);
  }
  return means / maxima;
}

void report(benchmark::State& state, const Placement& placement, const std::vector<double>& loads,
            const PlacementRequest& request) {
  state.counters["even"] = balancedness(placement, loads, request.shards);
  state.counters["dispatched_4096"] = dispatched(placement, loads, 4096, request.shards.size());
  state.counters["dispatched_256"] = dispatched(placement, loads, 256, request.shards.size());
}

/// Args: shards, redundant experts, skew. The placement by count alone, for comparison.
void place(benchmark::State& state) {
  const auto request = request_for(state.range(0), static_cast<uint32_t>(state.range(1)));
  for (auto _ : state) benchmark::DoNotOptimize(place_experts(request));
  report(state, *place_experts(request), zipf_loads(state.range(2)), request);
}

void rebalance_all(benchmark::State& state) {
  const auto request = request_for(state.range(0), static_cast<uint32_t>(state.range(1)));
  const auto loads = zipf_loads(state.range(2));
  const Placement current = *place_experts(request);
  for (auto _ : state) benchmark::DoNotOptimize(rebalance(request, loads, current, 0));
  const auto placed = rebalance(request, loads, current, 0);
  CHECK(placed.ok() && placed->has_value());
  report(state, **placed, loads, request);
  state.counters["new_replicas"] = static_cast<double>(num_new_replicas(current, **placed));
}

/// Args: rows, shards, redundant experts. One layer.
void plan(benchmark::State& state) {
  const auto rows = static_cast<uint32_t>(state.range(0));
  const auto request = request_for(state.range(1), static_cast<uint32_t>(state.range(2)));
  const auto loads = zipf_loads(80);
  Placement placement = *place_experts(request);
  if (auto better = rebalance(request, loads, placement, 0); better->has_value()) {
    placement = **std::move(better);
  }
  const auto topk = draw_topk(loads, 0, rows);
  for (auto _ : state) benchmark::DoNotOptimize(plan_dispatch(0, topk, rows, kTopk, placement));
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"shards", "redundant", "skew"})->Unit(benchmark::kMillisecond);
  for (const int64_t skew : {50, 80, 120}) {
    for (const int64_t shards : {8, 16, 32, 64}) {
      b->Args({shards, 0, skew});
      b->Args({shards, kRedundant, skew});
    }
  }
}

BENCHMARK(place)->Apply(shapes)->Iterations(3);
BENCHMARK(rebalance_all)->Apply(shapes)->Iterations(3);
BENCHMARK(plan)
    ->ArgNames({"rows", "shards", "redundant"})
    ->ArgsProduct({{1, 32, 256, 4096}, {8, 64}, {0, kRedundant}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace troupe::experts

BENCHMARK_MAIN();
