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

/// Places every routed expert without knowing loads: pins first, then the rest so that in each
/// layer the shards' counts differ by at most one where pins allow, and over all layers too (the
/// surplus rotates). Redundant replicas are of experts spread over each layer, others in each, and
/// keep the shards' counts as even; there are fewer when every shard holds every expert.
/// @errors kUnavailable without shards; kInvalidArgument for pins that overlap or leave the model.
Result<Placement> place_experts(const PlacementRequest& request);

/// @returns [num_layers * num_experts]: the shard to which a pin binds this expert, NodeId{0} if
/// none.
/// @errors kInvalidArgument for pins that overlap or leave the model.
Result<std::vector<NodeId>> pinned_holders(const PlacementRequest& request);

/// Every expert of every MoE layer has holders, all among `shards` and each once: "" or the reason.
std::string check(const Placement& placement, const std::vector<bool>& is_moe_layer,
                  const std::vector<NodeId>& shards);

}  // namespace troupe::experts
