#include "gateway/status_exchange.hpp"

#include <mutex>
#include <utility>

namespace troupe::gateway {
namespace {

constexpr Duration kLongestWait = seconds(5);  // the cluster itself answers within 2 s

/// Outlives the exchange in the hands of the cluster.
template <class Status>
struct Slot {
  std::mutex mutex;
  std::optional<Status> status;
  std::function<void()> wake;
};

template <class Status>
class StatusExchange final : public Exchange {
 public:
  using Ask = std::function<void(std::function<void(Status)>)>;
  StatusExchange(Ask ask, std::function<HttpResponse(const Status&)> render)
      : ask_(std::move(ask)), render_(std::move(render)) {}
  ~StatusExchange() override { close(); }

  void start(std::function<void()> wake) override {
    slot_->wake = std::move(wake);
    ask_([slot = slot_](Status status) {
      const std::lock_guard lock(slot->mutex);
      slot->status = std::move(status);
      if (slot->wake) slot->wake();
    });
  }

  Progress poll(Instant now) override {
    if (!deadline_) deadline_ = now + kLongestWait;
    std::optional<Status> status;
    {
      const std::lock_guard lock(slot_->mutex);
      status = std::exchange(slot_->status, std::nullopt);
    }
    if (status) return end(render_(*status));
    if (now < *deadline_) return {};
    return end(error_response(
        from_error({Code::kUnavailable, "The cluster did not report its state in time."})));
  }

  void abandon(Instant) override { close(); }

  Progress interrupt(const ApiError& reason, Instant) override {
    return end(error_response(reason));
  }

 private:
  void close() {
    const std::lock_guard lock(slot_->mutex);
    slot_->wake = nullptr;
  }
  Progress end(HttpResponse response) {
    close();
    Progress progress;
    progress.response = std::move(response);
    progress.done = true;
    return progress;
  }

  Ask ask_;
  std::function<HttpResponse(const Status&)> render_;
  std::shared_ptr<Slot<Status>> slot_ = std::make_shared<Slot<Status>>();
  std::optional<Instant> deadline_;
};

}  // namespace

std::unique_ptr<Exchange> make_status_exchange(
    actors::ClusterClient& client, bool check,
    std::function<HttpResponse(const actors::ClusterStatus&)> render) {
  return std::make_unique<StatusExchange<actors::ClusterStatus>>(
      [&client, check](auto on_status) { client.status(check, std::move(on_status)); },
      std::move(render));
}

std::unique_ptr<Exchange> make_experts_exchange(
    actors::ClusterClient& client, bool rebalance,
    std::function<HttpResponse(const actors::ExpertsStatus&)> render) {
  using Answer = Result<actors::ExpertsStatus>;
  return std::make_unique<StatusExchange<Answer>>(
      [&client, rebalance](auto on_status) { client.experts(rebalance, std::move(on_status)); },
      [render = std::move(render)](const Answer& answer) {
        return answer.ok() ? render(*answer) : error_response(from_error(answer.error()));
      });
}

}  // namespace troupe::gateway
