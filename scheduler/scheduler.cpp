#include "scheduler/scheduler.hpp"

#include <algorithm>
#include <functional>
#include <limits>

#include "base/check.hpp"

namespace troupe::scheduler {
namespace {

// Clients ignore a Retry-After beyond a minute (openai-node) or two (openai-python).
constexpr Duration kMaxRetryAfter = seconds(60);

// About a router's step: so long may tokens be without consequence for those who wait.
constexpr Duration kLookAgain = milliseconds(10);

/// Before a new request so many are served in thought; of a longer queue the rest counts nothing,
/// so that looking at it takes no longer than a router's step.
constexpr size_t kMostInThought = 256;

/// Of those that wait on a router so many may be found to stay; then the rest stay, too, unlooked
/// at: what is alike for all of them is seen by then, and each look costs the hashes of a prompt.
constexpr uint32_t kMostStaying = 4;

constexpr Duration kForEver{int64_t{1} << 60};  // of which two may be added

Instant later(Instant now, Duration timeout) {
  const Duration left{std::numeric_limits<int64_t>::max() - std::max<int64_t>(now.ns, 0)};
  return now + std::min(timeout, left);
}

std::string in_ms(Duration d) { return std::to_string(d.ns / milliseconds(1).ns) + " ms"; }

std::string name(NodeId router) { return "router " + std::to_string(router.value); }

}  // namespace

Scheduler::Scheduler(SchedulerOptions options)
    : options_(options),
      queue_(options.fairness),
      routers_({.max_running = options.max_running,
                .kv_tokens = options.kv_tokens,
                .min_fetch_tokens = options.min_fetch_tokens,
                .min_gain_tokens = options.min_gain_tokens,
                .index = options.prefix_index}) {
  CHECK_GE(options.max_context, 1U);
}

std::vector<SchedulerEffect> Scheduler::handle(const SchedulerEvent& event, Instant now) {
  Effects effects;
  if (!std::holds_alternative<RouterEmitted>(event)) settled_ = false;
  std::visit([&](const auto& e) { on(e, now, effects); }, event);
  end_what_is_late(now, effects);
  if (settled_ && now < last_look_ + kLookAgain) return effects;
  settled_ = true;  // unless somebody starts or leaves
  last_look_ = now;
  const bool blocked = start_queued(now, effects);
  if (blocked) fill_room(now, effects);
  even_out_places(blocked, now, effects);
  relieve_overcommitted(now, effects);
  move_to_begin_sooner(now, effects);
  return effects;
}

std::vector<TokenId> Scheduler::Entry::known() const {
  std::vector<TokenId> tokens = spec.prompt;
  tokens.insert(tokens.end(), emitted.begin(), emitted.end());
  return tokens;
}

void Scheduler::on(const Submitted& event, Instant now, Effects& effects) {
  if (requests_.contains(event.request)) return;
  if (auto reason = reason_to_refuse(event.spec, now)) {
    ++counts_.refused_total;
    std::optional<Duration> after;
    if (!reason->for_good) after = retry_after(event.spec, now);
    effects.emplace_back(
        Tell{event.request, Refused{event.request, std::move(reason->error), after}});
    return;
  }
  const Instant deadline = later(now, event.spec.timeout);
  requests_[event.request] = {.spec = event.spec,
                              .submitted = now,
                              .sequence = counts_.admitted_total,
                              .deadline = deadline};
  queue_.push({.request = event.request,
               .tenant = event.spec.tenant,
               .priority = event.spec.priority,
               .submitted = now,
               .sequence = counts_.admitted_total});
  deadlines_.emplace(deadline, event.request);
  ++counts_.admitted_total;
  counts_.prompt_tokens_total += event.spec.prompt.size();
  effects.emplace_back(Tell{event.request, Admitted{event.request}});
}

std::optional<Scheduler::Refusal> Scheduler::reason_to_refuse(const RequestSpec& spec,
                                                              Instant now) const {
  constexpr bool kForGood = true;
  if (spec.prompt.empty() || spec.max_tokens == 0 || spec.timeout <= Duration{}) {
    return Refusal{{Code::kInvalidArgument,
                    "a request needs a prompt of at least one token, max_tokens of at least 1 and "
                    "a timeout above zero"},
                   kForGood};
  }
  const uint64_t wanted = uint64_t{spec.prompt.size()} + spec.max_tokens;
  if (wanted > options_.max_context) {
    return Refusal{
        {Code::kInvalidArgument,
         "This model's maximum context length is " + std::to_string(options_.max_context) +
             " tokens. However, you requested " + std::to_string(wanted) + " tokens (" +
             std::to_string(spec.prompt.size()) + " in the messages, " +
             std::to_string(spec.max_tokens) + " in the completion)."},
        kForGood};
  }
  if (stopping_) return Refusal{{Code::kUnavailable, "draining: the server is stopping"}};
  if (routers_.empty() && !queue_deadline_) {  // nor is one about to come back
    return Refusal{
        {Code::kUnavailable,
         "no_capacity: no router is ready to compute; `troupe status` shows what is missing"}};
  }
  if (const auto time = too_long_at_best(spec, now)) {
    return Refusal{
        {Code::kDeadlineExceeded,
         "deadline: the request has " + in_ms(spec.timeout) + ", but its " +
             std::to_string(num_expected(spec, now)) + " tokens would take about " + in_ms(*time) +
             " even if it were alone, as others took; give it more time, a shorter prompt or a "
             "smaller max_tokens"},
        kForGood};
  }
  if (queue_.empty() && routers_.any_place()) return reason_for_lateness(spec, {}, load(1), now);
  // Who fills the queue leaves room in it for others.
  const uint32_t reserved = queue_.waiting(spec.tenant) == 0 ? 0 : options_.max_queued / 8;
  if (queue_.size() + reserved >= options_.max_queued) {
    return Refusal{
        {Code::kResourceExhausted, "queue_full: " + std::to_string(queue_.size()) +
                                       " requests are waiting already; try again later"}};
  }
  if (queue_.waiting(spec.tenant) >= options_.max_queued_per_tenant) {
    return Refusal{{Code::kResourceExhausted,
                    "queue_full: " + std::to_string(queue_.waiting(spec.tenant)) +
                        " requests of this tenant are waiting already; try again later"}};
  }
  const bool starts_at_once =
      queue_.waiting(spec.tenant) == 0 && who_yields_to(spec.tenant, spec.priority);
  const auto wait = starts_at_once ? std::nullopt : wait_of(spec, now);
  return reason_for_lateness(spec, wait.value_or(Duration{}), load(), now);
}

std::optional<Duration> Scheduler::too_long_at_best(const RequestSpec& spec, Instant now) const {
  const uint64_t busy = std::max<uint64_t>(load(), 1);
  const auto least = [&](uint32_t num_cached) {
    return std::min(service_of(spec, 0, 1, now, num_cached),
                    service_of(spec, 0, busy, now, num_cached));
  };
  if (least(0) <= spec.timeout) return std::nullopt;
  const Duration at_best = least(routers_.most_cached(spec.cache_namespace, spec.prompt));
  return at_best > spec.timeout ? std::optional(at_best) : std::nullopt;
}

std::optional<Scheduler::Refusal> Scheduler::reason_for_lateness(const RequestSpec& spec,
                                                                 Duration wait, uint64_t load,
                                                                 Instant now) const {
  const Duration service = service_of(spec, 0, load, now);
  if (wait + service <= spec.timeout) return std::nullopt;
  return Refusal{{Code::kDeadlineExceeded,
                  "deadline: the wait for a place is about " + in_ms(wait) + " and its " +
                      std::to_string(num_expected(spec, now)) + " tokens take about " +
                      in_ms(service) + ", but the request has " + in_ms(spec.timeout)}};
}

/// Those that run give up their places one after the other to those before it. If there are places
/// but no KV blocks, as many as run now will run then.
std::optional<Duration> Scheduler::wait_of(const RequestSpec& spec, Instant now) const {
  if (estimate_.empty()) return std::nullopt;
  const uint64_t load = this->load();
  std::vector<Duration> free_in;
  for (const auto& [request, entry] : running_) free_in.push_back(time_left(*entry, load, now));
  if (free_in.empty()) return std::nullopt;
  std::ranges::make_heap(free_in, std::greater());
  for (const RequestId request : queue_.before(spec.tenant, spec.priority, now, kMostInThought)) {
    const Entry& entry = requests_.at(request);
    std::ranges::pop_heap(free_in, std::greater());
    const Duration service = service_of(entry.spec, entry.emitted.size(), load, now);
    free_in.back() = std::min(free_in.back() + service, kForEver);
    std::ranges::push_heap(free_in, std::greater());
  }
  return free_in.front();
}

/// When a place has probably come free; as long as that is not known, one `min_retry_after` per
/// turn of all places that the queue needs to empty.
Duration Scheduler::retry_after(const RequestSpec& spec, Instant now) const {
  const uint64_t places = std::max<uint64_t>(routers_.size(), 1) * options_.max_running;
  const auto turns = static_cast<int64_t>(std::min<uint64_t>(1 + queue_.size() / places, 60));
  const Duration guess = wait_of(spec, now).value_or(options_.min_retry_after * turns);
  return std::clamp(std::max(guess, options_.min_retry_after), seconds(1), kMaxRetryAfter);
}

uint64_t Scheduler::load(uint64_t num_more) const {
  const uint64_t num_routers = std::max<uint64_t>(routers_.size(), 1);
  return (requests_.size() - queue_.size() + num_more + num_routers - 1) / num_routers;
}

Duration Scheduler::service_of(const RequestSpec& spec, size_t num_emitted, uint64_t load,
                               Instant now, uint32_t num_cached) const {
  const uint64_t num_more = num_expected(spec, now) - 1;
  const size_t num_known = spec.prompt.size() + num_emitted;
  Duration prefill = estimate_.prefill(load, num_known, now);
  prefill.ns -= prefill.ns / static_cast<int64_t>(num_known) * num_cached;
  return prefill + estimate_.decode(load, num_more - std::min(num_more, num_emitted), now);
}

Duration Scheduler::time_left(const Entry& running, uint64_t load, Instant now) const {
  const uint64_t num_emitted = running.emitted.size();
  const uint64_t num_more = num_expected(running.spec, now);
  const Duration time =
      running.first ? estimate_.decode(load, num_more - std::min(num_more, num_emitted), now)
                    : service_of(running.spec, num_emitted, load, now);
  return Duration{std::max<int64_t>(time.ns - (now - running.heard).ns, 0)};
}

/// Without a token that could end it, an answer has all that it may have.
uint64_t Scheduler::num_expected(const RequestSpec& spec, Instant now) const {
  return spec.stop_token_ids.empty() ? spec.max_tokens : estimate_.length(spec.max_tokens, now);
}

void Scheduler::on(const Cancelled& event, Instant, Effects& effects) {
  const auto entry = requests_.find(event.request);
  if (entry == requests_.end()) return;
  if (const auto& share = entry->second.share) {
    effects.emplace_back(CancelOnRouter{share->router, event.request, entry->second.attempt});
  }
  learn_length(entry->second);
  forget(entry);
  ++counts_.cancelled_total;
}

void Scheduler::on(const RouterUp& event, Instant now, Effects&) {
  routers_.up(event.router, now);
  queue_deadline_.reset();
}

void Scheduler::on(const RoutersDown& event, Instant now, Effects& effects) {
  bool any = false;
  for (const NodeId router : event.routers) {
    if (!routers_.is_up(router)) continue;
    any = true;
    for (const RequestId request : running_on(router)) {
      effects.emplace_back(CancelOnRouter{router, request, requests_[request].attempt});
      lose(request, event.reason, effects);
    }
    last_heard_ = routers_.last_heard(router);
    routers_.down(router);
  }
  if (!any || !routers_.empty()) return;
  last_loss_ = event.reason.message;
  queue_deadline_ = end_of_wait(event.recovering, now);
}

void Scheduler::on(const RouterGone& event, Instant, Effects&) { routers_.forget(event.router); }

void Scheduler::on(const CannotServe& event, Instant now, Effects&) {
  if (!queue_deadline_) return;
  const Instant end = end_of_wait(false, now);
  if (end >= *queue_deadline_) return;
  queue_deadline_ = end;
  last_loss_ = event.reason.message;
}

Instant Scheduler::end_of_wait(bool recovering, Instant now) const {
  if (recovering) return later(now, options_.max_wait_recovering);
  return std::max(later(last_heard_, options_.max_wait_without_router),
                  later(now, options_.min_wait_without_router));
}

void Scheduler::on(const Drained& event, Instant, Effects& effects) {
  routers_.drain(event.router, event.drained);
  if (!event.drained || !routers_.any_undrained()) return;
  for (const RequestId request : running_on(event.router)) {
    effects.emplace_back(CancelOnRouter{event.router, request, requests_[request].attempt});
    wait_again(request, {Code::kUnavailable, "its router is drained"}, true, effects);
  }
}

std::vector<RequestId> Scheduler::running_on(NodeId router) const {
  std::vector<RequestId> running;
  for (const auto& [request, entry] : running_) {
    if (entry->runs_on(router)) running.push_back(request);
  }
  return running;
}

void Scheduler::lose(RequestId request, const Error& reason, Effects& effects) {
  Entry& entry = requests_.at(request);
  if (++entry.num_losses > options_.max_losses) {
    return fail(request,
                {Code::kUnavailable, "the request lost what computed it " +
                                         std::to_string(entry.num_losses) +
                                         " times; last: " + reason.message},
                effects);
  }
  wait_again(request, reason, true, effects);
}

void Scheduler::wait_again(RequestId request, const Error& reason, bool is_next, Effects& effects) {
  const auto at = requests_.find(request);
  Entry& entry = at->second;
  const auto& stops = entry.spec.stop_token_ids;
  const bool stopped =
      !entry.emitted.empty() && std::ranges::count(stops, entry.emitted.back()) != 0;
  if (stopped || entry.emitted.size() >= entry.spec.max_tokens) {  // only its end was not told
    learn_length(entry);
    forget(at);
    ++counts_.finished_total;
    const auto why = stopped ? FinishReason::kStop : FinishReason::kLength;
    effects.emplace_back(Tell{request, Finished{request, why}});
    return;
  }
  if (stopping_) {
    return fail(request, {Code::kUnavailable, "draining: the server stops and " + reason.message},
                effects);
  }
  leave_router(request, entry);
  entry.has_moved = false;
  queue_.push({.request = request,
               .tenant = entry.spec.tenant,
               .priority = entry.spec.priority,
               .submitted = entry.submitted,
               .sequence = entry.sequence,
               .resumed = is_next});
}

Scheduler::Entry* Scheduler::find_attempt(NodeId router, RequestId request, uint32_t attempt) {
  const auto entry = requests_.find(request);
  if (entry == requests_.end()) return nullptr;
  return entry->second.runs_on(router) && entry->second.attempt == attempt ? &entry->second
                                                                           : nullptr;
}

void Scheduler::on(const RouterEmitted& event, Instant now, Effects& effects) {
  routers_.heard(event.router, now);
  Entry* entry = find_attempt(event.router, event.request, event.attempt);
  if (entry == nullptr) return;
  const uint64_t due = entry->emitted.size();
  const uint64_t end = uint64_t{event.first} + event.tokens.size();
  if (event.first > due || end > entry->spec.max_tokens) {
    effects.emplace_back(CancelOnRouter{event.router, event.request, event.attempt});
    fail(
        event.request,
        {Code::kInternal, name(event.router) + " sent tokens " + std::to_string(event.first) +
                              " to " + std::to_string(end) + " where token " + std::to_string(due) +
                              " of at most " + std::to_string(entry->spec.max_tokens) + " was due"},
        effects);
    return;
  }
  entry->begun = true;
  may_move_.erase({event.router, event.request});
  entry->has_moved = false;
  if (end <= due) return;
  const auto first_new = event.tokens.begin() + static_cast<int64_t>(due - event.first);
  routers_.emitted(*entry->share, end - due, event.num_cached);
  queue_.charge(entry->spec.tenant, end - due);
  const auto num_prompt = static_cast<uint32_t>(entry->spec.prompt.size());
  TokensEmitted told{event.request,
                     static_cast<uint32_t>(due),
                     {first_new, event.tokens.end()},
                     std::min(event.num_cached, num_prompt),
                     due == 0 ? event.prompt_logprobs : std::vector<model::SampledToken>()};
  for (const model::SampledToken& token : told.tokens) entry->emitted.push_back(token.token);
  if (!entry->first) {
    estimate_.prefilled(load(), num_prompt + due, now - entry->heard, now);
    entry->first = now;
    entry->num_at_first = entry->emitted.size();
  }
  entry->heard = now;
  counts_.generated_tokens_total += told.tokens.size();
  effects.emplace_back(Tell{event.request, std::move(told)});
}

void Scheduler::on(const RouterFinished& event, Instant, Effects& effects) {
  const Entry* entry = find_attempt(event.router, event.request, event.attempt);
  if (entry == nullptr) return;
  learn_length(*entry);
  forget(requests_.find(event.request));
  ++counts_.finished_total;
  effects.emplace_back(Tell{event.request, Finished{event.request, event.reason}});
}

void Scheduler::on(const RouterFailed& event, Instant, Effects& effects) {
  if (find_attempt(event.router, event.request, event.attempt) == nullptr) return;
  if (event.error.code == Code::kUnavailable) return lose(event.request, event.error, effects);
  fail(event.request, event.error, effects);
}

void Scheduler::on(const Tick&, Instant, Effects&) {}

void Scheduler::on(const Stopping&, Instant, Effects& effects) {
  stopping_ = true;
  fail_queued({Code::kUnavailable, "draining: the server stopped before the request could start"},
              effects);
}

bool Scheduler::start_queued(Instant now, Effects& effects) {
  while (!queue_.empty() && routers_.any_place()) {
    const RequestId request = *queue_.front(now);
    const Entry& entry = requests_.at(request);
    const auto share = routers_.choose(entry.spec.cache_namespace, entry.known());
    if (!share) return true;  // it is the first that gets room
    start_waiting(request, *share, now, effects);
  }
  return false;
}

void Scheduler::fill_room(Instant now, Effects& effects) {
  if (queue_.num_waiting_tenants() < 2) return;  // the usual case: nobody else is there
  Counts held;
  for (const auto& [request, entry] : requests_) {
    if (entry.share) held[entry.spec.tenant] += entry.share->num_kv;
  }
  while (!queue_.empty() && routers_.any_place()) {
    const RequestSpec& next = requests_.at(*queue_.front(now)).spec;
    const RequestId request = *queue_.front_of_fewest(held);
    const Entry& entry = requests_.at(request);
    if (entry.spec.priority > next.priority) return;
    const auto share = routers_.choose(entry.spec.cache_namespace, entry.known());
    if (!share) return;
    uint64_t& own = held[entry.spec.tenant];
    if (queue_.by_weight(entry.spec.tenant, own + share->num_kv) >
        queue_.by_weight(next.tenant, held[next.tenant])) {
      return;
    }
    own += share->num_kv;
    start_waiting(request, *share, now, effects);
  }
}

void Scheduler::even_out_places(bool blocked, Instant now, Effects& effects) {
  while (!queue_.empty() && (blocked || !routers_.any_place())) {
    const RequestId request = *queue_.front_of_fewest(running_of_);
    const Entry& entry = requests_.at(request);
    const auto yields = who_yields_to(entry.spec.tenant, entry.spec.priority);
    if (!yields) return;
    const Entry& running = requests_.at(*yields);
    const auto share =
        routers_.choose(entry.spec.cache_namespace, entry.known(), {}, &*running.share);
    if (!share) return;  // one request's blocks are not enough
    effects.emplace_back(CancelOnRouter{running.share->router, *yields, running.attempt});
    ++counts_.yielded_total;
    wait_again(*yields, {Code::kUnavailable, "its place went to another tenant"}, false, effects);
    start_waiting(request, *share, now, effects);
    blocked = false;  // perhaps; the next event shows
  }
}

std::optional<RequestId> Scheduler::who_yields_to(const std::string& tenant,
                                                  uint32_t priority) const {
  const auto most = tenant_with_most();
  // It must still have as much as the other one then.
  if (most == running_of_.end() || queue_.by_weight(most->first, most->second - 1) <
                                       queue_.by_weight(tenant, places_of(tenant) + 1)) {
    return std::nullopt;
  }
  std::optional<RequestId> last;
  uint64_t num_owed = 0;
  for (const auto& [request, entry] : requests_) {
    if (!entry.share) continue;
    if (entry.spec.tenant == tenant && entry.emitted.empty()) num_owed += entry.spec.prompt.size();
    if (routers_.is_drained(entry.share->router)) continue;
    if (entry.spec.tenant != most->first || entry.spec.priority < priority) continue;
    if (!last || entry.place() > requests_.at(*last).place()) last = request;
  }
  // Else the first place that comes free would go back. What the tenant was charged for prompts
  // that are still to be computed is no service yet.
  if (queue_.served(most->first) + queue_.by_weight(tenant, num_owed) < queue_.served(tenant)) {
    return std::nullopt;
  }
  return last;
}

uint64_t Scheduler::places_of(const std::string& tenant) const {
  const auto found = running_of_.find(tenant);
  return found == running_of_.end() ? 0 : found->second;
}

Scheduler::Counts::const_iterator Scheduler::tenant_with_most() const {
  return std::ranges::max_element(running_of_, {}, [this](const auto& tenant) {
    return queue_.by_weight(tenant.first, tenant.second);
  });
}

void Scheduler::start_waiting(RequestId request, const RouterShare& share, Instant now,
                              Effects& effects) {
  Entry& entry = requests_.at(request);
  queue_.erase(request);
  if (entry.attempt == 0) {
    Turns& turns = turns_[entry.spec.tenant];
    ++turns.num_started;
    const Duration behind = options_.order_per_running *
                            static_cast<int64_t>(places_of(entry.spec.tenant)) /
                            queue_.weight(entry.spec.tenant);
    turns.last = std::max(turns.last, now + behind);
    entry.order = (turns.last + options_.fairness.ageing * entry.spec.priority).ns;
    // At once: else a tenant of long prompts counts as served little while they are computed.
    queue_.charge(entry.spec.tenant, entry.spec.prompt.size());
  }
  start(request, entry, share, now, effects);
}

void Scheduler::start(RequestId request, Entry& entry, const RouterShare& share, Instant now,
                      Effects& effects) {
  if (entry.attempt > 0) ++counts_.resumed_total;
  ++entry.attempt;
  entry.share = share;
  running_.emplace(request, &entry);
  entry.begun = false;
  if (entry.may_move()) may_move_.emplace(share.router, request);
  entry.heard = now;
  entry.first.reset();
  ++running_of_[entry.spec.tenant];
  routers_.start(share, entry.spec.cache_namespace, entry.known());
  settled_ = false;
  effects.emplace_back(StartOnRouter{share.router, request, entry.attempt, entry.spec,
                                     entry.emitted, entry.order, share.fetch_from});
}

void Scheduler::relieve_overcommitted(Instant now, Effects& effects) {
  for (const NodeId router : routers_.overcommitted()) {
    if (!routers_.any_place(router)) continue;
    const std::vector<RequestId> running = running_on(router);
    const RequestId last = *std::ranges::max_element(
        running, {}, [&](RequestId request) { return requests_.at(request).place(); });
    const Entry& entry = requests_.at(last);
    const auto share = routers_.choose(entry.spec.cache_namespace, entry.known(), router);
    if (!share) continue;
    ++counts_.moved_total;
    move(last, *share, now, effects);
  }
}

void Scheduler::move_to_begin_sooner(Instant now, Effects& effects) {
  std::vector<NodeId> routers;  // each once, however many may move
  constexpr RequestId kLast{std::numeric_limits<uint64_t>::max()};
  for (auto at = may_move_.begin(); at != may_move_.end();) {
    routers.push_back(at->first);
    at = may_move_.upper_bound({at->first, kLast});
  }
  for (const NodeId router : routers) {
    if (!routers_.any_sooner(router, {})) continue;
    std::vector<RequestId> running = running_on(router);
    std::ranges::sort(running, std::greater(),
                      [this](RequestId request) { return requests_.at(request).place(); });
    Behind behind;
    uint32_t num_staying = 0;
    for (const RequestId request : running) {
      if (num_staying == kMostStaying) break;
      Entry& entry = requests_.at(request);
      std::optional<RouterShare> share;
      if (entry.may_move()) {
        if (!routers_.any_sooner(router, behind)) break;
        share =
            routers_.choose_sooner(*entry.share, behind, entry.spec.cache_namespace, entry.known());
        if (!share) ++num_staying;
      }
      if (share) {
        entry.has_moved = true;
        ++counts_.moved_to_begin_total;
        move(request, *share, now, effects);
      } else if (entry.share->num_prefill > 0) {
        ++behind.num_running;
        behind.num_prefill += entry.share->num_prefill;
      }
    }
  }
}

void Scheduler::move(RequestId request, const RouterShare& share, Instant now, Effects& effects) {
  Entry& entry = requests_.at(request);
  effects.emplace_back(CancelOnRouter{entry.share->router, request, entry.attempt});
  leave_router(request, entry);
  start(request, entry, share, now, effects);
}

void Scheduler::learn_length(const Entry& ended) {
  estimate_.ended(ended.emitted.size(), ended.spec.max_tokens, ended.heard);
}

void Scheduler::leave_router(RequestId request, Entry& entry) {
  if (entry.first && entry.emitted.size() > entry.num_at_first) {
    estimate_.decoded(load(), entry.emitted.size() - entry.num_at_first, entry.heard - *entry.first,
                      entry.heard);
  }
  if (entry.begun) {
    routers_.computed(entry.share->router, entry.spec.cache_namespace, entry.known());
  }
  may_move_.erase({entry.share->router, request});
  routers_.leave(*entry.share);
  entry.share.reset();
  running_.erase(request);
  settled_ = false;
  const auto of_tenant = running_of_.find(entry.spec.tenant);
  if (--of_tenant->second == 0) running_of_.erase(of_tenant);
}

void Scheduler::end_what_is_late(Instant now, Effects& effects) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const RequestId request = deadlines_.begin()->second;
    const Entry& entry = requests_[request];
    if (entry.share) {
      effects.emplace_back(CancelOnRouter{entry.share->router, request, entry.attempt});
    }
    const std::string allowed = in_ms(entry.spec.timeout);
    fail(request,
         {Code::kDeadlineExceeded,
          entry.share ? "the request had " + std::to_string(entry.emitted.size()) + " of up to " +
                            std::to_string(entry.spec.max_tokens) + " tokens when its " + allowed +
                            " were over"
                      : "the request was still queued when its " + allowed + " were over"},
         effects);
  }
  if (queue_deadline_ && *queue_deadline_ <= now) {
    queue_deadline_.reset();
    fail_queued({Code::kUnavailable,
                 "no_capacity: nothing can compute the request any more: " + last_loss_},
                effects);
  }
}

void Scheduler::fail(RequestId request, Error error, Effects& effects) {
  forget(requests_.find(request));
  ++counts_.failed_total;
  effects.emplace_back(Tell{request, Failed{request, std::move(error)}});
}

void Scheduler::fail_queued(const Error& error, Effects& effects) {
  while (!queue_.empty()) fail(*queue_.front({}), error, effects);
}

void Scheduler::forget(Entries::iterator entry) {
  auto& [request, ended] = *entry;
  if (ended.share) {
    leave_router(request, ended);
  } else {
    queue_.erase(request);
    settled_ = false;
  }
  if (ended.attempt > 0) {
    const auto turns = turns_.find(ended.spec.tenant);
    if (--turns->second.num_started == 0) turns_.erase(turns);
  }
  deadlines_.erase({ended.deadline, request});
  requests_.erase(entry);
}

std::optional<Instant> Scheduler::next_deadline() const {
  std::optional<Instant> next = queue_deadline_;
  if (!deadlines_.empty()) {
    next = std::min(next.value_or(deadlines_.begin()->first), deadlines_.begin()->first);
  }
  return next;
}

SchedulerCounts Scheduler::counts() const {
  SchedulerCounts counts = counts_;
  counts.queued = queue_.size();
  counts.running = requests_.size() - queue_.size();
  return counts;
}

std::string Scheduler::check() const {
  if (std::string problem = queue_.check(); !problem.empty()) return problem;
  std::vector<RouterShare> shares;
  Counts running_of, started_of;
  size_t num_resuming = 0, num_may_move = 0;
  for (const auto& [request, entry] : requests_) {
    const std::string who = "request " + std::to_string(request.value);
    if (queue_.contains(request) == entry.share.has_value()) return who + " is queued wrongly";
    if (!deadlines_.contains({entry.deadline, request})) return who + " has no deadline";
    if (entry.emitted.size() > entry.spec.max_tokens) return who + " has too many tokens";
    if (entry.num_losses > options_.max_losses) return who + " was lost too often";
    if (entry.attempt > 0) ++started_of[entry.spec.tenant];
    if (!entry.share) {
      num_resuming += entry.attempt > 0 ? 1 : 0;
      continue;
    }
    if (!running_.contains(request)) return who + " is missing among those that run";
    num_may_move += entry.may_move() ? 1 : 0;
    if (may_move_.contains({entry.share->router, request}) != entry.may_move()) {
      return who + " is wrongly among those that may move";
    }
    shares.push_back(*entry.share);
    ++running_of[entry.spec.tenant];
  }
  if (running_.size() != shares.size()) return "a request that runs no more is among those that do";
  if (may_move_.size() != num_may_move) return "a request that left is among those that may move";
  if (running_of != running_of_) return "a tenant's count of requests is wrong";
  if (!std::ranges::equal(turns_, started_of, [](const auto& turns, const auto& started) {
        return turns.first == started.first && turns.second.num_started == started.second;
      })) {
    return "a tenant's count of requests that have started is wrong";
  }
  if (std::string problem = routers_.check(shares); !problem.empty()) return problem;
  if (deadlines_.size() != requests_.size()) return "a deadline outlived its request";
  if (queue_.size() > options_.max_queued + num_resuming) return "the queue exceeds its bound";
  if (!queue_.empty() && routers_.any_place() && (options_.kv_tokens == 0 || shares.empty())) {
    return "a request waits although a router is free";
  }
  if (!queue_.empty() && routers_.empty() && !queue_deadline_) return "the queue waits for ever";
  if (queue_deadline_ && !routers_.empty()) return "a wait for routers goes on although one is up";
  if (counts_.admitted_total !=
      counts_.finished_total + counts_.failed_total + counts_.cancelled_total + requests_.size()) {
    return "an admitted request was lost or ended twice";
  }
  return "";
}

}  // namespace troupe::scheduler
