#pragma once

// Which nodes hold which routed expert, for one epoch. An expert may have several holders: a
// replica beyond the first is a redundant expert. All replicas compute the same bits.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::experts {

/// One routed expert of the model.
struct ExpertKey {
  LayerIdx layer = 0;
  ExpertIdx expert = 0;
  friend auto operator<=>(const ExpertKey&, const ExpertKey&) = default;
};

struct Placement {
  Epoch epoch;
  uint32_t num_layers = 0;   ///< of the model, dense ones included
  uint32_t num_experts = 0;  ///< per MoE layer
  /// [num_layers * num_experts]: ascending, each once, at least one; none in dense layers.
  std::vector<std::vector<NodeId>> holders;

  [[nodiscard]] const std::vector<NodeId>& at(LayerIdx layer, ExpertIdx expert) const {
    return holders[size_t{layer} * num_experts + expert];
  }
  [[nodiscard]] std::vector<ExpertKey> held_by(NodeId node) const;
};

/// A part of the placement that the configuration fixes: all experts in the ranges have a replica
/// on this shard. Redundant ones may lie anywhere.
struct PlacementPin {
  NodeId node;
  LayerIdx first_layer = 0, last_layer = 0;     ///< inclusive
  ExpertIdx first_expert = 0, last_expert = 0;  ///< inclusive
};

struct PlacementRequest {
  Epoch epoch;
  uint32_t num_layers = 0;
  uint32_t num_experts = 0;
  std::vector<bool> is_moe_layer;  ///< [num_layers]
  std::vector<NodeId> shards;      ///< live, in configuration order
  std::vector<PlacementPin> pins;  ///< of shards that are not live: ignored
  uint32_t redundant = 0;          ///< replicas in each layer beyond one of each expert
};

/// Places every routed expert without knowing loads: in each layer the shards' counts differ by at
/// most one where pins allow, and over all layers too, but for redundant replicas.
/// 1. A pinned expert lies where it is pinned.
/// 2. Layer by layer, each further expert makes the share of one shard larger by one: the shard
///    that has the fewest of this layer, of these the one that has the fewest of all layers (as
///    placed so far, pinned ones of every layer counted). So the surplus of a division that leaves
///    a rest rotates. Then the shards take their shares, in order and as runs of neighbours,
///    because neighbours lie together in fused checkpoint tensors.
/// 3. Redundant replicas of a layer, `redundant` or as many as there can be, go one by one to the
///    shard with the fewest replicas of the layer: of the experts that it does not hold, those with
///    the fewest holders, and of these the next one in a circle. The circle starts at the expert
///    with the layer's number (modulo experts) and goes on, behind each that was taken, after
///    experts / (redundant replicas of the layer) experts, rounded down, at least one. So they are
///    spread over the layer, and lie elsewhere in the next one.
/// Ties go to the shard earlier in the configuration.
/// @errors kUnavailable without shards; kInvalidArgument for pins that overlap or leave the model.
Result<Placement> place_experts(const PlacementRequest& request);

/// @returns [num_layers * num_experts]: the shard to which a pin binds this expert, NodeId{0} if
/// none.
/// @errors kInvalidArgument for pins that overlap or leave the model.
Result<std::vector<NodeId>> pinned_holders(const PlacementRequest& request);

/// [shards]: how many replicas of one layer each may hold: ceil((experts + redundant) / shards), or
/// as many as are pinned to it if those are more.
/// @param pinned [num_experts] the layer's part of pinned_holders()
std::vector<uint32_t> slots_of_shards(const PlacementRequest& request,
                                      std::span<const NodeId> pinned);

/// It is of the request's epoch and model; every expert of every MoE layer has holders, all among
/// the shards, each once, the one that it is pinned to among them; no layer has more redundant
/// replicas, and no shard more replicas of it, than it may: "" or the reason.
std::string check(const Placement& placement, const PlacementRequest& request);

}  // namespace troupe::experts
