#include "actors/kv_holder_actor.hpp"

#include "actors/messages.hpp"
#include "base/check.hpp"

namespace troupe::actors {

caf::behavior kv_holder_actor(caf::stateful_actor<KvHolderState>* self,
                              kvcache::HolderOptions options, bool check_when_idle) {
  self->state.core = std::make_unique<kvcache::Holder>(options);
  return {
      [=](const KvEvent& msg) {
        kvcache::Holder& core = *self->state.core;
        auto effects = core.handle(msg.event);
        if (!effects.empty()) {
          self->send(caf::actor_cast<caf::actor>(self->current_sender()),
                     KvEffects{msg.ask, std::move(effects)});
        }
        if (check_when_idle && core.stats().running == 0) CHECK_EQ(core.check(), "");
      },
      [=](const KvStatsQuery& msg) {
        return KvStats{self->state.core->stats(), msg.check ? self->state.core->check() : ""};
      },
  };
}

}  // namespace troupe::actors
