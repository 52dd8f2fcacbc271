#include "actors/run_here.hpp"

namespace troupe::actors {
namespace {

/// Then a thread of CAF's goes on, and the caller is free.
constexpr size_t kMessagesAtOnce = 16;

}  // namespace

void RunHere::run(caf::resumable* actor) {
  switch (actor->resume(&caller_, kMessagesAtOnce)) {
    case caf::resumable::resume_later: caller_.exec_later(actor); break;
    case caf::resumable::awaiting_message:
    case caf::resumable::done: intrusive_ptr_release(actor); break;
    case caf::resumable::shutdown_execution_unit: break;  // no actor says so
  }
}

}  // namespace troupe::actors
