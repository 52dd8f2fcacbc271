#pragma once

// Messages from threads that are not CAF's, without waking one that is.

#include <caf/all.hpp>
#include <utility>

namespace troupe::actors {

/// Lets the calling thread run an actor for a moment. Waking a thread of CAF's costs more than what
/// a worker does with an answer or a finished job, and whoever brings it is awake.
///
/// Thread-safe: an actor handles one message at a time, whoever runs it.
class RunHere {
 public:
  /// @param system outlives this, and this its actors
  explicit RunHere(caf::actor_system& system) : caller_(&system) {}

  /// Sends the message. If the actor had none to handle, it handles this one, and a few more if
  /// they come meanwhile, in the calling thread; else whoever runs it does. So the caller holds no
  /// lock that a handler takes.
  template <class Message>
  void send(const caf::actor& to, Message message) {
    Woken woken(&caller_.system());
    to->eq_impl(caf::make_message_id(), nullptr, &woken, std::move(message));
    if (woken.actor != nullptr) run(woken.actor);
  }

 private:
  /// Takes note of the actor that a message wakes.
  class Woken : public caf::execution_unit {
   public:
    using execution_unit::execution_unit;
    void exec_later(caf::resumable* woken) override { actor = woken; }
    caf::resumable* actor = nullptr;
  };
  void run(caf::resumable* actor);

  /// What an actor knows of the thread that runs it; whom it wakes the scheduler runs. An actor
  /// keeps the pointer until it is run again.
  caf::scoped_execution_unit caller_;
};

/// @param here if null, a thread of CAF's handles it
template <class Message>
void send(RunHere* here, const caf::actor& to, Message message) {
  if (here != nullptr) {
    here->send(to, std::move(message));
  } else {
    caf::anon_send(to, std::move(message));
  }
}

}  // namespace troupe::actors
