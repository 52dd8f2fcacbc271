#pragma once

// The head's part in placing experts: the placement in force, what is known of the loads, and the
// placement that a change goes to. Knows no actors; the scheduler actor asks and carries out.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "actors/client.hpp"
#include "base/time.hpp"
#include "cluster/config.hpp"
#include "cluster/membership.hpp"
#include "experts/load.hpp"
#include "experts/placement.hpp"
#include "model/config.hpp"

namespace troupe::actors {

struct ExpertBalanceOptions {
  uint32_t redundant = 0;  ///< replicas in each layer beyond one of each expert
  Duration interval;       ///< between automatic changes; 0: only when asked
  /// The part by which the busiest shards' loads, summed over layers, must fall.
  double min_gain = 0.1;
  Duration half_life = seconds(60);  ///< of a row's weight in the loads
};

ExpertBalanceOptions balance_options(const cluster::ClusterConfig& config);

class ExpertBalance {
 public:
  ExpertBalance(const model::ModelConfig& model, std::vector<cluster::PinConfig> pins,
                const ExpertBalanceOptions& options);

  /// The placement of an epoch that is formed with these shards: by counts and the configuration's
  /// pins, not by load. Pins of absent nodes do not count, so what holds for all nodes of a
  /// configuration holds for any of them.
  /// @errors those of experts::place_experts
  [[nodiscard]] Result<experts::Placement> place(
      Epoch epoch, const std::vector<cluster::NodeInfo>& shards) const;
  /// An epoch is formed with this placement. REQUIRES: no change is proposed.
  void formed(experts::Placement placement, std::vector<cluster::NodeInfo> shards);
  void report(NodeId shard, const std::vector<experts::ExpertRows>& rows, Instant now);

  /// Looks for a placement better by `min_gain`, once there are 100 recent rows per expert and
  /// layer on average; if a person asked, for one better by anything, whatever rows there are. If
  /// there is one, it is proposed() until accepted() or abandoned().
  /// REQUIRES: an epoch was formed; nothing is proposed.
  [[nodiscard]] bool propose(bool asked);
  /// REQUIRES: there is one.
  [[nodiscard]] const experts::Placement& proposed(Epoch epoch);
  void accepted();
  /// The change that is proposed, if one is, will not be made.
  void abandoned(const std::string& reason);

  [[nodiscard]] double balancedness() const { return load_.balancedness(shard_ids_); }
  [[nodiscard]] uint64_t num_changes() const { return num_changes_; }
  [[nodiscard]] const std::string& last_change() const { return last_change_; }
  [[nodiscard]] ExpertsStatus status() const;

 private:
  [[nodiscard]] experts::PlacementRequest request(
      Epoch epoch, const std::vector<cluster::NodeInfo>& shards) const;

  const model::ModelConfig model_;
  const std::vector<cluster::PinConfig> pins_;
  const ExpertBalanceOptions options_;
  experts::RecentLoad load_;
  std::vector<cluster::NodeInfo> shards_;  ///< of the epoch, in configuration order
  std::vector<NodeId> shard_ids_;
  std::optional<experts::Placement> placement_, proposed_;
  uint64_t num_moved_ = 0;    ///< replicas that the proposed placement needs loaded
  uint64_t num_changes_ = 0;  ///< since the head's start
  std::string last_change_;   ///< for people
};

/// The placement of a cluster whose nodes are all there, before any load is known.
struct ConfiguredPlacement {
  std::map<std::string, NodeId> shards;  ///< by name
  experts::Placement placement;
};
/// @errors those of experts::place_experts: pins that cannot be met
Result<ConfiguredPlacement> place_as_configured(const cluster::ClusterConfig& config,
                                                const model::ModelConfig& model);

}  // namespace troupe::actors
