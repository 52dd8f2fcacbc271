#pragma once

// Where long work runs, so that no actor's handler does. A job computes, may send frames, and tells
// the actor by a message that it is done.

#include <functional>
#include <memory>

#include "transport/link.hpp"

namespace troupe::actors {

class Executor {
 public:
  virtual ~Executor() = default;
  /// Runs jobs one after the other, in order. The cores bound how many can be waiting.
  virtual void submit(std::function<void()> job) = 0;
  /// While there is no job, its thread looks after the port (Port::drive): what comes there mostly
  /// is the next job. nullptr: no longer, once this returns.
  virtual void drive_when_idle(transport::Port* /*port*/) {}
};

/// One thread. The destructor ends the running job and drops the waiting ones.
std::unique_ptr<Executor> make_thread_executor();

}  // namespace troupe::actors
