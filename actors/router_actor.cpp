#include "actors/router_actor.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "actors/instant.hpp"
#include "actors/messages.hpp"
#include "base/check.hpp"
#include "base/log.hpp"
#include "cluster/failure_detector.hpp"
#include "experts/combine.hpp"
#include "experts/dispatch_plan.hpp"

namespace troupe::actors {
namespace {

constexpr std::chrono::milliseconds kKvTimeout{500};

}  // namespace

class RouterShell {
 public:
  RouterShell(caf::stateful_actor<RouterState>* self, const WorkerServices* services,
              std::shared_ptr<RouterEngine> engine, caf::actor kv_holder, caf::actor scheduler,
              RouterOptions options)
      : self_(self),
        services_(services),
        engine_(std::move(engine)),
        kv_holder_(std::move(kv_holder)),
        scheduler_(std::move(scheduler)),
        options_(options),
        batcher_(options.batcher),
        detector_(options.heartbeat_timeout) {}

  // --- epochs ----------------------------------------------------------------------------------

  void end_epoch(Epoch epoch) {
    if (epoch_ != epoch) return;
    serving_ = false;
    active_.reset();
    batcher_ = scheduler::Batcher(options_.batcher);
    for (auto& [request, running] : requests_) released_.push_back(request);
    requests_.clear();
    for (auto& [shard, link] : links_) {
      link->close();
      credits_.forget(shard);
    }
    links_.clear();
    detector_.clear();
    if (!busy_) idle();
  }

  void form(const FormEpochRequest& msg) {
    end_epoch(epoch_);
    epoch_ = msg.placement.epoch;
    forming_ = msg;
    if (!busy_) idle();
  }

  void link_down(const LinkDown& msg) {
    if (links_.count(msg.peer) != 0) {
      peer_failed(msg.peer, Error{msg.reason}.with_context("link lost"));
    }
  }

  // --- requests --------------------------------------------------------------------------------

  void start(const StartRequest& msg) {
    if (!serving_)
      return fail(msg.request, msg.attempt, {Code::kUnavailable, "router has no epoch"});
    if (requests_.count(msg.request) != 0) return;  // a duplicate of what runs already
    if (std::find(released_.begin(), released_.end(), msg.request) != released_.end()) {
      // An earlier attempt's blocks are still read by the step that is out.
      return fail(msg.request, msg.attempt, {Code::kUnavailable, "an earlier attempt is ending"});
    }
    Request request{.attempt = msg.attempt,
                    .num_prompt = static_cast<uint32_t>(msg.spec.prompt.size()),
                    .max_tokens = msg.spec.max_tokens,
                    .known = msg.spec.prompt,
                    .sampling = msg.spec.sampling,
                    .stop_token_ids = msg.spec.stop_token_ids};
    request.known.insert(request.known.end(), msg.emitted.begin(), msg.emitted.end());
    for (const TokenId token : request.known) {
      if (token < 0 || static_cast<uint32_t>(token) >= config().vocab_size) {
        return fail(msg.request, msg.attempt,
                    {Code::kInvalidArgument,
                     "token id " + std::to_string(token) + " is outside the vocabulary"});
      }
    }
    const auto num_known = static_cast<uint32_t>(request.known.size());
    const uint32_t max_context = request.num_prompt + request.max_tokens;
    requests_.emplace(msg.request, std::move(request));
    batch(scheduler::Arrived{msg.request, num_known, max_context});
  }

  void cancel(const CancelAttempt& msg) {
    const auto found = requests_.find(msg.request);
    if (found != requests_.end() && found->second.attempt == msg.attempt) leave(msg.request);
  }

  void blocks(const BlocksReply& msg) {
    const auto found = requests_.find(msg.request);
    if (found == requests_.end()) {  // cancelled while the holder answered
      if (msg.granted) self_->send(kv_holder_, ReleaseBlocks{msg.request});
    } else if (msg.granted) {
      found->second.block_table = msg.table;
    }
    if (!msg.granted) return batch(scheduler::BlocksRefused{msg.request});
    batch(scheduler::BlocksReserved{msg.request});
  }

  // --- exchange --------------------------------------------------------------------------------

  void frame(const transport::Frame& frame) {
    const transport::FrameHeader& header = frame.header;
    if (header.epoch == epoch_) heard(header);
    // Whatever does not belong to the exchange at hand is stale or a duplicate, and harmless.
    if (!active_ || !active_->exchanging || header.epoch != epoch_ ||
        header.step != active_->step || header.layer != active_->plan.layer) {
      return;
    }
    if (header.kind == transport::FrameKind::kFailed) {
      return peer_failed(header.source, {Code::kUnavailable, "the shard refused a dispatch"});
    }
    if (header.kind != transport::FrameKind::kCombine) return;
    if (header.hidden != config().hidden_size) {
      return peer_failed(header.source, {Code::kCorrupt, "an answer's rows have the wrong width"});
    }
    using Verdict = experts::Combine::Verdict;
    const auto answer = active_->combine.answered(header.source, header.num_rows, credits_);
    switch (answer.verdict) {
      case Verdict::kDuplicate:
      case Verdict::kUnknownShard: return;
      case Verdict::kWrongSize:
        return peer_failed(header.source,
                           {Code::kCorrupt, "an answer has the wrong number of rows"});
      case Verdict::kTake: break;
    }
    active_->answers.push_back({answer.first_result, frame});
    send_due();
    resume_when_complete();
  }

  /// Asks the shards for signs of life and reports those that gave none. Nobody else notices a cut
  /// between a router and a shard that both still hear the head.
  void beat(const Beat& msg) {
    if (msg.epoch != epoch_ || links_.empty()) return;
    for (const NodeId shard : detector_.take_silent(now(self_))) {
      const int64_t silence_ms = options_.heartbeat_timeout.ns / milliseconds(1).ns;
      peer_failed(shard, {Code::kUnavailable,
                          "no sign of life on its link for " + std::to_string(silence_ms) +
                              " ms: it is stopped or cut off, or its UCX port is closed to us"});
    }
    for (const auto& [shard, link] : links_) ping(*link);
    self_->delayed_send(self_, std::chrono::nanoseconds(options_.heartbeat_interval.ns), msg);
  }

  void watchdog() {
    watching_ = false;
    if (!active_) return;
    watch();
    if (active_->exchanging) send_due();
  }

  caf::response_promise status() {
    auto promise = self_->make_response_promise();
    WorkerStatus status{.node = services_->self};
    status.rows_computed = rows_computed_;
    for (const auto& [shard, link] : links_) status.links.push_back(link->stats());
    self_->request(kv_holder_, kKvTimeout, KvUsageQuery{epoch_})
        .then(
            [promise, status](uint64_t used, uint64_t total) mutable {
              status.kv_blocks_used = used;
              status.kv_blocks_total = total;
              promise.deliver(status);
            },
            [promise, status](const caf::error&) mutable { promise.deliver(status); });
    return promise;
  }

 private:
  struct Request {
    uint32_t attempt = 0;
    uint32_t num_prompt = 0;
    uint32_t max_tokens = 0;
    std::vector<TokenId> known;  ///< prompt and emitted
    model::SamplingParams sampling;
    std::vector<TokenId> stop_token_ids;
    std::vector<BlockId> block_table;
  };

  /// The step that is out.
  struct ActiveStep {
    StepId step;
    std::vector<scheduler::StepEntry> entries;
    bool exchanging = false;
    bool shared_done = false;
    experts::DispatchPlan plan;
    std::vector<transport::Frame> frames;  ///< one per shard of the plan, kept until all answered
    experts::Combine combine;
    std::vector<GatheredFrame> answers;
  };

  [[nodiscard]] const model::ModelConfig& config() const { return services_->checkpoint->config(); }

  void batch(const scheduler::BatcherEvent& event) {
    for (scheduler::BatcherEffect& effect : batcher_.handle(event)) {
      std::visit([this](auto& e) { perform(e); }, effect);
    }
  }

  void perform(const scheduler::ReserveBlocks& e) {
    self_->send(kv_holder_, ReserveBlocksFor{e.request, e.num_tokens});
  }

  void perform(scheduler::RunStep& e) {
    CHECK(!active_);
    CHECK(!busy_);
    active_ = ActiveStep{.step = e.step, .entries = std::move(e.entries)};
    std::vector<StepPart> parts;
    for (const scheduler::StepEntry& entry : active_->entries) {
      const Request& request = requests_.at(entry.request);
      const auto first = request.known.begin() + entry.first_position;
      rows_computed_ += entry.count;
      parts.push_back({.tokens = {first, first + entry.count},
                       .first_position = entry.first_position,
                       .block_table = request.block_table,
                       .wants_token = entry.wants_token,
                       .sampling = request.sampling});
    }
    run([engine = engine_, step = e.step, parts = std::move(parts)]() mutable {
      return engine->begin(step, std::move(parts));
    });
    watch();
  }

  /// Has a segment computed; its end comes back as a message.
  template <class Job>
  void run(Job job) {
    busy_ = true;
    services_->executor->submit([this, job = std::move(job),
                                 me = caf::actor_cast<caf::actor>(self_),
                                 step = active_->step]() mutable {
      auto segment = std::make_shared<Segment>(job());
      caf::anon_send(me, JobDone{[this, segment, step] { segment_done(step, *segment); }});
    });
  }

  void segment_done(StepId step, Segment& segment) {
    busy_ = false;
    if (!active_ || active_->step != step) return idle();  // its epoch ended meanwhile
    if (segment.status == Forward::Status::kDone) return step_done(segment);
    active_->exchanging = true;
    active_->plan = std::move(segment.plan);
    active_->frames = std::move(segment.frames);
    active_->answers.clear();
    std::vector<uint64_t> frame_bytes;
    for (const transport::Frame& frame : active_->frames) {
      frame_bytes.push_back(frame.payload->size() +
                            frame.header.assignments.size() * sizeof(transport::Assignment));
    }
    active_->combine = experts::Combine(active_->plan, frame_bytes, options_.combine);
    send_due();
    active_->shared_done = config().num_shared_experts == 0;
    if (!active_->shared_done) {
      busy_ = true;
      services_->executor->submit(
          [this, engine = engine_, step, me = caf::actor_cast<caf::actor>(self_)] {
            engine->compute_shared();
            caf::anon_send(me, JobDone{[this, step] {
                             busy_ = false;
                             if (!active_ || active_->step != step) return idle();
                             active_->shared_done = true;
                             resume_when_complete();
                           }});
          });
    }
  }

  /// Sends the frames whose turn it is, first copies and repeats alike.
  void send_due() {
    const experts::CombineEffects due = active_->combine.due(credits_, now(self_));
    for (const uint32_t part : due.send) {
      const NodeId shard = active_->plan.shards[part].shard;
      const auto link = links_.find(shard);
      CHECK(link != links_.end());
      if (const auto sent = link->second->send(active_->frames[part]); !sent.ok()) {
        return peer_failed(shard, Error{sent.error()}.with_context("sending a dispatch"));
      }
    }
    if (due.silent) {
      peer_failed(*due.silent, {Code::kDeadlineExceeded, "no answer to a dispatch in time"});
    }
  }

  void resume_when_complete() {
    if (!active_->shared_done || !active_->combine.complete()) return;
    active_->exchanging = false;
    active_->frames.clear();
    run([engine = engine_, plan = std::move(active_->plan), answers = std::move(active_->answers)] {
      return engine->resume(plan, answers);
    });
  }

  void step_done(const Segment& segment) {
    StepTokens message{.router = services_->self};
    std::vector<RequestId> ended;
    size_t sampled = 0;
    for (const scheduler::StepEntry& entry : active_->entries) {
      if (!entry.wants_token) continue;
      const model::SampledToken& token = segment.sampled[sampled++];
      const auto found = requests_.find(entry.request);
      if (found == requests_.end()) continue;  // cancelled during the step
      Request& request = found->second;
      if (token.token == model::kNoToken) {
        fail(entry.request, request.attempt,
             {Code::kInternal, "the model gave no finite logit; are its weights damaged?"});
        ended.push_back(entry.request);
        continue;
      }
      Emission emission{.request = entry.request,
                        .attempt = request.attempt,
                        .first = static_cast<uint32_t>(request.known.size()) - request.num_prompt,
                        .tokens = {token}};
      request.known.push_back(token.token);
      const auto& stops = request.stop_token_ids;
      if (std::find(stops.begin(), stops.end(), token.token) != stops.end()) {
        emission.finished = true;
      } else if (request.known.size() - request.num_prompt >= request.max_tokens) {
        emission.finished = true;
        emission.reason = scheduler::FinishReason::kLength;
      }
      if (emission.finished) ended.push_back(entry.request);
      message.emissions.push_back(std::move(emission));
    }
    const StepId step = active_->step;
    active_.reset();
    if (!message.emissions.empty()) self_->send(scheduler_, std::move(message));
    for (const RequestId request : ended) leave(request);
    idle();
    batch(scheduler::StepDone{step});
  }

  /// A request's end on this router. Its blocks may still be read by the step that is out.
  void leave(RequestId request) {
    requests_.erase(request);
    released_.push_back(request);
    if (!active_ && !busy_) idle();  // the blocks are free before the batcher asks for more
    batch(scheduler::Left{request});
  }

  void fail(RequestId request, uint32_t attempt, Error error) {
    self_->send(scheduler_, RequestFailed{services_->self, request, attempt, std::move(error)});
  }

  /// The cluster decides what becomes of the epoch; the step waits for that.
  void peer_failed(NodeId peer, Error error) {
    log::warning("peer_failed", {{"peer", peer}, {"epoch", epoch_}, {"reason", error.message}});
    self_->send(scheduler_, NodeFailedReport{peer, epoch_, std::move(error)});
  }

  /// Nothing runs on the executor: what had to wait for that is done now.
  void idle() {
    for (const RequestId request : released_) self_->send(kv_holder_, ReleaseBlocks{request});
    released_.clear();
    if (!forming_) return;
    const FormEpochRequest msg = std::move(*forming_);
    forming_.reset();
    for (const Peer& shard : msg.shards) {
      auto link = services_->port->connect(shard.id, shard.link_address);
      if (!link.ok()) {
        return peer_failed(shard.id, Error{link.error()}.with_context("linking " + shard.name));
      }
      links_[shard.id] = std::move(*link);
      credits_.grant(shard.id, {.bytes = kDispatchesPerShard * largest_dispatch(),
                                .frames = kDispatchesPerShard});
      detector_.watch(shard.id, now(self_));
    }
    engine_->set_epoch(std::make_shared<experts::Placement>(msg.placement),
                       {.kind = transport::FrameKind::kDispatch,
                        .cluster = services_->cluster,
                        .epoch = epoch_,
                        .source = services_->self});
    serving_ = true;
    beat({epoch_});
  }

  /// Something of this epoch came from a shard. The router is ready when it has heard all of them:
  /// no epoch serves over links that do not carry both ways.
  void heard(const transport::FrameHeader& header) {
    const auto link = links_.find(header.source);
    if (link == links_.end()) return;
    if (header.kind == transport::FrameKind::kPing) return ping(*link->second);
    const bool ready = detector_.all_heard();
    detector_.heard(header.source, now(self_));
    if (ready || !detector_.all_heard()) return;
    self_->send(scheduler_, NodeReadyReport{services_->self, epoch_});
  }

  void ping(transport::Link& link) {
    // Where it cannot be sent, silence will tell.
    (void)link.send({.header = {.kind = transport::FrameKind::kPing, .epoch = epoch_}});
  }

  /// Bytes of a dispatch that sends every row of a full step to one shard.
  [[nodiscard]] uint64_t largest_dispatch() const {
    const uint64_t row = config().hidden_size * sizeof(float) +
                         config().num_experts_per_tok * sizeof(transport::Assignment);
    return options_.batcher.max_step_tokens * row;
  }

  /// Looks after the step that is out, from time to time; nothing is scheduled without one.
  void watch() {
    if (watching_) return;
    watching_ = true;
    const int64_t period_ns = options_.combine.resend_after.ns / 2;
    self_->delayed_send(self_, std::chrono::nanoseconds(period_ns), Wake{});
  }

  caf::stateful_actor<RouterState>* self_;
  const WorkerServices* services_;
  std::shared_ptr<RouterEngine> engine_;
  caf::actor kv_holder_;
  caf::actor scheduler_;
  RouterOptions options_;
  scheduler::Batcher batcher_;
  std::map<RequestId, Request> requests_;
  std::vector<RequestId> released_;  ///< gone, blocks not yet given back
  std::map<NodeId, std::shared_ptr<transport::Link>> links_;
  cluster::FailureDetector detector_;  ///< watches the shards linked
  transport::CreditLedger credits_;    ///< dispatches under way to each shard
  std::optional<ActiveStep> active_;
  std::optional<FormEpochRequest> forming_;
  Epoch epoch_;
  bool serving_ = false;
  bool busy_ = false;  ///< a job of ours is on the executor
  bool watching_ = false;
  uint64_t rows_computed_ = 0;
};

caf::behavior router_actor(caf::stateful_actor<RouterState>* self, const WorkerServices* services,
                           std::shared_ptr<RouterEngine> engine, caf::actor kv_holder,
                           caf::actor scheduler, RouterOptions options) {
  self->state.shell = std::make_shared<RouterShell>(
      self, services, std::move(engine), std::move(kv_holder), std::move(scheduler), options);
  RouterShell* shell = self->state.shell.get();
  return {
      [=](const FormEpochRequest& msg) { shell->form(msg); },
      [=](const EpochEnded& msg) { shell->end_epoch(msg.epoch); },
      [=](const StartRequest& msg) { shell->start(msg); },
      [=](const CancelAttempt& msg) { shell->cancel(msg); },
      [=](const BlocksReply& msg) { shell->blocks(msg); },
      [=](const FrameArrived& msg) { shell->frame(msg.frame); },
      [=](const LinkDown& msg) { shell->link_down(msg); },
      [=](const JobDone& msg) { msg.then(); },
      [=](const Wake&) { shell->watchdog(); },
      [=](const Beat& msg) { shell->beat(msg); },
      [=](const WorkerStatusQuery&) -> caf::result<WorkerStatus> { return shell->status(); },
  };
}

}  // namespace troupe::actors
