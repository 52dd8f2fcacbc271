#include "actors/kv_holder_actor.hpp"

#include "actors/messages.hpp"
#include "base/check.hpp"

namespace troupe::actors {

caf::behavior kv_holder_actor(caf::stateful_actor<KvHolderState>* self,
                              kvcache::HolderOptions options) {
  self->state.core = std::make_unique<kvcache::Holder>(options);
  return {
      [=](const KvEvent& msg) {
        kvcache::Holder& core = *self->state.core;
        auto effects = core.handle(msg.event);
        if (!effects.empty()) {
          self->send(caf::actor_cast<caf::actor>(self->current_sender()),
                     KvEffects{msg.ask, std::move(effects)});
        }
#ifndef NDEBUG
        if (core.stats().running == 0) CHECK_EQ(core.check(), std::string());
#endif
      },
      [=](const KvStatsQuery& msg) {
        return KvStats{self->state.core->stats(), msg.check ? self->state.core->check() : ""};
      },
  };
}

}  // namespace troupe::actors
