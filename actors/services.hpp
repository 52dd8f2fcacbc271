#pragma once

// What a process lends to its worker actor. Everything outlives the actors.

#include <caf/all.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "actors/executor.hpp"
#include "actors/run_here.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "model/grammar_vocabulary.hpp"
#include "model/weights.hpp"
#include "transport/link.hpp"

namespace troupe::actors {

struct WorkerServices {
  NodeId self;
  uint64_t cluster = 0;  ///< hash of the cluster's name, for frames
  const model::Checkpoint* checkpoint = nullptr;
  kernels::Backend* backend = nullptr;  ///< used by jobs of `executor` only
  Executor* executor = nullptr;
  /// Beside it: loads experts while others are computed; makes the masks of grammars while steps
  /// run.
  Executor* background = nullptr;
  /// Lets threads that have something for the worker run it; null: threads of CAF's do.
  RunHere* run_here = nullptr;
  /// That load an epoch's experts, while nothing is computed.
  size_t num_threads = 1;
  /// For grammars, or why there is none. Of routers.
  Result<std::shared_ptr<const model::Vocabulary>> vocabulary =
      Error{Code::kUnsupported, "not a router"};
  /// Opened after the worker is spawned (its frames go there) and before the node joins.
  transport::Port* port = nullptr;
};

/// Port options whose frames and losses go to this worker as messages.
/// @param run_here if not null, frames are handled in the port's thread
transport::PortOptions port_options_for(NodeId self, uint64_t cluster, const caf::actor& worker,
                                        RunHere* run_here);

/// Hash of a cluster's name, for frame headers.
uint64_t cluster_hash(const std::string& name);

}  // namespace troupe::actors
