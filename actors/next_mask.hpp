#pragma once

// The tokens that a request's grammar allows next, worked out beside the steps: whoever samples
// looks whether that is done and never waits for it.

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace troupe::actors {

class NextMask {
 public:
  /// As model::Guides::mask says; an Error ends the request.
  using Made = Result<std::vector<uint64_t>>;

  /// Once, from one thread.
  void set(Made made) {
    made_ = std::move(made);
    is_made_.store(true, std::memory_order_release);
  }
  /// nullptr: not made yet. From any thread; what it points to does not change any more.
  [[nodiscard]] const Made* get() const {
    return is_made_.load(std::memory_order_acquire) ? &made_ : nullptr;
  }

 private:
  Made made_ = std::vector<uint64_t>();
  std::atomic<bool> is_made_ = false;
};

}  // namespace troupe::actors
