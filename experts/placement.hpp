#pragma once

// Which node holds which routed expert, for one epoch.

#include <cstdint>
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

/// Every routed expert of every MoE layer has exactly one holder (redundant experts come later).
struct Placement {
  Epoch epoch;
  uint32_t num_layers = 0;   ///< of the model, dense ones included
  uint32_t num_experts = 0;  ///< per MoE layer
  /// [num_layers * num_experts]; NodeId{0} in dense layers.
  std::vector<NodeId> holder;

  [[nodiscard]] NodeId at(LayerIdx layer, ExpertIdx expert) const {
    return holder[size_t{layer} * num_experts + expert];
  }
  [[nodiscard]] std::vector<ExpertKey> held_by(NodeId node) const;
};

/// A part of the placement that the configuration fixes: all experts in the ranges, on a shard.
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
};

/// Places every routed expert: pins first, then the rest so that in each layer the shards' counts
/// differ by at most one where pins allow, and over all layers too (the surplus rotates).
/// @errors kUnavailable without shards; kInvalidArgument for pins that overlap or leave the model.
Result<Placement> place_experts(const PlacementRequest& request);

/// Every expert of every MoE layer has a holder among `shards`: "" or the reason.
std::string check(const Placement& placement, const std::vector<bool>& is_moe_layer,
                  const std::vector<NodeId>& shards);

}  // namespace troupe::experts
