#include "actors/kv_holder_actor.hpp"

#include <memory>

#include "actors/messages.hpp"

namespace troupe::actors {

caf::behavior kv_holder_actor(caf::stateful_actor<KvHolderState>* self, KvHolderOptions options) {
  self->state.pool = std::make_unique<kvcache::BlockPool>(options.num_blocks, options.block_tokens);
  return {
      [=](const ReserveBlocksFor& msg) {
        auto table = self->state.pool->reserve(msg.request, msg.num_tokens);
        BlocksReply reply{.request = msg.request, .granted = table.has_value()};
        if (table) reply.table = std::move(*table);
        return reply;
      },
      [=](const ReleaseBlocks& msg) { self->state.pool->release(msg.request); },
      [=](const KvUsageQuery&) {
        const kvcache::BlockPool& blocks = *self->state.pool;
        return caf::make_message(uint64_t{blocks.num_blocks()} - blocks.num_free(),
                                 uint64_t{blocks.num_blocks()});
      },
  };
}

}  // namespace troupe::actors
