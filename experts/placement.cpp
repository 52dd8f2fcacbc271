#include "experts/placement.hpp"

#include <algorithm>
#include <functional>
#include <optional>
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

/// Gives the experts of one layer that no pin placed to the shards with the fewest.
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
  size_t s = 0;
  for (NodeId& holder : holders) {
    if (holder != NodeId{}) continue;
    while (quota[s] == 0) ++s;
    holder = shards[s];
    --quota[s];
  }
}

/// Adds the redundant replicas of one layer.
void add_redundant(const PlacementRequest& request, LayerIdx layer,
                   std::span<std::vector<NodeId>> holders) {
  const auto holds = [&](NodeId shard) {
    return [shard](const std::vector<NodeId>& of) { return std::ranges::count(of, shard) != 0; };
  };
  std::vector<size_t> in_layer;
  for (const NodeId shard : request.shards) {
    in_layer.push_back(static_cast<size_t>(std::ranges::count_if(holders, holds(shard))));
  }
  const size_t num_experts = holders.size();
  const size_t wanted =
      std::min(size_t{request.redundant}, num_experts * (request.shards.size() - 1));
  const size_t stride = std::max<size_t>(1, num_experts / std::max<size_t>(wanted, 1));
  size_t at = layer % num_experts;
  for (size_t added = 0; added < wanted; ++added) {
    const auto s = static_cast<size_t>(std::ranges::min_element(in_layer) - in_layer.begin());
    std::optional<size_t> next;  // there is one: the shard with the fewest does not hold all
    for (size_t i = 0; i < num_experts; ++i) {
      const size_t e = (at + i) % num_experts;
      if (holds(request.shards[s])(holders[e])) continue;
      if (!next || holders[e].size() < holders[*next].size()) next = e;
    }
    holders[*next].push_back(request.shards[s]);
    ++in_layer[s];
    at = (*next + stride) % num_experts;
  }
  for (std::vector<NodeId>& of : holders) std::ranges::sort(of);
}

}  // namespace

Result<std::vector<NodeId>> pinned_holders(const PlacementRequest& request) {
  std::vector<NodeId> holders(size_t{request.num_layers} * request.num_experts);
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
        NodeId& holder = holders[size_t{layer} * request.num_experts + expert];
        if (holder != NodeId{}) {
          return Error{Code::kInvalidArgument,
                       "the " + describe(pin) + " overlaps another pin at layer " +
                           std::to_string(layer) + ", expert " + std::to_string(expert) +
                           "; an expert is pinned to one shard"};
        }
        holder = pin.node;
      }
    }
  }
  return holders;
}

std::vector<ExpertKey> Placement::held_by(NodeId node) const {
  std::vector<ExpertKey> held;
  for (LayerIdx layer = 0; layer < num_layers; ++layer) {
    for (ExpertIdx expert = 0; expert < num_experts; ++expert) {
      if (std::ranges::binary_search(at(layer, expert), node)) held.push_back({layer, expert});
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
  std::vector<NodeId> first = TRY(pinned_holders(request));
  std::vector<uint64_t> totals;
  for (const NodeId shard : request.shards) {
    totals.push_back(static_cast<uint64_t>(std::ranges::count(first, shard)));
  }
  Placement placement{.epoch = request.epoch,
                      .num_layers = request.num_layers,
                      .num_experts = request.num_experts,
                      .holders = std::vector<std::vector<NodeId>>(size_t{request.num_layers} *
                                                                  request.num_experts)};
  for (LayerIdx layer = 0; layer < request.num_layers; ++layer) {
    if (!request.is_moe_layer[layer]) continue;
    const size_t begin = size_t{layer} * request.num_experts;
    fill_layer(request.shards, std::span(first).subspan(begin, request.num_experts), totals);
    const auto holders = std::span(placement.holders).subspan(begin, request.num_experts);
    for (size_t e = 0; e < holders.size(); ++e) holders[e] = {first[begin + e]};
    if (request.redundant > 0) add_redundant(request, layer, holders);
  }
  return placement;
}

std::vector<uint32_t> slots_of_shards(const PlacementRequest& request,
                                      std::span<const NodeId> pinned) {
  const size_t num_shards = request.shards.size();
  const auto even = static_cast<uint32_t>(
      (uint64_t{request.num_experts} + request.redundant + num_shards - 1) / num_shards);
  std::vector<uint32_t> slots;
  for (const NodeId shard : request.shards) {
    slots.push_back(std::max(even, static_cast<uint32_t>(std::ranges::count(pinned, shard))));
  }
  return slots;
}

std::string check(const Placement& placement, const PlacementRequest& request) {
  if (placement.epoch != request.epoch) {
    return "the placement is of epoch " + std::to_string(placement.epoch.value) + ", not of " +
           std::to_string(request.epoch.value);
  }
  if (placement.num_layers != request.num_layers || placement.num_experts != request.num_experts ||
      placement.holders.size() != size_t{request.num_layers} * request.num_experts) {
    return "the placement's shape is not the model's";
  }
  const Result<std::vector<NodeId>> pins = pinned_holders(request);
  if (!pins.ok()) return pins.error().message;
  for (LayerIdx layer = 0; layer < request.num_layers; ++layer) {
    const auto pinned =
        std::span(*pins).subspan(size_t{layer} * request.num_experts, request.num_experts);
    std::vector<uint32_t> held(request.shards.size(), 0);
    uint64_t num_replicas = 0;
    for (ExpertIdx expert = 0; expert < request.num_experts; ++expert) {
      const std::vector<NodeId>& holders = placement.at(layer, expert);
      const std::string where =
          "layer " + std::to_string(layer) + ", expert " + std::to_string(expert);
      if (!request.is_moe_layer[layer]) {
        if (!holders.empty()) return where + " is placed in a dense layer";
        continue;
      }
      if (holders.empty()) return where + " has no holder";
      if (std::ranges::adjacent_find(holders, std::ranges::greater_equal{}) != holders.end()) {
        return where + " has holders out of order or twice";
      }
      for (const NodeId holder : holders) {
        const auto shard = std::ranges::find(request.shards, holder) - request.shards.begin();
        if (shard == std::ssize(request.shards)) {
          return where + " is held by node " + std::to_string(holder.value) +
                 ", which is not a live shard";
        }
        ++held[static_cast<size_t>(shard)];
      }
      if (pinned[expert] != NodeId{} && !std::ranges::binary_search(holders, pinned[expert])) {
        return where + " is not held by node " + std::to_string(pinned[expert].value) +
               ", to which it is pinned";
      }
      num_replicas += holders.size();
    }
    if (num_replicas > uint64_t{request.num_experts} + request.redundant) {
      return "layer " + std::to_string(layer) + " has " + std::to_string(num_replicas) +
             " replicas, more than experts and redundant ones together";
    }
    const std::vector<uint32_t> slots = slots_of_shards(request, pinned);
    for (size_t s = 0; s < slots.size(); ++s) {
      if (held[s] <= slots[s]) continue;
      return "node " + std::to_string(request.shards[s].value) + " holds " +
             std::to_string(held[s]) + " replicas of layer " + std::to_string(layer) + " in " +
             std::to_string(slots[s]) + " slots";
    }
  }
  return "";
}

}  // namespace troupe::experts
