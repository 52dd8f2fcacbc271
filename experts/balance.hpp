#pragma once

// Placement by measured load, in the manner of DeepSeek's EPLB (its global policy): in each layer
// the experts with the highest load per replica are replicated until the redundant ones are used
// up, and the replicas are packed onto the shards, heaviest first, each onto the lightest shard
// with a free slot. Pure. Source: github.com/deepseek-ai/EPLB; its hierarchical policy, which first
// packs expert groups onto nodes, pays where some links are much faster than others, and is not
// here.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "experts/placement.hpp"

namespace troupe::experts {

/// The share of the load that the shards would carry if they were all as busy as the busiest:
/// the sum over layers of the mean over shards, divided by that of the maxima. 1 is even; 1 without
/// load. Replicas of an expert share its load evenly.
/// @param load [num_layers * num_experts] rows, >= 0
double balancedness(const Placement& placement, std::span<const double> load,
                    std::span<const NodeId> shards);

/// Replicas that are in `to` and not in `from`.
uint64_t num_new_replicas(const Placement& from, const Placement& to);

/// A placement that fits the loads better than `current`: the loads of the layers' busiest shards,
/// summed, fall by more than the part min_gain. Nothing if none was found that does.
///
/// Each shard gets at most ceil((experts + redundant) / shards) replicas of a layer, or as many as
/// are pinned to it, and never two of one expert; a redundant replica that finds no such place is
/// left out. A layer keeps its place unless its busiest shard's load falls by more than the part
/// min_gain. Where a layer changes, replicas are moved and exchanged one by one until it is as even
/// as when packed anew, but for 3 %; if that does not lead there, it is packed anew, which moves
/// most of its replicas.
/// Ties go to the lower expert, then to the shard earlier in the configuration.
/// @param current a placement over the same shards
/// @param load [num_layers * num_experts] rows in a recent time, >= 0
/// @errors those of pinned_holders; kUnavailable without shards
/// Cost: for each layer O(redundant * experts + replicas * shards), and for each replica moved
/// O(replicas * replicas of a shard) at worst.
Result<std::optional<Placement>> rebalance(const PlacementRequest& request,
                                           std::span<const double> load, const Placement& current,
                                           double min_gain);

}  // namespace troupe::experts
