#pragma once

// One per node process: brings its worker into the cluster and watches over it. The process is the
// unit of restart: whatever ends the node actor ends the process, and whoever started the process
// (`troupe up`, a service manager) starts it again with back-off.

#include <caf/all.hpp>
#include <functional>
#include <string>

#include "base/result.hpp"
#include "cluster/membership.hpp"

namespace troupe::actors {

struct NodeActorOptions {
  cluster::NodeInfo info;
  /// Called once, from the actor's thread, when the node can do nothing more: rejected, head lost,
  /// worker dead.
  std::function<void(Error)> on_end;
  std::function<void()> on_accepted;
};

struct NodeState {
  /// Not an aggregate, which CAF would initialise with the actor's address: `accepted` from the
  /// start.
  NodeState() = default;
  static inline const char* name = "node";
  bool accepted = false;
  bool ended = false;
};

caf::behavior node_actor(caf::stateful_actor<NodeState>* self, caf::actor scheduler,
                         caf::actor worker, NodeActorOptions options);

}  // namespace troupe::actors
