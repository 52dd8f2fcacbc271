#pragma once

// From the gate's choices to what is sent where, and where the rows that come back belong.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "experts/placement.hpp"

namespace troupe::experts {

/// One row's work for one expert within a shard's frame.
struct PlannedAssignment {
  uint32_t row = 0;  ///< index into ShardDispatch::rows
  ExpertIdx expert = 0;
};

/// What goes to one shard: each token row once, however many of its experts are there.
struct ShardDispatch {
  NodeId shard;
  std::vector<uint32_t> rows;                  ///< row numbers of the step, ascending
  std::vector<PlannedAssignment> assignments;  ///< by (expert, row, slot) ascending
  uint32_t first_result = 0;  ///< where this shard's results start in the gathered expert rows
};

struct DispatchPlan {
  LayerIdx layer = 0;
  std::vector<ShardDispatch> shards;  ///< by node id ascending
  std::vector<uint32_t> slot_row;     ///< [rows * topk] index into the gathered expert rows
  uint32_t num_results = 0;           ///< rows * topk
};

/// Only shards that get work are in the plan; each shard answers its assignments in their order,
/// which is that of the experts, so that it computes results where they are sent from.
/// Rows of an expert with several holders go, one by one, to the holder with the fewest assignments
/// in this plan, those of experts without a choice counted beforehand; ties go to a shard that the
/// row travels to anyway, then to the lower id.
/// @param topk_idx [num_rows, topk], each < placement.num_experts
/// REQUIRES: an MoE layer of the placement. Cost: O((rows * topk + experts) * holders of an
/// expert).
DispatchPlan plan_dispatch(LayerIdx layer, std::span<const ExpertIdx> topk_idx, uint32_t num_rows,
                           uint32_t topk, const Placement& placement);

}  // namespace troupe::experts
