#pragma once

// Carries the events of one client request from the cluster's threads to its connection. Bounded by
// what the request may produce, so a slow reader never blocks the cluster nor grows the queue.

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "scheduler/request.hpp"

namespace troupe::gateway {

struct ChoiceEvent {
  uint32_t choice = 0;
  scheduler::ClientEvent event;
};

/// Thread-safe. Any number of writers, one reader.
class EventMailbox {
 public:
  /// @param max_entries most tokens and other events that may wait: sum of max_tokens plus a few
  /// @param wake called by the writer that finds the mailbox empty; must not block
  EventMailbox(size_t max_entries, std::function<void()> wake);

  /// Appends; tokens join the tokens waiting for the same choice. False: full, the event was
  /// dropped and overflowed() stays true.
  bool push(uint32_t choice, scheduler::ClientEvent event);

  /// All that waits, in order.
  [[nodiscard]] std::vector<ChoiceEvent> take();
  [[nodiscard]] bool overflowed() const;

  /// Later pushes do nothing; when this returns, no wake is running and none will come.
  void close();

 private:
  mutable std::mutex mutex_;
  const size_t max_entries_;
  std::function<void()> wake_;
  std::vector<ChoiceEvent> waiting_;
  size_t num_entries_ = 0;
  bool overflowed_ = false;
  bool closed_ = false;
};

}  // namespace troupe::gateway
