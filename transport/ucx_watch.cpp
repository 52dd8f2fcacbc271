#include "transport/ucx_watch.hpp"

#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>

#include "base/check.hpp"

namespace troupe::transport {
namespace {

/// A guest that computes for less long comes back to a watch that is free. For a job of the experts
/// of one layer and a few rows that is enough, and what comes meanwhile waits for its end in any
/// case; heartbeats are far slower.
constexpr int64_t kAwayNs = 5'000'000;

}  // namespace

UcxWatch::UcxWatch()
    : event_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      timer_fd_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) {
  CHECK_GE(event_fd_, 0);
  CHECK_GE(timer_fd_, 0);
}

UcxWatch::~UcxWatch() {
  ::close(event_fd_);
  ::close(timer_fd_);
}

void UcxWatch::set_timer(int64_t ns) const {
  const itimerspec once{.it_interval = {},
                        .it_value = {.tv_sec = 0, .tv_nsec = static_cast<int>(ns)}};
  CHECK_EQ(timerfd_settime(timer_fd_, 0, &once, nullptr), 0);
}

void UcxWatch::signal() const {
  const uint64_t one = 1;
  [[maybe_unused]] const auto n = ::write(event_fd_, &one, sizeof(one));
}

void UcxWatch::wake() {
  const std::lock_guard lock(mutex_);
  if (holder_ == Holder::kNobody) {
    set_timer(1);
  } else {
    signal();
  }
}

void UcxWatch::woke() {
  uint64_t count = 0;
  [[maybe_unused]] const auto n = ::read(event_fd_, &count, sizeof(count));
}

void UcxWatch::leave() {
  const std::lock_guard lock(mutex_);
  CHECK(holder_ != Holder::kNobody);
  if (guest_waits_) {
    holder_ = Holder::kGuest;
    changed_.notify_one();
  } else {
    holder_ = Holder::kNobody;
    set_timer(kAwayNs);
  }
}

bool UcxWatch::is_kept() {
  const std::lock_guard lock(mutex_);
  return holder_ != Holder::kNobody;
}

bool UcxWatch::is_wanted() {
  const std::lock_guard lock(mutex_);
  return guest_waits_;
}

void UcxWatch::resume() {
  for (;;) {
    uint64_t count = 0;
    [[maybe_unused]] const auto n = ::read(timer_fd_, &count, sizeof(count));
    const std::lock_guard lock(mutex_);
    if (holder_ != Holder::kNobody) continue;
    holder_ = Holder::kDriver;
    return;
  }
}

bool UcxWatch::take(const std::function<bool()>& done) {
  std::unique_lock lock(mutex_);
  while (!done()) {
    if (holder_ == Holder::kNobody) {
      holder_ = Holder::kGuest;
      set_timer(0);
    } else {
      guest_waits_ = true;
      signal();  // the driver's thread shall leave
      changed_.wait(lock);
      guest_waits_ = false;
    }
    if (holder_ == Holder::kGuest) return true;
  }
  return false;
}

void UcxWatch::call_guest() {
  const std::lock_guard lock(mutex_);
  if (holder_ == Holder::kGuest) {
    signal();
  } else if (guest_waits_) {
    changed_.notify_one();
  }
}

}  // namespace troupe::transport
