#pragma once

// One per attention device: shell over the batcher and the dispatch bookkeeping. It forms steps,
// has them computed segment by segment on the executor, exchanges rows with the expert shards over
// links in between, and reports the tokens. The handlers only decide and send.

#include <caf/all.hpp>
#include <memory>

#include "actors/router_engine.hpp"
#include "actors/services.hpp"
#include "actors/shard_links.hpp"
#include "base/time.hpp"
#include "experts/combine.hpp"
#include "kvcache/transfers.hpp"
#include "scheduler/batcher.hpp"

namespace troupe::actors {

struct RouterOptions {
  scheduler::BatcherOptions batcher;
  uint32_t micro_batches = 0;  ///< of a step, 1 or 2; 0: as learned
  uint32_t block_tokens = 16;  ///< of the KV holder
  kvcache::TransferOptions transfers;
  /// A shard that stays silent is reported as failed.
  experts::CombineOptions combine;
  ShardLinkOptions links;
};

/// These options with what the batcher has to know of the engine's model.
RouterOptions for_model(RouterOptions options, const RouterEngine& engine);

/// Dispatches of a router that may lie at one shard: one of each micro-batch. A shard takes in so
/// many full steps of every router (experts::ShardOptions::max_queued_rows).
inline constexpr uint32_t kDispatchesPerShard = RouterEngine::kLanes;

class RouterShell;
struct RouterState {
  static inline const char* name = "router";
  std::shared_ptr<RouterShell> shell;
};

/// @param services outlives the actor. @param engine is used by its jobs only.
caf::behavior router_actor(caf::stateful_actor<RouterState>* self, const WorkerServices* services,
                           std::shared_ptr<RouterEngine> engine, caf::actor kv_holder,
                           caf::actor scheduler, RouterOptions options);

}  // namespace troupe::actors
