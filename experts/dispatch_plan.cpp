#include "experts/dispatch_plan.hpp"

#include <algorithm>
#include <numeric>

#include "base/check.hpp"

namespace troupe::experts {
namespace {

/// The holders of the chosen experts as indices into the shards concerned, found once per plan.
struct Choices {
  std::vector<NodeId> shards;   ///< distinct holders of chosen experts, ascending
  std::vector<uint32_t> first;  ///< [num_experts + 1] into `holders`; no range for experts unchosen
  std::vector<uint32_t> holders;

  [[nodiscard]] std::span<const uint32_t> of(ExpertIdx expert) const {
    return std::span(holders).subspan(first[expert], first[expert + 1] - first[expert]);
  }
};

Choices choices_for(LayerIdx layer, const std::vector<uint32_t>& num_rows_of,
                    const Placement& placement) {
  Choices choices;
  for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
    if (num_rows_of[expert] == 0) continue;
    const std::vector<NodeId>& holders = placement.at(layer, expert);
    CHECK(!holders.empty());  // a gate runs in MoE layers only
    choices.shards.insert(choices.shards.end(), holders.begin(), holders.end());
  }
  std::ranges::sort(choices.shards);
  const auto rest = std::ranges::unique(choices.shards);
  choices.shards.erase(rest.begin(), rest.end());
  choices.first.push_back(0);
  for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
    if (num_rows_of[expert] != 0) {
      for (const NodeId holder : placement.at(layer, expert)) {
        const auto found = std::ranges::lower_bound(choices.shards, holder);
        choices.holders.push_back(static_cast<uint32_t>(found - choices.shards.begin()));
      }
    }
    choices.first.push_back(static_cast<uint32_t>(choices.holders.size()));
  }
  return choices;
}

/// Puts assignments into the order of their experts, those of an expert staying in theirs.
/// @returns where each went
std::vector<uint32_t> order_by_expert(uint32_t num_experts,
                                      std::vector<PlannedAssignment>& assignments) {
  std::vector<uint32_t> next(num_experts + 1, 0);
  for (const PlannedAssignment& work : assignments) ++next[work.expert + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::vector<uint32_t> places;
  places.reserve(assignments.size());
  std::vector<PlannedAssignment> ordered(assignments.size());
  for (const PlannedAssignment& work : assignments) {
    places.push_back(next[work.expert]++);
    ordered[places.back()] = work;
  }
  assignments = std::move(ordered);
  return places;
}

}  // namespace

DispatchPlan plan_dispatch(LayerIdx layer, std::span<const ExpertIdx> topk_idx, uint32_t num_rows,
                           uint32_t topk, const Placement& placement) {
  CHECK_LT(layer, placement.num_layers);
  CHECK_EQ(topk_idx.size(), size_t{num_rows} * topk);
  std::vector<uint32_t> num_rows_of(placement.num_experts, 0);
  for (const ExpertIdx expert : topk_idx) {
    CHECK_LT(expert, placement.num_experts);
    ++num_rows_of[expert];
  }
  const Choices choices = choices_for(layer, num_rows_of, placement);
  // What has no choice is counted first, so that what has one can fill up around it.
  std::vector<uint32_t> load(choices.shards.size(), 0);
  for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
    const auto holders = choices.of(expert);
    if (holders.size() == 1) load[holders[0]] += num_rows_of[expert];
  }

  DispatchPlan plan{.layer = layer, .num_results = num_rows * topk};
  for (const NodeId shard : choices.shards) plan.shards.push_back({.shard = shard});
  std::vector<uint32_t> shard_of;  // [rows * topk] index into plan.shards
  shard_of.reserve(topk_idx.size());
  plan.slot_row.reserve(topk_idx.size());
  for (uint32_t row = 0; row < num_rows; ++row) {
    for (uint32_t slot = 0; slot < topk; ++slot) {
      const ExpertIdx expert = topk_idx[size_t{row} * topk + slot];
      const auto holders = choices.of(expert);
      uint32_t least = holders[0];
      if (holders.size() > 1) {
        const auto goes_there = [&](uint32_t shard) {
          return !plan.shards[shard].rows.empty() && plan.shards[shard].rows.back() == row;
        };
        for (const uint32_t shard : holders.subspan(1)) {
          if (load[shard] < load[least] ||
              (load[shard] == load[least] && goes_there(shard) && !goes_there(least))) {
            least = shard;
          }
        }
        ++load[least];
      }
      ShardDispatch& to = plan.shards[least];
      if (to.rows.empty() || to.rows.back() != row) to.rows.push_back(row);
      shard_of.push_back(least);
      plan.slot_row.push_back(static_cast<uint32_t>(to.assignments.size()));
      to.assignments.push_back({static_cast<uint32_t>(to.rows.size() - 1), expert});
    }
  }
  uint32_t first_result = 0;
  std::vector<std::vector<uint32_t>> places;  // of each shard's assignments among the results
  for (ShardDispatch& to : plan.shards) {
    to.first_result = first_result;
    first_result += static_cast<uint32_t>(to.assignments.size());
    places.push_back(order_by_expert(placement.num_experts, to.assignments));
  }
  for (size_t i = 0; i < plan.slot_row.size(); ++i) {
    const uint32_t shard = shard_of[i];
    plan.slot_row[i] = plan.shards[shard].first_result + places[shard][plan.slot_row[i]];
  }
  std::erase_if(plan.shards, [](const ShardDispatch& to) { return to.assignments.empty(); });
  return plan;
}

}  // namespace troupe::experts
