// What the thread of an executor does while it has no job.

#include "actors/executor.hpp"

#include <gtest/gtest.h>

#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>

namespace troupe::actors {
namespace {

/// A port whose guest waits to be called, and runs what the test hands it meanwhile.
class FakePort final : public transport::Port {
 public:
  explicit FakePort(bool has_thread = true) : has_thread_(has_thread) {}

  [[nodiscard]] std::string address() const override { return ""; }
  Result<std::shared_ptr<transport::Link>> connect(NodeId, const std::string&) override {
    return Error{Code::kUnsupported, "a fake"};
  }
  [[nodiscard]] transport::PortStats stats() const override { return {}; }

  bool drive(const std::function<bool()>& done) override {
    std::unique_lock lock(mutex_);
    ++num_drives_;
    if (!has_thread_) return false;
    driver_ = std::this_thread::get_id();
    changed_.notify_all();
    while (!done()) {
      if (auto frame = std::exchange(frame_, nullptr)) {
        lock.unlock();
        frame();
        lock.lock();
      } else {
        changed_.wait(lock);
      }
    }
    driver_ = {};
    changed_.notify_all();
    return true;
  }
  void call_driver() override {
    const std::lock_guard lock(mutex_);
    ++num_calls_;
    changed_.notify_all();
  }

  /// Waits until the guest is there and has it handle a frame.
  void arrive(std::function<void()> frame) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return driver_ != std::thread::id(); });
    frame_ = std::move(frame);
    changed_.notify_all();
  }
  std::thread::id wait_for_driver() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return driver_ != std::thread::id(); });
    return driver_;
  }
  bool is_driven() {
    const std::lock_guard lock(mutex_);
    return driver_ != std::thread::id();
  }
  int num_calls() {
    const std::lock_guard lock(mutex_);
    return num_calls_;
  }
  int num_drives() {
    const std::lock_guard lock(mutex_);
    return num_drives_;
  }

 private:
  const bool has_thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread::id driver_;
  std::function<void()> frame_;
  int num_drives_ = 0, num_calls_ = 0;
};

std::thread::id thread_of_a_job(Executor& executor) {
  std::promise<std::thread::id> ran;
  executor.submit([&] { ran.set_value(std::this_thread::get_id()); });
  return ran.get_future().get();
}

TEST(ThreadExecutor, DrivesThePortWhileItHasNoJob) {
  FakePort port;
  const auto executor = make_thread_executor();
  executor->drive_when_idle(&port);
  const std::thread::id driver = port.wait_for_driver();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(thread_of_a_job(*executor), driver) << "it left the port for the job";
    EXPECT_EQ(port.wait_for_driver(), driver) << "and came back";
  }
  executor->drive_when_idle(nullptr);
}

TEST(ThreadExecutor, RunsWhatAFrameBroughtAndIsNotCalledForIt) {
  FakePort port;
  const auto executor = make_thread_executor();
  executor->drive_when_idle(&port);
  port.wait_for_driver();
  const int before = port.num_calls();
  std::promise<std::thread::id> handled, ran;
  port.arrive([&] {
    executor->submit([&] { ran.set_value(std::this_thread::get_id()); });
    handled.set_value(std::this_thread::get_id());
  });
  EXPECT_EQ(handled.get_future().get(), ran.get_future().get());
  EXPECT_EQ(port.num_calls(), before);
}

TEST(ThreadExecutor, LeavesThePortBeforeItEnds) {
  const auto executor = make_thread_executor();
  {
    FakePort port;
    executor->drive_when_idle(&port);
    port.wait_for_driver();
    executor->drive_when_idle(nullptr);
    EXPECT_FALSE(port.is_driven());
  }
  EXPECT_NE(thread_of_a_job(*executor), std::this_thread::get_id());
}

TEST(ThreadExecutor, EndsWhileItDrives) {
  FakePort port;
  auto executor = make_thread_executor();
  executor->drive_when_idle(&port);
  port.wait_for_driver();
  executor.reset();
  EXPECT_FALSE(port.is_driven());
}

TEST(ThreadExecutor, SleepsWhereThePortNeedsNobody) {
  FakePort port(/*has_thread=*/false);
  const auto executor = make_thread_executor();
  executor->drive_when_idle(&port);
  for (int i = 0; i < 10; ++i) thread_of_a_job(*executor);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_LE(port.num_drives(), 11) << "asked once and after each job, not again and again";
}

}  // namespace
}  // namespace troupe::actors
