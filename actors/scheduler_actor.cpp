#include "actors/scheduler_actor.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "actors/instant.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::chrono::milliseconds kStatusTimeout{1000};

}  // namespace

class SchedulerShell {
 public:
  SchedulerShell(caf::stateful_actor<SchedulerActorState>* self, SchedulerActorOptions options)
      : self_(self),
        options_(std::move(options)),
        scheduler_(options_.scheduler),
        membership_(options_.membership, now(self)),
        balance_(options_.model, options_.pins, options_.balance) {
    schedule_wake();
    schedule_balance();
  }

  void join(const JoinCluster& msg) {
    const NodeId id = msg.info.id;
    if (!nodes_.try_emplace(id, Node{msg.node, msg.worker}).second) {
      // Ids are 64 random bits: this is a confused or hostile process, not an accident.
      self_->send(msg.node, JoinRejected{{Code::kInvalidArgument, "this node id is taken"}});
      return;
    }
    self_->monitor(msg.node);
    on_membership(cluster::NodeJoining{msg.info});
  }

  void down(const caf::down_msg& msg) {
    for (const auto& [id, node] : nodes_) {
      if (node.node.address() == msg.source) {
        log::warning("node_lost", {{"node", id}, {"reason", self_->system().render(msg.reason)}});
        on_membership(cluster::NodeLost{
            id, "connection to its process ended: " + self_->system().render(msg.reason)});
        on_scheduler(scheduler::RouterGone{id});
        nodes_.erase(id);
        return;
      }
    }
    std::vector<RequestId> orphans;
    for (const auto& [request, client] : clients_) {
      if (client.address() == msg.source) orphans.push_back(request);
    }
    for (const RequestId request : orphans) cancel(request);
    watchers_.erase(std::remove_if(watchers_.begin(), watchers_.end(),
                                   [&](const caf::actor& a) { return a.address() == msg.source; }),
                    watchers_.end());
  }

  void submit(const SubmitRequest& msg, const caf::actor& client) {
    clients_[msg.request] = client;
    on_scheduler(scheduler::Submitted{msg.request, msg.spec});
  }

  void cancel(RequestId request) {
    clients_.erase(request);
    on_scheduler(scheduler::Cancelled{request});
  }

  void watch(const caf::actor& client) {
    self_->monitor(client);
    watchers_.push_back(client);
    self_->send(client, ServingChanged{membership_.serving()});
  }

  void emitted(const StepTokens& msg) {
    for (const Emission& emission : msg.emissions) {
      on_scheduler(scheduler::RouterEmitted{msg.router, emission.request, emission.attempt,
                                            emission.first, emission.tokens, emission.num_cached,
                                            emission.prompt_logprobs});
      if (emission.finished) {
        on_scheduler(scheduler::RouterFinished{msg.router, emission.request, emission.attempt,
                                               emission.reason});
      }
    }
  }

  void drain(const DrainNode& msg) {
    const auto& expected = options_.membership.expected;
    if (std::ranges::count(expected, std::pair(msg.node, cluster::Role::kRouter)) == 0) return;
    if (msg.drained) {
      drained_.insert(msg.node);
    } else {
      drained_.erase(msg.node);
    }
    log::info("drain", {{"node", msg.node}, {"drained", msg.drained ? "yes" : "no"}});
    tell_drained();
  }

  void wake(const Wake& msg) {
    if (wake_at_ && msg.at_ns == wake_at_->ns) wake_at_.reset();
    on_membership(cluster::Tick{});
    on_scheduler(scheduler::Tick{});
  }

  void on_scheduler(const scheduler::SchedulerEvent& event) {
    tell_scheduler(event);
    tell_running();
    schedule_wake();
  }

  void tell_scheduler(const scheduler::SchedulerEvent& event) {
    for (scheduler::SchedulerEffect& effect : scheduler_.handle(event, now(self_))) {
      std::visit([this](auto& e) { perform(e); }, effect);
    }
  }

  void on_membership(const cluster::MembershipEvent& event) {
    for (const cluster::MembershipEffect& effect : membership_.handle(event, now(self_))) {
      std::visit([this](const auto& e) { perform(e); }, effect);
    }
    if (!membership_.can_serve()) {
      on_scheduler(scheduler::CannotServe{{Code::kUnavailable, membership_.condition()}});
    }
    schedule_wake();
  }

  void load_reported(const ExpertLoadReport& msg) {
    balance_.report(msg.node, msg.rows, now(self_));
  }

  /// Time for a change of placement, if the loads call for one.
  void balance_due() {
    if (membership_.can_change()) rebalance(false);
    schedule_balance();
  }

  Result<ExpertsStatus> experts(const ExpertsQuery& msg) {
    if (msg.rebalance) {
      if (!membership_.can_change()) {
        return Error{Code::kUnavailable,
                     "the placement cannot be changed now: " + membership_.condition()};
      }
      rebalance(true);
    }
    return balance_.status();
  }

  /// Asks every worker for its part and answers when all have, or have taken too long.
  void status(bool check, caf::response_promise promise) {
    struct Pending {
      ClusterStatus status;
      size_t missing = 0;
      caf::response_promise promise;
    };
    auto pending = std::make_shared<Pending>();
    pending->promise = std::move(promise);
    pending->status.checked = check;
    if (check) pending->status.problem = scheduler_.check();
    if (check && pending->status.problem.empty()) pending->status.problem = membership_.check();
    pending->status.serving = membership_.serving();
    pending->status.condition = membership_.condition();
    pending->status.epoch = membership_.epoch();
    pending->status.counts = scheduler_.counts();
    pending->status.expert_balancedness = balance_.balancedness();
    pending->status.num_placement_changes = balance_.num_changes();
    for (const cluster::MemberView& member : membership_.members()) {
      pending->status.nodes.push_back(
          NodeStatus{.member = member, .drained = drained_.contains(member.info.name)});
    }
    pending->missing = pending->status.nodes.size() + 1;
    const auto arrived = [pending] {
      if (--pending->missing == 0) pending->promise.deliver(pending->status);
    };
    for (size_t i = 0; i < pending->status.nodes.size(); ++i) {
      const auto node = nodes_.find(pending->status.nodes[i].member.info.id);
      if (node == nodes_.end()) {
        arrived();
        continue;
      }
      self_
          ->request(node->second.worker, kStatusTimeout,
                    WorkerStatusQuery{membership_.epoch(), check})
          .then(
              [pending, arrived, i](WorkerStatus& worker) {
                NodeStatus& into = pending->status.nodes[i];
                into.num_experts_held = worker.num_experts_held;
                into.experts = std::move(worker.experts);
                into.kv_blocks_used = worker.kv_blocks_used;
                into.kv_blocks_total = worker.kv_blocks_total;
                into.rows_computed = worker.rows_computed;
                into.links = std::move(worker.links);
                into.prefix_cache = worker.prefix_cache;
                into.num_preempted = worker.num_preempted;
                into.num_fetched_blocks = worker.num_fetched_blocks;
                into.problem = std::move(worker.problem);
                arrived();
              },
              [pending, arrived, i](const caf::error&) {
                NodeStatus& silent = pending->status.nodes[i];
                if (pending->status.checked) silent.problem = "it did not answer";
                arrived();
              });
    }
    arrived();
  }

 private:
  struct Node {
    caf::actor node;
    caf::actor worker;
  };

  // --- effects of the scheduler's core ---
  void perform(scheduler::Tell& e) {
    const auto client = clients_.find(e.request);
    if (client == clients_.end()) return;  // cancelled by a client that is gone
    const bool last = !std::holds_alternative<scheduler::Admitted>(e.event) &&
                      !std::holds_alternative<scheduler::TokensEmitted>(e.event);
    self_->send(client->second, ClientEventArrived{e.request, std::move(e.event)});
    if (last) clients_.erase(client);
  }
  void perform(scheduler::StartOnRouter& e) {
    const auto node = nodes_.find(e.router);
    if (node == nodes_.end()) return;  // its loss is the next event
    self_->send(node->second.worker,
                StartRequest{e.request, e.attempt, std::move(e.spec), std::move(e.emitted), e.order,
                             e.kv_from.value_or(NodeId{})});
  }
  void perform(scheduler::CancelOnRouter& e) {
    const auto node = nodes_.find(e.router);
    if (node != nodes_.end()) {
      self_->send(node->second.worker, CancelAttempt{e.request, e.attempt});
    }
  }

  // --- effects of the membership's core ---
  void perform(const cluster::AcceptNode& e) {
    log::info("node_accepted", {{"node", e.node}});
    self_->send(nodes_.at(e.node).node, JoinAccepted{options_.cluster});
  }
  void perform(const cluster::RejectNode& e) {
    log::warning("node_rejected", {{"node", e.node}, {"reason", e.error.message}});
    dismiss(e.node, e.error);
  }
  void perform(const cluster::DropNode& e) {
    log::warning("node_dropped", {{"node", e.node}, {"reason", e.reason.message}});
    dismiss(e.node, e.reason);
  }
  void perform(const cluster::FormEpoch& e) {
    const auto placed = balance_.place(e.epoch, e.shards);
    if (!placed.ok()) {
      log::error("placement_failed", {{"epoch", e.epoch}, {"reason", placed.error().message}});
      return;
    }
    balance_.formed(*placed, e.shards);
    FormEpochRequest request{
        .placement = *placed, .routers = peers(e.routers), .shards = peers(e.shards)};
    log::info("epoch_forming",
              {{"epoch", e.epoch}, {"routers", e.routers.size()}, {"shards", e.shards.size()}});
    tell(e.routers, request);
    tell(e.shards, request);
    routers_.clear();
    routers_.reserve(e.routers.size());
    for (const cluster::NodeInfo& info : e.routers) routers_.push_back(info.id);
  }
  void perform(const cluster::StartServing& e) {
    log::info("serving", {{"epoch", e.epoch}});
    for (const NodeId router : routers_) tell_scheduler(scheduler::RouterUp{router});
    tell_serving(true);
    told_running_.reset();  // the membership has forgotten it
    tell_drained();         // the first that may end this epoch, if a node waits and nothing runs
  }
  void perform(const cluster::PrepareEpoch& e) {
    const experts::Placement& placement = balance_.proposed(e.epoch);
    log::info("placement_changing", {{"epoch", e.epoch}, {"change", balance_.last_change()}});
    tell(e.shards, PrepareEpochRequest{placement});
  }
  void perform(const cluster::SwitchEpoch& e) {
    tell(e.routers, SwitchEpochRequest{balance_.proposed(e.epoch)});
  }
  void perform(const cluster::KeepEpoch& e) {
    if (e.abandoned) {
      log::warning("placement_change_abandoned",
                   {{"epoch", e.epoch}, {"reason", e.abandoned->message}});
      balance_.abandoned(e.abandoned->message);
    } else {
      balance_.accepted();
      log::info("placement_changed", {{"epoch", e.epoch}});
    }
    tell(e.shards, KeepEpochRequest{e.epoch});
  }
  void perform(const cluster::StopServing& e) {
    log::warning("serving_stopped", {{"epoch", e.epoch}, {"reason", e.reason.message}});
    balance_.abandoned(e.reason.message);
    tell_serving(false);  // before any client hears of it: /health must not lag behind
    for (const auto& [id, node] : nodes_) self_->send(node.worker, EpochEnded{e.epoch});
    const bool recovering = membership_.can_serve();
    on_scheduler(scheduler::RoutersDown{routers_, e.reason, recovering});
  }

  /// The scheduler's core knows routers by id, operators by name: a node comes back with another
  /// id.
  void tell_drained() {
    for (const cluster::MemberView& member : membership_.members()) {
      const bool drained = drained_.contains(member.info.name);
      on_scheduler(scheduler::Drained{member.info.id, drained});
    }
  }

  template <class Message>
  void tell(const std::vector<cluster::NodeInfo>& nodes, const Message& message) {
    for (const cluster::NodeInfo& info : nodes) self_->send(nodes_.at(info.id).worker, message);
  }

  /// REQUIRES: membership_.can_change().
  void rebalance(bool asked) {
    if (balance_.propose(asked)) on_membership(cluster::ChangePlacement{});
  }

  static std::vector<Peer> peers(const std::vector<cluster::NodeInfo>& infos) {
    std::vector<Peer> result;
    result.reserve(infos.size());
    for (const cluster::NodeInfo& info : infos) {
      result.push_back({info.id, info.name, info.link_address});
    }
    return result;
  }

  void dismiss(NodeId id, const Error& reason) {
    const auto node = nodes_.find(id);
    if (node == nodes_.end()) return;
    self_->send(node->second.node, JoinRejected{reason});
    self_->demonitor(node->second.node);
    nodes_.erase(node);
    on_scheduler(scheduler::RouterGone{id});
  }

  void tell_serving(bool serving) {
    for (const caf::actor& watcher : watchers_) self_->send(watcher, ServingChanged{serving});
  }

  /// A node that waits to be taken in is taken when no request runs.
  void tell_running() {
    const scheduler::SchedulerCounts counts = scheduler_.counts();
    const uint64_t running = counts.running + counts.queued;
    if (running == told_running_) return;
    told_running_ = running;
    on_membership(cluster::RequestsRunning{running});
  }

  void schedule_balance() {
    if (options_.balance.interval == Duration{}) return;
    self_->delayed_send(self_, std::chrono::nanoseconds(options_.balance.interval.ns),
                        BalanceDue{});
  }

  void schedule_wake() {
    std::optional<Instant> next = scheduler_.next_deadline();
    if (const auto other = membership_.next_deadline(); other && (!next || *other < *next)) {
      next = other;
    }
    if (!next || (wake_at_ && *wake_at_ <= *next)) return;
    wake_at_ = next;
    const int64_t wait_ns = std::max<int64_t>(0, (*next - now(self_)).ns);
    self_->delayed_send(self_, std::chrono::nanoseconds(wait_ns), Wake{next->ns});
  }

  caf::stateful_actor<SchedulerActorState>* self_;
  SchedulerActorOptions options_;
  scheduler::Scheduler scheduler_;
  cluster::Membership membership_;
  ExpertBalance balance_;
  std::map<NodeId, Node> nodes_;
  std::map<RequestId, caf::actor> clients_;
  std::vector<caf::actor> watchers_;
  std::vector<NodeId> routers_;    ///< of the epoch in force
  std::set<std::string> drained_;  ///< names of nodes
  std::optional<Instant> wake_at_;
  std::optional<uint64_t> told_running_ = 0;
};

caf::behavior scheduler_actor(caf::stateful_actor<SchedulerActorState>* self,
                              SchedulerActorOptions options) {
  self->state.shell = std::make_shared<SchedulerShell>(self, std::move(options));
  SchedulerShell* shell = self->state.shell.get();
  self->set_down_handler([=](const caf::down_msg& msg) { shell->down(msg); });
  return {
      [=](const JoinCluster& msg) { shell->join(msg); },
      [=](const NodeReadyReport& msg) {
        shell->on_membership(cluster::NodeReady{msg.node, msg.epoch});
      },
      [=](const NodeFailedReport& msg) {
        shell->on_membership(cluster::NodeFailed{msg.node, msg.epoch, msg.error});
      },
      [=](const ExpertLoadReport& msg) { shell->load_reported(msg); },
      [=](const BalanceDue&) { shell->balance_due(); },
      [=](const ExpertsQuery& msg) { return ExpertsAnswer{shell->experts(msg)}; },
      [=](const StepTokens& msg) { shell->emitted(msg); },
      [=](const RequestFailed& msg) {
        shell->on_scheduler(
            scheduler::RouterFailed{msg.router, msg.request, msg.attempt, msg.error});
      },
      [=](const SubmitRequest& msg) {
        shell->submit(msg, caf::actor_cast<caf::actor>(self->current_sender()));
      },
      [=](const CancelRequest& msg) { shell->cancel(msg.request); },
      [=](const WatchServing&) {
        shell->watch(caf::actor_cast<caf::actor>(self->current_sender()));
      },
      [=](const DrainNode& msg) { shell->drain(msg); },
      [=](const Wake& msg) { shell->wake(msg); },
      [=](const ClusterStatusQuery& msg) -> caf::result<ClusterStatus> {
        auto promise = self->make_response_promise();
        shell->status(msg.check, promise);
        return promise;
      },
      [=](const StopCluster&) { shell->on_scheduler(scheduler::Stopping{}); },
  };
}

}  // namespace troupe::actors
