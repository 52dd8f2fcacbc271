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
/// Of an expert's load each replica gets an even part, its load per replica. A shard holds no more
/// replicas of a layer than it has slots (slots_of_shards), and never two of one expert. In each
/// MoE layer:
/// 1. Replicas are counted: one of each expert, and then `redundant` times one more of the expert
///    that has the highest load per replica among those with fewer replicas than there are shards.
/// 2. They are packed. Pinned replicas lie where they are pinned. The others follow expert by
///    expert, the highest load per replica (of step 1) first, each onto the lightest shard so far
///    (of equally light ones, with the fewest replicas) among those with a free slot and without
///    this expert. Where there is none, or all slots that are free are wanted by experts that have
///    no replica yet, the rest of the expert's replicas are left out.
/// 3. The layer stays as it is unless packing makes the load of its busiest shard fall by more than
///    the part min_gain.
/// 4. It is as good to have 3 % more on the busiest shard than packing has if that still falls by
///    more than min_gain, and to move few replicas. So from `current`, expert by expert, replicas
///    beyond the number of step 1 are taken from its busiest shards (never the pinned one); then,
///    expert by expert, those that lack are given to the lightest shards with a free slot and
///    without this expert, or left out if there are none. The loads are those before the first one
///    is taken, and those before the first one is given. Then, up to 2 * experts times, the busiest
///    shard gives one replica that is not pinned to it to another shard with a free slot, or for
///    one of that shard's own: the one of all these changes that leaves the least on the busier of
///    the two, with the lightest shard with which that is less than before (by more than a part of
///    1e-9, which may be rounding). As soon as the busiest shard has little enough, this is the
///    layer's new place.
/// 5. If step 4 does not lead there, the layer is as packed, which moves most of its replicas.
/// Ties go to the lower expert (of an exchange: the one given; then to no exchange; then to the
/// lower one taken), and to the shard earlier in the configuration.
/// REQUIRES: check(current, request) finds nothing but the epoch.
/// @param load [num_layers * num_experts] rows in a recent time, >= 0
/// @errors those of pinned_holders; kUnavailable without shards
/// Cost: for each layer O(redundant * experts + replicas * shards), and for each replica moved
/// O(replicas * replicas of a shard) at worst.
Result<std::optional<Placement>> rebalance(const PlacementRequest& request,
                                           std::span<const double> load, const Placement& current,
                                           double min_gain);

}  // namespace troupe::experts
