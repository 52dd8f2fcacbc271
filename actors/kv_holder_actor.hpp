#pragma once

// Shell over kvcache::Holder: gives a router's requests their blocks and keeps the prefix cache.
// The memory is a KvStore that the router's steps read and write in place, and where its copies
// happen.

#include <caf/all.hpp>
#include <memory>

#include "kvcache/holder.hpp"

namespace troupe::actors {

struct KvHolderState {
  static inline const char* name = "kv-holder";
  std::unique_ptr<kvcache::Holder> core;
};

/// Receives KvEvent and KvStatsQuery, all from the router of its process. In debug builds the core
/// checks itself whenever no request holds blocks.
caf::behavior kv_holder_actor(caf::stateful_actor<KvHolderState>* self,
                              kvcache::HolderOptions options);

}  // namespace troupe::actors
