#pragma once

// The way into the cluster for whoever runs in the head's process: the gateway, and tests in its
// stead. Hides actors from HTTP and HTTP from actors.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "cluster/membership.hpp"
#include "scheduler/request.hpp"
#include "scheduler/scheduler.hpp"
#include "transport/link.hpp"

namespace troupe::actors {

/// What a router's prefix cache holds and has done since its start.
struct PrefixCacheCounts {
  uint64_t cached_blocks = 0;  ///< on the device, referenced by no request
  uint64_t host_blocks = 0;    ///< in the host tier
  uint64_t queried_tokens = 0;
  uint64_t hit_tokens = 0;  ///< of these, found
  uint64_t host_hit_tokens = 0;
  uint64_t evicted_blocks = 0;
};

/// A node as `troupe status` and /v1/troupe/status show it.
struct NodeStatus {
  cluster::MemberView member;
  uint64_t num_experts_held = 0;
  std::string experts;  ///< "layers 1-4: 0-5", for people
  uint64_t kv_blocks_used = 0;
  uint64_t kv_blocks_total = 0;
  uint64_t rows_computed = 0;  ///< token rows through this node's experts or router
  std::vector<transport::LinkStats> links;
  PrefixCacheCounts prefix_cache;   ///< routers
  uint64_t num_preempted = 0;       ///< routers: requests that gave up their blocks for others
  uint64_t num_fetched_blocks = 0;  ///< routers: KV blocks that came from other routers
  std::string problem;              ///< if asked for: what is wrong in its cores, or ""
  bool drained = false;             ///< routers: takes no requests until that is ended
};

struct ClusterStatus {
  bool checked = false;  ///< `problem` here and of the nodes was asked for
  std::string problem;   ///< of the scheduler or the membership
  bool serving = false;
  std::string condition;  ///< why not, or "serving"
  Epoch epoch;
  std::vector<NodeStatus> nodes;
  scheduler::SchedulerCounts counts;
  double expert_balancedness = 1;      ///< as ExpertsStatus::balancedness
  uint64_t num_placement_changes = 0;  ///< as ExpertsStatus::num_changes
};

/// Who holds the routed experts, and how many rows they got lately: sums in which older rows weigh
/// less (experts/load.hpp).
struct ExpertsStatus {
  struct Shard {
    std::string name;
    uint64_t num_replicas = 0;
    double rows = 0;
  };
  Epoch epoch;
  uint32_t num_layers = 0;   ///< of the model, dense ones included
  uint32_t num_experts = 0;  ///< per MoE layer
  /// Of the rows that the shards computed lately: the sum over layers of the mean over shards,
  /// divided by the sum over layers of the busiest shard's.
  double balancedness = 1;
  std::vector<double> layer_balancedness;  ///< [num_layers]: mean over busiest in this layer
  bool changing = false;                   ///< to another placement
  uint64_t num_changes = 0;                ///< of placement without a stop, since the head's start
  std::string last_change;                 ///< what became of the last one, or goes on; for people
  std::vector<Shard> shards;
  std::vector<double> rows;                    ///< [num_layers * num_experts]
  std::vector<std::vector<uint32_t>> holders;  ///< as rows: indices into shards; empty if dense
};

class ClusterClient {
 public:
  virtual ~ClusterClient() = default;

  /// Gets each event of one request, in order. Called from one thread at a time, which must not be
  /// blocked: hand the event on. No call comes after Refused, Finished or Failed, and after
  /// cancel() only of events that were on their way.
  using EventHandler = std::function<void(scheduler::ClientEvent)>;

  /// Submits a request; its id is fresh. Never blocks. The first event is Refused or Admitted.
  virtual RequestId submit(scheduler::RequestSpec spec, EventHandler on_event) = 0;

  /// The client is gone. Harmless after the end.
  virtual void cancel(RequestId request) = 0;

  /// A router of this name takes no more requests and hands over those it has, if another one is
  /// there; false ends that. Kept while the head lives, also for a node that is away. A status that
  /// is asked for later shows it.
  virtual void drain(const std::string& node, bool drained) = 0;

  /// Ready to serve? Cheap; for /health.
  [[nodiscard]] virtual bool serving() const = 0;
  /// Calls back with the cluster's state, or with what is known after a bounded wait (2 s). With
  /// `check`, the scheduler, the routers and the shards look at their own integrity first, which
  /// takes time in proportion to their requests and cached blocks.
  virtual void status(bool check, std::function<void(ClusterStatus)> on_status) = 0;
  /// Calls back within two seconds. With `rebalance`, a change to the placement that fits the
  /// recent load best is begun first, unless none is better.
  /// @errors kUnavailable if the scheduler does not answer, or if a change cannot begin now:
  /// nothing is served, or another change is under way.
  virtual void experts(bool rebalance, std::function<void(Result<ExpertsStatus>)> on_status) = 0;
};

}  // namespace troupe::actors
