#include "experts/dispatch_plan.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace troupe::experts {
namespace {

/// The distinct holders of the chosen experts, ascending.
std::vector<NodeId> shards_of(LayerIdx layer, std::span<const ExpertIdx> topk_idx,
                              const Placement& placement) {
  std::vector<bool> chosen(placement.num_experts, false);
  for (const ExpertIdx expert : topk_idx) {
    CHECK_LT(expert, placement.num_experts);
    chosen[expert] = true;
  }
  std::vector<NodeId> shards;
  for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
    if (!chosen[expert]) continue;
    CHECK_NE(placement.at(layer, expert), NodeId{});  // a gate runs in MoE layers only
    shards.push_back(placement.at(layer, expert));
  }
  std::ranges::sort(shards);
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  return shards;
}

}  // namespace

DispatchPlan plan_dispatch(LayerIdx layer, std::span<const ExpertIdx> topk_idx, uint32_t num_rows,
                           uint32_t topk, const Placement& placement) {
  CHECK_LT(layer, placement.num_layers);
  CHECK_EQ(topk_idx.size(), size_t{num_rows} * topk);
  const std::vector<NodeId> shards = shards_of(layer, topk_idx, placement);
  std::vector<uint32_t> shard_of(placement.num_experts, 0);  // index into plan.shards
  for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
    const auto found = std::ranges::lower_bound(shards, placement.at(layer, expert));
    shard_of[expert] = static_cast<uint32_t>(found - shards.begin());
  }

  DispatchPlan plan{.layer = layer, .num_results = num_rows * topk};
  for (const NodeId shard : shards) plan.shards.push_back({.shard = shard});
  for (uint32_t row = 0; row < num_rows; ++row) {
    for (uint32_t slot = 0; slot < topk; ++slot) {
      const ExpertIdx expert = topk_idx[size_t{row} * topk + slot];
      ShardDispatch& to = plan.shards[shard_of[expert]];
      if (to.rows.empty() || to.rows.back() != row) to.rows.push_back(row);
      plan.slot_row.push_back(static_cast<uint32_t>(to.assignments.size()));
      to.assignments.push_back({static_cast<uint32_t>(to.rows.size() - 1), expert});
    }
  }
  uint32_t first_result = 0;
  for (ShardDispatch& to : plan.shards) {
    to.first_result = first_result;
    first_result += static_cast<uint32_t>(to.assignments.size());
  }
  for (size_t i = 0; i < plan.slot_row.size(); ++i) {
    plan.slot_row[i] += plan.shards[shard_of[topk_idx[i]]].first_result;
  }
  return plan;
}

}  // namespace troupe::experts
