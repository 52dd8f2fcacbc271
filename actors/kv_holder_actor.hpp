#pragma once

// Shell over kvcache::BlockPool: gives a router's requests their blocks. The memory is a KvStore
// that the router's steps read and write in place.

#include <caf/all.hpp>
#include <cstdint>
#include <memory>

#include "kvcache/blocks.hpp"

namespace troupe::actors {

struct KvHolderState {
  static inline const char* name = "kv-holder";
  std::unique_ptr<kvcache::BlockPool> pool;
};

struct KvHolderOptions {
  uint32_t num_blocks = 0;
  uint32_t block_tokens = 0;
};

/// Receives ReserveBlocksFor, ReleaseBlocks and KvUsageQuery.
caf::behavior kv_holder_actor(caf::stateful_actor<KvHolderState>* self, KvHolderOptions options);

}  // namespace troupe::actors
