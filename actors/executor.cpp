#include "actors/executor.hpp"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

namespace troupe::actors {
namespace {

class ThreadExecutor : public Executor {
 public:
  ThreadExecutor() : thread_([this] { run(); }) {}
  ~ThreadExecutor() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      call();
    }
    thread_.join();
  }

  void submit(std::function<void()> job) override {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    call();
  }

  void drive_when_idle(transport::Port* port) override {
    std::unique_lock lock(mutex_);
    port_ = port;
    call();
    if (port == nullptr) changed_.wait(lock, [this] { return driven_ == nullptr; });
  }

 private:
  /// Has the thread look at what there is. Under the lock.
  void call() {
    called_ = true;
    // A handler that the thread runs while it drives needs to wake nobody.
    if (std::this_thread::get_id() == thread_.get_id()) return;
    changed_.notify_all();
    if (driven_ != nullptr) driven_->call_driver();
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (jobs_.empty()) {
        wait(lock);
        continue;
      }
      std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      job = nullptr;  // what it holds may be the last of its kind
      lock.lock();
    }
  }

  void wait(std::unique_lock<std::mutex>& lock) {
    called_ = false;
    bool drove = false;
    if (port_ != nullptr) {
      driven_ = port_;
      lock.unlock();
      drove = driven_->drive([this] { return called_.load(); });
      lock.lock();
      driven_ = nullptr;
      changed_.notify_all();  // for drive_when_idle()
    }
    if (!drove) changed_.wait(lock, [this] { return called_.load(); });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::atomic<bool> called_ = false;  // written under the lock
  transport::Port* port_ = nullptr;
  transport::Port* driven_ = nullptr;  // while the thread is in its drive()
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Executor> make_thread_executor() { return std::make_unique<ThreadExecutor>(); }

}  // namespace troupe::actors
