#pragma once

// The way into the cluster for whoever runs in the head's process: the gateway, and tests in its
// stead. Hides actors from HTTP and HTTP from actors.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.hpp"
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
  bool drained = false;             ///< routers: takes no requests until that is ended
};

struct ClusterStatus {
  bool serving = false;
  std::string condition;  ///< why not, or "serving"
  Epoch epoch;
  std::vector<NodeStatus> nodes;
  scheduler::SchedulerCounts counts;
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
  /// Calls back with the cluster's state, or with what is known after a bounded wait (2 s).
  virtual void status(std::function<void(ClusterStatus)> on_status) = 0;
};

}  // namespace troupe::actors
