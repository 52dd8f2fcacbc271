#pragma once

// Where long work runs, so that no actor's handler does. A job computes, may send frames, and tells
// the actor by a message that it is done.

#include <functional>
#include <memory>

namespace troupe::actors {

class Executor {
 public:
  virtual ~Executor() = default;
  /// Runs jobs one after the other, in order. The cores bound how many can be waiting.
  virtual void submit(std::function<void()> job) = 0;
};

/// One thread. The destructor ends the running job and drops the waiting ones.
std::unique_ptr<Executor> make_thread_executor();

}  // namespace troupe::actors
