#include "experts/load.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace troupe::experts {

std::vector<ExpertRows> LoadCount::take() {
  std::vector<ExpertRows> counted;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i] == 0) continue;
    const ExpertKey key{static_cast<LayerIdx>(i / num_experts_),
                        static_cast<ExpertIdx>(i % num_experts_)};
    counted.push_back({key, std::exchange(rows_[i], 0)});
  }
  total_ = 0;
  return counted;
}

RecentLoad::RecentLoad(uint32_t num_layers, uint32_t num_experts, Duration half_life)
    : num_layers_(num_layers),
      num_experts_(num_experts),
      half_life_(half_life),
      by_expert_(size_t{num_layers} * num_experts, 0) {}

void RecentLoad::decay(Instant now) {
  if (now <= as_of_) return;
  const double factor = std::exp2(-to_seconds(now - as_of_) / to_seconds(half_life_));
  as_of_ = now;
  for (double& rows : by_expert_) rows *= factor;
  for (auto& [shard, layers] : by_shard_) {
    for (double& rows : layers) rows *= factor;
  }
}

void RecentLoad::add(NodeId shard, const std::vector<ExpertRows>& rows, Instant now) {
  decay(now);
  std::vector<double>& layers = by_shard_.try_emplace(shard, num_layers_, 0.0).first->second;
  for (const ExpertRows& part : rows) {
    if (part.key.layer >= num_layers_ || part.key.expert >= num_experts_) continue;
    const auto count = static_cast<double>(part.rows);
    by_expert_[size_t{part.key.layer} * num_experts_ + part.key.expert] += count;
    layers[part.key.layer] += count;
  }
}

double RecentLoad::total() const {
  return std::accumulate(by_expert_.begin(), by_expert_.end(), 0.0);
}

double RecentLoad::of_shard(NodeId shard) const {
  const auto found = by_shard_.find(shard);
  if (found == by_shard_.end()) return 0;
  return std::accumulate(found->second.begin(), found->second.end(), 0.0);
}

RecentLoad::Spread RecentLoad::spread(const std::vector<NodeId>& shards, LayerIdx layer) const {
  double sum = 0, most = 0;
  for (const NodeId shard : shards) {
    const auto found = by_shard_.find(shard);
    const double rows = found == by_shard_.end() ? 0 : found->second[layer];
    sum += rows;
    most = std::max(most, rows);
  }
  return {.mean = shards.empty() ? 0 : sum / static_cast<double>(shards.size()), .most = most};
}

double RecentLoad::balancedness(const std::vector<NodeId>& shards) const {
  double means = 0, maxima = 0;
  for (LayerIdx layer = 0; layer < num_layers_; ++layer) {
    const auto [mean, most] = spread(shards, layer);
    means += mean;
    maxima += most;
  }
  return maxima > 0 ? means / maxima : 1;
}

double RecentLoad::balancedness(const std::vector<NodeId>& shards, LayerIdx layer) const {
  const auto [mean, most] = spread(shards, layer);
  return most > 0 ? mean / most : 1;
}

}  // namespace troupe::experts
