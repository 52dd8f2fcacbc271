// Cost of scheduling, per step of a router's batcher and per event of the cluster's scheduler, by
// the number of requests.
//
//   scheduler_bench --benchmark_repetitions=5
//
// `step`: from the end of one step to the start of the next, with everything that comes between
// them: the answers to all requests that need another KV block (one in 16 does, blocks are of 16
// tokens), one request that ends and the waiting one that takes its place. Nothing of the KV
// holder's own time, which kvcache_bench measures.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <numeric>
#include <unordered_map>
#include <vector>

#include "base/check.hpp"
#include "base/random.hpp"
#include "scheduler/batcher.hpp"
#include "scheduler/scheduler.hpp"

namespace troupe::scheduler {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint32_t kBlockTokens = 16, kContext = 1 << 20;

/// Answers the batcher as a router whose blocks never run out.
class StepLoop {
 public:
  StepLoop(uint32_t running, uint32_t waiting)
      : batcher_({.max_step_tokens = 2 * running, .max_running = running}) {
    for (uint32_t i = 0; i < running + waiting; ++i) arrive();
    while (batcher_.num_running() < running || prefilling_) step();
    for (uint32_t i = 0; i < 2 * kBlockTokens; ++i) step();  // the asks spread over the steps
  }

  /// The request that has run longest ends; another one arrives; the next step starts.
  void step() {
    if (step_.entries.empty()) return;
    const RunStep done = std::move(step_);
    step_ = {};
    prefilling_ = false;
    for (const StepEntry& entry : done.entries) prefilling_ |= entry.count > 1;
    tell(StepDone{done.step, microseconds(1000 + static_cast<int64_t>(done.entries.size()))});
  }
  void replace_one() {
    tell(Left{RequestId{oldest_++}});
    arrive();
  }

 private:
  void arrive() {
    // At random, so that their blocks end at different steps: in turn, they would end at the same.
    const uint32_t num_known = 2 + static_cast<uint32_t>(random_bits(7, last_) % kBlockTokens);
    tell(Arrived{RequestId{++last_}, num_known, kContext, static_cast<int64_t>(last_)});
  }
  void tell(const BatcherEvent& event) {
    take(batcher_.handle(event));
    while (!asks_.empty()) {
      const BlocksReserved answer = asks_.front();
      asks_.pop_front();
      take(batcher_.handle(answer));
    }
  }
  void take(std::vector<BatcherEffect> effects) {
    for (BatcherEffect& effect : effects) {
      if (const auto* reserve = std::get_if<ReserveBlocks>(&effect)) {
        grant(reserve->ask, reserve->request, reserve->num_tokens);
      } else if (const auto* extend = std::get_if<ExtendBlocks>(&effect)) {
        grant(extend->ask, extend->request, extend->num_tokens);
      } else if (auto* run = std::get_if<RunStep>(&effect)) {
        step_ = std::move(*run);
      }
    }
  }
  void grant(AskId ask, RequestId request, uint32_t num_tokens) {
    const uint32_t room = (num_tokens + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
    asks_.push_back({.ask = ask, .request = request, .num_tokens = room});
  }

  Batcher batcher_;
  std::deque<BlocksReserved> asks_;
  RunStep step_;
  bool prefilling_ = true;
  uint64_t last_ = 0, oldest_ = 1;
};

void step(benchmark::State& state) {
  StepLoop loop(static_cast<uint32_t>(state.range(0)), static_cast<uint32_t>(state.range(1)));
  std::vector<double> us;
  for (auto _ : state) {
    const auto start = Clock::now();
    loop.replace_one();
    loop.step();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    state.SetIterationTime(seconds);
    us.push_back(seconds * 1e6);
  }
  std::sort(us.begin(), us.end());
  state.counters["p50_us"] = us[us.size() / 2];
  state.counters["p99_us"] = us[us.size() * 99 / 100];
}
BENCHMARK(step)
    ->ArgNames({"running", "waiting"})
    ->Args({10, 100})
    ->Args({100, 1000})
    ->Args({1000, 10'000})
    ->Args({10'000, 100'000})
    ->UseManualTime();

/// What the head does for five routers. `short_of_blocks`: they have twice the places, but blocks
/// for no more requests, and those that run outgrow them.
class Cluster {
 public:
  Cluster(uint32_t running, uint32_t waiting, bool short_of_blocks = false)
      : scheduler_({.max_queued = waiting * 8 / 7 + 2,  // the last eighth is for other tenants
                    .max_queued_per_tenant = waiting + 1,
                    .max_running = running / kRouters * (short_of_blocks ? 2 : 1),
                    .kv_tokens = short_of_blocks ? running / kRouters * 1001 : 0,
                    .max_context = 1 << 20}) {
    for (uint64_t r = 1; r <= kRouters; ++r) tell(RouterUp{NodeId{r}});
    for (uint32_t i = 0; i < running; ++i) submit();
    for (uint32_t i = 0; i < waiting; ++i) submit();
    CHECK_EQ(scheduler_.counts().running, uint64_t{running});
    CHECK_EQ(scheduler_.counts().queued, uint64_t{waiting});
  }
  /// One of the running requests emits a token.
  void emit() {
    const Place place = next_running();
    tell(RouterEmitted{
        place.router, place.request, place.attempt, next_[place.request]++, {{.token = 7}}});
    started_.push_back(place);
  }
  /// One ends, another one is submitted, and one that waits is started.
  void replace_one() {
    const Place place = next_running();
    tell(RouterFinished{place.router, place.request, place.attempt, FinishReason::kStop});
    next_.erase(place.request);
    attempts_.erase(place.request);
    submit();
  }

 private:
  static constexpr uint32_t kRouters = 5;
  struct Place {
    NodeId router;
    RequestId request;
    uint32_t attempt = 0;
  };
  /// The one whose turn it is, of those that were not cancelled since.
  Place next_running() {
    for (;;) {
      const Place place = started_.front();
      started_.pop_front();
      const auto latest = attempts_.find(place.request);
      if (latest != attempts_.end() && latest->second == place.attempt) return place;
    }
  }
  void submit() {
    RequestSpec spec{.prompt = std::vector<TokenId>(1000, static_cast<TokenId>(last_)),
                     .max_tokens = 1 << 18};
    spec.timeout = seconds(1'000'000);
    spec.tenant = "tenant " + std::to_string(++last_ % 20);
    tell(Submitted{RequestId{last_}, std::move(spec)});
  }
  void tell(const SchedulerEvent& event) {
    now_ = now_ + microseconds(1);
    for (SchedulerEffect& effect : scheduler_.handle(event, now_)) {
      if (const auto* start = std::get_if<StartOnRouter>(&effect)) {
        started_.push_back({start->router, start->request, start->attempt});
        attempts_[start->request] = start->attempt;
      } else if (const auto* cancel = std::get_if<CancelOnRouter>(&effect)) {
        attempts_.erase(cancel->request);
      }
    }
  }

  Scheduler scheduler_;
  std::deque<Place> started_;
  std::unordered_map<RequestId, uint32_t> next_;
  std::unordered_map<RequestId, uint32_t> attempts_;  ///< of those that run
  Instant now_;
  uint64_t last_ = 0;
};

void replace(benchmark::State& state) {
  Cluster cluster(static_cast<uint32_t>(state.range(0)), static_cast<uint32_t>(state.range(1)));
  cluster
      .emit();  // how long requests take is known from now on, so each new one's wait is estimated
  for (auto _ : state) cluster.replace_one();
}
void emit(benchmark::State& state) {
  Cluster cluster(static_cast<uint32_t>(state.range(0)), static_cast<uint32_t>(state.range(1)));
  for (auto _ : state) cluster.emit();
}
void emit_short_of_blocks(benchmark::State& state) {
  Cluster cluster(static_cast<uint32_t>(state.range(0)), static_cast<uint32_t>(state.range(1)),
                  true);
  for (auto _ : state) cluster.emit();
}
BENCHMARK(emit_short_of_blocks)
    ->ArgNames({"running", "waiting"})
    ->Args({100, 1000})
    ->Args({1000, 10'000});
BENCHMARK(replace)
    ->ArgNames({"running", "waiting"})
    ->Args({10, 100})
    ->Args({100, 1000})
    ->Args({1000, 10'000})
    ->Args({10'000, 100'000});
BENCHMARK(emit)
    ->ArgNames({"running", "waiting"})
    ->Args({10, 100})
    ->Args({100, 1000})
    ->Args({1000, 10'000})
    ->Args({10'000, 100'000});

/// Where is a prompt of 4,096 tokens cached, among 8 routers that all have it and so many prompts;
/// of more than 2,048 those are remembered, and asked for, that came last.
void match(benchmark::State& state) {
  constexpr uint32_t kTokens = 4096, kRouters = 8;
  const PrefixIndexOptions options;
  PrefixIndex index(options);
  std::deque<std::vector<TokenId>> prompts;
  uint64_t draws = 0;
  for (int64_t i = 0; i < state.range(0); ++i) {
    std::vector<TokenId>& prompt = prompts.emplace_back(kTokens);
    for (TokenId& token : prompt) token = static_cast<TokenId>(random_bits(7, ++draws) % 129'280);
    for (uint64_t router = 1; router <= kRouters; ++router) index.add(NodeId{router}, "", prompt);
    if (prompts.size() * (kTokens / options.chunk_tokens) > options.max_chunks) prompts.pop_front();
  }
  std::vector<double> us;
  for (auto _ : state) {
    const auto& prompt = prompts[random_bits(9, us.size()) % prompts.size()];
    benchmark::DoNotOptimize(std::accumulate(prompt.begin(), prompt.end(), TokenId{}));  // warm
    const auto start = Clock::now();
    const auto matches = index.match("", prompt);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    state.SetIterationTime(seconds);
    us.push_back(seconds * 1e6);
    CHECK_EQ(matches.size(), size_t{kRouters});
    CHECK_EQ(matches.back().num_tokens, kTokens);
  }
  std::sort(us.begin(), us.end());
  state.counters["p50_us"] = us[us.size() / 2];
  state.counters["p99_us"] = us[us.size() * 99 / 100];
  state.counters["chunks"] = static_cast<double>(index.num_chunks());
}
BENCHMARK(match)
    ->ArgName("prompts")
    ->RangeMultiplier(10)
    ->Range(10, 10'000)
    ->Iterations(20'000)  // what they look through takes long to make
    ->UseManualTime();

}  // namespace
}  // namespace troupe::scheduler

BENCHMARK_MAIN();
