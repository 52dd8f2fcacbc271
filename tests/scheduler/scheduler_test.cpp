#include "scheduler/scheduler.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace troupe::scheduler {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string id(RequestId request) { return std::to_string(request.value); }

/// "tell 1: admitted", "tell 1: tokens 0 [7 8]", "tell 1: failed unavailable: ...",
/// "start 1.1 on 10 after [7 8]", "cancel 1.1 on 10".
std::string text(const SchedulerEffect& effect) {
  if (const auto* start = std::get_if<StartOnRouter>(&effect)) {
    std::string line = "start " + id(start->request) + "." + std::to_string(start->attempt) +
                       " on " + std::to_string(start->router.value);
    if (!start->emitted.empty()) line += " after " + std::to_string(start->emitted.size());
    return line;
  }
  if (const auto* cancel = std::get_if<CancelOnRouter>(&effect)) {
    return "cancel " + id(cancel->request) + "." + std::to_string(cancel->attempt) + " on " +
           std::to_string(cancel->router.value);
  }
  const auto& [request, event] = std::get<Tell>(effect);
  const std::string line = "tell " + id(request) + ": ";
  const auto error = [](const Error& e) {
    return std::string(to_string(e.code)) + ": " + e.message;
  };
  if (std::holds_alternative<Admitted>(event)) return line + "admitted";
  if (const auto* refused = std::get_if<Refused>(&event)) {
    const auto& after = refused->retry_after;
    return line + "refused for " +
           (after ? std::to_string(after->ns / seconds(1).ns) + " s " : "good ") +
           error(refused->error);
  }
  if (const auto* failed = std::get_if<Failed>(&event))
    return line + "failed " + error(failed->error);
  if (const auto* finished = std::get_if<Finished>(&event)) {
    return line + (finished->reason == FinishReason::kStop ? "stop" : "length");
  }
  const auto& emitted = std::get<TokensEmitted>(event);
  std::string tokens;
  for (const auto& token : emitted.tokens) {
    tokens += (tokens.empty() ? "" : " ") + std::to_string(token.token);
  }
  return line + "tokens " + std::to_string(emitted.first) + " [" + tokens + "]";
}

constexpr uint64_t kR = 10, kS = 20;  // routers

class SchedulerTest : public ::testing::Test {
 protected:
  std::vector<std::string> tell(const SchedulerEvent& event) {
    std::vector<std::string> lines;
    for (const SchedulerEffect& effect : scheduler.handle(event, now)) {
      lines.push_back(text(effect));
    }
    EXPECT_EQ(scheduler.check(), "");
    return lines;
  }
  void use(const SchedulerOptions& options) { scheduler = Scheduler(options); }
  std::vector<std::string> submit(uint64_t request, uint32_t num_prompt = 3,
                                  uint32_t max_tokens = 4, Duration timeout = seconds(10)) {
    return tell(Submitted{RequestId{request},
                          {.prompt = std::vector<TokenId>(num_prompt, 1),
                           .max_tokens = max_tokens,
                           .sampling = {},
                           .stop_token_ids = {},
                           .timeout = timeout}});
  }
  std::vector<std::string> submit_of(const std::string& tenant, uint64_t request,
                                     size_t num_prompt) {
    const RequestSpec spec{.prompt = std::vector<TokenId>(num_prompt, 1),
                           .max_tokens = 4,
                           .tenant = tenant,
                           .timeout = seconds(10)};
    return tell(Submitted{RequestId{request}, spec});
  }
  std::vector<std::string> emit(uint64_t request, uint32_t first, std::vector<TokenId> tokens,
                                uint64_t router = kR, uint32_t attempt = 1) {
    RouterEmitted event{NodeId{router}, RequestId{request}, attempt, first, {}};
    for (const TokenId token : tokens) event.tokens.push_back({.token = token});
    return tell(event);
  }
  std::vector<std::string> finish(uint64_t request, uint64_t router = kR, uint32_t attempt = 1) {
    return tell(RouterFinished{NodeId{router}, RequestId{request}, attempt, FinishReason::kLength});
  }
  std::vector<std::string> up(uint64_t router = kR) { return tell(RouterUp{NodeId{router}}); }
  std::vector<std::string> down(uint64_t router = kR, bool recovering = false) {
    return down(std::vector{NodeId{router}}, recovering);
  }
  std::vector<std::string> down(const std::vector<NodeId>& routers, bool recovering) {
    return tell(RoutersDown{routers, {Code::kUnavailable, "shard-1 was lost"}, recovering});
  }
  std::vector<std::string> cancel(uint64_t request) { return tell(Cancelled{RequestId{request}}); }

  std::vector<std::string> submit_for(const std::string& tenant, uint64_t request,
                                      uint32_t priority = 0) {
    return tell(Submitted{RequestId{request},
                          {.prompt = std::vector<TokenId>(3, static_cast<TokenId>(request)),
                           .max_tokens = 4,
                           .tenant = tenant,
                           .priority = priority,
                           .timeout = seconds(10)}});
  }

  Instant now{seconds(100).ns};
  Scheduler scheduler{{.max_queued = 3, .max_running = 2, .max_context = 20}};
};

TEST_F(SchedulerTest, CarriesARequestFromAdmissionToItsEnd) {
  up();
  EXPECT_THAT(submit(1), ElementsAre("tell 1: admitted", "start 1.1 on 10"));
  EXPECT_THAT(emit(1, 0, {7}), ElementsAre("tell 1: tokens 0 [7]"));
  EXPECT_THAT(emit(1, 1, {8, 9}), ElementsAre("tell 1: tokens 1 [8 9]"));
  EXPECT_THAT(finish(1), ElementsAre("tell 1: length"));
  const SchedulerCounts counts = scheduler.counts();
  EXPECT_EQ(counts.admitted_total, 1U);
  EXPECT_EQ(counts.finished_total, 1U);
  EXPECT_EQ(counts.prompt_tokens_total, 3U);
  EXPECT_EQ(counts.generated_tokens_total, 3U);
  EXPECT_EQ(counts.running, 0U);
  EXPECT_EQ(scheduler.next_deadline(), std::nullopt) << "nothing is left of it";
}

TEST_F(SchedulerTest, StartsOnTheRouterWithTheFewestRequests) {
  up(kS);
  up(kR);
  EXPECT_THAT(submit(1), ElementsAre("tell 1: admitted", "start 1.1 on 10"));
  EXPECT_THAT(submit(2), ElementsAre("tell 2: admitted", "start 2.1 on 20"));
  EXPECT_THAT(submit(3), ElementsAre("tell 3: admitted", "start 3.1 on 10"));
  finish(1);
  finish(3);
  EXPECT_THAT(submit(4), ElementsAre("tell 4: admitted", "start 4.1 on 10"));
}

TEST_F(SchedulerTest, QueuesInOrderAndRefusesWithRetryAfterBeyondTheBound) {
  up();
  for (uint64_t r = 1; r <= 2; ++r) submit(r);
  for (uint64_t r = 5; r >= 3; --r) {
    EXPECT_THAT(submit(r), ElementsAre("tell " + std::to_string(r) + ": admitted"));
  }
  EXPECT_THAT(submit(6), ElementsAre(HasSubstr("tell 6: refused for 2 s resource_exhausted")));
  EXPECT_EQ(scheduler.counts().queued, 3U);
  EXPECT_EQ(scheduler.counts().refused_total, 1U);
  EXPECT_THAT(finish(2), ElementsAre("tell 2: length", "start 5.1 on 10"));
  EXPECT_THAT(submit(6), ElementsAre("tell 6: admitted"));
  EXPECT_THAT(cancel(1), ElementsAre("cancel 1.1 on 10", "start 4.1 on 10"));
}

TEST_F(SchedulerTest, KeepsRetryAfterBetweenOneSecondAndAMinute) {
  Scheduler patient({.max_queued = 1'000,
                     .max_running = 1,
                     .max_context = 20,
                     .min_retry_after = milliseconds(10)});
  Scheduler slow(
      {.max_queued = 1'000, .max_running = 1, .max_context = 20, .min_retry_after = seconds(1)});
  const RequestSpec spec{.prompt = {1}, .max_tokens = 1, .timeout = seconds(1)};
  for (auto* scheduler_under : {&patient, &slow}) {
    (void)scheduler_under->handle(RouterUp{NodeId{1}}, now);
    for (uint64_t r = 1; r <= 1'001; ++r) {
      (void)scheduler_under->handle(Submitted{RequestId{r}, spec}, now);
    }
  }
  const auto retry_after = [&](Scheduler& s) {
    const auto effects = s.handle(Submitted{RequestId{5'000}, spec}, now);
    return std::get<Refused>(std::get<Tell>(effects.at(0)).event).retry_after;
  };
  EXPECT_EQ(retry_after(patient), seconds(1));
  EXPECT_EQ(retry_after(slow), seconds(60));
}

TEST_F(SchedulerTest, RefusesWhatExceedsTheContextInTheWordsThatClientsKnow) {
  up();
  EXPECT_THAT(submit(1, 16, 5),
              ElementsAre(HasSubstr("invalid_argument: This model's maximum context length is 20 "
                                    "tokens. However, you requested 21 tokens (16 in the messages, "
                                    "5 in the completion).")));
  EXPECT_THAT(submit(2, 16, 4), ElementsAre("tell 2: admitted", "start 2.1 on 10"));
  EXPECT_THAT(submit(3, 1, UINT32_MAX), ElementsAre(HasSubstr("requested 4294967296 tokens")));
}

TEST_F(SchedulerTest, RefusesARequestThatCannotBeMeant) {
  up();
  EXPECT_THAT(submit(1, 0), ElementsAre(HasSubstr("invalid_argument")));
  EXPECT_THAT(submit(2, 1, 0), ElementsAre(HasSubstr("invalid_argument")));
  EXPECT_THAT(submit(3, 1, 1, seconds(0)), ElementsAre(HasSubstr("invalid_argument")));
}

TEST_F(SchedulerTest, RefusesAtOnceWithoutARouterUnlessOneMayComeBack) {
  EXPECT_THAT(submit(1),
              ElementsAre(HasSubstr("tell 1: refused for 1 s unavailable: no_capacity")));
  up();
  submit(1);
  down();
  EXPECT_THAT(submit(2), ElementsAre("tell 2: admitted")) << "it waits as long as request 1";
  now = *scheduler.next_deadline();
  EXPECT_THAT(tell(Tick{}), ElementsAre(HasSubstr("tell 1: failed unavailable: no_capacity"),
                                        HasSubstr("tell 2: failed unavailable: no_capacity")));
  EXPECT_THAT(submit(3), ElementsAre(HasSubstr("tell 3: refused for 1 s unavailable")));
}

TEST_F(SchedulerTest, EndsQueuedAndRunningRequestsAtTheirDeadlines) {
  up();
  submit(1, 3, 4, seconds(5));
  submit(2, 3, 4, seconds(9));
  submit(3, 3, 4, seconds(2));
  submit(4, 3, 4, seconds(7));
  emit(1, 0, {7});
  EXPECT_EQ(scheduler.next_deadline(), Instant{seconds(102).ns});
  now = Instant{seconds(102).ns - 1};
  EXPECT_THAT(tell(Tick{}), IsEmpty());
  now = Instant{seconds(102).ns};
  EXPECT_THAT(tell(Tick{}), ElementsAre("tell 3: failed deadline_exceeded: the request was still "
                                        "queued when its 2000 ms were over"));
  now = Instant{seconds(105).ns};
  EXPECT_THAT(tell(Tick{}),
              ElementsAre("cancel 1.1 on 10",
                          "tell 1: failed deadline_exceeded: the request had 1 of up to 4 tokens "
                          "when its 5000 ms were over",
                          "start 4.1 on 10"));
  EXPECT_THAT(emit(1, 1, {8}), IsEmpty()) << "nothing follows the end";
  EXPECT_EQ(scheduler.next_deadline(), Instant{seconds(107).ns});
}

TEST_F(SchedulerTest, TakesAnyTimeoutWithoutOverflow) {
  up();
  EXPECT_THAT(submit(1, 1, 1, Duration{INT64_MAX}),
              ElementsAre("tell 1: admitted", "start 1.1 on 10"));
  EXPECT_EQ(scheduler.next_deadline(), Instant{INT64_MAX});
}

TEST_F(SchedulerTest, CancelsAQueuedRequestSilentlyAndARunningOneOnItsRouter) {
  up();
  for (uint64_t r = 1; r <= 4; ++r) submit(r);
  EXPECT_THAT(cancel(3), IsEmpty());
  EXPECT_THAT(cancel(1), ElementsAre("cancel 1.1 on 10", "start 4.1 on 10"));
  EXPECT_THAT(cancel(1), IsEmpty());
  EXPECT_THAT(cancel(99), IsEmpty());
  EXPECT_THAT(finish(1), IsEmpty()) << "a cancelled request has no end";
  EXPECT_EQ(scheduler.counts().cancelled_total, 2U);
}

TEST_F(SchedulerTest, DropsDuplicatesAndTrimsOverlaps) {
  up();
  submit(1);
  emit(1, 0, {7, 8});
  EXPECT_THAT(emit(1, 0, {7, 8}), IsEmpty());
  EXPECT_THAT(emit(1, 1, {8}), IsEmpty());
  EXPECT_THAT(emit(1, 2, {}), IsEmpty());
  EXPECT_THAT(emit(1, 1, {8, 9}), ElementsAre("tell 1: tokens 2 [9]"));
}

TEST_F(SchedulerTest, FailsARequestWhoseStreamHasAGapOrRunsOver) {
  up();
  submit(1);
  emit(1, 0, {7});
  EXPECT_THAT(emit(1, 2, {9}),
              ElementsAre("cancel 1.1 on 10",
                          HasSubstr("tell 1: failed internal: router 10 sent tokens 2 to 3")));
  submit(2, 3, 2);
  EXPECT_THAT(emit(2, 0, {7, 8, 9}),
              ElementsAre("cancel 2.1 on 10", HasSubstr("tell 2: failed internal")));
  submit(3);
  EXPECT_THAT(emit(3, UINT32_MAX, {7}),
              ElementsAre("cancel 3.1 on 10", HasSubstr("tell 3: failed internal")));
}

TEST_F(SchedulerTest, DropsWhatComesFromAnotherAttemptOrRouter) {
  up(kR);
  up(kS);
  submit(1);
  for (const auto& [router, attempt] : {std::pair(kR, 0U), std::pair(kR, 2U), std::pair(kS, 1U)}) {
    EXPECT_THAT(emit(1, 0, {7}, router, attempt), IsEmpty());
    EXPECT_THAT(finish(1, router, attempt), IsEmpty());
    EXPECT_THAT(tell(RouterFailed{NodeId{router}, RequestId{1}, attempt, {}}), IsEmpty());
  }
  EXPECT_THAT(finish(1), ElementsAre("tell 1: length"));
}

TEST_F(SchedulerTest, PassesOnTheErrorOfARouter) {
  up();
  submit(1);
  EXPECT_THAT(tell(RouterFailed{NodeId{kR}, RequestId{1}, 1, {Code::kInternal, "no logit"}}),
              ElementsAre("tell 1: failed internal: no logit"));
}

TEST_F(SchedulerTest, StartsAgainWhatARouterCannotGoOnWith) {
  up();
  submit(1);
  emit(1, 0, {7});
  EXPECT_THAT(tell(RouterFailed{NodeId{kR}, RequestId{1}, 1, {Code::kUnavailable, "no epoch"}}),
              ElementsAre("start 1.2 on 10 after 1"));
}

TEST_F(SchedulerTest, ResumesTheRequestsOfALostRouterOnAnotherAfterWhatWasEmitted) {
  up(kR);
  up(kS);
  submit(1);
  submit(2);
  emit(1, 0, {7});
  EXPECT_THAT(down(kR), ElementsAre("cancel 1.1 on 10", "start 1.2 on 20 after 1"));
  EXPECT_THAT(emit(1, 1, {8}), IsEmpty()) << "of the first attempt";
  EXPECT_THAT(emit(1, 1, {8}, kS, 2), ElementsAre("tell 1: tokens 1 [8]"));
  EXPECT_THAT(finish(2, kS), ElementsAre("tell 2: length"));
  EXPECT_THAT(down(kR), IsEmpty());
  EXPECT_EQ(scheduler.counts().resumed_total, 1U);
}

TEST_F(SchedulerTest, LosesARequestOnceWhenAllRoutersGoTogether) {
  up(kR);
  up(kS);
  submit(1);
  emit(1, 0, {7});
  EXPECT_THAT(down({NodeId{kR}, NodeId{kS}}, true), ElementsAre("cancel 1.1 on 10"));
  EXPECT_THAT(up(kS), ElementsAre("start 1.2 on 20 after 1"));
  EXPECT_EQ(scheduler.counts().resumed_total, 1U);
}

TEST_F(SchedulerTest, FinishesALostRequestWhoseEndAloneWasNotTold) {
  up();
  submit(1, 3, 2);
  emit(1, 0, {7, 8});
  EXPECT_THAT(down(), ElementsAre("cancel 1.1 on 10", "tell 1: length"));
}

TEST_F(SchedulerTest, GivesUpARequestThatLosesItsRouterAgainAndAgain) {
  up();
  submit(1);
  for (int i = 1; i < 4; ++i) {
    const std::string attempt = std::to_string(i);
    EXPECT_THAT(down(), ElementsAre("cancel 1." + attempt + " on 10"));
    EXPECT_THAT(up(), ElementsAre("start 1." + std::to_string(i + 1) + " on 10"));
  }
  EXPECT_THAT(down(), ElementsAre("cancel 1.4 on 10",
                                  HasSubstr("tell 1: failed unavailable: the request lost what "
                                            "computed it 4 times; last: shard-1 was lost")));
}

TEST_F(SchedulerTest, CountsNoDrainAsALoss) {
  up(kR);
  up(kS);
  submit(1);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(tell(Drained{NodeId{i % 2 == 0 ? kR : kS}}).size(), 2U);
    EXPECT_THAT(tell(Drained{NodeId{i % 2 == 0 ? kR : kS}, false}), IsEmpty());
  }
}

TEST_F(SchedulerTest, StartsAConversationsNextTurnWhereItsKvIs) {
  use({.max_running = 2, .max_context = 100});
  up(kR);
  up(kS);
  const auto say = [&](uint64_t request, std::vector<TokenId> prompt) {
    return tell(Submitted{RequestId{request},
                          {.prompt = std::move(prompt), .max_tokens = 40, .timeout = seconds(10)}});
  };
  std::vector<TokenId> turn(31, 1);
  say(1, std::vector<TokenId>(31, 3));
  EXPECT_THAT(say(2, turn), ElementsAre("tell 2: admitted", "start 2.1 on 20"));
  emit(2, 0, {8}, kS);
  finish(1, kR);
  finish(2, kS);
  turn.insert(turn.end(), {8, 9, 9});
  EXPECT_THAT(say(3, turn), ElementsAre("tell 3: admitted", "start 3.1 on 20"));
  finish(3, kS);
  tell(RouterGone{NodeId{kS}});
  EXPECT_THAT(say(4, turn), ElementsAre("tell 4: admitted", "start 4.1 on 10"));
}

TEST_F(SchedulerTest, RefusesWhatWouldMissItsDeadlineFromTheFirstFinishedRequestOn) {
  use({.max_running = 1, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 5; ++r) submit(r);
  now = now + milliseconds(500);
  emit(1, 0, {7});
  now = now + milliseconds(1500);
  emit(1, 1, {8, 9, 10});
  finish(1);
  // 2 runs; before this one are 3, 4 and 5, and each takes two seconds.
  EXPECT_THAT(submit(6, 3, 4, milliseconds(9900)),
              ElementsAre(AllOf(HasSubstr("tell 6: refused for 8 s deadline_exceeded: deadline: "),
                                HasSubstr("place is about 8000 ms"),
                                HasSubstr("4 tokens take about 2000 ms"), HasSubstr("9900 ms"))));
  EXPECT_THAT(submit(7, 3, 4, seconds(10)), ElementsAre("tell 7: admitted"));
  EXPECT_THAT(submit(8, 3, 1, seconds(11)), ElementsAre("tell 8: admitted")) << "it is shorter";
}

TEST_F(SchedulerTest, RefusesWhatIsTooLongForItsDeadlineThoughNobodyElseIsThere) {
  up();
  submit(1, 4, 11);
  now = now + seconds(1);
  emit(1, 0, {7});
  now = now + seconds(1);
  emit(1, 1, std::vector<TokenId>(10, 8));
  finish(1);
  EXPECT_THAT(submit(2, 4, 11, milliseconds(1999)),
              ElementsAre(AllOf(HasSubstr("tell 2: refused for good deadline_exceeded: deadline: "),
                                HasSubstr("has 1999 ms"),
                                HasSubstr("11 tokens would take about 2000 ms"))));
  EXPECT_THAT(submit(3, 1, 11, milliseconds(1250)),
              ElementsAre("tell 3: admitted", "start 3.1 on 10"))
      << "its prompt is shorter";
  cancel(3);
  // An answer that may stop is taken to be as long as such answers were, which is not known.
  const RequestSpec may_stop{.prompt = std::vector<TokenId>(4, 1),
                             .max_tokens = 3,
                             .stop_token_ids = {2},
                             .timeout = milliseconds(1000)};
  EXPECT_THAT(tell(Submitted{RequestId{4}, may_stop}),
              ElementsAre("tell 4: admitted", "start 4.1 on 10"));
}

TEST_F(SchedulerTest, TellsWhatIsLateByItselfFromWhatIsLateBecauseOfOthers) {
  use({.max_queued = 4, .max_queued_per_tenant = 2, .max_running = 1, .max_context = 20});
  up();
  submit(1, 4, 2);
  now = now + seconds(1);
  emit(1, 0, {7});
  now = now + seconds(1);
  emit(1, 1, {8});
  finish(1);  // alone it took two seconds
  const auto refused_for_good = ElementsAre(HasSubstr("refused for good deadline_exceeded: "));
  submit(2, 4, 2);
  EXPECT_THAT(submit(3, 4, 2, milliseconds(1999)), refused_for_good);
  EXPECT_THAT(submit(4, 4, 2, milliseconds(2001)),
              ElementsAre(HasSubstr("refused for 2 s deadline_exceeded: deadline: the wait")));
  submit(5, 4, 2);
  submit(6, 4, 2);
  EXPECT_THAT(submit(7, 4, 2), ElementsAre(HasSubstr("queue_full")));
  EXPECT_THAT(submit(8, 4, 2, milliseconds(1999)), refused_for_good) << "a place would not help";
  down();
  now = *scheduler.next_deadline();
  tell(Tick{});
  EXPECT_THAT(submit(9, 4, 2, milliseconds(1999)),
              ElementsAre(HasSubstr("refused for 1 s unavail")))
      << "another cluster may be faster";
}

TEST_F(SchedulerTest, RefusesNothingForGoodThatMayBeCached) {
  use({.max_running = 1, .max_context = 1'000});
  up();
  submit(1, 640, 2);
  now = now + seconds(1);
  emit(1, 0, {7});
  finish(1);  // a second for 640 tokens
  const auto submit_prompt = [&](uint64_t request, TokenId last, const std::string& cache) {
    RequestSpec spec{.prompt = std::vector<TokenId>(640, 1),
                     .max_tokens = 1,
                     .cache_namespace = cache,
                     .timeout = milliseconds(400)};
    std::fill(spec.prompt.begin() + 320, spec.prompt.end(), last);
    return tell(Submitted{RequestId{request}, spec});
  };
  const auto for_good = ElementsAre(HasSubstr("refused for good deadline_exceeded: deadline: "));
  const auto for_now = ElementsAre(HasSubstr("refused for 1 s deadline_exceeded: deadline: "));
  EXPECT_THAT(submit_prompt(2, 1, ""), for_now);
  EXPECT_THAT(submit_prompt(3, 2, ""),
              AllOf(for_good, ElementsAre(HasSubstr("would take about 500 ms"))))
      << "half a second for what is not cached";
  EXPECT_THAT(submit_prompt(4, 1, "salt"), for_good);
  submit(5, 30, 2);
  EXPECT_THAT(submit_prompt(6, 1, ""), for_now) << "it may be cached where all places are taken";
  EXPECT_THAT(submit_prompt(7, 2, ""), for_good);
  cancel(5);
  tell(RouterGone{NodeId{kR}});
  EXPECT_THAT(submit_prompt(8, 1, ""), for_good);
}

TEST_F(SchedulerTest, BelievesWhatItLearnedLessAndLess) {
  up();
  submit(1, 4, 11);
  now = now + seconds(5);
  emit(1, 0, {7});
  finish(1);
  EXPECT_THAT(submit(2, 4, 1, seconds(1)), ElementsAre(HasSubstr("deadline: ")));
  now = now + seconds(299);
  EXPECT_THAT(submit(3, 4, 1, seconds(1)), ElementsAre(HasSubstr("deadline: ")));
  now = now + seconds(1);  // five times the minute for which it counts whole
  EXPECT_THAT(submit(4, 4, 1, seconds(1)), ElementsAre("tell 4: admitted", "start 4.1 on 10"));
}

TEST_F(SchedulerTest, TakesWhatGetsAPlaceAtOnceHoweverLongOthersWait) {
  use({.max_running = 2, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 5; ++r) submit_for("heavy", r, 1);
  now = now + seconds(8);
  emit(1, 0, {7});
  finish(1);
  EXPECT_THAT(submit_for("heavy", 40, 1), ElementsAre(HasSubstr("deadline: "))) << "its line";
  EXPECT_THAT(submit_for("low", 41, 2), ElementsAre(HasSubstr("deadline: ")))
      << "nobody gives way to a lower class";
  EXPECT_THAT(submit_for("light", 42, 1),
              ElementsAre("tell 42: admitted", HasSubstr("cancel "), "start 42.1 on 10"));
}

TEST_F(SchedulerTest, MovesTheLastRequestFromARouterWithoutBlocksToOneWithRoom) {
  use({.max_running = 4, .kv_tokens = 20, .max_context = 100});
  const auto spec = [](TokenId token) {
    return RequestSpec{
        .prompt = std::vector<TokenId>(8, token), .max_tokens = 30, .timeout = seconds(10)};
  };
  tell(RouterUp{NodeId{kR}});
  tell(Submitted{RequestId{1}, spec(1)});
  now = now + milliseconds(1);
  tell(Submitted{RequestId{2}, spec(2)});
  EXPECT_THAT(tell(Submitted{RequestId{3}, spec(3)}), ElementsAre("tell 3: admitted"))
      << "no blocks are left for it";
  std::vector<model::SampledToken> tokens(5, {.token = 7});
  EXPECT_THAT(tell(RouterEmitted{NodeId{kR}, RequestId{1}, 1, 0, tokens}),
              ElementsAre("tell 1: tokens 0 [7 7 7 7 7]"));
  EXPECT_THAT(tell(RouterUp{NodeId{kS}}),
              ElementsAre("start 3.1 on 20", "cancel 2.1 on 10", "start 2.2 on 20"));
  EXPECT_EQ(scheduler.counts().moved_total, 1U);
}

TEST_F(SchedulerTest, MovesTheYoungestOfEqualOrderFromARouterWithoutBlocks) {
  use({.max_running = 4, .kv_tokens = 20, .max_context = 100});
  up();
  for (uint64_t r = 1; r <= 2; ++r) submit(r, 3, 30);
  cancel(1);
  submit(3, 3, 30);  // as many are before it as were before 2
  emit(2, 0, std::vector<TokenId>(15, 7));
  EXPECT_THAT(up(kS), ElementsAre("cancel 3.1 on 10", "start 3.2 on 20"));
}

class MovesToBeginSooner : public SchedulerTest {
 protected:
  MovesToBeginSooner() { use(options); }
  /// A prompt that shares nothing with others.
  std::vector<std::string> submit_own(uint64_t request, size_t num_prompt = 100) {
    return tell(
        Submitted{RequestId{request},
                  {.prompt = std::vector<TokenId>(num_prompt, static_cast<TokenId>(request)),
                   .max_tokens = 4,
                   .timeout = seconds(10)}});
  }
  /// Rows of it are in a step.
  std::vector<std::string> begin(uint64_t request, uint64_t router = kR, uint32_t attempt = 1) {
    return emit(request, 0, {}, router, attempt);
  }
  std::vector<std::string> undrain(uint64_t router) { return tell(Drained{NodeId{router}, false}); }

  const SchedulerOptions options{
      .max_queued = 8, .max_running = 8, .min_gain_tokens = 64, .max_context = 1'000};
};

TEST_F(MovesToBeginSooner, WhenARouterComesUpUntilItWouldBeNoSooner) {
  up(kR);
  for (uint64_t r = 1; r <= 4; ++r) submit_own(r);
  EXPECT_THAT(begin(1), IsEmpty());
  // 4 x 100 tokens and 3 others, of 64 each, against 100; then 428 against 264.
  EXPECT_THAT(up(kS), ElementsAre("cancel 4.1 on 10", "start 4.2 on 20", "cancel 3.1 on 10",
                                  "start 3.2 on 20"));
  EXPECT_EQ(scheduler.counts().moved_to_begin_total, 2U);
  EXPECT_EQ(scheduler.counts().resumed_total, 2U);
  EXPECT_THAT(emit(3, 0, {7}), IsEmpty()) << "the first attempt was too late";
  EXPECT_THAT(emit(3, 0, {7}, kS, 2), ElementsAre("tell 3: tokens 0 [7]"));
  EXPECT_THAT(finish(3, kS, 2), ElementsAre("tell 3: length"));
}

TEST_F(MovesToBeginSooner, OfEqualOrderTheYoungestFirst) {
  for (const auto& [older, younger] : {std::pair{3U, 4U}, {4U, 3U}}) {
    use(options);
    up(kR);
    submit_own(1);
    submit_own(older);
    cancel(1);
    submit_own(younger);  // as many are before it, so it has the same order
    EXPECT_THAT(up(kS), ElementsAre("cancel " + std::to_string(younger) + ".1 on 10",
                                    "start " + std::to_string(younger) + ".2 on 20"));
  }
}

TEST_F(MovesToBeginSooner, WhenARouterIsDrainedNoMore) {
  up(kR);
  up(kS);
  tell(Drained{NodeId{kS}});
  for (uint64_t r = 1; r <= 2; ++r) submit_own(r);
  EXPECT_THAT(undrain(kS), ElementsAre("cancel 2.1 on 10", "start 2.2 on 20"));
}

TEST_F(MovesToBeginSooner, WhenAnotherRouterHasDoneItsWork) {
  up(kR);
  up(kS);
  submit_own(1, 300);
  submit_own(2, 300);  // on 20
  EXPECT_THAT(submit_own(3), ElementsAre("tell 3: admitted", "start 3.1 on 10"));
  begin(1);
  begin(2, kS);
  emit(2, 0, {7}, kS);
  // 400 tokens and one other against 100.
  EXPECT_THAT(finish(2, kS), ElementsAre("tell 2: length", "cancel 3.1 on 10", "start 3.2 on 20"));
}

TEST_F(MovesToBeginSooner, NotOnceItHasBegun) {
  up(kR);
  for (uint64_t r = 1; r <= 4; ++r) submit_own(r);
  for (uint64_t r = 1; r <= 4; ++r) begin(r);
  EXPECT_THAT(up(kS), IsEmpty());
}

TEST_F(MovesToBeginSooner, OnceOnlyUntilItHasBegun) {
  up(kR);
  up(kS);
  submit_own(1, 300);
  submit_own(2, 300);  // on 20
  submit_own(3);
  EXPECT_THAT(finish(2, kS), ElementsAre("tell 2: length", "cancel 3.1 on 10", "start 3.2 on 20"));
  EXPECT_THAT(down(kR), ElementsAre("cancel 1.1 on 10", "start 1.2 on 20"));
  tell(RouterGone{NodeId{kR}});
  EXPECT_THAT(up(kR), IsEmpty()) << "400 tokens and one other against 100, but it has moved";
}

TEST_F(MovesToBeginSooner, NotBecauseOfThoseThatComeAfterIt) {
  up(kR);
  submit_own(1, 100);
  now = now + milliseconds(1);
  submit_own(2, 900);
  EXPECT_THAT(up(kS), IsEmpty()) << "1: 100 on both; 2: 1064 against 900";
}

TEST_F(MovesToBeginSooner, NotForLittle) {
  up(kR);
  submit_own(1, 50);
  submit_own(2, 10);
  EXPECT_THAT(up(kS), ElementsAre("cancel 2.1 on 10", "start 2.2 on 20"));  // 124 against 10
  use(options);
  up(kR);
  submit_own(1, 10);
  emit(1, 0, {7});
  submit_own(2, 500);
  EXPECT_THAT(up(kS), IsEmpty()) << "564 against 500";
}

TEST_F(MovesToBeginSooner, NotAwayFromItsPrefix) {
  up(kR);
  submit_own(1, 640);
  emit(1, 0, {7});
  const RequestSpec same{
      .prompt = std::vector<TokenId>(640, 1), .max_tokens = 4, .timeout = seconds(10)};
  EXPECT_THAT(tell(Submitted{RequestId{2}, same}),
              ElementsAre("tell 2: admitted", "start 2.1 on 10"));
  submit_own(3, 100);
  EXPECT_THAT(up(kS), ElementsAre("cancel 3.1 on 10", "start 3.2 on 20"))
      << "3 may go, and 2, of which 639 tokens are cached, stays";
}

TEST_F(MovesToBeginSooner, WithoutAskingForKvThatWasNotComputed) {
  up(kR);
  submit_own(1, 640);
  submit_own(2, 640);
  const auto effects = scheduler.handle(RouterUp{NodeId{kS}}, now);
  ASSERT_EQ(effects.size(), 2U);
  EXPECT_EQ(std::get<StartOnRouter>(effects[1]).kv_from, std::nullopt);
}

TEST_F(SchedulerTest, RequestsOfATenantKeepTheirOrder) {
  const auto order = [&](uint64_t request, const std::string& tenant, uint32_t priority) {
    const RequestSpec spec{.prompt = {1, 2},
                           .max_tokens = 4,
                           .tenant = tenant,
                           .priority = priority,
                           .timeout = seconds(60)};
    for (const SchedulerEffect& effect :
         scheduler.handle(Submitted{RequestId{request}, spec}, now)) {
      if (const auto* start = std::get_if<StartOnRouter>(&effect)) return Duration{start->order};
    }
    return Duration{};
  };
  use({.max_running = 8, .max_context = 20});
  up();
  now = Instant{seconds(100).ns};
  for (uint64_t r = 1; r <= 4; ++r) {
    EXPECT_EQ(order(r, "many", 1), seconds(110 + static_cast<int64_t>(r) - 1));
  }
  for (uint64_t r = 1; r <= 3; ++r) finish(r);
  now = now + seconds(1);
  EXPECT_EQ(order(5, "many", 1), seconds(113)) << "not 112: not before 4";
  EXPECT_EQ(order(6, "many", 0), seconds(103)) << "another class";
  EXPECT_EQ(order(7, "one", 1), seconds(111));
  for (uint64_t r = 4; r <= 6; ++r) finish(r);
  EXPECT_EQ(order(8, "many", 1), seconds(111)) << "nobody of its own is left to come after";
}

TEST_F(SchedulerTest, ATenantsLastTurnCountsThoughItsRequestLeavesItsRouter) {
  const auto order_of = [&](uint64_t request) {
    const RequestSpec spec{.prompt = {1, 2}, .max_tokens = 30, .timeout = seconds(60)};
    for (const auto& effect : scheduler.handle(Submitted{RequestId{request}, spec}, now)) {
      if (const auto* start = std::get_if<StartOnRouter>(&effect)) return start->order;
    }
    return int64_t{0};
  };
  const auto moves = ElementsAre("cancel 3.1 on 10", "start 3.2 on 20");
  const auto moved_by = [&](const std::function<void()>& let_move,
                            const SchedulerOptions& options) {
    use(options);
    up();
    for (uint64_t r = 1; r <= 2; ++r) order_of(r);
    const int64_t order = order_of(3);  // as behind two others
    for (uint64_t r = 1; r <= 2; ++r) finish(r);
    let_move();
    EXPECT_EQ(order_of(4), order) << "not before 3, though behind one only";
  };
  const SchedulerOptions few_blocks{.max_running = 8, .kv_tokens = 20, .max_context = 100};
  const SchedulerOptions options{.max_running = 8, .min_gain_tokens = 1, .max_context = 100};
  moved_by(
      [&] {  // to begin sooner
        submit_of("other", 9, 50);
        EXPECT_THAT(up(kS), moves);
      },
      options);
  moved_by(
      [&] {  // for KV blocks
        submit_of("other", 9, 10);
        emit(3, 0, std::vector<TokenId>(10, 7));
        EXPECT_THAT(up(kS), ElementsAre("cancel 3.1 on 10", "start 3.2 on 20 after 10"));
      },
      few_blocks);
  moved_by(
      [&] {  // its router is drained
        up(kS);
        EXPECT_THAT(tell(Drained{NodeId{kR}}), moves);
      },
      options);
  moved_by(
      [&] {  // its router is lost
        down();
        EXPECT_THAT(up(kS), ElementsAre("start 3.2 on 20"));
      },
      options);
}

TEST_F(SchedulerTest, APromptThatIsStillToBeComputedIsNoServiceYet) {
  use({.max_running = 4, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 6; ++r) submit_for("heavy", r);
  EXPECT_THAT(submit_for("light", 11),
              ElementsAre("tell 11: admitted", "cancel 4.1 on 10", "start 11.1 on 10"));
  EXPECT_THAT(submit_for("light", 12),
              ElementsAre("tell 12: admitted", "cancel 3.1 on 10", "start 12.1 on 10"))
      << "it was charged the prompt of 11, but nothing of that has come";
}

TEST_F(SchedulerTest, ATenantWithMostPlacesGivesThemToOthersUntilTheyAreEven) {
  use({.max_running = 4, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 6; ++r) submit_for("heavy", r);
  emit(4, 0, {7, 8});
  EXPECT_THAT(submit_for("light", 11),
              ElementsAre("tell 11: admitted", "cancel 4.1 on 10", "start 11.1 on 10"))
      << "its last one gives way";
  emit(11, 0, {7});
  EXPECT_THAT(submit_for("light", 12), ElementsAre("tell 12: admitted")) << "it was served more";
  now = now + milliseconds(20);
  EXPECT_THAT(emit(1, 0, {7, 8, 9, 7}),  // as much as 11 took
              ElementsAre("tell 1: tokens 0 [7 8 9 7]", "cancel 3.1 on 10", "start 12.1 on 10"));
  EXPECT_THAT(submit_for("light", 13), ElementsAre("tell 13: admitted")) << "two and two";
  emit(2, 0, {7, 8, 9});
  EXPECT_THAT(submit_for("third", 21),
              ElementsAre("tell 21: admitted", "cancel 2.1 on 10", "start 21.1 on 10"));
  EXPECT_EQ(scheduler.counts().yielded_total, 3U);
  // They wait in their tenant's line, where they come before what came after them.
  EXPECT_THAT(cancel(11), ElementsAre("cancel 11.1 on 10", "start 2.2 on 10 after 3"));
  EXPECT_THAT(emit(2, 3, {9}, kR, 2), ElementsAre("tell 2: tokens 3 [9]"));
}

TEST_F(SchedulerTest, OfEqualOrderTheYoungestGivesItsPlaceUp) {
  use({.max_running = 2, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 2; ++r) submit_for("heavy", r);
  cancel(1);
  submit_for("heavy", 3);  // as many are before it as were before 2
  EXPECT_THAT(submit_for("light", 11),
              ElementsAre("tell 11: admitted", "cancel 3.1 on 10", "start 11.1 on 10"));
}

TEST_F(SchedulerTest, ATenantKeepsAsManyPlacesAsItsWeightSays) {
  use({.max_running = 4, .max_context = 20, .fairness = {.weights = {{"heavy", 3}}}});
  up();
  for (uint64_t r = 1; r <= 6; ++r) submit_for("heavy", r);
  EXPECT_THAT(submit_for("light", 11),
              ElementsAre("tell 11: admitted", "cancel 4.1 on 10", "start 11.1 on 10"));
  emit(1, 0, {7, 8, 9, 7, 8, 9});  // it was served more, by weight, too
  now = now + milliseconds(20);
  EXPECT_THAT(submit_for("light", 12), ElementsAre("tell 12: admitted")) << "three and one";
}

TEST_F(SchedulerTest, TokensMakeTheTenantWithMostGiveWayWithinTenMilliseconds) {
  use({.max_queued = 8, .max_running = 4, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 5; ++r) submit_for("heavy", r);
  EXPECT_THAT(submit_for("light", 11),
              ElementsAre("tell 11: admitted", "cancel 4.1 on 10", "start 11.1 on 10"));
  emit(11, 0, {7});
  EXPECT_THAT(submit_for("light", 12), ElementsAre("tell 12: admitted")) << "it was served more";
  now = now + milliseconds(9);
  EXPECT_THAT(emit(1, 0, {7, 8, 9, 7}), ElementsAre("tell 1: tokens 0 [7 8 9 7]"))
      << "as much as heavy now, but nobody looks at each token";
  now = now + milliseconds(1);
  EXPECT_THAT(emit(2, 0, {7}),
              ElementsAre("tell 2: tokens 0 [7]", "cancel 3.1 on 10", "start 12.1 on 10"));
}

TEST_F(SchedulerTest, ATenantThatWaitsForBlocksHoldsUpNobodyWithFewer) {
  use({.max_running = 8, .kv_tokens = 20, .max_context = 20});
  up();
  submit_of("large", 1, 8);
  submit_of("large", 2, 8);
  EXPECT_THAT(submit_of("large", 3, 8), ElementsAre("tell 3: admitted")) << "2 of 20 are left";
  EXPECT_THAT(submit_of("small", 11, 1), ElementsAre("tell 11: admitted", "start 11.1 on 10"));
  emit(11, 0, {7, 8, 9});
  EXPECT_THAT(finish(11), ElementsAre("tell 11: length"));
  EXPECT_THAT(submit_of("small", 12, 1), ElementsAre("tell 12: admitted", "start 12.1 on 10"))
      << "though it was served more, and nobody gives way";
  EXPECT_THAT(finish(1), ElementsAre("tell 1: length", "start 3.1 on 10"));
  EXPECT_THAT(submit_of("small", 13, 1), ElementsAre("tell 13: admitted")) << "12 takes the rest";
}

TEST_F(SchedulerTest, TokensMakeItTheTurnOfARequestThatFindsBlocks) {
  use({.max_running = 4, .kv_tokens = 20, .max_context = 20});
  up();
  submit_of("a", 1, 8);
  submit_of("b", 2, 4);
  EXPECT_THAT(submit_of("a", 3, 8), ElementsAre("tell 3: admitted")) << "too few blocks are left";
  now = now + milliseconds(10);
  EXPECT_THAT(submit_of("b", 4, 4), ElementsAre("tell 4: admitted"))
      << "it is the turn of 3, and b would have more blocks than a";
  now = now + milliseconds(10);
  EXPECT_THAT(emit(1, 0, {7}), ElementsAre("tell 1: tokens 0 [7]", "start 4.1 on 10"));
}

TEST_F(SchedulerTest, APromptCountsAsServedFromItsStart) {
  use({.max_queued = 16, .max_running = 1, .max_context = 100});
  up();
  submit_for("other", 9);
  for (uint64_t r = 1; r <= 2; ++r) {
    tell(Submitted{RequestId{r},
                   {.prompt = std::vector<TokenId>(20, 1),
                    .max_tokens = 4,
                    .tenant = "long",
                    .timeout = seconds(10)}});
  }
  for (uint64_t r = 11; r <= 16; ++r) submit_for("short", r);
  uint64_t running = 9;
  for (const uint64_t next : {1, 11, 12, 13, 14, 15, 16, 2}) {  // nobody emits a token
    const std::string id = std::to_string(next);
    EXPECT_THAT(finish(running), ElementsAre("tell " + std::to_string(running) + ": length",
                                             "start " + id + ".1 on 10"));
    running = next;
  }
}

TEST_F(SchedulerTest, NobodyGivesWayToALowerClass) {
  up();
  submit_for("heavy", 1, 1);
  submit_for("heavy", 2, 1);
  EXPECT_THAT(submit_for("light", 11, 2), ElementsAre("tell 11: admitted"));
  EXPECT_THAT(submit_for("light", 12, 1),
              ElementsAre("tell 12: admitted", "cancel 2.1 on 10", "start 12.1 on 10"));
}

TEST_F(SchedulerTest, APlaceOnADrainedRouterIsNoPlaceToGive) {
  up(kR);
  submit_for("heavy", 1);
  submit_for("heavy", 2);
  tell(Drained{NodeId{kR}});  // the only one: they stay
  EXPECT_THAT(submit_for("light", 11), ElementsAre("tell 11: admitted"));
}

TEST_F(SchedulerTest, TheBlocksOfATenantWithMostPlacesGoToOthersToo) {
  use({.max_running = 4, .kv_tokens = 12, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 4; ++r) submit_for("heavy", r);  // of 4 positions each
  EXPECT_EQ(scheduler.counts().running, 3U);
  EXPECT_THAT(submit_for("light", 11),
              ElementsAre("tell 11: admitted", "cancel 3.1 on 10", "start 11.1 on 10"));
}

TEST_F(SchedulerTest, WhoFillsTheQueueLeavesRoomForOthers) {
  use({.max_queued = 16, .max_running = 1, .max_context = 20});
  up();
  for (uint64_t r = 1; r <= 15; ++r) submit_for("heavy", r);
  EXPECT_EQ(scheduler.counts().queued, 14U);
  EXPECT_THAT(submit_for("heavy", 16), ElementsAre(HasSubstr("refused")));
  EXPECT_THAT(submit_for("light", 21), ElementsAre("tell 21: admitted"));
  EXPECT_THAT(submit_for("light", 22), ElementsAre(HasSubstr("refused")));
  EXPECT_THAT(submit_for("third", 31), ElementsAre("tell 31: admitted"));
  EXPECT_THAT(submit_for("fourth", 41), ElementsAre(HasSubstr("refused"))) << "it is full";
}

TEST_F(SchedulerTest, DrainsARouterOntoAnother) {
  up(kR);
  up(kS);
  submit(1);
  emit(1, 0, {7});
  EXPECT_THAT(tell(Drained{NodeId{kR}}),
              ElementsAre("cancel 1.1 on 10", "start 1.2 on 20 after 1"));
  EXPECT_THAT(submit(2), ElementsAre("tell 2: admitted", "start 2.1 on 20"));
  EXPECT_THAT(submit(3), ElementsAre("tell 3: admitted")) << "the other one is full";
  EXPECT_THAT(tell(Drained{NodeId{kR}, false}), ElementsAre("start 3.1 on 10"));
}

TEST_F(SchedulerTest, DrainingTheOnlyRouterLetsItsRequestsFinish) {
  up();
  submit(1);
  EXPECT_THAT(tell(Drained{NodeId{kR}}), IsEmpty());
  EXPECT_THAT(emit(1, 0, {7}), ElementsAre("tell 1: tokens 0 [7]"));
  EXPECT_THAT(submit(2), ElementsAre("tell 2: admitted")) << "it waits";
  EXPECT_THAT(finish(1), ElementsAre("tell 1: length"));
  EXPECT_THAT(tell(Drained{NodeId{kR}, false}), ElementsAre("start 2.1 on 10"));
}

TEST_F(SchedulerTest, StartsTheTenantThatWasServedLeastAndBoundsEachQueue) {
  Scheduler fair(
      {.max_queued = 30, .max_queued_per_tenant = 10, .max_running = 1, .max_context = 100});
  const auto submit_for = [&](uint64_t request, const std::string& tenant) {
    RequestSpec spec{
        .prompt = std::vector<TokenId>(10, 1), .max_tokens = 10, .timeout = seconds(100)};
    spec.tenant = tenant;
    return fair.handle(Submitted{RequestId{request}, spec}, now);
  };
  (void)fair.handle(RouterUp{NodeId{kR}}, now);
  for (uint64_t r = 0; r < 11; ++r) (void)submit_for(r, "greedy");
  EXPECT_THAT(text(submit_for(11, "greedy").at(0)),
              HasSubstr("10 requests of this tenant are waiting already"));
  EXPECT_THAT(text(submit_for(20, "modest").at(0)), "tell 20: admitted");
  std::vector<std::string> starts;
  RequestId running{0};
  for (int i = 0; i < 4; ++i) {
    (void)fair.handle(RouterEmitted{NodeId{kR}, running, 1, 0, {{.token = 1}}}, now);
    for (const auto& effect :
         fair.handle(RouterFinished{NodeId{kR}, running, 1, FinishReason::kStop}, now)) {
      if (const auto* start = std::get_if<StartOnRouter>(&effect)) {
        running = start->request;
        starts.push_back(std::to_string(running.value));
      }
    }
    if (i == 2) (void)submit_for(21, "modest");
    EXPECT_EQ(fair.check(), "");
  }
  EXPECT_THAT(starts, ElementsAre("20", "1", "2", "21"))
      << "modest has its turn each time it comes with less than greedy";
}

TEST_F(SchedulerTest, KeepsTheQueueForARouterThatComesBackSoon) {
  up();
  for (uint64_t r = 1; r <= 4; ++r) submit(r);
  down();
  EXPECT_EQ(scheduler.counts().queued, 4U);
  EXPECT_EQ(scheduler.next_deadline(), now + milliseconds(1500));
  now = now + milliseconds(1499);
  EXPECT_THAT(up(kS), ElementsAre("start 1.2 on 20", "start 2.2 on 20"));
  now = now + milliseconds(1);
  EXPECT_THAT(tell(Tick{}), IsEmpty());
}

TEST_F(SchedulerTest, EndsTheQueueWhenNoRouterComesBack) {
  up();
  for (uint64_t r = 1; r <= 3; ++r) submit(r);
  down();
  now = *scheduler.next_deadline();
  EXPECT_THAT(tell(Tick{}), ElementsAre(HasSubstr("tell 1: failed unavailable: no_capacity"),
                                        HasSubstr("tell 2: failed unavailable: no_capacity"),
                                        HasSubstr("tell 3: failed unavailable: no_capacity")));
  EXPECT_EQ(scheduler.next_deadline(), std::nullopt);
}

TEST_F(SchedulerTest, WaitsLessForARouterThatWasSilentBefore) {
  up();
  submit(1);
  now = now + seconds(1);
  emit(1, 0, {7});
  now = now + milliseconds(1400);
  down();
  EXPECT_EQ(scheduler.next_deadline(), now + milliseconds(200));
}

TEST_F(SchedulerTest, WaitsLongerForNodesThatFormANewEpochAsLongAsTheyCan) {
  up();
  submit(1, 3, 4, seconds(100));
  down(kR, true);
  EXPECT_EQ(scheduler.next_deadline(), now + seconds(10));
  now = now + seconds(4);
  tell(CannotServe{{Code::kUnavailable, "waiting for a router"}});
  EXPECT_EQ(scheduler.next_deadline(), now + milliseconds(200));
  tell(CannotServe{{Code::kUnavailable, "still waiting"}});
  now = now + milliseconds(200);
  EXPECT_THAT(tell(Tick{}),
              ElementsAre(HasSubstr("tell 1: failed unavailable: no_capacity: nothing can compute "
                                    "the request any more: waiting for a router")));
  EXPECT_THAT(tell(CannotServe{}), IsEmpty());
}

TEST_F(SchedulerTest, FinishesWhatRunsWhenTheHeadStopsAndTakesNothingNew) {
  up();
  for (uint64_t r = 1; r <= 3; ++r) submit(r);
  EXPECT_THAT(tell(Stopping{}), ElementsAre(HasSubstr("tell 3: failed unavailable: draining")));
  EXPECT_THAT(submit(4), ElementsAre(HasSubstr("refused for 1 s unavailable: draining")));
  EXPECT_THAT(emit(1, 0, {7}), ElementsAre("tell 1: tokens 0 [7]"));
  EXPECT_THAT(finish(1), ElementsAre("tell 1: length"));
}

TEST_F(SchedulerTest, IgnoresARepeatedSubmissionAndARepeatedRouterUp) {
  up();
  submit(1);
  EXPECT_THAT(submit(1), IsEmpty());
  EXPECT_THAT(up(), IsEmpty());
  submit(2);
  EXPECT_THAT(submit(3), ElementsAre("tell 3: admitted")) << "the router is still full";
  EXPECT_THAT(submit(3), IsEmpty());
}

}  // namespace
}  // namespace troupe::scheduler
