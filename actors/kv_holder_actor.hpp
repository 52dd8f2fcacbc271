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

/// Receives KvEvent and KvStatsQuery, all from the router of its process.
/// @param check_when_idle the core looks at its own integrity after each event that leaves no
///        request with blocks, in time in proportion to all blocks; what it finds ends the process
caf::behavior kv_holder_actor(caf::stateful_actor<KvHolderState>* self,
                              kvcache::HolderOptions options, bool check_when_idle);

}  // namespace troupe::actors
