// The cluster-level scheduler beside its slow twin, which must do the same, under random events:
// routers that come up, die, are drained, repeat themselves and say what is stale or wrong; tenants
// whose prompts begin alike; and a head that stops. What it may not do whatever happens is in
// scheduler_random_test.cpp.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "base/random.hpp"
#include "scheduler/scheduler.hpp"
#include "tests/scheduler/slow_scheduler.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::scheduler {
namespace {

constexpr uint32_t kMaxContext = 140;
constexpr uint64_t kRouters = 4;

/// Two documents, each of which goes on in two other ways from here or there. A stream follows its
/// prompt's text, so that a later, longer prompt may begin with it.
struct Text {
  uint64_t document = 0, branch = 0, branches_at = 0;

  [[nodiscard]] TokenId at(uint64_t position) const {
    const uint64_t variant = position < branches_at ? 0 : branch;
    return static_cast<TokenId>(document * 10'000 + variant * 1'000 + position);
  }
};

class TwinWorld {
 public:
  TwinWorld(uint64_t seed, const SchedulerOptions& options)
      : seed_(seed), scheduler_(options), twin_(options) {}

  void act() {
    now_ = now_ + milliseconds(static_cast<int64_t>(draw(3) * draw(5)));
    switch (draw(24)) {
      case 0:
      case 1:
      case 2:
      case 3: return submit();
      case 4: return tell(Cancelled{recent(30)});
      case 5: return draw(4) == 0 ? change_routers() : tell(Tick{});
      case 6: return said_.empty() ? void() : tell(SchedulerEvent(said_[draw(said_.size())]));
      case 7: return draw(10) == 0 ? lie() : work();
      default: return work();
    }
  }
  void stop() { tell(Stopping{}); }

  [[nodiscard]] SchedulerCounts counts() const { return scheduler_.counts(); }
  [[nodiscard]] uint64_t num_fetches() const { return num_fetches_; }
  [[nodiscard]] uint64_t num_passed() const { return twin_.num_passed(); }
  [[nodiscard]] uint64_t num_events() const { return num_events_; }

 private:
  /// What a router was given; some of it is over, which the router may not know yet.
  struct Start {
    StartOnRouter what;
    uint64_t num_emitted = 0;
    bool over = false;
  };

  /// One of the last so many requests; their ids do not rise.
  RequestId recent(uint64_t n) {
    return RequestId{(num_submitted_ - draw(std::min(n, num_submitted_ + 1))) * 7 % 10'007};
  }
  uint64_t draw(uint64_t n) { return random_bits(seed_, draws_++) % n; }

  void tell(const SchedulerEvent& event) {
    ++num_events_;
    const auto effects = scheduler_.handle(event, now_);
    SCOPED_TRACE("kind " + std::to_string(event.index()) + " at " + std::to_string(now_.ns));
    ASSERT_EQ(to_text(effects), to_text(twin_.handle(event, now_)));
    ASSERT_EQ(scheduler_.next_deadline(), twin_.next_deadline());
    ASSERT_EQ(to_text(scheduler_.counts()), to_text(twin_.counts()));
    ASSERT_EQ(twin_.injustice(), "");
    ASSERT_EQ(scheduler_.check(), "");
    for (const SchedulerEffect& effect : effects) {
      if (const auto* start = std::get_if<StartOnRouter>(&effect)) {
        starts_.push_back({*start, start->emitted.size()});
        num_fetches_ += start->kv_from ? 1 : 0;
      } else if (const auto* cancel = std::get_if<CancelOnRouter>(&effect)) {
        for (Start& s : starts_) {
          if (s.what.request == cancel->request) s.over = true;
        }
      }
    }
    while (std::ranges::count_if(starts_, &Start::over) > 8) {
      starts_.erase(std::ranges::find_if(starts_, &Start::over));
    }
  }
  void say(const SchedulerEvent& event) {
    said_.push_back(event);
    if (said_.size() > 100) said_.erase(said_.begin());
    tell(event);
  }

  void submit() {
    ++num_submitted_;
    const RequestId request = recent(1);
    const Text text{draw(2), draw(3), 20 * draw(5)};
    texts_[request] = text;
    RequestSpec spec{.prompt = std::vector<TokenId>(draw(30) == 0 ? 0 : 1 + draw(110)),
                     .max_tokens = static_cast<uint32_t>(draw(40)),
                     .sampling = {},
                     .stop_token_ids = {},
                     .tenant = std::string(draw(4), 't'),
                     .priority = static_cast<uint32_t>(draw(3)),
                     .cache_namespace = draw(8) == 0 ? "other" : "",
                     .timeout = milliseconds(static_cast<int64_t>(draw(draw(2) * 4'000 + 400)))};
    for (size_t i = 0; i < spec.prompt.size(); ++i) spec.prompt[i] = text.at(i);
    if (draw(4) == 0) spec.stop_token_ids = {text.at(spec.prompt.size() + draw(40))};
    say(Submitted{request, std::move(spec)});
  }
  void change_routers() {
    const NodeId router{1 + draw(kRouters)};
    switch (draw(8)) {
      case 0: return say(Drained{router, draw(3) != 0});
      case 1: return tell(RouterGone{router});
      case 2: return tell(CannotServe{{Code::kUnavailable, "too few nodes"}});
      case 3:
      case 4: {
        RoutersDown down{{router}, {Code::kUnavailable, "lost"}, draw(2) == 0};
        if (draw(2) == 0) down.routers.push_back(NodeId{1 + draw(kRouters)});
        return tell(down);
      }
      default: return tell(RouterUp{router});
    }
  }
  void work() {
    if (starts_.empty()) return;
    Start* start = &starts_[draw(starts_.size())];
    if (start->over && draw(4) != 0) start = &starts_[draw(starts_.size())];
    const auto& [router, request, attempt, spec, emitted, order, kv_from] = start->what;
    if (start->num_emitted == spec.max_tokens || draw(20) == 0) {
      start->over = true;
      const auto reason = draw(2) == 0 ? FinishReason::kStop : FinishReason::kLength;
      return draw(8) == 0 ? void() : say(RouterFinished{router, request, attempt, reason});
    }
    if (draw(40) == 0) {
      start->over = true;
      const Code code = draw(3) == 0 ? Code::kInternal : Code::kUnavailable;
      return say(RouterFailed{router, request, attempt, {code, "broken"}});
    }
    const uint64_t first = draw(4) == 0 ? draw(start->num_emitted + 1) : start->num_emitted;
    const uint64_t left = spec.max_tokens - start->num_emitted;
    start->num_emitted += draw(1 + std::min<uint64_t>(left, draw(3) == 0 ? left : 2));
    RouterEmitted event{router, request, attempt, static_cast<uint32_t>(first), {}};
    for (uint64_t i = first; i < start->num_emitted; ++i) {
      event.tokens.push_back({.token = texts_[request].at(spec.prompt.size() + i)});
    }
    event.num_cached = static_cast<uint32_t>(draw(4) == 0 ? 0 : draw(kMaxContext));
    if (draw(4) == 0) event.prompt_logprobs.resize(draw(3), {.token = 1, .logprob = -0.5F});
    say(event);
  }
  void lie() {
    if (starts_.empty()) return;
    const StartOnRouter& start = starts_[draw(starts_.size())].what;
    switch (draw(3)) {
      case 0:
        return tell(RouterEmitted{start.router, start.request, start.attempt,
                                  static_cast<uint32_t>(draw(60)),
                                  std::vector<model::SampledToken>(draw(60))});
      case 1: return tell(RouterFailed{NodeId{1 + draw(kRouters)}, start.request, 1, {}});
      default: return tell(RouterFinished{start.router, RequestId{draw(20)}, start.attempt});
    }
  }

  uint64_t seed_, draws_ = 0, num_submitted_ = 0, num_fetches_ = 0, num_events_ = 0;
  Instant now_{seconds(1).ns};
  Scheduler scheduler_;
  SlowScheduler twin_;
  std::vector<Start> starts_;
  std::vector<SchedulerEvent> said_;
  std::map<RequestId, Text> texts_;
};

struct Case {
  const char* name;
  SchedulerOptions options;
  uint64_t min_yielded, min_moved, min_sooner, min_fetches;  ///< that the runs have to see
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class SchedulerTwinTest : public ::testing::TestWithParam<Case> {};

/// Of one case; more than a million in all. TROUPE_RANDOM_EVENTS makes it longer.
uint64_t num_events() {
  const char* wanted = std::getenv("TROUPE_RANDOM_EVENTS");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 200'000;
}

TEST_P(SchedulerTwinTest, DoesTheSame) {
  constexpr uint64_t kEventsOfOne = 10'000;
  SchedulerCounts sum;
  uint64_t num_fetches = 0, num_passed = 0;
  const auto run = [&](uint64_t seed) {
    TwinWorld world(seed, GetParam().options);
    while (world.num_events() < kEventsOfOne - 200) {
      ASSERT_NO_FATAL_FAILURE(world.act()) << "event " << world.num_events();
    }
    ASSERT_NO_FATAL_FAILURE(world.stop());
    while (world.num_events() < kEventsOfOne) {
      ASSERT_NO_FATAL_FAILURE(world.act()) << "event " << world.num_events();
    }
    const SchedulerCounts counts = world.counts();
    sum.finished_total += counts.finished_total;
    sum.failed_total += counts.failed_total;
    sum.refused_total += counts.refused_total;
    sum.resumed_total += counts.resumed_total;
    sum.moved_total += counts.moved_total;
    sum.moved_to_begin_total += counts.moved_to_begin_total;
    sum.yielded_total += counts.yielded_total;
    num_fetches += world.num_fetches();
    num_passed += world.num_passed();
  };
  for_each_seed(num_events() / kEventsOfOne, run, 1);
  if (!usual_seeds()) return;
  EXPECT_GT(sum.finished_total, 1'000U);
  EXPECT_GT(sum.failed_total, 1'000U);
  EXPECT_GT(sum.refused_total, 1'000U);
  EXPECT_GT(sum.resumed_total, 1'000U);
  EXPECT_GE(sum.moved_total, GetParam().min_moved);
  EXPECT_GE(sum.moved_to_begin_total, GetParam().min_sooner);
  EXPECT_GE(sum.yielded_total, GetParam().min_yielded);
  EXPECT_GE(num_fetches, GetParam().min_fetches);
  EXPECT_GE(num_passed, 50U);
}

INSTANTIATE_TEST_SUITE_P(Options, SchedulerTwinTest,
                         ::testing::Values(Case{"ManyPlaces",
                                                {.max_queued = 16,
                                                 .max_running = 4,
                                                 .min_fetch_tokens = 32,
                                                 .min_gain_tokens = 32,
                                                 .max_context = kMaxContext},
                                                100,
                                                0,
                                                100,
                                                100},
                                           Case{"FewBlocks",
                                                {.max_queued = 16,
                                                 .max_running = 4,
                                                 .kv_tokens = 160,
                                                 .min_fetch_tokens = 1,
                                                 .min_gain_tokens = 1,
                                                 .max_context = kMaxContext},
                                                100,
                                                100,
                                                100,
                                                100},
                                           Case{"SmallQueue",
                                                {.max_queued = 4,
                                                 .max_queued_per_tenant = 2,
                                                 .max_running = 1,
                                                 .min_fetch_tokens = 64,
                                                 .max_context = kMaxContext,
                                                 .min_retry_after = milliseconds(1),
                                                 .max_losses = 1},
                                                0,
                                                0,
                                                0,
                                                100},
                                           Case{"ForgetfulAndFast",
                                                {.max_queued = 32,
                                                 .max_running = 3,
                                                 .kv_tokens = 130,
                                                 .min_fetch_tokens = 32,
                                                 .max_context = kMaxContext,
                                                 .max_wait_without_router = milliseconds(40),
                                                 .min_wait_without_router = milliseconds(10),
                                                 .max_wait_recovering = milliseconds(200),
                                                 .order_per_running = milliseconds(2),
                                                 .fairness = {.ageing = milliseconds(30),
                                                              .max_tenants = 2}},
                                                100,
                                                100,
                                                0,
                                                100},
                                           Case{"Weights",
                                                {.max_queued = 16,
                                                 .max_running = 4,
                                                 .kv_tokens = 160,
                                                 .min_fetch_tokens = 1,
                                                 .min_gain_tokens = 100,
                                                 .max_context = kMaxContext,
                                                 .fairness = {.weights = {{"t", 2}, {"tt", 3}}}},
                                                100,
                                                100,
                                                100,
                                                100},
                                           Case{"VeryFewBlocks",
                                                {.max_queued = 16,
                                                 .max_queued_per_tenant = 8,
                                                 .max_running = 16,
                                                 .kv_tokens = 120,
                                                 .min_fetch_tokens = 32,
                                                 .min_gain_tokens = 16,
                                                 .max_context = kMaxContext,
                                                 .fairness = {.ageing = milliseconds(200)}},
                                                100,
                                                100,
                                                100,
                                                100}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace troupe::scheduler
