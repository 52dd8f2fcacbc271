#include "actors/expert_shard_actor.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "actors/messages.hpp"
#include "actors/shard_engine.hpp"
#include "base/check.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::chrono::seconds kLoadInterval{1};

/// A dispatch as it waits and is computed.
struct PendingDispatch {
  transport::Frame frame;
  std::shared_ptr<transport::Link> link = nullptr;  ///< to its router
  Result<void> answered;                            ///< once it is computed
};

/// What is in `wanted` and not in `held`, both ascending.
std::vector<experts::ExpertKey> missing_in(const std::vector<experts::ExpertKey>& held,
                                           const std::vector<experts::ExpertKey>& wanted) {
  std::vector<experts::ExpertKey> missing;
  std::ranges::set_difference(wanted, held, std::back_inserter(missing));
  return missing;
}

/// An answer, labelled with the dispatch's own epoch, so that a late one never passes for a newer
/// one.
transport::Frame answer_to(const experts::DispatchKey& key, transport::FrameKind kind,
                           std::shared_ptr<const transport::Buffer> rows, size_t hidden) {
  const size_t row_bytes = hidden * sizeof(float);
  const size_t num_rows = rows == nullptr ? 0 : rows->size() / row_bytes;
  return {.header = {.kind = kind,
                     .epoch = key.epoch,
                     .step = key.step,
                     .layer = key.layer,
                     .attempt = key.attempt,
                     .num_rows = static_cast<uint32_t>(num_rows),
                     .hidden = static_cast<uint32_t>(hidden)},
          .payload = std::move(rows)};
}

/// Computes the batch and answers from here: the routers wait, and the actor has nothing to decide.
void compute_and_answer(ShardEngine& engine, LayerIdx layer, size_t hidden,
                        const std::vector<experts::DispatchKey>& keys,
                        std::vector<PendingDispatch>& batch) {
  std::vector<const transport::Frame*> dispatches;
  for (const PendingDispatch& dispatch : batch) dispatches.push_back(&dispatch.frame);
  auto results = engine.compute(layer, dispatches);
  for (size_t i = 0; i < batch.size(); ++i) {
    batch[i].answered = batch[i].link->send(
        answer_to(keys[i], transport::FrameKind::kCombine, std::move(results[i]), hidden));
  }
}

/// "layers 1-4: 0-5 (24)" for people; a placement without such a shape gives the count alone.
std::string describe(const std::vector<experts::ExpertKey>& held) {
  if (held.empty()) return "none";
  LayerIdx first = held.front().layer, last = first;
  ExpertIdx low = held.front().expert, high = low;
  for (const experts::ExpertKey& key : held) {
    first = std::min(first, key.layer);
    last = std::max(last, key.layer);
    low = std::min(low, key.expert);
    high = std::max(high, key.expert);
  }
  return std::to_string(held.size()) + " in layers " + std::to_string(first) + "-" +
         std::to_string(last) + ", numbers " + std::to_string(low) + "-" + std::to_string(high);
}

}  // namespace

class ExpertShardShell {
 public:
  ExpertShardShell(caf::stateful_actor<ExpertShardState>* self, const WorkerServices* services,
                   caf::actor scheduler, experts::ShardOptions options)
      : self_(self),
        services_(services),
        scheduler_(std::move(scheduler)),
        core_(options),
        engine_(std::make_shared<ShardEngine>(*services->checkpoint, *services->backend,
                                              options.largest_batch(), services->num_threads)),
        load_(services->checkpoint->config().num_layers,
              services->checkpoint->config().num_routed_experts) {}

  void form(const FormEpochRequest& msg) {
    end_epoch(epoch_);
    epoch_ = msg.placement.epoch;
    held_ = msg.placement.held_by(services_->self);
    for (const Peer& router : msg.routers) {
      auto link = services_->port->connect(router.id, router.link_address);
      if (!link.ok()) {
        return report_failure(router.id,
                              Error{link.error()}.with_context("linking " + router.name));
      }
      links_[router.id] = std::move(*link);
      say(transport::FrameKind::kPing, epoch_,
          *links_[router.id]);  // it may have asked before we knew it
    }
    auto loaded = std::make_shared<Result<void>>();
    services_->executor->submit([this, loaded, engine = engine_, held = held_, epoch = epoch_,
                                 me = caf::actor_cast<caf::actor>(self_)] {
      *loaded = engine->load(held);
      caf::anon_send(me, JobDone{[this, loaded, epoch] { experts_loaded(epoch, *loaded); }});
    });
  }

  void end_epoch(Epoch epoch) {
    if (epoch < epoch_) return;
    next_.reset();
    for (auto& [router, link] : links_) {
      link->close();
      act(experts::RouterGone{router});
    }
    links_.clear();
  }

  /// Loads what the next epoch needs, beside what is held and computed meanwhile.
  void prepare(const PrepareEpochRequest& msg) {
    const Epoch epoch = msg.placement.epoch;
    if (epoch <= epoch_ || links_.empty()) return;  // an epoch formed meanwhile comes first
    next_ = NextEpoch{epoch, msg.placement.held_by(services_->self)};
    auto room = std::make_shared<Result<void>>();
    services_->executor->submit([this, room, epoch, held = held_, engine = engine_,
                                 missing = missing_in(held_, next_->held),
                                 me = caf::actor_cast<caf::actor>(self_)] {
      engine->keep(held);  // a change that was abandoned may have left some
      *room = engine->check_room(missing);
      caf::anon_send(me,
                     JobDone{[this, room, epoch, missing] { load_ahead(epoch, *room, missing); }});
    });
  }

  /// Both epochs could go on until now; from now on only this one does.
  void keep(const KeepEpochRequest& msg) {
    if (next_ && msg.epoch == next_->epoch) {
      epoch_ = next_->epoch;
      held_ = std::move(next_->held);
    } else if (msg.epoch != epoch_) {
      return;
    }
    next_.reset();
    act(experts::EpochKept{epoch_});
    services_->executor->submit([engine = engine_, held = held_] { engine->keep(held); });
    log::info("experts_kept", {{"epoch", epoch_}, {"experts", describe(held_)}});
  }

  void frame(const transport::Frame& frame) {
    const transport::FrameHeader& header = frame.header;
    const auto link = links_.find(header.source);
    // Of an epoch that is over: its experts may be gone already.
    const bool goes_on = header.epoch == epoch_ || (next_ && header.epoch == next_->epoch);
    if (link == links_.end() || !goes_on) return;
    if (header.kind == transport::FrameKind::kPing) {
      return say(transport::FrameKind::kPong, header.epoch, *link->second);
    }
    if (header.kind != transport::FrameKind::kDispatch) return;
    const experts::DispatchKey key{.epoch = header.epoch,
                                   .router = header.source,
                                   .step = header.step,
                                   .layer = header.layer,
                                   .attempt = header.attempt};
    if (header.hidden != services_->checkpoint->config().hidden_size) return refuse(key);
    std::vector<ExpertIdx> wanted;
    wanted.reserve(header.assignments.size());
    for (const transport::Assignment& work : header.assignments) wanted.push_back(work.expert);
    arrived_anew_ =
        waiting_.try_emplace(key, PendingDispatch{.frame = frame, .link = link->second}).second;
    act(experts::RowsArrived{
        .key = key, .num_rows = header.num_rows, .experts = std::move(wanted)});
  }

  void link_down(const LinkDown& msg) {
    const auto link = links_.find(msg.peer);
    if (link == links_.end()) return;
    link->second->close();
    links_.erase(link);
    act(experts::RouterGone{msg.peer});
    report_failure(msg.peer, Error{msg.reason}.with_context("link lost"));
  }

  void report_load() {
    load_due_ = false;
    if (load_.empty()) return;
    self_->send(scheduler_, ExpertLoadReport{services_->self, load_.take()});
  }

  [[nodiscard]] WorkerStatus status(bool check) const {
    WorkerStatus status{.node = services_->self};
    if (check) status.problem = core_.check();
    status.num_experts_held = held_.size();
    status.experts = describe(held_);
    status.rows_computed = rows_computed_;
    for (const auto& [router, link] : links_) status.links.push_back(link->stats());
    return status;
  }

 private:
  /// Prepared, or being prepared, beside the epoch in force.
  struct NextEpoch {
    Epoch epoch;
    std::vector<experts::ExpertKey> held;
  };

  void load_ahead(Epoch epoch, const Result<void>& room,
                  const std::vector<experts::ExpertKey>& missing) {
    if (!next_ || next_->epoch != epoch) return;  // abandoned meanwhile
    if (!room.ok()) return load_failed(epoch, room.error());
    auto loaded = std::make_shared<Result<ExpertTable>>(ExpertTable{});
    services_->background->submit(
        [this, loaded, epoch, missing, engine = engine_, me = caf::actor_cast<caf::actor>(self_)] {
          *loaded = engine->load_ahead(missing);
          caf::anon_send(me, JobDone{[this, loaded, epoch] { take_loaded(epoch, loaded); }});
        });
  }

  /// On the executor, so between two batches: they read what is held.
  void take_loaded(Epoch epoch, const std::shared_ptr<Result<ExpertTable>>& loaded) {
    if (!next_ || next_->epoch != epoch) return;
    if (!loaded->ok()) return load_failed(epoch, loaded->error());
    services_->executor->submit(
        [this, loaded, epoch, engine = engine_, me = caf::actor_cast<caf::actor>(self_)] {
          if (const auto taken = engine->take_some(**loaded); !taken.ok()) *loaded = taken.error();
          const bool all = loaded->ok() && (*loaded)->empty();
          caf::anon_send(me, JobDone{[this, loaded, epoch, all] {
                           all ? experts_prepared(epoch) : take_loaded(epoch, loaded);
                         }});
        });
  }

  void load_failed(Epoch epoch, Error error) {
    report_failure(services_->self, epoch, std::move(error).with_context("loading experts"));
  }

  void experts_prepared(Epoch epoch) {
    if (!next_ || next_->epoch != epoch) return;
    log::info("experts_prepared", {{"epoch", epoch}, {"experts", describe(next_->held)}});
    act(experts::ExpertsPrepared{.epoch = epoch, .held = next_->held});
    self_->send(scheduler_, NodeReadyReport{services_->self, epoch});
  }

  void experts_loaded(Epoch epoch, const Result<void>& loaded) {
    if (epoch != epoch_) return;  // a newer epoch loads already
    if (!loaded.ok()) return load_failed(epoch, loaded.error());
    log::info("experts_loaded", {{"epoch", epoch}, {"experts", describe(held_)}});
    act(experts::ExpertsLoaded{.epoch = epoch, .held = held_});
    self_->send(scheduler_, NodeReadyReport{services_->self, epoch});
  }

  void act(const experts::ShardEvent& event) {
    for (experts::ShardEffect& effect : core_.handle(event)) {
      std::visit([this](auto& e) { perform(e); }, effect);
    }
    if (const auto* gone = std::get_if<experts::RouterGone>(&event)) {
      for (auto at = waiting_.begin(); at != waiting_.end();) {
        at = at->first.router == gone->router ? waiting_.erase(at) : std::next(at);
      }
    }
  }

  void perform(const experts::RejectRows& e) {
    if (e.reason == experts::RejectReason::kDuplicate) {
      if (arrived_anew_) waiting_.erase(e.key);
      return;  // the first copy, queued or being computed, will be answered
    }
    waiting_.erase(e.key);
    refuse(e.key);
  }

  void perform(const experts::RunBatch& e) {
    auto batch = std::make_shared<std::vector<PendingDispatch>>();
    std::vector<experts::DispatchKey> keys;
    for (const experts::DispatchKey& key : e.dispatches) {
      auto node = waiting_.extract(key);
      CHECK(!node.empty());
      rows_computed_ += node.mapped().frame.header.num_rows;
      keys.push_back(key);
      batch->push_back(std::move(node.mapped()));
    }
    // The actor may be gone, and this with it, before the job ends: that uses only what it holds.
    services_->executor->submit([this, run_here = services_->run_here, batch,
                                 keys = std::move(keys), layer = e.layer, engine = engine_,
                                 hidden = services_->checkpoint->config().hidden_size,
                                 me = caf::actor_cast<caf::actor>(self_)] {
      compute_and_answer(*engine, layer, hidden, keys, *batch);
      send(run_here, me, JobDone{[this, batch, keys] { batch_done(keys, *batch); }});
    });
  }

  void batch_done(const std::vector<experts::DispatchKey>& keys,
                  const std::vector<PendingDispatch>& batch) {
    for (size_t i = 0; i < keys.size(); ++i) {
      for (const transport::Assignment& work : batch[i].frame.header.assignments) {
        load_.add(keys[i].layer, work.expert);
      }
      const auto link = links_.find(keys[i].router);
      // Otherwise the router is gone, or linked anew, and nobody waits.
      const bool awaited = link != links_.end() && link->second == batch[i].link;
      if (awaited && !batch[i].answered.ok()) {
        answer_failed(keys[i].router, batch[i].answered.error());
      }
    }
    act(experts::BatchComputed{});
    if (load_due_) return;
    load_due_ = true;
    self_->delayed_send(self_, kLoadInterval, LoadDue{});
  }

  void refuse(const experts::DispatchKey& key) {
    const auto link = links_.find(key.router);
    if (link == links_.end()) return;
    const auto sent = link->second->send(answer_to(key, transport::FrameKind::kFailed, nullptr,
                                                   services_->checkpoint->config().hidden_size));
    if (!sent.ok()) answer_failed(key.router, sent.error());
  }

  void answer_failed(NodeId router, Error error) {
    report_failure(router, std::move(error).with_context("answering a dispatch"));
  }

  static void say(transport::FrameKind kind, Epoch epoch, transport::Link& link) {
    // Where it cannot be sent, the router notices our silence.
    (void)link.send({.header = {.kind = kind, .epoch = epoch}});
  }

  void report_failure(NodeId node, Error error) { report_failure(node, epoch_, std::move(error)); }
  void report_failure(NodeId node, Epoch epoch, Error error) {
    log::warning("epoch_failure", {{"node", node}, {"epoch", epoch}, {"reason", error.message}});
    self_->send(scheduler_, NodeFailedReport{node, epoch, std::move(error)});
  }

  caf::stateful_actor<ExpertShardState>* self_;
  const WorkerServices* services_;
  caf::actor scheduler_;
  experts::Shard core_;
  std::shared_ptr<ShardEngine> engine_;
  Epoch epoch_;
  std::vector<experts::ExpertKey> held_;
  std::optional<NextEpoch> next_;
  std::map<NodeId, std::shared_ptr<transport::Link>> links_;
  std::map<experts::DispatchKey, PendingDispatch> waiting_;
  bool arrived_anew_ = false;  ///< the dispatch at hand was not waiting already
  uint64_t rows_computed_ = 0;
  experts::LoadCount load_;  ///< not yet reported
  bool load_due_ = false;    ///< a timer runs
};

caf::behavior expert_shard_actor(caf::stateful_actor<ExpertShardState>* self,
                                 const WorkerServices* services, caf::actor scheduler,
                                 experts::ShardOptions options) {
  self->state.shell =
      std::make_shared<ExpertShardShell>(self, services, std::move(scheduler), options);
  ExpertShardShell* shell = self->state.shell.get();
  return {
      [=](const FormEpochRequest& msg) { shell->form(msg); },
      [=](const EpochEnded& msg) { shell->end_epoch(msg.epoch); },
      [=](const PrepareEpochRequest& msg) { shell->prepare(msg); },
      [=](const KeepEpochRequest& msg) { shell->keep(msg); },
      [=](const FrameArrived& msg) { shell->frame(msg.frame); },
      [=](const LinkDown& msg) { shell->link_down(msg); },
      [=](const JobDone& msg) { msg.then(); },
      [=](const LoadDue&) { shell->report_load(); },
      [=](const WorkerStatusQuery& msg) { return shell->status(msg.check); },
  };
}

}  // namespace troupe::actors
