// Deadlines in virtual time, on routers that serve steadily: a time for each token of a prompt and
// one for each token of an answer, whatever else runs there. Then everything can be known once one
// request has finished: what is admitted has to meet its deadline, and what is refused would not
// have met it.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <queue>

#include "base/random.hpp"
#include "scheduler/scheduler.hpp"

namespace troupe::scheduler {
namespace {

constexpr Duration kPromptToken{1'000'003}, kToken{20'000'011};  // ns

class World {
 public:
  World(uint64_t num_routers, uint32_t max_running)
      : num_places_(num_routers * max_running),
        scheduler_({.max_queued = 1'000,
                    .max_queued_per_tenant = 1'000,
                    .max_running = max_running,
                    .max_context = 4'000}) {
    for (uint64_t r = 1; r <= num_routers; ++r) tell(RouterUp{NodeId{r}});
  }

  /// @returns why it was refused
  std::optional<Error> submit(RequestId request, const RequestSpec& spec) {
    waiting_.emplace_back(request, spec);
    tell(Submitted{request, spec});
    const auto refused = refused_.find(request);
    return refused == refused_.end() ? std::nullopt : std::optional(refused->second);
  }

  /// Lets the routers work, and deadlines pass.
  void run_until(Instant end) {
    while (const auto next = next_event()) {
      if (*next > end) break;
      now_ = *next;
      const auto due = std::ranges::find_if(
          running_, [&](const auto& running) { return running.second.next_token == now_; });
      due == running_.end() ? tell(Tick{}) : emit(due->first, due->second);
    }
    now_ = end;
  }
  void run_to_the_end() {
    while (const auto next = next_event()) run_until(*next);
  }

  /// When a request that comes now would end if it were taken.
  [[nodiscard]] Instant end_of(const RequestSpec& spec) const {
    std::priority_queue<Instant, std::vector<Instant>, std::greater<>> places;
    for (const auto& [request, running] : running_) {
      const auto num_more = running.start.spec.max_tokens - running.num_emitted - 1;
      places.push(running.next_token + kToken * num_more);
    }
    while (places.size() < num_places_) places.push(now_);
    const auto serve = [&](const RequestSpec& next) {
      const Instant end = places.top() + time_of(next);
      places.pop();
      places.push(end);
      return end;
    };
    for (const auto& [request, waiting] : waiting_) serve(waiting);
    return serve(spec);
  }
  [[nodiscard]] Instant now() const { return now_; }
  [[nodiscard]] const std::vector<RequestId>& failed() const { return failed_; }
  [[nodiscard]] size_t num_finished() const { return num_finished_; }

 private:
  struct Running {
    StartOnRouter start;
    Instant next_token;
    uint32_t num_emitted = 0;
  };

  static Duration time_of(const RequestSpec& spec) {
    return kPromptToken * static_cast<int64_t>(spec.prompt.size()) + kToken * (spec.max_tokens - 1);
  }
  void no_longer_waits(RequestId request) {
    std::erase_if(waiting_, [&](const auto& waiting) { return waiting.first == request; });
  }
  [[nodiscard]] std::optional<Instant> next_event() const {
    std::optional<Instant> next = scheduler_.next_deadline();
    for (const auto& [request, running] : running_) {
      next = std::min(next.value_or(running.next_token), running.next_token);
    }
    return next;
  }
  void emit(RequestId request, Running& running) {
    const auto [router, id, attempt, spec, emitted, order, kv_from] = running.start;
    running.next_token = now_ + kToken;
    const uint32_t first = running.num_emitted++;
    const bool is_last = running.num_emitted == spec.max_tokens;
    tell(RouterEmitted{router, request, attempt, first, {{.token = 1}}});
    if (!is_last) return;
    running_.erase(request);
    tell(RouterFinished{router, request, attempt, FinishReason::kLength});
  }
  void tell(const SchedulerEvent& event) {
    for (const SchedulerEffect& effect : scheduler_.handle(event, now_)) {
      if (const auto* start = std::get_if<StartOnRouter>(&effect)) {
        const auto prompt = static_cast<int64_t>(start->spec.prompt.size());
        no_longer_waits(start->request);
        running_[start->request] = {*start, now_ + kPromptToken * prompt};
      } else if (const auto* cancel = std::get_if<CancelOnRouter>(&effect)) {
        running_.erase(cancel->request);
      } else {
        const auto& [request, heard] = std::get<Tell>(effect);
        if (const auto* refused = std::get_if<Refused>(&heard)) refused_[request] = refused->error;
        if (std::holds_alternative<Finished>(heard)) ++num_finished_;
        if (std::holds_alternative<Failed>(heard)) failed_.push_back(request);
        if (refused_.contains(request) || std::holds_alternative<Failed>(heard)) {
          no_longer_waits(request);
        }
      }
    }
  }

  size_t num_places_;
  Scheduler scheduler_;
  Instant now_{seconds(1).ns};
  std::map<RequestId, Running> running_;
  std::map<RequestId, Error> refused_;
  std::vector<std::pair<RequestId, RequestSpec>> waiting_;  ///< in order
  size_t num_finished_ = 0;
  std::vector<RequestId> failed_;
};

RequestSpec spec_of(size_t num_prompt, uint32_t max_tokens, Duration timeout) {
  return {
      .prompt = std::vector<TokenId>(num_prompt, 1), .max_tokens = max_tokens, .timeout = timeout};
}

TEST(Admission, OfSixtyAtOnceThoseAreTakenThatOnePlaceServesInTime) {
  World world(1, 1);
  const RequestSpec spec = spec_of(100, 46, seconds(3));  // takes a second
  ASSERT_EQ(world.submit(RequestId{1}, spec), std::nullopt);
  world.run_to_the_end();
  uint64_t num_admitted = 0;
  for (uint64_t r = 2; r <= 61; ++r) num_admitted += world.submit(RequestId{r}, spec) ? 0 : 1;
  EXPECT_EQ(num_admitted, 2U) << "of a second and some nanoseconds each";
  world.run_to_the_end();
  EXPECT_EQ(world.num_finished(), 3U);
  EXPECT_EQ(world.failed(), std::vector<RequestId>());
}

TEST(Admission, AtSteadyServiceWhatIsAdmittedIsInTimeAndWhatIsRefusedWouldNotBe) {
  for (const auto& [num_routers, max_running] :
       {std::pair{1U, 1U}, {1U, 4U}, {1U, 16U}, {3U, 2U}}) {
    SCOPED_TRACE(std::to_string(num_routers) + " routers of " + std::to_string(max_running));
    World world(num_routers, max_running);
    uint64_t draws = 0;
    const auto draw = [&](uint64_t n) {
      return random_bits(num_routers + max_running, draws++) % n;
    };
    world.submit(RequestId{1'000'000}, spec_of(2'000, 1'000, seconds(1'000)));
    world.run_to_the_end();
    uint64_t num_refused = 0;
    constexpr uint64_t kRequests = 1'000;
    for (uint64_t r = 1; r <= kRequests; ++r) {
      // More than can be served, with pauses.
      const uint64_t most = 6'000 / (num_routers * max_running) * (r % 200 < 150 ? 1 : 4);
      world.run_until(world.now() + milliseconds(static_cast<int64_t>(draw(most))));
      const RequestSpec spec = spec_of(1'024 + draw(1'000), static_cast<uint32_t>(1 + draw(200)),
                                       milliseconds(static_cast<int64_t>(1 + draw(20'000))));
      const Instant end = world.end_of(spec);
      const bool is_late = end > world.now() + spec.timeout;
      const auto refusal = world.submit(RequestId{r}, spec);
      ASSERT_EQ(refusal.has_value(), is_late) << "request " << r;
      if (!refusal) continue;
      ASSERT_EQ(refusal->code, Code::kDeadlineExceeded) << refusal->message;
      ++num_refused;
    }
    world.run_to_the_end();
    EXPECT_EQ(world.failed(), std::vector<RequestId>());
    EXPECT_EQ(world.num_finished() + num_refused, kRequests + 1);
    EXPECT_GT(num_refused, kRequests / 10);
    EXPECT_LT(num_refused, kRequests * 9 / 10);
  }
}

}  // namespace
}  // namespace troupe::scheduler
