#include "actors/gateway_actor.hpp"

#include <atomic>
#include <map>
#include <utility>

#include "actors/messages.hpp"
#include "actors/system.hpp"

namespace troupe::actors {
namespace {

constexpr std::chrono::seconds kStatusTimeout{2};

struct GatewayState {
  struct OpenStream {
    ClusterClient::EventHandler on_event;
    bool admitted = false;
  };
  static inline const char* name = "gateway";
  std::map<RequestId, OpenStream> streams;
  bool scheduler_ended = false;
};

/// What a client hears of a request that the scheduler, which is no more, can not answer.
scheduler::ClientEvent without_scheduler(RequestId request, bool admitted) {
  Error error{Code::kUnavailable, "the scheduler ended; the request cannot go on"};
  if (admitted) return scheduler::Failed{request, std::move(error)};
  return scheduler::Refused{request, std::move(error), seconds(1)};
}

bool ends_stream(const scheduler::ClientEvent& event) {
  return !std::holds_alternative<scheduler::Admitted>(event) &&
         !std::holds_alternative<scheduler::TokensEmitted>(event);
}

caf::behavior gateway_actor(caf::stateful_actor<GatewayState>* self, caf::actor scheduler,
                            std::shared_ptr<std::atomic<bool>> serving) {
  self->monitor(scheduler);
  self->set_down_handler([=](const caf::down_msg&) {
    serving->store(false);
    self->state.scheduler_ended = true;
    for (const auto& [request, stream] : self->state.streams) {
      stream.on_event(without_scheduler(request, stream.admitted));
    }
    self->state.streams.clear();
  });
  self->send(scheduler, WatchServing{});
  return {
      [=](const LocalSubmit& msg) {
        if (self->state.scheduler_ended) {
          return msg.on_event(without_scheduler(msg.request, false));
        }
        self->state.streams[msg.request] = {.on_event = msg.on_event};
        self->send(scheduler, SubmitRequest{msg.request, msg.spec});
      },
      [=](const CancelRequest& msg) {
        if (self->state.streams.erase(msg.request) != 0) self->send(scheduler, msg);
      },
      [=](const ClientEventArrived& msg) {
        const auto stream = self->state.streams.find(msg.request);
        if (stream == self->state.streams.end()) return;  // cancelled meanwhile
        stream->second.admitted = true;                   // whatever comes first admits or ends it
        const ClusterClient::EventHandler on_event = stream->second.on_event;
        if (ends_stream(msg.event)) self->state.streams.erase(stream);
        on_event(msg.event);
      },
      [=](const DrainNode& msg) { self->send(scheduler, msg); },
      [=](const ServingChanged& msg) { serving->store(msg.serving); },
      [=](const LocalExpertsQuery& msg) {
        const auto on_status = msg.on_status;
        self->request(scheduler, kStatusTimeout, ExpertsQuery{msg.rebalance})
            .then([=](const ExpertsAnswer& answer) { on_status(answer.status); },
                  [=](const caf::error&) {
                    on_status(Error{Code::kUnavailable,
                                    "the scheduler did not answer within two seconds"});
                  });
      },
      [=](const LocalStatusQuery& msg) {
        const auto on_status = msg.on_status;
        self->request(scheduler, kStatusTimeout, ClusterStatusQuery{msg.check})
            .then([=](const ClusterStatus& status) { on_status(status); },
                  [=](const caf::error&) {
                    ClusterStatus unknown;
                    unknown.condition = "the scheduler did not answer within two seconds";
                    on_status(unknown);
                  });
      },
  };
}

class ActorClusterClient : public ClusterClient {
 public:
  ActorClusterClient(caf::actor_system& system, const caf::actor& scheduler)
      : gateway_(system.spawn(gateway_actor, scheduler, serving_)),
        next_request_(fresh_node_id().value >> 2) {}  // far below kvcache::kFirstGuest
  ~ActorClusterClient() override { caf::anon_send_exit(gateway_, caf::exit_reason::user_shutdown); }

  RequestId submit(scheduler::RequestSpec spec, EventHandler on_event) override {
    // Counting up from a random start: unique over the lives of all gateways of a cluster.
    const RequestId request{next_request_.fetch_add(1)};
    caf::anon_send(gateway_, LocalSubmit{request, std::move(spec), std::move(on_event)});
    return request;
  }
  void cancel(RequestId request) override { caf::anon_send(gateway_, CancelRequest{request}); }
  void drain(const std::string& node, bool drained) override {
    caf::anon_send(gateway_, DrainNode{node, drained});
  }
  [[nodiscard]] bool serving() const override { return serving_->load(); }
  void status(bool check, std::function<void(ClusterStatus)> on_status) override {
    caf::anon_send(gateway_, LocalStatusQuery{check, std::move(on_status)});
  }
  void experts(bool rebalance, std::function<void(Result<ExpertsStatus>)> on_status) override {
    caf::anon_send(gateway_, LocalExpertsQuery{rebalance, std::move(on_status)});
  }

 private:
  std::shared_ptr<std::atomic<bool>> serving_ = std::make_shared<std::atomic<bool>>(false);
  caf::actor gateway_;
  std::atomic<uint64_t> next_request_;
};

}  // namespace

std::unique_ptr<ClusterClient> make_cluster_client(caf::actor_system& system,
                                                   caf::actor scheduler) {
  return std::make_unique<ActorClusterClient>(system, scheduler);
}

}  // namespace troupe::actors
