#pragma once

// Who sleeps until a UCX port has something to do: the driver's own thread, or a guest, a thread
// that waits for frames anyway and handles them with no other thread woken. The driver's thread
// hands the watch to a guest that asks for it, and has it back when the guest is away for too long.

#include <condition_variable>
#include <functional>
#include <mutex>

namespace troupe::transport {

/// Thread-safe. There is one guest at a time.
class UcxWatch {
 public:
  UcxWatch();  ///< the driver's thread has it
  ~UcxWatch();
  UcxWatch(const UcxWatch&) = delete;
  UcxWatch& operator=(const UcxWatch&) = delete;

  /// Readable from wake() to woke(): whoever has the watch sleeps on it, among others.
  [[nodiscard]] int event_fd() const { return event_fd_; }
  /// Wakes whoever has the watch. If nobody has it, the driver's thread takes it.
  void wake();
  void woke();

  /// By whoever has it: hands it to a guest that waits. Without one nobody has it; if that lasts
  /// for a few milliseconds, the driver's thread takes it.
  void leave();

  /// Whether somebody has it. Who has the driver's turn may rely on a yes: only with the turn is
  /// the watch left. A no may end at any time.
  [[nodiscard]] bool is_kept();

  /// Of the driver's thread: whether a guest waits for it to leave.
  [[nodiscard]] bool is_wanted();
  /// Of the driver's thread, which has left: returns when it has the watch again.
  void resume();

  /// Of the guest: true once it has the watch, false once `done` says so. `done` runs under this
  /// object's lock.
  bool take(const std::function<bool()>& done);
  /// Has the guest look at `done` again, in take() or where it sleeps; else nothing.
  void call_guest();

 private:
  enum class Holder : uint8_t { kNobody, kDriver, kGuest };
  void set_timer(int64_t ns) const;  // 0: never
  void signal() const;

  const int event_fd_;
  const int timer_fd_;  // what the driver's thread sleeps on when it has not the watch
  std::mutex mutex_;
  std::condition_variable changed_;  // for the guest
  Holder holder_ = Holder::kDriver;
  bool guest_waits_ = false;
};

}  // namespace troupe::transport
