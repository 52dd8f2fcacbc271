#pragma once

// The cluster-level scheduler's rules as plainly as they can be put: one list of requests, one of
// routers and one of the tokens that were computed where, all looked through from the start for
// every question. Slow, and with little that could fall out of step: a request waits if it has no
// router, and who runs where, places, work and KV blocks are counted each time. What cannot be read
// off the lists is the past: tokens served by tenant, how long requests took, the totals.
//
// It also watches that each start passes nobody more often than FairQueue and Scheduler say.
//
// The prefixes that routers probably have are whole token lists here, of which each match is cut to
// whole chunks; that is what PrefixIndex promises as long as its bound of chunks is not reached.

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "scheduler/scheduler.hpp"

namespace troupe::scheduler {

class SlowScheduler {
 public:
  explicit SlowScheduler(SchedulerOptions options) : options_(options) {}

  std::vector<SchedulerEffect> handle(const SchedulerEvent& event, Instant now) {
    now_ = now;
    effects_.clear();
    std::visit([this](const auto& e) { on(e); }, event);
    end_the_late();
    const bool only_tokens = std::holds_alternative<RouterEmitted>(event);
    if (only_tokens && settled_ && now_ < last_look_ + milliseconds(10)) return effects_;
    settled_ = true;
    last_look_ = now_;
    const bool blocked = start_the_next();
    if (blocked) fill_room();
    even_out(blocked);
    relieve();
    move_to_begin_sooner();
    return effects_;
  }

  [[nodiscard]] std::optional<Instant> next_deadline() const {
    std::optional<Instant> next = end_of_wait_;
    for (const Request& r : requests_) next = std::min(next.value_or(r.deadline()), r.deadline());
    return next;
  }
  [[nodiscard]] SchedulerCounts counts() const {
    SchedulerCounts counts = totals_;
    counts.queued = num_waiting();
    counts.running = requests_.size() - num_waiting();
    return counts;
  }

  /// "" or who was passed against the rules.
  [[nodiscard]] const std::string& injustice() const { return injustice_; }
  /// Starts that passed somebody who had waited its class's ageing periods.
  [[nodiscard]] uint64_t num_passed() const { return num_passed_; }

 private:
  using Tokens = std::vector<TokenId>;
  static constexpr size_t kChunk = PrefixIndexOptions{}.chunk_tokens;
  static constexpr uint64_t kRunningCost = RouterPoolOptions{}.running_cost;

  struct Request {
    RequestId id;
    RequestSpec spec;
    Instant submitted;
    uint64_t sequence = 0;
    Tokens emitted = {};
    uint32_t attempt = 0, num_losses = 0;
    int64_t order = 0;
    bool is_next = false;               ///< while it waits: it lost its router
    std::optional<NodeId> router = {};  ///< none: it waits
    bool begun = false;                 ///< there
    bool has_moved = false;             ///< before it had begun, and it has not begun since
    bool prefills = false;              ///< there, until its first token
    uint64_t shared = 0;                ///< tokens whose KV it shares there
    Instant heard = {};                 ///< of its start there, and of its tokens since
    Instant first = {};                 ///< when its first tokens came; if not prefills
    size_t num_at_first = 0;            ///< tokens that it had emitted then
    struct Passing {
      uint64_t times = 0;
      uint64_t served_before = 0, served_after = 0;  ///< of that tenant: the first, the last time
    };
    /// By other tenants' first starts and the order of the queue, since it has waited its class's
    /// ageing periods.
    std::map<std::string, Passing> passed_by = {};

    [[nodiscard]] bool waits() const { return !router; }
    [[nodiscard]] Instant deadline() const { return submitted + spec.timeout; }
    [[nodiscard]] Tokens known() const {
      Tokens tokens = spec.prompt;
      tokens.insert(tokens.end(), emitted.begin(), emitted.end());
      return tokens;
    }
    [[nodiscard]] uint64_t num_known() const { return spec.prompt.size() + emitted.size(); }
    /// Among those that run: the greatest is the last, of equal order the youngest.
    [[nodiscard]] auto place() const { return std::pair(order, sequence); }
    [[nodiscard]] uint64_t work() const { return prefills ? num_known() - shared : 0; }
    [[nodiscard]] uint64_t kv() const { return num_known() + 1 - shared; }
  };
  struct Router {
    NodeId id;
    bool drained = false;
    Instant heard;
  };
  struct Computed {
    NodeId router;
    std::string cache_namespace;
    Tokens tokens;  ///< whole chunks
  };
  struct Choice {
    NodeId router;
    uint64_t shared = 0;
    uint64_t work = 0;  ///< before its first token
    std::optional<NodeId> kv_from = {};
  };

  // --- events -----------------------------------------------------------------------------------
  void on(const Submitted& e) {
    if (find(e.request) != nullptr) return;
    if (const auto error = reason_to_refuse(e.spec)) {
      ++totals_.refused_total;
      const bool may_help = error->code != Code::kInvalidArgument &&
                            !(error->code == Code::kDeadlineExceeded && is_never_in_time(e.spec));
      return tell(e.request, Refused{e.request, *error,
                                     may_help ? std::optional(retry_after(e.spec)) : std::nullopt});
    }
    comes_to_wait(e.spec.tenant);
    const auto after =
        std::ranges::find_if(requests_, [&](const Request& other) { return other.id > e.request; });
    requests_.insert(
        after,
        {.id = e.request, .spec = e.spec, .submitted = now_, .sequence = totals_.admitted_total});
    forget_idle_tenants();
    ++totals_.admitted_total;
    totals_.prompt_tokens_total += e.spec.prompt.size();
    tell(e.request, Admitted{e.request});
  }
  void on(const Cancelled& e) {
    const Request* r = find(e.request);
    if (r == nullptr) return;
    cancel_on_router(*r);
    learn_length(*r);
    ++totals_.cancelled_total;
    remove(e.request);
  }
  void on(const RouterUp& e) {
    end_of_wait_.reset();
    if (Router* router = find(e.router)) {
      router->heard = now_;
      return;
    }
    const auto after =
        std::ranges::find_if(routers_, [&](const Router& other) { return other.id > e.router; });
    routers_.insert(after, {.id = e.router, .heard = now_});
  }
  void on(const RoutersDown& e) {
    for (const NodeId id : e.routers) {
      const Router* router = find(id);
      if (router == nullptr) continue;
      for (const RequestId request : running_on(id)) {
        cancel_on_router(*find(request));
        lose(request);
      }
      last_heard_ = router->heard;
      std::erase_if(routers_, [&](const Router& other) { return other.id == id; });
      if (routers_.empty()) end_of_wait_ = end_of_wait(e.recovering);
    }
  }
  void on(const RouterGone& e) {
    std::erase_if(computed_, [&](const Computed& c) { return c.router == e.router; });
  }
  void on(const CannotServe&) {
    if (end_of_wait_) end_of_wait_ = std::min(*end_of_wait_, end_of_wait(false));
  }
  void on(const Drained& e) {
    if (Router* router = find(e.router)) router->drained = e.drained;
    if (!e.drained || std::ranges::all_of(routers_, &Router::drained)) return;
    for (const RequestId request : running_on(e.router)) {
      cancel_on_router(*find(request));
      wait_again(request, true);
    }
  }
  void on(const RouterEmitted& e) {
    if (Router* router = find(e.router)) router->heard = now_;
    Request* r = find_attempt(e);
    if (r == nullptr) return;
    const size_t due = r->emitted.size();
    const uint64_t end = uint64_t{e.first} + e.tokens.size();
    if (e.first > due || end > r->spec.max_tokens) {
      cancel_on_router(*r);
      return fail(e.request, {Code::kInternal, ""});
    }
    r->begun = true;
    r->has_moved = false;
    TokensEmitted told{e.request, static_cast<uint32_t>(due), {}, e.num_cached, {}};
    for (size_t i = due; i < end; ++i) told.tokens.push_back(e.tokens[i - e.first]);
    if (told.tokens.empty()) return;
    told.num_cached = std::min<uint32_t>(e.num_cached, r->spec.prompt.size());
    if (due == 0) told.prompt_logprobs = e.prompt_logprobs;
    if (r->prefills) r->shared = std::min<uint64_t>(r->shared, e.num_cached);
    for (const auto& token : told.tokens) r->emitted.push_back(token.token);
    if (r->prefills) {
      const size_t known = r->spec.prompt.size() + due;
      learn({"prefill", magnitude(known), magnitude(load(0))}, known, (now_ - r->heard).ns, now_);
      r->first = now_;
      r->num_at_first = r->emitted.size();
    }
    r->prefills = false;
    r->heard = now_;
    served_[r->spec.tenant] += weighed(r->spec.tenant, told.tokens.size());
    forget_idle_tenants();
    totals_.generated_tokens_total += told.tokens.size();
    tell(e.request, told);
  }
  void on(const RouterFinished& e) {
    if (find_attempt(e) != nullptr) finish(e.request, e.reason);
  }
  void on(const RouterFailed& e) {
    if (find_attempt(e) == nullptr) return;
    if (e.error.code == Code::kUnavailable) return lose(e.request);
    fail(e.request, {e.error.code, ""});
  }
  void on(const Tick&) {}
  void on(const Stopping&) {
    stopping_ = true;
    fail_waiting({Code::kUnavailable, "draining"});
  }

  // --- admission --------------------------------------------------------------------------------
  /// The message is the word that the scheduler's begins with.
  [[nodiscard]] std::optional<Error> reason_to_refuse(const RequestSpec& spec) const {
    const bool can_be_meant =
        !spec.prompt.empty() && spec.max_tokens > 0 && spec.timeout > Duration{};
    if (!can_be_meant || uint64_t{spec.prompt.size()} + spec.max_tokens > options_.max_context) {
      return Error{Code::kInvalidArgument, ""};
    }
    if (stopping_) return Error{Code::kUnavailable, "draining"};
    if (routers_.empty() && !end_of_wait_) return Error{Code::kUnavailable, "no_capacity"};
    const auto late_after = [&](Duration wait, uint64_t load) -> std::optional<Error> {
      if (wait + service_of(spec, 0, load) <= spec.timeout) return std::nullopt;
      return Error{Code::kDeadlineExceeded, "deadline"};
    };
    if (is_never_in_time(spec)) return Error{Code::kDeadlineExceeded, "deadline"};
    if (num_waiting() == 0 && any_place()) return late_after({}, load(1));
    const size_t own = num_waiting(spec.tenant);
    const size_t room = options_.max_queued - (own == 0 ? 0 : options_.max_queued / 8);
    if (num_waiting() >= room || own >= options_.max_queued_per_tenant) {
      return Error{Code::kResourceExhausted, "queue_full"};
    }
    const bool starts_at_once = own == 0 && who_yields_to(spec.tenant, spec.priority) != nullptr;
    return late_after(starts_at_once ? Duration{} : wait_of(spec).value_or(Duration{}), load(0));
  }
  /// Neither as things are nor alone, nor if all were cached there that is cached anywhere.
  [[nodiscard]] bool is_never_in_time(const RequestSpec& spec) const {
    size_t most = 0;
    for (const Computed& c : computed_) {
      most = std::max(most, cached(c.router, spec.cache_namespace, spec.prompt));
    }
    for (const size_t num_cached : {size_t{0}, std::min(most, spec.prompt.size() - 1)}) {
      for (const uint64_t load : {uint64_t{1}, std::max<uint64_t>(this->load(0), 1)}) {
        if (service_of(spec, 0, load, num_cached) <= spec.timeout) return false;
      }
    }
    return true;
  }
  /// The places of those that run go one after the other to those before it.
  [[nodiscard]] std::optional<Duration> wait_of(const RequestSpec& spec) const {
    const auto is_prefill = [](const auto& l) { return std::get<0>(l.first) == "prefill"; };
    if (std::ranges::none_of(lessons_, is_prefill)) return std::nullopt;
    std::vector<Duration> free_in;
    for (const Request& r : requests_) {
      if (r.waits()) continue;
      const size_t expected = num_expected(r.spec), emitted = r.emitted.size();
      const Duration time = r.prefills            ? service_of(r.spec, emitted, load(0))
                            : expected <= emitted ? Duration{}
                                                  : time_of("decode", load(0), expected - emitted);
      free_in.push_back(Duration{std::max<int64_t>(0, time.ns - (now_ - r.heard).ns)});
    }
    if (free_in.empty()) return std::nullopt;
    for (const Request* r : before(spec)) {
      Duration& next = *std::ranges::min_element(free_in);
      next = next + service_of(r->spec, r->emitted.size(), load(0));
    }
    return *std::ranges::min_element(free_in);
  }
  [[nodiscard]] Duration retry_after(const RequestSpec& spec) const {
    const size_t places = std::max<size_t>(routers_.size(), 1) * options_.max_running;
    const auto turns = static_cast<int64_t>(1 + num_waiting() / places);
    const Duration guess = wait_of(spec).value_or(options_.min_retry_after * turns);
    return std::clamp(std::max(guess, options_.min_retry_after), seconds(1), seconds(60));
  }

  // --- how long requests take -------------------------------------------------------------------
  /// Moving averages of the last lessons about so much.
  struct Lessons {
    double units = 0, amount = 0;
    int num = 0;
    Instant last = {};
  };
  static int magnitude(uint64_t n) { return n == 0 ? 0 : 1 + magnitude(n / 2); }
  using About = std::tuple<std::string, int, int>;  ///< what, of which size, under which load
  void learn(const About& about, uint64_t units, int64_t amount, Instant at) {
    Lessons& l = lessons_[about];
    l.num = std::min(l.num + 1, 8);
    l.units += (static_cast<double>(units) - l.units) / l.num;
    l.amount += (static_cast<double>(amount) - l.amount) / l.num;
    l.last = std::max(l.last, at);
  }
  void learn_length(const Request& r) {
    if (r.emitted.empty()) return;
    const auto length = static_cast<int64_t>(r.emitted.size());
    const uint32_t most = r.spec.max_tokens;
    learn({"length", magnitude(most), 0}, most, length, r.heard);
  }
  [[nodiscard]] double age_ns(const Lessons& l) const {
    return std::max(60e9, static_cast<double>((now_ - l.last).ns));
  }
  [[nodiscard]] double amount_of(const Lessons& l, uint64_t units) const {
    return l.amount / l.units * static_cast<double>(units) * (60e9 / age_ns(l));
  }
  /// Learned of the next smaller size if not of this one, and under the next lower load if not
  /// lately under this one.
  [[nodiscard]] Duration time_of(const std::string& about, uint64_t load, uint64_t units) const {
    const bool is_prefill = about == "prefill";
    const Lessons* best = nullptr;
    int size = is_prefill ? magnitude(units) : 0;
    for (; size >= 0 && best == nullptr; --size) {
      for (int i = magnitude(load); i >= 0; --i) {
        const auto known = lessons_.find({about, size, i});
        if (known == lessons_.end()) continue;
        if (best == nullptr || age_ns(known->second) < age_ns(*best)) best = &known->second;
      }
    }
    if (best == nullptr) return {};
    if (is_prefill) units = std::min(units, (uint64_t{1} << (size + 1)) - 1);
    return Duration{static_cast<int64_t>(amount_of(*best, units))};
  }
  [[nodiscard]] size_t num_expected(const RequestSpec& spec) const {
    if (spec.stop_token_ids.empty()) return spec.max_tokens;
    const auto known = lessons_.find({"length", magnitude(spec.max_tokens), 0});
    if (known == lessons_.end()) return 1;
    const auto length = static_cast<size_t>(amount_of(known->second, spec.max_tokens) + 0.5);
    return std::clamp<size_t>(length, 1, spec.max_tokens);
  }
  [[nodiscard]] Duration service_of(const RequestSpec& spec, size_t emitted, uint64_t load,
                                    size_t num_cached = 0) const {
    const size_t known = spec.prompt.size() + emitted, more = num_expected(spec) - 1;
    const size_t left = more > emitted ? more - emitted : 0;
    Duration prefill = time_of("prefill", load, known);
    prefill.ns -= prefill.ns / static_cast<int64_t>(known) * static_cast<int64_t>(num_cached);
    return prefill + time_of("decode", load, left);
  }
  [[nodiscard]] uint64_t load(size_t num_more) const {
    const size_t routers = std::max<size_t>(routers_.size(), 1);
    const size_t running = requests_.size() - num_waiting() + num_more;
    return running / routers + (running % routers != 0 ? 1 : 0);
  }

  // --- whose turn it is -------------------------------------------------------------------------
  [[nodiscard]] Instant urgent_from(const Request& r) const {
    return r.submitted + options_.fairness.ageing * r.spec.priority;
  }
  /// Ageing periods, begun ones counted whole, until it is as urgent as class 0.
  [[nodiscard]] int64_t urgency(const Request& r, Instant at) const {
    if (r.is_next) return -1;
    const int64_t left = (urgent_from(r) - at).ns, period = options_.fairness.ageing.ns;
    return left <= 0 ? 0 : (left + period - 1) / period;
  }
  /// Among those of one tenant, smallest first.
  [[nodiscard]] auto turn(const Request& r) const {
    return std::tuple(!r.is_next, urgent_from(r), r.submitted, r.sequence);
  }
  [[nodiscard]] std::vector<const Request*> first_of_each_tenant() const {
    std::map<std::string_view, const Request*> firsts;
    for (const Request& r : requests_) {
      if (!r.waits()) continue;
      const Request*& first = firsts[r.spec.tenant];
      if (first == nullptr || turn(r) < turn(*first)) first = &r;
    }
    std::vector<const Request*> all;
    for (const auto& [tenant, first] : firsts) all.push_back(first);
    return all;
  }
  /// Who is probably served before a request that comes now: those of its tenant that are before
  /// it, and for each of them and itself one of each other tenant, by weight; nobody less urgent.
  [[nodiscard]] std::vector<const Request*> before(const RequestSpec& spec) const {
    const Request own{
        .id = RequestId{}, .spec = spec, .submitted = now_, .sequence = totals_.admitted_total};
    std::map<std::string, std::vector<const Request*>> lines;
    for (const Request& r : requests_) {
      if (r.waits()) lines[r.spec.tenant].push_back(&r);
    }
    const size_t turns = 1 + std::ranges::count_if(lines[spec.tenant], [&](const Request* r) {
                           return turn(*r) < turn(own);
                         });
    std::vector<const Request*> all;
    for (auto& [tenant, line] : lines) {
      std::ranges::sort(line, {}, [this](const Request* r) { return turn(*r); });
      const bool is_own = tenant == spec.tenant;
      const size_t most = is_own ? turns - 1 : turns * weight_of(tenant) / weight_of(spec.tenant);
      for (size_t i = 0; i < std::min(most, line.size()); ++i) {
        if (is_own || urgency(*line[i], now_) <= urgency(own, now_)) all.push_back(line[i]);
      }
    }
    // The own line first: the order of those that get places decides who gets which.
    std::ranges::stable_partition(all,
                                  [&](const Request* r) { return r->spec.tenant == spec.tenant; });
    return all;
  }
  [[nodiscard]] uint64_t served(const std::string& tenant) const {
    return served_.contains(tenant) ? served_.at(tenant) : 0;
  }
  /// REQUIRES: somebody waits.
  [[nodiscard]] RequestId next(Instant at) const {
    const auto rank = [&](const Request* r) {
      return std::tuple(urgency(*r, at), served(r->spec.tenant), turn(*r));
    };
    const auto firsts = first_of_each_tenant();
    return (*std::ranges::min_element(firsts, {}, rank))->id;
  }
  [[nodiscard]] RequestId next_of_fewest() const {
    const auto rank = [&](const Request* r) {
      return std::tuple(weighed_places(r->spec.tenant), served(r->spec.tenant), turn(*r));
    };
    const auto firsts = first_of_each_tenant();
    return (*std::ranges::min_element(firsts, {}, rank))->id;
  }
  /// Time without work earns nothing: a tenant that had nothing waiting comes back at the level of
  /// those who wait, or, if nobody does, of the one who waited last.
  void comes_to_wait(const std::string& tenant) {
    if (num_waiting(tenant) > 0) return;
    std::optional<uint64_t> level;
    for (const Request* first : first_of_each_tenant()) {
      level = std::min(level.value_or(UINT64_MAX), served(first->spec.tenant));
    }
    served_[tenant] = std::max(served(tenant), level.value_or(served(last_waited_)));
  }
  void forget_idle_tenants() {
    while (served_.size() > options_.fairness.max_tenants) {
      auto least = served_.end();
      for (auto at = served_.begin(); at != served_.end(); ++at) {
        if (num_waiting(at->first) > 0) continue;
        if (least == served_.end() || at->second < least->second) least = at;
      }
      if (least == served_.end()) return;
      served_.erase(least);
    }
  }

  // --- where it runs ----------------------------------------------------------------------------
  [[nodiscard]] std::optional<Choice> choose(const Request& r, std::optional<NodeId> except = {},
                                             const Request* leaving = nullptr) const {
    const Tokens known = r.known();
    std::optional<Choice> best;
    std::pair<uint64_t, uint64_t> least;
    for (const Router& router : routers_) {
      uint64_t num_running = 0, work = 0, kv = 0;
      for (const Request& other : requests_) {
        if (other.router != router.id || &other == leaving) continue;
        ++num_running;
        work += other.work();
        kv += other.kv();
      }
      const uint64_t shared =
          std::min(cached(router.id, r.spec.cache_namespace, known), known.size() - 1);
      if (router.drained || router.id == except || num_running >= options_.max_running) continue;
      const bool fits =
          options_.kv_tokens == 0 || kv + known.size() + 1 - shared <= options_.kv_tokens;
      if (!fits && num_running > 0) continue;
      const std::pair cost(work + known.size() - shared + kRunningCost * num_running, num_running);
      if (best && least <= cost) continue;
      best = {router.id, shared, cost.first};
      least = cost;
    }
    if (!best) return best;
    uint64_t most = best->shared + options_.min_fetch_tokens - 1;
    for (const NodeId other : routers_that_have_some(r.spec.cache_namespace, known)) {
      const uint64_t there = cached(other, r.spec.cache_namespace, known);
      if (there <= most || other == best->router || find(other) == nullptr) continue;
      most = there;
      best->kv_from = other;
    }
    return best;
  }
  static size_t num_equal_chunk_tokens(const Tokens& a, const Tokens& b) {
    return (std::ranges::mismatch(a, b).in1 - a.begin()) / kChunk * kChunk;
  }
  [[nodiscard]] size_t cached(NodeId router, const std::string& cache_namespace,
                              const Tokens& tokens) const {
    size_t most = 0;
    for (const Computed& c : computed_) {
      if (c.router != router || c.cache_namespace != cache_namespace) continue;
      most = std::max(most, num_equal_chunk_tokens(c.tokens, tokens));
    }
    return most;
  }
  /// In the order in which they got the first chunk of them.
  [[nodiscard]] std::vector<NodeId> routers_that_have_some(const std::string& cache_namespace,
                                                           const Tokens& tokens) const {
    std::vector<NodeId> routers;
    for (const Computed& c : computed_) {
      if (c.cache_namespace != cache_namespace || num_equal_chunk_tokens(c.tokens, tokens) == 0 ||
          std::ranges::count(routers, c.router) != 0) {
        continue;
      }
      routers.push_back(c.router);
    }
    return routers;
  }
  void computes(NodeId router, const Request& r) {
    Tokens tokens = r.known();
    tokens.resize(tokens.size() / kChunk * kChunk);
    if (tokens.empty()) return;
    for (Computed& c : computed_) {
      if (c.router != router || c.cache_namespace != r.spec.cache_namespace) continue;
      const size_t equal = num_equal_chunk_tokens(c.tokens, tokens);
      if (equal == tokens.size()) return;
      if (equal < c.tokens.size()) continue;
      c.tokens = tokens;  // it goes on from there
      return;
    }
    computed_.push_back({router, r.spec.cache_namespace, tokens});
  }

  // --- rules that hold after every event --------------------------------------------------------
  void end_the_late() {
    while (!requests_.empty()) {
      const Request& r = *std::ranges::min_element(
          requests_, {}, [](const Request& r) { return std::pair(r.deadline(), r.id); });
      if (r.deadline() > now_) break;
      cancel_on_router(r);
      fail(r.id, {Code::kDeadlineExceeded, ""});
    }
    if (!end_of_wait_ || *end_of_wait_ > now_) return;
    end_of_wait_.reset();
    fail_waiting({Code::kUnavailable, "no_capacity"});
  }
  /// @returns whether the request whose turn it is finds no room although there is a place
  bool start_the_next() {
    while (num_waiting() > 0 && any_place()) {
      const RequestId request = next(now_);
      const auto choice = choose(*find(request));
      if (!choice) return true;
      start_waiting(request, *choice, Because::kItsTurn);
    }
    return false;
  }
  void fill_room() {
    while (num_waiting() > 0 && any_place()) {
      const RequestSpec& blocked = find(next(now_))->spec;
      const auto rank = [&](const Request* r) {
        const std::string& tenant = r->spec.tenant;
        return std::tuple(weighed(tenant, kv_of(tenant)), served(tenant), turn(*r));
      };
      const auto firsts = first_of_each_tenant();
      const Request& r = **std::ranges::min_element(firsts, {}, rank);
      const auto choice = choose(r);
      if (r.spec.priority > blocked.priority || !choice) return;
      const uint64_t needed = r.num_known() + 1 - choice->shared;
      const uint64_t after = weighed(r.spec.tenant, kv_of(r.spec.tenant) + needed);
      if (after > weighed(blocked.tenant, kv_of(blocked.tenant))) return;
      start_waiting(r.id, *choice, Because::kHoldsLeastKv);
    }
  }
  [[nodiscard]] uint64_t kv_of(const std::string& tenant) const {
    uint64_t kv = 0;
    for (const Request& r : requests_) kv += !r.waits() && r.spec.tenant == tenant ? r.kv() : 0;
    return kv;
  }
  void even_out(bool blocked) {
    while (num_waiting() > 0 && (blocked || !any_place())) {
      const RequestId waiting = next_of_fewest();
      const RequestSpec& spec = find(waiting)->spec;
      const Request* yields = who_yields_to(spec.tenant, spec.priority);
      if (yields == nullptr) return;
      const auto choice = choose(*find(waiting), {}, yields);
      if (!choice) return;
      cancel_on_router(*yields);
      ++totals_.yielded_total;
      wait_again(yields->id, false);
      start_waiting(waiting, *choice, Because::kHoldsFewestPlaces);
      blocked = false;  // the next event shows whether there is room now
    }
  }
  [[nodiscard]] const Request* who_yields_to(const std::string& tenant, uint32_t priority) const {
    const std::string most = tenant_with_most();
    size_t owed = 0;
    for (const Request& r : requests_) {
      if (!r.waits() && r.spec.tenant == tenant && r.emitted.empty()) owed += r.spec.prompt.size();
    }
    if (places_of(most) == 0) return nullptr;
    const uint64_t left = weighed(most, places_of(most) - 1);
    if (left < weighed(tenant, places_of(tenant) + 1)) return nullptr;
    if (served(most) + weighed(tenant, owed) < served(tenant)) return nullptr;
    const Request* last = nullptr;
    for (const Request& r : requests_) {
      if (r.waits() || r.spec.tenant != most || find(*r.router)->drained) continue;
      if (r.spec.priority < priority) continue;
      if (last == nullptr || r.place() > last->place()) last = &r;
    }
    return last;
  }
  void relieve() {
    if (options_.kv_tokens == 0) return;
    for (const Router& router : routers_) {
      const std::vector<RequestId> running = running_on(router.id);
      uint64_t kv = 0;
      for (const RequestId request : running) kv += find(request)->kv();
      if (kv <= options_.kv_tokens || running.size() < 2) continue;
      Request& last = *find(*std::ranges::max_element(
          running, {}, [this](RequestId request) { return find(request)->place(); }));
      const auto choice = choose(last, router.id);
      if (!choice) continue;
      cancel_on_router(last);
      leave(last);
      ++totals_.moved_total;
      start(last, *choice);
    }
  }

  /// Those that have not begun on a router move, the last in order first, until four were found
  /// that stay. Before one are all that decode or come earlier, and all of the other router.
  void move_to_begin_sooner() {
    const auto place = [this](RequestId id) { return find(id)->place(); };
    for (const Router& router : routers_) {
      std::vector<RequestId> running = running_on(router.id);
      std::ranges::sort(running, std::greater(), place);
      int num_staying = 0;
      for (const RequestId request : running) {
        Request& r = *find(request);
        if (num_staying == 4 || r.begun || r.has_moved) continue;
        uint64_t here = r.work();
        for (const RequestId other : running_on(router.id)) {
          if (other == request) continue;
          const bool comes_later = find(other)->work() > 0 && place(other) > place(request);
          here += comes_later ? 0 : kRunningCost + find(other)->work();
        }
        auto choice = choose(r, router.id);
        const uint64_t gain = choice && choice->work < here ? here - choice->work : 0;
        if (gain < std::max<uint64_t>({1, options_.min_gain_tokens, here / 4})) {
          ++num_staying;
          continue;
        }
        // What it was to compute there is not there.
        if (choice->kv_from == router.id && r.shared < choice->shared + options_.min_fetch_tokens) {
          choice->kv_from.reset();
        }
        cancel_on_router(r);
        leave(r);
        r.has_moved = true;
        ++totals_.moved_to_begin_total;
        start(r, *choice);
      }
    }
  }

  // --- what happens to a request ----------------------------------------------------------------
  enum class Because : uint8_t { kItsTurn, kHoldsLeastKv, kHoldsFewestPlaces };
  /// Those who wait on had less of a claim.
  void expect_rightly_passed(const Request& starts, Because because) {
    for (Request& r : requests_) {
      if (!r.waits() || r.id == starts.id) continue;
      const std::string& own = r.spec.tenant;
      const std::string& other = starts.spec.tenant;
      const auto complain = [&](const std::string& what) {
        injustice_ = "request " + std::to_string(starts.id.value) + " passes request " +
                     std::to_string(r.id.value) + what;
      };
      if (own == other) {
        if (turn(starts) > turn(r)) complain(" of its tenant");
        continue;
      }
      if (because != Because::kItsTurn) {
        const bool by_kv = because == Because::kHoldsLeastKv;
        const bool holds_more = by_kv ? weighed(other, kv_of(other)) > weighed(own, kv_of(own))
                                      : weighed_places(other) > weighed_places(own);
        if (holds_more) complain(", whose tenant holds less");
        continue;
      }
      if (starts.is_next != r.is_next) {
        if (r.is_next) complain(", which ran before");
        continue;
      }
      const bool has_waited = r.is_next || now_ >= urgent_from(r);
      const bool is_later = has_waited ? !starts.is_next && now_ < urgent_from(starts)
                                       : urgency(starts, now_) > urgency(r, now_);
      if (is_later) complain(", which is more urgent");
      const bool is_as_urgent = has_waited || urgency(starts, now_) == urgency(r, now_);
      if (is_as_urgent && served(other) > served(own)) complain(", whose tenant was served less");
      if (!has_waited) continue;
      ++num_passed_;
      if (starts.attempt > 0) continue;  // it gave a place up before and was charged then
      Request::Passing& by = r.passed_by[other];
      const bool was_forgotten = served(other) < by.served_after;
      if (by.times == 0 || was_forgotten) by = {0, served(other), 0};
      const uint64_t ahead = served(own) - std::min(served(own), by.served_before);
      if (by.times++ * weighed(other, 1) > ahead) complain(" too often");
      by.served_after = served(other) + weighed(other, starts.spec.prompt.size());
    }
  }
  void start_waiting(RequestId request, const Choice& choice, Because because) {
    Request& r = *find(request);
    expect_rightly_passed(r, because);
    const bool is_first = r.attempt == 0;
    if (is_first) {
      const auto num_running = static_cast<int64_t>(places_of(r.spec.tenant));
      const Instant turn =
          now_ + options_.order_per_running * num_running / weight_of(r.spec.tenant);
      Instant& last = last_turn_[r.spec.tenant];
      last = std::max(last, turn);
      r.order = (last + options_.fairness.ageing * r.spec.priority).ns;
    }
    r.is_next = false;
    start(r, choice);
    no_longer_waits(r.spec.tenant);
    if (is_first) {
      served_[r.spec.tenant] += weighed(r.spec.tenant, r.spec.prompt.size());
      forget_idle_tenants();
    }
  }
  void start(Request& r, const Choice& choice) {
    if (r.attempt > 0) ++totals_.resumed_total;
    ++r.attempt;
    r.router = choice.router;
    r.shared = choice.shared;
    r.begun = false;
    r.prefills = true;
    r.heard = now_;
    computes(choice.router, r);
    settled_ = false;
    effects_.emplace_back(
        StartOnRouter{choice.router, r.id, r.attempt, r.spec, r.emitted, r.order, choice.kv_from});
  }
  void leave(Request& r) {
    if (!r.prefills && r.emitted.size() > r.num_at_first) {
      const size_t num_more = r.emitted.size() - r.num_at_first;
      learn({"decode", 0, magnitude(load(0))}, num_more, (r.heard - r.first).ns, r.heard);
    }
    if (r.begun) computes(*r.router, r);
    r.router.reset();
    settled_ = false;
  }
  void lose(RequestId request) {
    if (++find(request)->num_losses > options_.max_losses) {
      return fail(request, {Code::kUnavailable, ""});
    }
    wait_again(request, true);
  }
  void wait_again(RequestId request, bool is_next) {
    Request& r = *find(request);
    if (!r.emitted.empty() && std::ranges::count(r.spec.stop_token_ids, r.emitted.back()) != 0) {
      return finish(request, FinishReason::kStop);
    }
    if (r.emitted.size() == r.spec.max_tokens) return finish(request, FinishReason::kLength);
    if (stopping_) return fail(request, {Code::kUnavailable, "draining"});
    comes_to_wait(r.spec.tenant);
    leave(r);
    r.has_moved = false;
    r.is_next = is_next;
    forget_idle_tenants();
  }
  void finish(RequestId request, FinishReason reason) {
    learn_length(*find(request));
    ++totals_.finished_total;
    remove(request);
    tell(request, Finished{request, reason});
  }
  void fail(RequestId request, const Error& error) {
    ++totals_.failed_total;
    remove(request);
    tell(request, Failed{request, error});
  }
  /// In the order of their turns, seen from long ago.
  void fail_waiting(const Error& error) {
    while (num_waiting() > 0) fail(next({}), error);
  }
  void remove(RequestId request) {
    Request& r = *find(request);
    const std::string tenant = r.spec.tenant;
    const bool waited = r.waits();
    if (!waited) leave(r);
    std::erase_if(requests_, [&](const Request& other) { return other.id == request; });
    const bool has_started_others = std::ranges::any_of(requests_, [&](const Request& other) {
      return other.spec.tenant == tenant && other.attempt > 0;
    });
    if (!has_started_others) last_turn_.erase(tenant);
    if (waited) no_longer_waits(tenant);
  }
  void no_longer_waits(const std::string& tenant) {
    if (num_waiting() == 0) last_waited_ = tenant;
    settled_ = false;
  }
  void cancel_on_router(const Request& r) {
    if (!r.waits()) effects_.emplace_back(CancelOnRouter{*r.router, r.id, r.attempt});
  }
  void tell(RequestId request, ClientEvent event) {
    effects_.emplace_back(Tell{request, std::move(event)});
  }

  // --- looking through the lists ----------------------------------------------------------------
  Request* find(RequestId id) {
    const auto at = std::ranges::find(requests_, id, &Request::id);
    return at == requests_.end() ? nullptr : &*at;
  }
  Router* find(NodeId id) {
    const auto at = std::ranges::find(routers_, id, &Router::id);
    return at == routers_.end() ? nullptr : &*at;
  }
  [[nodiscard]] const Router* find(NodeId id) const {
    const auto at = std::ranges::find(routers_, id, &Router::id);
    return at == routers_.end() ? nullptr : &*at;
  }
  Request* find_attempt(const auto& e) {
    Request* r = find(e.request);
    return r != nullptr && r->router == e.router && r->attempt == e.attempt ? r : nullptr;
  }
  [[nodiscard]] std::vector<RequestId> running_on(NodeId router) const {
    std::vector<RequestId> running;
    for (const Request& r : requests_) {
      if (r.router == router) running.push_back(r.id);
    }
    return running;
  }
  [[nodiscard]] bool any_place() const {
    return std::ranges::any_of(routers_, [this](const Router& router) {
      return !router.drained && running_on(router.id).size() < options_.max_running;
    });
  }
  [[nodiscard]] size_t num_waiting() const {
    return std::ranges::count_if(requests_, &Request::waits);
  }
  [[nodiscard]] size_t num_waiting(const std::string& tenant) const {
    return std::ranges::count_if(
        requests_, [&](const Request& r) { return r.waits() && r.spec.tenant == tenant; });
  }
  [[nodiscard]] size_t places_of(const std::string& tenant) const {
    return std::ranges::count_if(
        requests_, [&](const Request& r) { return !r.waits() && r.spec.tenant == tenant; });
  }
  [[nodiscard]] uint32_t weight_of(const std::string& tenant) const {
    const auto& weights = options_.fairness.weights;
    return weights.contains(tenant) ? weights.at(tenant) : 1;
  }
  /// So that it compares with what other tenants have; 1024 keeps what does not divide.
  [[nodiscard]] uint64_t weighed(const std::string& tenant, uint64_t amount) const {
    return 1024 * amount / weight_of(tenant);
  }
  [[nodiscard]] uint64_t weighed_places(const std::string& tenant) const {
    return weighed(tenant, places_of(tenant));
  }
  /// Of equal ones the first by name; somebody without a place if nobody has one.
  [[nodiscard]] std::string tenant_with_most() const {
    std::string most;
    for (const Request& r : requests_) {
      const std::string& tenant = r.spec.tenant;
      const uint64_t places = weighed_places(tenant), before = weighed_places(most);
      if (places > before || (places == before && tenant < most)) most = tenant;
    }
    return most;
  }
  [[nodiscard]] Instant end_of_wait(bool recovering) const {
    if (recovering) return now_ + options_.max_wait_recovering;
    return std::max(last_heard_ + options_.max_wait_without_router,
                    now_ + options_.min_wait_without_router);
  }

  SchedulerOptions options_;
  Instant now_;
  std::vector<SchedulerEffect> effects_;
  std::vector<Request> requests_;  ///< by id
  std::vector<Router> routers_;    ///< those that are up, by id
  std::vector<Computed> computed_;
  std::map<std::string, uint64_t> served_;    ///< weighed tokens, of the tenants remembered
  std::map<std::string, Instant> last_turn_;  ///< of tenants with requests that have started
  std::string last_waited_;                   ///< the tenant whose request was the last to wait
  std::map<About, Lessons> lessons_;
  std::optional<Instant> end_of_wait_;  ///< for a router
  Instant last_heard_;                  ///< of the last router that went down
  bool stopping_ = false;
  Instant last_look_;     ///< for somebody to start, to give way or to move
  bool settled_ = false;  ///< since then nobody has started, left a router or stopped waiting
  SchedulerCounts totals_;
  std::string injustice_;
  uint64_t num_passed_ = 0;
};

/// For comparing and for messages: "start 3.1 on 2 ...; tell 3: admitted; cancel 3.1 on 2; ". Of an
/// error its code and, where clients look at it, the word that its message begins with.
inline std::string to_text(const std::vector<SchedulerEffect>& effects) {
  const auto n = [](auto value) { return std::to_string(value); };
  const auto tokens = [&](const auto& list) {
    std::string text = " [";
    for (const auto& token : list) {
      if constexpr (std::is_same_v<decltype(token), const TokenId&>) {
        text += n(token) + " ";
      } else {
        text += n(token.token) + "/" + n(token.logprob) + " ";
      }
    }
    return text + "]";
  };
  const auto error = [](const Error& e) {
    std::string text = std::string(to_string(e.code)) + " ";
    for (const std::string_view word : {"draining", "no_capacity", "queue_full", "deadline"}) {
      if (e.message.starts_with(word)) text += word;
    }
    return text;
  };
  std::string text;
  for (const SchedulerEffect& effect : effects) {
    if (const auto* start = std::get_if<StartOnRouter>(&effect)) {
      text += "start " + n(start->request.value) + "." + n(start->attempt) + " on " +
              n(start->router.value) + " at " + n(start->order) + " of '" + start->spec.tenant +
              "' with" + tokens(start->spec.prompt) + " after" + tokens(start->emitted);
      if (start->kv_from) text += " from " + n(start->kv_from->value);
    } else if (const auto* cancel = std::get_if<CancelOnRouter>(&effect)) {
      text += "cancel " + n(cancel->request.value) + "." + n(cancel->attempt) + " on " +
              n(cancel->router.value);
    } else {
      const auto& [request, event] = std::get<Tell>(effect);
      text += "tell " + n(request.value) + ": ";
      if (const auto* refused = std::get_if<Refused>(&event)) {
        const auto& after = refused->retry_after;
        text += "refused " + (after ? "for " + n(after->ns) + " ns " : "for good ") +
                error(refused->error);
      } else if (const auto* emitted = std::get_if<TokensEmitted>(&event)) {
        text += "tokens " + n(emitted->first) + tokens(emitted->tokens) + " cached " +
                n(emitted->num_cached) + tokens(emitted->prompt_logprobs);
      } else if (const auto* finished = std::get_if<Finished>(&event)) {
        text += finished->reason == FinishReason::kStop ? "stop" : "length";
      } else if (const auto* failed = std::get_if<Failed>(&event)) {
        text += "failed " + error(failed->error);
      } else {
        text += "admitted";
      }
    }
    text += "; ";
  }
  return text;
}

inline std::string to_text(const SchedulerCounts& c) {
  std::string text;
  for (const auto& [name, value] : {std::pair("queued", c.queued),
                                    {"running", c.running},
                                    {"admitted", c.admitted_total},
                                    {"refused", c.refused_total},
                                    {"finished", c.finished_total},
                                    {"failed", c.failed_total},
                                    {"cancelled", c.cancelled_total},
                                    {"resumed", c.resumed_total},
                                    {"moved", c.moved_total},
                                    {"sooner", c.moved_to_begin_total},
                                    {"yielded", c.yielded_total},
                                    {"prompt tokens", c.prompt_tokens_total},
                                    {"generated tokens", c.generated_tokens_total}}) {
    text += std::string(name) + " " + std::to_string(value) + ", ";
  }
  return text;
}

}  // namespace troupe::scheduler
