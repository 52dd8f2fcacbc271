#include "experts/shard.hpp"

#include <algorithm>

namespace troupe::experts {
namespace {

std::map<LayerIdx, std::vector<bool>> by_layer(const std::vector<ExpertKey>& held) {
  std::map<LayerIdx, std::vector<bool>> layers;
  for (const auto& [layer, expert] : held) {
    std::vector<bool>& experts = layers[layer];
    if (experts.size() <= expert) experts.resize(size_t{expert} + 1, false);
    experts[expert] = true;
  }
  return layers;
}

}  // namespace

Shard::Shard(ShardOptions options) : options_(options) {}

std::vector<ShardEffect> Shard::handle(const ShardEvent& event) {
  std::vector<ShardEffect> effects;
  if (const auto* loading = std::get_if<ExpertsLoaded>(&event)) {
    loaded(*loading, effects);
  } else if (const auto* prepared = std::get_if<ExpertsPrepared>(&event)) {
    if (!held_.empty() && prepared->epoch > held_.rbegin()->first) {
      held_[prepared->epoch] = by_layer(prepared->held);
    }
  } else if (const auto* kept = std::get_if<EpochKept>(&event)) {
    if (held_.contains(kept->epoch)) {
      std::erase_if(held_, [&](const auto& epoch) { return epoch.first != kept->epoch; });
      reject_stale(effects);
    }
  } else if (const auto* rows = std::get_if<RowsArrived>(&event)) {
    arrived(*rows, effects);
  } else if (const auto* gone = std::get_if<RouterGone>(&event)) {
    std::erase_if(queue_, [&](const Queued& waiting) {
      if (waiting.key.router != gone->router) return false;
      queued_rows_ -= waiting.num_rows;
      return true;
    });
  } else if (std::holds_alternative<BatchComputed>(event)) {
    running_.clear();
  }
  if (auto batch = next_batch()) effects.emplace_back(*std::move(batch));
  return effects;
}

void Shard::loaded(const ExpertsLoaded& event, std::vector<ShardEffect>& effects) {
  if (!held_.empty() && event.epoch <= held_.rbegin()->first) return;
  held_.clear();
  held_[event.epoch] = by_layer(event.held);
  reject_stale(effects);
}

void Shard::reject_stale(std::vector<ShardEffect>& effects) {
  std::erase_if(queue_, [&](const Queued& waiting) {
    if (held_.contains(waiting.key.epoch)) return false;
    effects.emplace_back(RejectRows{waiting.key, RejectReason::kStaleEpoch});
    queued_rows_ -= waiting.num_rows;
    return true;
  });
}

void Shard::arrived(const RowsArrived& event, std::vector<ShardEffect>& effects) {
  if (const auto reason = reason_to_reject(event)) {
    effects.emplace_back(RejectRows{event.key, *reason});
    return;
  }
  const uint32_t num_rows = std::max(event.num_rows, 1U);
  queue_.push_back({event.key, num_rows});
  queued_rows_ += num_rows;
}

std::optional<RejectReason> Shard::reason_to_reject(const RowsArrived& event) const {
  const auto held = held_.find(event.key.epoch);
  if (held == held_.end()) return RejectReason::kStaleEpoch;
  if (std::ranges::count(running_, event.key) != 0 ||
      std::ranges::count(queue_, event.key, &Queued::key) != 0) {
    return RejectReason::kDuplicate;
  }
  const auto layer = held->second.find(event.key.layer);
  for (const ExpertIdx expert : event.experts) {
    if (layer == held->second.end() || expert >= layer->second.size() || !layer->second[expert]) {
      return RejectReason::kNotHeld;
    }
  }
  if (uint64_t{queued_rows_} + std::max(event.num_rows, 1U) > options_.max_queued_rows) {
    return RejectReason::kQueueFull;
  }
  return std::nullopt;
}

std::optional<RunBatch> Shard::next_batch() {
  if (!running_.empty() || queue_.empty()) return std::nullopt;
  RunBatch batch{.layer = queue_.front().key.layer, .dispatches = {}};
  std::deque<Queued> staying;
  uint64_t num_rows = 0;
  bool full = false;  // a dispatch that does not fit keeps its place before younger ones
  for (const Queued& waiting : queue_) {
    const bool same_layer = waiting.key.layer == batch.layer;
    full = full || (same_layer && !batch.dispatches.empty() &&
                    num_rows + waiting.num_rows > options_.max_batch_rows);
    if (full || !same_layer) {
      staying.push_back(waiting);
      continue;
    }
    num_rows += waiting.num_rows;
    batch.dispatches.push_back(waiting.key);
  }
  queue_ = std::move(staying);
  queued_rows_ -= static_cast<uint32_t>(num_rows);
  running_ = batch.dispatches;
  return batch;
}

uint32_t Shard::queued_rows() const { return queued_rows_; }

std::string Shard::check() const {
  uint64_t num_rows = 0;
  std::vector<DispatchKey> keys = running_;
  for (const Queued& waiting : queue_) {
    num_rows += waiting.num_rows;
    keys.push_back(waiting.key);
  }
  if (num_rows != queued_rows_) return "the count of queued rows is wrong";
  if (queued_rows_ > options_.max_queued_rows) return "more rows wait than the bound allows";
  std::ranges::sort(keys);
  if (std::ranges::adjacent_find(keys) != keys.end()) return "a dispatch is here twice";
  return running_.empty() && !queue_.empty() ? "work waits while nothing runs" : "";
}

}  // namespace troupe::experts
