#include "actors/router_actor.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "actors/block_costs.hpp"
#include "actors/instant.hpp"
#include "actors/kv_exchange.hpp"
#include "actors/messages.hpp"
#include "actors/prompt_scoring.hpp"
#include "actors/shard_links.hpp"
#include "actors/step_run.hpp"
#include "base/log.hpp"
#include "model/guide.hpp"
#include "scheduler/overlap.hpp"

namespace troupe::actors {
namespace {

constexpr std::chrono::milliseconds kKvTimeout{500};

kvcache::TransferOptions transfer_options(const RouterOptions& options) {
  kvcache::TransferOptions transfers = options.transfers;
  transfers.block_tokens = options.block_tokens;
  return transfers;
}

}  // namespace

RouterOptions for_model(RouterOptions options, const RouterEngine& engine) {
  constexpr double kMostPositions = 1e9;
  options.batcher.attention_span =
      static_cast<uint32_t>(std::clamp(engine.attention_span(), 1.0, kMostPositions));
  return options;
}

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
        options_(for_model(options, *engine_)),
        guides_(std::make_shared<model::Guides>(services->vocabulary)),
        batcher_(options_.batcher),
        overlap_(options.micro_batches, options_.batcher.attention_span),
        costs_(options.block_tokens, engine_->attention_span()),
        exchange_(
            self, services, engine_, kv_holder_, transfer_options(options),
            [this](RequestId request, uint32_t attempt) { fetch_ended(request, attempt); },
            [this] { return run_.out(); }),
        links_(self, services, options.links,
               [this](NodeId shard, Error reason) { peer_failed(shard, std::move(reason)); }),
        run_(
            self, services, engine_, links_, options.combine,
            [this](StepOutput output) { step_done(std::move(output)); }, [this] { idle(); }) {}

  // --- epochs ----------------------------------------------------------------------------------

  void end_epoch(Epoch epoch) {
    if (epoch < epoch_) return;
    serving_ = false;
    switching_.reset();
    step_.reset();
    run_.drop();
    num_preempted_ += batcher_.num_preempted();
    batcher_ = scheduler::Batcher(options_.batcher);
    for (auto& [id, request] : requests_) {
      if (request.fetching) exchange_.abandon(id, request.attempt);
      tell_computed(id, request);  // its KV outlives the epoch: only experts move
      released_.push_back(id);
    }
    requests_.clear();
    std::erase_if(asked_again_, [](const AskedAgain& asked) {
      return !kvcache::is_guest(asked.reserve.request);
    });
    deferred_.clear();
    links_.close();
    exchange_.end_epoch();
    if (!run_.busy()) idle();
  }

  void form(const FormEpochRequest& msg) {
    end_epoch(epoch_);
    epoch_ = msg.placement.epoch;
    forming_ = msg;
    if (!run_.busy()) idle();
  }

  /// Every shard serves the new epoch, too. The step that is out ends in the old one.
  void switch_epoch(const SwitchEpochRequest& msg) {
    if (!serving_ || msg.placement.epoch <= epoch_) return;
    switching_ = msg.placement;
    if (!run_.out() && !run_.busy()) idle();
  }

  void link_down(const LinkDown& msg) {
    if (links_.contains(msg.peer)) {
      return peer_failed(msg.peer, Error{msg.reason}.with_context("link lost"));
    }
    exchange_.link_down(msg.peer);
  }

  void patience_tick() { exchange_.patience_tick(); }

  [[nodiscard]] const caf::actor& kv_holder() const { return kv_holder_; }

  // --- requests --------------------------------------------------------------------------------

  void start(const StartRequest& msg) {
    if (!serving_)
      return fail(msg.request, msg.attempt, {Code::kUnavailable, "router has no epoch"});
    if (requests_.count(msg.request) != 0) return;  // a duplicate of what runs already
    if (std::find(released_.begin(), released_.end(), msg.request) != released_.end()) {
      deferred_.push_back(msg);  // an earlier attempt's blocks are read by the step that is out
      return;
    }
    Request request{.attempt = msg.attempt,
                    .num_prompt = static_cast<uint32_t>(msg.spec.prompt.size()),
                    .max_tokens = msg.spec.max_tokens,
                    .known = msg.spec.prompt,
                    .sampling = msg.spec.sampling,
                    .cache_namespace = msg.spec.cache_namespace};
    if (request.sampling.grammar) request.guide = std::make_shared<model::GuideState>();
    request.known.insert(request.known.end(), msg.emitted.begin(), msg.emitted.end());
    for (const TokenId token : request.known) {
      if (token < 0 || static_cast<uint32_t>(token) >= config().vocab_size) {
        return fail(msg.request, msg.attempt,
                    {Code::kInvalidArgument,
                     "token id " + std::to_string(token) + " is outside the vocabulary"});
      }
    }
    request.history = std::make_shared<model::TokenHistory>(
        request.sampling, model::TokenLog{.prompt = msg.spec.prompt,
                                          .emitted = msg.emitted,
                                          .stop_token_ids = msg.spec.stop_token_ids});
    request.order = msg.order;
    if (msg.emitted.empty() && msg.spec.sampling.num_prompt_logprobs) {
      request.scoring = PromptScoring(request.num_prompt);
    }
    request.fetching = request.scoring.is_over() && exchange_.knows(msg.kv_from);
    const Request& here = requests_.emplace(msg.request, std::move(request)).first->second;
    if (!here.fetching) return fetch_ended(msg.request, msg.attempt);
    exchange_.fetch(msg.request, msg.attempt, msg.kv_from, here.cache_namespace, here.known);
  }

  /// What could be had of its KV from elsewhere is here: the request may be batched.
  void fetch_ended(RequestId id, uint32_t attempt) {
    const auto found = requests_.find(id);
    if (found == requests_.end() || found->second.attempt != attempt) return;
    Request& request = found->second;
    request.fetching = false;
    batch(scheduler::Arrived{id, static_cast<uint32_t>(request.known.size()),
                             request.num_prompt + request.max_tokens, request.order,
                             request.scoring.is_over() ? 0 : request.num_prompt - 1});
  }

  void cancel(const CancelAttempt& msg) {
    std::erase_if(deferred_, [&](const StartRequest& start) {
      return start.request == msg.request && start.attempt == msg.attempt;
    });
    const auto found = requests_.find(msg.request);
    if (found != requests_.end() && found->second.attempt == msg.attempt) leave(msg.request);
  }

  void kv_effects(const KvEffects& msg) {
    for (const kvcache::HolderEffect& effect : msg.effects) {
      std::visit([&](const auto& e) { on_kv(msg.ask, e); }, effect);
    }
  }

  // --- exchange --------------------------------------------------------------------------------

  void frame(const transport::Frame& frame) {
    const transport::FrameHeader& header = frame.header;
    if (header.epoch == epoch_ && links_.heard(header)) {
      self_->send(scheduler_, NodeReadyReport{services_->self, epoch_});
    }
    if (exchange_.frame(frame)) return;
    if (header.epoch == epoch_) run_.answer(frame);
  }

  void beat(const Beat& msg) { links_.beat(msg); }
  void wake() { run_.wake(); }

  caf::response_promise status(bool check) {
    auto promise = self_->make_response_promise();
    WorkerStatus status{.node = services_->self};
    status.rows_computed = rows_computed_;
    status.links = links_.stats();
    status.num_preempted = num_preempted_ + batcher_.num_preempted();
    status.num_fetched_blocks = exchange_.fetched_blocks();
    if (check) status.problem = batcher_.check();
    if (check && status.problem.empty()) status.problem = exchange_.check();
    self_->request(kv_holder_, kKvTimeout, KvStatsQuery{check})
        .then(
            [promise, status](const KvStats& kv) mutable {
              const kvcache::PrefixCacheStats& cache = kv.stats.cache;
              if (status.problem.empty()) status.problem = kv.problem;
              status.kv_blocks_used = cache.used_blocks;
              status.kv_blocks_total = cache.free_blocks + cache.used_blocks + cache.idle_blocks;
              status.prefix_cache = {.cached_blocks = cache.idle_blocks,
                                     .host_blocks = cache.host_entries,
                                     .queried_tokens = kv.stats.queried_tokens_total,
                                     .hit_tokens = kv.stats.hit_tokens_total,
                                     .host_hit_tokens = kv.stats.host_hit_tokens_total,
                                     .evicted_blocks = cache.evicted_total};
              promise.deliver(status);
            },
            [promise, status, check](const caf::error&) mutable {
              if (check && status.problem.empty())
                status.problem = "its KV-cache holder did not answer";
              promise.deliver(status);
            });
    return promise;
  }

 private:
  struct Request {
    uint32_t attempt = 0;
    uint32_t num_prompt = 0;
    uint32_t max_tokens = 0;
    std::vector<TokenId> known;  ///< prompt and emitted
    model::SamplingParams sampling;
    std::shared_ptr<model::TokenHistory> history;  ///< of `known`; the step that is out reads it
    std::shared_ptr<model::GuideState> guide;      ///< with a grammar; used in the background only
    std::shared_ptr<NextMask> mask;  ///< of the token behind `known`, once it was ordered
    std::string cache_namespace;
    std::vector<BlockId> block_table;
    uint32_t num_computed = 0;  ///< positions whose KV is in the blocks
    uint32_t num_told = 0;      ///< of these, known to the holder
    int64_t order = 0;
    scheduler::AskId ask = 0;  ///< its last ReserveBlocks
    bool fetching = false;     ///< its KV comes from another router; not in the batcher yet
    bool begun = false;        ///< rows of it were in a step
    std::optional<uint32_t> num_cached;  ///< tokens that the first table had computed already
    PromptScoring scoring;
  };

  /// The step that is out, as the batcher and the learning of micro-batches know it.
  struct OutStep {
    StepId step;
    std::vector<scheduler::StepEntry> entries;
    std::vector<uint32_t> num_scored;  ///< prompt tokens, by entry
    Instant began;
    uint32_t num_rows = 0;
    uint64_t depth = 0;  ///< positions before each of its rows, summed
    bool prefills = false;
    uint32_t num_batches = 0;
  };

  /// A question to the holder that goes on when some of its copies are done.
  struct AskedAgain {
    scheduler::AskId ask = 0;
    kvcache::Reserve reserve;
  };

  [[nodiscard]] const model::ModelConfig& config() const { return services_->checkpoint->config(); }

  void batch(const scheduler::BatcherEvent& event) {
    for (scheduler::BatcherEffect& effect : batcher_.handle(event)) {
      std::visit([this](auto& e) { perform(e); }, effect);
    }
  }

  void perform(const scheduler::ReserveBlocks& e) {
    Request& request = requests_.at(e.request);
    request.ask = e.ask;
    const auto begin = request.known.begin();
    const auto end =
        begin + request.scoring.num_cacheable(static_cast<uint32_t>(request.known.size()));
    tell_kv(e.ask,
            kvcache::Reserve{e.request, request.cache_namespace, {begin, end}, e.num_tokens});
  }
  void perform(const scheduler::ExtendBlocks& e) {
    tell_kv(e.ask, kvcache::Extend{e.request, e.num_tokens});
  }
  void perform(const scheduler::Preempt& e) {
    Request& request = requests_.at(e.request);
    tell_computed(e.request, request);
    tell_kv(0, kvcache::Release{e.request});
    request.block_table.clear();
  }

  void tell_kv(scheduler::AskId ask, kvcache::HolderEvent event) {
    self_->send(kv_holder_, KvEvent{ask, std::move(event)});
  }

  /// Publishes what the request has computed, so that others may share it.
  void tell_computed(RequestId id, Request& request) {
    if (request.num_told >= request.num_computed) return;
    const auto known = request.known.begin();
    tell_kv(0, kvcache::Computed{
                   id, request.num_told, {known + request.num_told, known + request.num_computed}});
    request.num_told = request.num_computed;
  }

  // --- effects of the KV holder ---
  void on_kv(scheduler::AskId ask, const kvcache::Granted& e) {
    copy_blocks(e.copies);
    if (kvcache::is_guest(e.request)) return exchange_.granted(e);
    const auto found = requests_.find(e.request);
    if (found == requests_.end()) return;  // its release is on the way to the holder
    Request& request = found->second;
    request.block_table = e.table;
    request.num_computed = request.num_told = e.cached_len;
    if (!request.num_cached) request.num_cached = e.cached_len;
    batch(scheduler::BlocksReserved{ask, e.request, room(request), e.cached_len});
  }
  void on_kv(scheduler::AskId ask, const kvcache::Extended& e) {
    copy_blocks(e.copies);
    const auto found = requests_.find(e.request);
    if (found == requests_.end()) return;
    Request& request = found->second;
    request.block_table.insert(request.block_table.end(), e.blocks.begin(), e.blocks.end());
    batch(scheduler::BlocksReserved{ask, e.request, room(request), 0});
  }
  void on_kv(scheduler::AskId ask, const kvcache::Refused& e) {
    if (kvcache::is_guest(e.request)) return exchange_.refused(e.request);
    batch(scheduler::BlocksRefused{ask, e.request});
  }
  void on_kv(scheduler::AskId ask, const kvcache::CopiesFirst& e) {
    copy_blocks(e.copies);
    const RequestId id = e.again.request;
    const auto found = requests_.find(id);
    if (kvcache::is_guest(id) || (found != requests_.end() && found->second.ask == ask)) {
      asked_again_.push_back({ask, e.again});
    }
  }
  void on_kv(scheduler::AskId ask, const kvcache::Pending& e) {
    if (kvcache::is_guest(e.request)) return exchange_.refused(e.request);
    batch(scheduler::BlocksPending{ask, e.request});
  }
  void on_kv(scheduler::AskId, const kvcache::Wake& e) { batch(scheduler::BlocksWake{e.request}); }

  [[nodiscard]] uint32_t room(const Request& request) const {
    return static_cast<uint32_t>(request.block_table.size() * options_.block_tokens);
  }

  /// In the order of the holder's effects and before the steps that follow (kvcache/holder.hpp).
  void copy_blocks(const std::vector<kvcache::Copy>& copies) {
    if (copies.empty()) return;
    services_->executor->submit([this, engine = engine_, copies, clock = &self_->clock(),
                                 me = caf::actor_cast<caf::actor>(self_)] {
      const Instant began = now(*clock);
      engine->copy_blocks(copies);
      const Duration took = now(*clock) - began;
      caf::anon_send(
          me, JobDone{[this, took, num_copies = copies.size()] { copied(took, num_copies); }});
    });
  }

  void copied(Duration took, size_t num_copies) {
    costs_.copied(took, num_copies);
    if (const auto costs = costs_.with(batcher_.row_price())) {
      log_costs(*costs);
      tell_kv(0, kvcache::CostsMeasured{*costs});
    }
    if (!run_.out()) ask_again();
  }

  /// When they are first known, and when one has doubled or halved since.
  void log_costs(const kvcache::BlockCosts& costs) {
    const auto differ = [](Duration a, Duration b) { return a.ns > 2 * b.ns || b.ns > 2 * a.ns; };
    if (logged_costs_ && !differ(logged_costs_->copy, costs.copy) &&
        !differ(logged_costs_->compute, costs.compute)) {
      return;
    }
    logged_costs_ = costs;
    log::info("kv_block_costs", {{"copy_us", costs.copy.ns / 1000},
                                 {"compute_us", costs.compute.ns / 1000},
                                 {"compute_deeper_ns", costs.compute_deeper.ns}});
  }

  /// Copies for those who wait for blocks go on: once in each step, or when those before are done.
  void ask_again() {
    for (AskedAgain& asked : std::exchange(asked_again_, {})) {
      tell_kv(asked.ask, std::move(asked.reserve));
    }
  }

  void perform(scheduler::RunStep& e) {
    step_ = OutStep{.step = e.step, .entries = std::move(e.entries), .began = now(self_)};
    tell_begun();
    std::vector<StepPart> parts;
    for (const scheduler::StepEntry& entry : step_->entries) {
      Request& request = requests_.at(entry.request);
      if (request.guide && !request.mask) make_mask(entry.request, request);
      const auto first = request.known.begin() + entry.first_position;
      step_->num_rows += entry.count;
      step_->depth += entry.depth();
      step_->prefills = step_->prefills || entry.count > 1;
      parts.push_back({.tokens = {first, first + entry.count},
                       .first_position = entry.first_position,
                       .block_table = request.block_table,
                       .wants_token = entry.wants_token,
                       .sampling = request.sampling,
                       .mask = request.mask,
                       .history = request.history});
      const auto scored = request.scoring.next_of(entry.first_position, entry.count);
      step_->num_scored.push_back(scored.count);
      if (scored.count > 0) {
        const auto behind = request.known.begin() + scored.first + 1;
        parts.back().first_scored = scored.first - entry.first_position;
        parts.back().scored = {behind, behind + scored.count};
      }
    }
    rows_computed_ += step_->num_rows;
    step_->num_batches = overlap_.choose(step_->num_rows, step_->prefills);
    run_.begin(step_->step, std::move(parts), step_->num_batches);
  }

  /// Those that have rows in a step for the first time stay here from now on.
  void tell_begun() {
    StepTokens message{.router = services_->self};
    for (const scheduler::StepEntry& entry : step_->entries) {
      Request& request = requests_.at(entry.request);
      if (std::exchange(request.begun, true)) continue;
      const auto first = static_cast<uint32_t>(request.known.size()) - request.num_prompt;
      message.emissions.push_back(
          {.request = entry.request, .attempt = request.attempt, .first = first});
    }
    if (!message.emissions.empty()) self_->send(scheduler_, std::move(message));
  }

  /// Orders the mask of the request's next token, at most one at a time for each request. No step
  /// waits for it, however long it takes: a token that cannot be sampled is left for a later one.
  void make_mask(RequestId id, Request& request) {
    request.mask = std::make_shared<NextMask>();
    services_->background->submit(
        [this, id, guides = guides_, grammar = request.sampling.grammar, state = request.guide,
         emitted = std::vector(request.known.begin() + request.num_prompt, request.known.end()),
         ordered = std::weak_ptr(request.mask), me = caf::actor_cast<caf::actor>(self_)] {
          const std::shared_ptr<NextMask> mask = ordered.lock();
          if (!mask) return;  // the request left
          const auto allowed = guides->mask(*grammar, emitted, *state);
          mask->set(allowed.ok() ? NextMask::Made({allowed->begin(), allowed->end()})
                                 : allowed.error());
          caf::anon_send(me, JobDone{[this, id, mask] { mask_made(id, mask); }});
        });
  }

  void mask_made(RequestId id, const std::shared_ptr<NextMask>& mask) {
    const auto found = requests_.find(id);
    if (found != requests_.end() && found->second.mask == mask) batch(scheduler::MaskReady{id});
  }

  void step_done(StepOutput output) {
    StepTokens message{.router = services_->self};
    std::vector<RequestId> ended;
    std::set<RequestId> unsampled;
    size_t sampled = 0, scored = 0;
    for (size_t i = 0; i < step_->entries.size(); ++i) {
      const scheduler::StepEntry& entry = step_->entries[i];
      computed(entry, std::span(output.scored).subspan(scored, step_->num_scored[i]));
      scored += step_->num_scored[i];
      if (!entry.wants_token) continue;
      const auto& sampled_token = output.sampled[sampled++];
      const auto found = requests_.find(entry.request);
      if (found == requests_.end()) continue;  // cancelled during the step
      Request& request = found->second;
      if (!sampled_token) {
        unsampled.insert(entry.request);
        continue;
      }
      const Result<model::SampledToken>& token = *sampled_token;
      if (!token.ok()) {
        fail(entry.request, request.attempt, token.error());
        ended.push_back(entry.request);
        continue;
      }
      Emission emission{.request = entry.request,
                        .attempt = request.attempt,
                        .first = static_cast<uint32_t>(request.known.size()) - request.num_prompt,
                        .tokens = {*token},
                        .num_cached = request.num_cached.value_or(0),
                        .prompt_logprobs = request.scoring.finish()};
      request.known.push_back(token->token);
      request.history->append(token->token);
      request.mask.reset();
      const auto stops = request.history->stop_token_ids();
      if (std::find(stops.begin(), stops.end(), token->token) != stops.end()) {
        emission.finished = true;
      } else if (request.known.size() - request.num_prompt >= request.max_tokens) {
        emission.finished = true;
        emission.reason = scheduler::FinishReason::kLength;
      }
      if (emission.finished) ended.push_back(entry.request);
      message.emissions.push_back(std::move(emission));
    }
    const OutStep ended_step = *std::exchange(step_, std::nullopt);
    const Duration took = now(self_) - ended_step.began;
    overlap_.learn(ended_step.num_rows, ended_step.prefills, ended_step.num_batches,
                   ended_step.depth, took);
    if (!message.emissions.empty()) self_->send(scheduler_, std::move(message));
    for (const RequestId request : ended) leave(request);
    idle();
    batch(scheduler::StepDone{ended_step.step, took, unsampled, output.scoring});
    for (const RequestId request : unsampled) {
      // Made since the step looked: mask_made() may have come before the batcher knew.
      if (requests_.at(request).mask->get() != nullptr) batch(scheduler::MaskReady{request});
    }
  }

  /// A request's part of the step that ended. Others may share a prompt at once, and what is
  /// decoded block by block. A row without a token will be computed again: others need not wait
  /// for that, it writes the same KV.
  void computed(const scheduler::StepEntry& entry, std::span<model::SampledToken> scored) {
    const auto found = requests_.find(entry.request);
    if (found == requests_.end()) return;  // cancelled during the step
    Request& request = found->second;
    request.num_computed = entry.first_position + entry.count;
    request.scoring.take(scored);
    const bool prefill = request.num_computed <= request.num_prompt;
    if (prefill || request.num_computed % options_.block_tokens == 0) {
      tell_computed(entry.request, request);
    }
  }

  /// A request's end on this router. Its blocks may still be read by the step that is out.
  void leave(RequestId request) {
    const auto found = requests_.find(request);
    if (found->second.fetching) exchange_.abandon(request, found->second.attempt);
    tell_computed(request, found->second);
    requests_.erase(found);
    released_.push_back(request);
    std::erase_if(asked_again_,
                  [&](const AskedAgain& asked) { return asked.reserve.request == request; });
    if (!run_.out() && !run_.busy())
      idle();  // the blocks are free before the batcher asks for more
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
    for (const RequestId request : released_) tell_kv(0, kvcache::Release{request});
    released_.clear();
    ask_again();
    exchange_.read_turn();
    if (forming_) join_epoch();
    if (switching_) {
      use(*std::exchange(switching_, std::nullopt));
      self_->send(scheduler_, NodeReadyReport{services_->self, epoch_});
    }
    for (const StartRequest& start_now : std::exchange(deferred_, {})) start(start_now);
  }

  void join_epoch() {
    const FormEpochRequest msg = std::move(*forming_);
    forming_.reset();
    const bool linked = links_.open(msg.shards, {.bytes = kDispatchesPerShard * largest_dispatch(),
                                                 .frames = kDispatchesPerShard});
    if (!linked) return;
    exchange_.join_epoch(epoch_, msg.routers);
    serving_ = true;
    use(msg.placement);
  }

  /// From now on steps and signs of life are of this placement's epoch. REQUIRES: linked with all
  /// its shards; no step is out.
  void use(const experts::Placement& placement) {
    epoch_ = placement.epoch;
    engine_->set_epoch(std::make_shared<experts::Placement>(placement),
                       {.kind = transport::FrameKind::kDispatch,
                        .cluster = services_->cluster,
                        .epoch = epoch_,
                        .source = services_->self});
    links_.use(epoch_);
  }

  /// Bytes of a dispatch that sends every row of a full step to one shard.
  [[nodiscard]] uint64_t largest_dispatch() const {
    const uint64_t row = config().hidden_size * sizeof(float) +
                         config().num_experts_per_tok * sizeof(transport::Assignment);
    return options_.batcher.max_step_tokens * row;
  }

  caf::stateful_actor<RouterState>* self_;
  const WorkerServices* services_;
  std::shared_ptr<RouterEngine> engine_;
  caf::actor kv_holder_;
  caf::actor scheduler_;
  RouterOptions options_;
  std::shared_ptr<model::Guides> guides_;  ///< used in the background only
  scheduler::Batcher batcher_;
  scheduler::Overlap overlap_;
  MeasuredBlockCosts costs_;
  std::optional<kvcache::BlockCosts> logged_costs_;
  KvExchange exchange_;
  std::map<RequestId, Request> requests_;
  std::vector<RequestId> released_;      ///< gone, blocks not yet given back
  std::vector<AskedAgain> asked_again_;  ///< who wait for copies that others come before
  std::vector<StartRequest> deferred_;   ///< wait for an earlier attempt's blocks to be given back
  ShardLinks links_;
  StepRun run_;
  std::optional<OutStep> step_;
  std::optional<FormEpochRequest> forming_;
  std::optional<experts::Placement> switching_;  ///< to be used when the step that is out has ended
  Epoch epoch_;
  bool serving_ = false;
  uint64_t rows_computed_ = 0;
  uint64_t num_preempted_ = 0;  ///< in earlier epochs
};

caf::behavior router_actor(caf::stateful_actor<RouterState>* self, const WorkerServices* services,
                           std::shared_ptr<RouterEngine> engine, caf::actor kv_holder,
                           caf::actor scheduler, RouterOptions options) {
  self->state.shell = std::make_shared<RouterShell>(
      self, services, std::move(engine), std::move(kv_holder), std::move(scheduler), options);
  RouterShell* shell = self->state.shell.get();
  self->link_to(shell->kv_holder());  // without its holder no request would ever end
  return {
      [=](const FormEpochRequest& msg) { shell->form(msg); },
      [=](const EpochEnded& msg) { shell->end_epoch(msg.epoch); },
      [=](const SwitchEpochRequest& msg) { shell->switch_epoch(msg); },
      [=](const StartRequest& msg) { shell->start(msg); },
      [=](const CancelAttempt& msg) { shell->cancel(msg); },
      [=](const KvEffects& msg) { shell->kv_effects(msg); },
      [=](const FrameArrived& msg) { shell->frame(msg.frame); },
      [=](const LinkDown& msg) { shell->link_down(msg); },
      [=](const JobDone& msg) { msg.then(); },
      [=](const Wake&) { shell->wake(); },
      [=](const Beat& msg) { shell->beat(msg); },
      [=](const KvPatience&) { shell->patience_tick(); },
      [=](const WorkerStatusQuery& msg) -> caf::result<WorkerStatus> {
        return shell->status(msg.check);
      },
  };
}

}  // namespace troupe::actors
