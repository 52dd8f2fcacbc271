#include "actors/node_actor.hpp"

#include "actors/messages.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

/// The head answers at once; this bounds the wait when it does not.
constexpr std::chrono::seconds kJoinTimeout{10};

}  // namespace

caf::behavior node_actor(caf::stateful_actor<NodeState>* self, caf::actor scheduler,
                         caf::actor worker, NodeActorOptions options) {
  const auto end = [=](Error reason) {
    if (self->state.ended) return;
    self->state.ended = true;
    options.on_end(std::move(reason));
    self->quit();
  };
  self->monitor(scheduler);
  self->monitor(worker);
  self->set_down_handler([=](const caf::down_msg& msg) {
    const std::string reason = self->system().render(msg.reason);
    if (msg.source == worker.address()) {
      end({Code::kInternal, "this node's worker ended: " + reason});
    } else {
      end({Code::kUnavailable, "the connection to the head ended: " + reason});
    }
  });
  self->send(scheduler, JoinCluster{options.info, caf::actor_cast<caf::actor>(self), worker});
  self->delayed_send(self, kJoinTimeout, Wake{});
  return {
      [=](const JoinAccepted& msg) {
        self->state.accepted = true;
        log::info("joined", {{"cluster", msg.cluster}, {"name", options.info.name}});
        options.on_accepted();
      },
      [=](const JoinRejected& msg) { end(msg.error); },
      [=](const Wake&) {
        if (!self->state.accepted) {
          end({Code::kDeadlineExceeded,
               "the head did not answer the join request; is it a Troupe "
               "head of the same version?"});
        }
      },
  };
}

}  // namespace troupe::actors
