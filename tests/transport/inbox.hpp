#pragma once

// What a test's port has received, and ways to wait for it. Waits end with the awaited thing; the
// deadline only keeps a broken build from hanging.

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "transport/link.hpp"

namespace troupe::transport {

inline constexpr auto kDeadline = std::chrono::seconds(30);

class Inbox {
 public:
  FrameHandler frame_handler() {
    return [this](Frame frame) {
      const std::lock_guard lock(mutex_);
      frames_.push_back(std::move(frame));
      changed_.notify_all();
    };
  }
  LinkDownHandler down_handler() {
    return [this](NodeId peer, const Error& reason) {
      const std::lock_guard lock(mutex_);
      losses_.emplace_back(peer, reason);
      changed_.notify_all();
    };
  }

  /// True once at least `n` frames are there.
  bool wait_for_frames(size_t n) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, [&] { return frames_.size() >= n; });
  }
  bool wait_for_losses(size_t n) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, [&] { return losses_.size() >= n; });
  }
  std::vector<Frame> frames() {
    const std::lock_guard lock(mutex_);
    return frames_;
  }
  std::vector<std::pair<NodeId, Error>> losses() {
    const std::lock_guard lock(mutex_);
    return losses_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Frame> frames_;
  std::vector<std::pair<NodeId, Error>> losses_;
};

/// True once the condition holds; for what no handler announces.
template <class Condition>
bool eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

/// A ping whose payload is `size_bytes` of a pattern that differs with `salt`.
inline Frame ping(size_t size_bytes, uint64_t salt = 0) {
  Frame frame;
  frame.header.kind = FrameKind::kPing;
  frame.header.step = StepId{salt};
  if (size_bytes > 0) {
    auto payload = Buffer::allocate(size_bytes);
    for (size_t i = 0; i < size_bytes; ++i) {
      payload->data()[i] = static_cast<std::byte>((i * 31 + i / 251 + salt * 17) & 0xff);
    }
    frame.payload = std::move(payload);
  }
  return frame;
}

inline bool same_payload(const Frame& a, const Frame& b) {
  const size_t size = a.payload ? a.payload->size() : 0;
  if (size != (b.payload ? b.payload->size() : 0)) return false;
  return size == 0 || std::memcmp(a.payload->data(), b.payload->data(), size) == 0;
}

}  // namespace troupe::transport
