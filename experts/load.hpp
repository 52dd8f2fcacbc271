#pragma once

// How many rows each routed expert gets. A shard counts what it computes and tells the head; the
// head keeps sums in which older rows weigh less. Pure.

#include <cstdint>
#include <map>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"
#include "experts/placement.hpp"

namespace troupe::experts {

/// Rows that one expert computed on one shard.
struct ExpertRows {
  ExpertKey key;
  uint64_t rows = 0;
  friend bool operator==(const ExpertRows&, const ExpertRows&) = default;
};

/// A shard's rows since it last told them.
class LoadCount {
 public:
  LoadCount(uint32_t num_layers, uint32_t num_experts)
      : num_experts_(num_experts), rows_(size_t{num_layers} * num_experts, 0) {}
  /// REQUIRES: an expert of the model.
  void add(LayerIdx layer, ExpertIdx expert) {
    ++rows_[size_t{layer} * num_experts_ + expert];
    ++total_;
  }
  [[nodiscard]] bool empty() const { return total_ == 0; }
  /// What was added since the last call, by key ascending; at most one entry per expert held.
  [[nodiscard]] std::vector<ExpertRows> take();

 private:
  uint32_t num_experts_;
  std::vector<uint64_t> rows_;  ///< [num_layers * num_experts]
  uint64_t total_ = 0;
};

/// The head's view: sums over all shards, each row weighing half as much after every half-life.
class RecentLoad {
 public:
  RecentLoad(uint32_t num_layers, uint32_t num_experts, Duration half_life);

  /// A shard's report; entries outside the model are ignored. Cost: O(layers * (experts + shards)).
  void add(NodeId shard, const std::vector<ExpertRows>& rows, Instant now);
  /// A shard is gone: what it computed still counts for the experts.
  void forget(NodeId shard) { by_shard_.erase(shard); }

  /// [num_layers * num_experts] as of the last report.
  [[nodiscard]] const std::vector<double>& by_expert() const { return by_expert_; }
  [[nodiscard]] double total() const;
  [[nodiscard]] double of_shard(NodeId shard) const;
  /// As experts::balancedness, of what these shards really computed; also of one layer alone.
  [[nodiscard]] double balancedness(const std::vector<NodeId>& shards) const;
  [[nodiscard]] double balancedness(const std::vector<NodeId>& shards, LayerIdx layer) const;

 private:
  /// Of a layer's rows, over shards.
  struct Spread {
    double mean = 0, most = 0;
  };
  [[nodiscard]] Spread spread(const std::vector<NodeId>& shards, LayerIdx layer) const;
  void decay(Instant now);

  uint32_t num_layers_, num_experts_;
  Duration half_life_;
  Instant as_of_;
  std::vector<double> by_expert_;                   ///< [num_layers * num_experts]
  std::map<NodeId, std::vector<double>> by_shard_;  ///< [num_layers]
};

}  // namespace troupe::experts
