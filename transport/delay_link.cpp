// A decorator: what passes through it arrives later by a fixed time, as over a long cable. Order is
// kept. A loopback cluster behind it behaves as one whose nodes are that far apart.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

using Clock = std::chrono::steady_clock;

/// What is under way, and the thread that delivers it.
class Cable {
 public:
  explicit Cable(Duration delay) : delay_(delay.ns), thread_([this] { deliver(); }) {}
  ~Cable() {
    {
      const std::lock_guard lock(mutex_);
      cut_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  Cable(const Cable&) = delete;
  Cable& operator=(const Cable&) = delete;

  void send(std::shared_ptr<Link> link, EncodedFrame frame) {
    {
      const std::lock_guard lock(mutex_);
      under_way_.push_back({Clock::now() + delay_, std::move(link), std::move(frame)});
    }
    changed_.notify_one();
  }

 private:
  struct Travelling {
    Clock::time_point due;
    std::shared_ptr<Link> link;
    EncodedFrame frame;
  };

  void deliver() {
    std::unique_lock lock(mutex_);
    while (!cut_) {
      if (under_way_.empty()) {
        changed_.wait(lock);
        continue;
      }
      if (const auto due = under_way_.front().due; Clock::now() < due) {
        changed_.wait_until(lock, due);
        continue;
      }
      Travelling arrived = std::move(under_way_.front());
      under_way_.pop_front();
      lock.unlock();
      // A link that failed meanwhile has told its owner through its port.
      (void)arrived.link->send_encoded(std::move(arrived.frame));
      arrived = {};
      lock.lock();
    }
  }

  const std::chrono::nanoseconds delay_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Travelling> under_way_;  ///< as many as the receivers' credits allow
  bool cut_ = false;
  std::thread thread_;  ///< last: it uses all of the above
};

class DelayLink final : public Link {
 public:
  DelayLink(std::shared_ptr<Link> inner, std::shared_ptr<Cable> cable)
      : inner_(std::move(inner)), cable_(std::move(cable)) {}

  Result<void> send(Frame frame) override { return send_encoded(TRY(encode(std::move(frame)))); }
  Result<EncodedFrame> encode(Frame frame) const override {
    return inner_->encode(std::move(frame));
  }
  Result<void> send_encoded(EncodedFrame frame) override {
    cable_->send(inner_, std::move(frame));
    return {};
  }
  void close() override { inner_->close(); }
  [[nodiscard]] LinkStats stats() const override { return inner_->stats(); }

 private:
  const std::shared_ptr<Link> inner_;
  const std::shared_ptr<Cable> cable_;
};

class DelayPort final : public Port {
 public:
  DelayPort(std::unique_ptr<Port> inner, Duration delay)
      : inner_(std::move(inner)), cable_(std::make_shared<Cable>(delay)) {}

  [[nodiscard]] std::string address() const override { return inner_->address(); }
  Result<std::shared_ptr<Link>> connect(NodeId peer, const std::string& address) override {
    auto link = TRY(inner_->connect(peer, address));
    return std::shared_ptr<Link>(std::make_shared<DelayLink>(std::move(link), cable_));
  }
  bool drive(const std::function<bool()>& done) override { return inner_->drive(done); }
  void call_driver() override { inner_->call_driver(); }
  [[nodiscard]] PortStats stats() const override { return inner_->stats(); }

 private:
  const std::unique_ptr<Port> inner_;
  const std::shared_ptr<Cable> cable_;
};

}  // namespace

std::unique_ptr<Port> make_delay_port(std::unique_ptr<Port> inner, Duration delay) {
  return std::make_unique<DelayPort>(std::move(inner), delay);
}

}  // namespace troupe::transport
