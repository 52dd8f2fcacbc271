#include "experts/placement.hpp"

#include <algorithm>
#include <span>
#include <tuple>

#include "base/check.hpp"

namespace troupe::experts {
namespace {

std::string describe(const PlacementPin& pin) {
  return "pin of layers " + std::to_string(pin.first_layer) + "-" + std::to_string(pin.last_layer) +
         ", experts " + std::to_string(pin.first_expert) + "-" + std::to_string(pin.last_expert) +
         " to node " + std::to_string(pin.node.value);
}

/// Fills the pinned part of `placement.holder`.
Result<void> apply_pins(const PlacementRequest& request, Placement& placement) {
  for (const PlacementPin& pin : request.pins) {
    if (!std::ranges::count(request.shards, pin.node)) continue;
    if (pin.first_layer > pin.last_layer || pin.last_layer >= request.num_layers ||
        pin.first_expert > pin.last_expert || pin.last_expert >= request.num_experts) {
      return Error{Code::kInvalidArgument,
                   "the " + describe(pin) + " leaves the model, which has layers 0-" +
                       std::to_string(request.num_layers - 1) + " and experts 0-" +
                       std::to_string(request.num_experts - 1) +
                       "; correct the placement's ranges"};
    }
    for (LayerIdx layer = pin.first_layer; layer <= pin.last_layer; ++layer) {
      if (!request.is_moe_layer[layer]) continue;
      for (ExpertIdx expert = pin.first_expert; expert <= pin.last_expert; ++expert) {
        NodeId& holder = placement.holder[size_t{layer} * request.num_experts + expert];
        if (holder != NodeId{}) {
          return Error{Code::kInvalidArgument,
                       "the " + describe(pin) + " overlaps another pin at layer " +
                           std::to_string(layer) + ", expert " + std::to_string(expert) +
                           "; every expert has one holder"};
        }
        holder = pin.node;
      }
    }
  }
  return {};
}

/// Gives the experts of one layer that no pin placed to the shards with the fewest in this layer,
/// then over all layers: so the surplus of a division that leaves a rest rotates.
/// @param totals [shards] experts placed so far, this layer's pins included
void fill_layer(const std::vector<NodeId>& shards, std::span<NodeId> holders,
                std::vector<uint64_t>& totals) {
  std::vector<uint64_t> in_layer(shards.size());
  for (size_t s = 0; s < shards.size(); ++s) {
    in_layer[s] = static_cast<uint64_t>(std::ranges::count(holders, shards[s]));
  }
  std::vector<uint64_t> quota(shards.size(), 0);
  for (auto open = std::ranges::count(holders, NodeId{}); open > 0; --open) {
    size_t least = 0;
    for (size_t s = 1; s < shards.size(); ++s) {
      if (std::tie(in_layer[s], totals[s]) < std::tie(in_layer[least], totals[least])) least = s;
    }
    ++quota[least], ++in_layer[least], ++totals[least];
  }
  // Runs of neighbours, because neighbours lie together in fused checkpoint tensors.
  size_t s = 0;
  for (NodeId& holder : holders) {
    if (holder != NodeId{}) continue;
    while (quota[s] == 0) ++s;
    holder = shards[s];
    --quota[s];
  }
}

}  // namespace

std::vector<ExpertKey> Placement::held_by(NodeId node) const {
  std::vector<ExpertKey> held;
  for (LayerIdx layer = 0; layer < num_layers; ++layer) {
    for (ExpertIdx expert = 0; expert < num_experts; ++expert) {
      if (at(layer, expert) == node) held.push_back({layer, expert});
    }
  }
  return held;
}

Result<Placement> place_experts(const PlacementRequest& request) {
  CHECK_EQ(request.is_moe_layer.size(), request.num_layers);
  if (request.shards.empty()) {
    return Error{
        Code::kUnavailable,
        "no expert node is live, so no expert can be placed; start a node of role experts"};
  }
  for (const NodeId shard : request.shards) CHECK_NE(shard, NodeId{});
  Placement placement{
      .epoch = request.epoch,
      .num_layers = request.num_layers,
      .num_experts = request.num_experts,
      .holder = std::vector<NodeId>(size_t{request.num_layers} * request.num_experts)};
  TRY(apply_pins(request, placement));
  std::vector<uint64_t> totals;
  for (const NodeId shard : request.shards) {
    totals.push_back(static_cast<uint64_t>(std::ranges::count(placement.holder, shard)));
  }
  for (LayerIdx layer = 0; layer < request.num_layers; ++layer) {
    if (!request.is_moe_layer[layer]) continue;
    fill_layer(request.shards,
               std::span(placement.holder)
                   .subspan(size_t{layer} * request.num_experts, request.num_experts),
               totals);
  }
  return placement;
}

std::string check(const Placement& placement, const std::vector<bool>& is_moe_layer,
                  const std::vector<NodeId>& shards) {
  if (is_moe_layer.size() != placement.num_layers ||
      placement.holder.size() != size_t{placement.num_layers} * placement.num_experts) {
    return "the placement's shape is not the model's";
  }
  for (LayerIdx layer = 0; layer < placement.num_layers; ++layer) {
    for (ExpertIdx expert = 0; expert < placement.num_experts; ++expert) {
      const NodeId holder = placement.at(layer, expert);
      const bool right =
          is_moe_layer[layer] ? std::ranges::count(shards, holder) == 1 : holder == NodeId{};
      if (!right) {
        return "layer " + std::to_string(layer) + ", expert " + std::to_string(expert) +
               " is held by node " + std::to_string(holder.value) +
               (is_moe_layer[layer] ? ", which is not a live shard" : ", but the layer is dense");
      }
    }
  }
  return "";
}

}  // namespace troupe::experts
