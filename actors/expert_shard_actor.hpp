#pragma once

// One per device that holds experts: shell over experts::Shard. Takes rows from any router, has
// them computed on the executor in micro-batches, and answers each dispatch with one row per
// assignment. Knows nothing of requests.

#include <caf/all.hpp>
#include <memory>

#include "actors/services.hpp"
#include "experts/shard.hpp"

namespace troupe::actors {

class ExpertShardShell;
struct ExpertShardState {
  static inline const char* name = "expert-shard";
  std::shared_ptr<ExpertShardShell> shell;
};

/// @param services outlives the actor.
caf::behavior expert_shard_actor(caf::stateful_actor<ExpertShardState>* self,
                                 const WorkerServices* services, caf::actor scheduler,
                                 experts::ShardOptions options);

}  // namespace troupe::actors
