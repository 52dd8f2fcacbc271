#include "actors/expert_balance.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/check.hpp"
#include "experts/balance.hpp"

namespace troupe::actors {
namespace {

/// Recent rows per expert and layer, on average, below which loads are mostly chance.
constexpr double kRowsToTrust = 100;

std::string percent(double part) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f%%", part * 100);
  return text;
}

}  // namespace

ExpertBalanceOptions balance_options(const cluster::ClusterConfig& config) {
  return {.redundant = config.redundant_experts,
          .interval = config.rebalance_interval,
          .min_gain = config.rebalance_min_gain / 100.0,
          .half_life = config.load_half_life};
}

ExpertBalance::ExpertBalance(const model::ModelConfig& model, std::vector<cluster::PinConfig> pins,
                             const ExpertBalanceOptions& options)
    : model_(model),
      pins_(std::move(pins)),
      options_(options),
      load_(model.num_layers, model.num_routed_experts, options.half_life) {}

experts::PlacementRequest ExpertBalance::request(
    Epoch epoch, const std::vector<cluster::NodeInfo>& shards) const {
  experts::PlacementRequest request{.epoch = epoch,
                                    .num_layers = model_.num_layers,
                                    .num_experts = model_.num_routed_experts,
                                    .redundant = options_.redundant};
  for (LayerIdx l = 0; l < model_.num_layers; ++l) {
    request.is_moe_layer.push_back(model_.is_moe_layer(l));
  }
  for (const cluster::NodeInfo& shard : shards) {
    request.shards.push_back(shard.id);
    for (const cluster::PinConfig& pin : pins_) {
      if (pin.node != shard.name) continue;
      request.pins.push_back(
          {.node = shard.id,
           .first_layer = pin.first_layer,
           .last_layer = std::min(pin.last_layer, model_.num_layers - 1),
           .first_expert = pin.first_expert,
           .last_expert = std::min(pin.last_expert, model_.num_routed_experts - 1)});
    }
  }
  return request;
}

Result<experts::Placement> ExpertBalance::place(
    Epoch epoch, const std::vector<cluster::NodeInfo>& shards) const {
  return experts::place_experts(request(epoch, shards));
}

void ExpertBalance::formed(experts::Placement placement, std::vector<cluster::NodeInfo> shards) {
  CHECK(!proposed_.has_value());
  for (const NodeId shard : shard_ids_) {
    if (std::ranges::count(shards, shard, &cluster::NodeInfo::id) == 0) load_.forget(shard);
  }
  placement_ = std::move(placement);
  shards_ = std::move(shards);
  shard_ids_.clear();
  for (const cluster::NodeInfo& shard : shards_) shard_ids_.push_back(shard.id);
}

void ExpertBalance::report(NodeId shard, const std::vector<experts::ExpertRows>& rows,
                           Instant now) {
  if (std::ranges::count(shard_ids_, shard) != 0) load_.add(shard, rows, now);
}

bool ExpertBalance::propose(bool asked) {
  CHECK(placement_.has_value());
  const experts::PlacementRequest wanted = request(placement_->epoch, shards_);
  const auto num_placed =
      static_cast<double>(std::ranges::count(wanted.is_moe_layer, true) * wanted.num_experts);
  if (!asked && load_.total() < kRowsToTrust * num_placed) return false;
  auto better =
      experts::rebalance(wanted, load_.by_expert(), *placement_, asked ? 0 : options_.min_gain);
  CHECK(better.ok());  // its pins were met when the epoch was formed
  const double before = experts::balancedness(*placement_, load_.by_expert(), shard_ids_);
  if (!better->has_value()) {
    if (asked) {
      last_change_ = "the placement stays: none fits the recent load better (balancedness " +
                     percent(before) + ")";
    }
    return false;
  }
  num_moved_ = experts::num_new_replicas(*placement_, **better);
  last_change_ = "loading " + std::to_string(num_moved_) + " replicas to bring balancedness from " +
                 percent(before) + " to " +
                 percent(experts::balancedness(**better, load_.by_expert(), shard_ids_));
  proposed_ = **std::move(better);
  return true;
}

const experts::Placement& ExpertBalance::proposed(Epoch epoch) {
  CHECK(proposed_.has_value());
  proposed_->epoch = epoch;
  return *proposed_;
}

void ExpertBalance::accepted() {
  CHECK(proposed_.has_value());
  placement_ = std::exchange(proposed_, std::nullopt);
  ++num_changes_;
  last_change_ = "changed without a stop, " + std::to_string(num_moved_) +
                 " replicas newly loaded, in force since epoch " +
                 std::to_string(placement_->epoch.value);
}

void ExpertBalance::abandoned(const std::string& reason) {
  if (!proposed_) return;
  proposed_.reset();
  last_change_ = "a change was abandoned: " + reason;
}

ExpertsStatus ExpertBalance::status() const {
  ExpertsStatus status{.num_layers = model_.num_layers,
                       .num_experts = model_.num_routed_experts,
                       .balancedness = balancedness(),
                       .changing = proposed_.has_value(),
                       .num_changes = num_changes_,
                       .last_change = last_change_,
                       .rows = load_.by_expert()};
  for (LayerIdx l = 0; l < model_.num_layers; ++l) {
    status.layer_balancedness.push_back(load_.balancedness(shard_ids_, l));
  }
  if (!placement_) return status;
  status.epoch = placement_->epoch;
  for (const cluster::NodeInfo& shard : shards_) {
    status.shards.push_back({.name = shard.name,
                             .num_replicas = placement_->held_by(shard.id).size(),
                             .rows = load_.of_shard(shard.id)});
  }
  status.holders.resize(placement_->holders.size());
  for (size_t i = 0; i < placement_->holders.size(); ++i) {
    for (size_t s = 0; s < shard_ids_.size(); ++s) {
      if (std::ranges::binary_search(placement_->holders[i], shard_ids_[s])) {
        status.holders[i].push_back(static_cast<uint32_t>(s));
      }
    }
  }
  return status;
}

Result<ConfiguredPlacement> place_as_configured(const cluster::ClusterConfig& config,
                                                const model::ModelConfig& model) {
  ConfiguredPlacement placed;
  std::vector<cluster::NodeInfo> shards;
  for (const cluster::NodeConfig& node : config.nodes) {
    if (node.role != cluster::Role::kExperts) continue;
    shards.push_back({.id = NodeId{shards.size() + 1}, .name = node.name});
    placed.shards[node.name] = shards.back().id;
  }
  auto placement =
      ExpertBalance(model, config.pins, balance_options(config)).place(Epoch{1}, shards);
  if (!placement.ok()) {
    return std::move(placement).error().with_context("the configuration's placement");
  }
  placed.placement = *std::move(placement);
  return placed;
}

}  // namespace troupe::actors
