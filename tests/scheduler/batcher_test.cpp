#include "scheduler/batcher.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// "reserve 1: 20", "extend 1: 21", "preempt 1" and "step 3: 1@7+1! 2@0+4": request@first+count, !
/// for wants_token.
std::vector<std::string> text(const std::vector<BatcherEffect>& effects, uint64_t steps_before) {
  std::vector<std::string> lines;
  for (const BatcherEffect& effect : effects) {
    if (const auto* ask = std::get_if<ReserveBlocks>(&effect)) {
      lines.push_back("reserve " + std::to_string(ask->request.value) + ": " +
                      std::to_string(ask->num_tokens));
    } else if (const auto* more = std::get_if<ExtendBlocks>(&effect)) {
      lines.push_back("extend " + std::to_string(more->request.value) + ": " +
                      std::to_string(more->num_tokens));
    } else if (const auto* preempted = std::get_if<Preempt>(&effect)) {
      lines.push_back("preempt " + std::to_string(preempted->request.value));
    } else {
      const auto& run = std::get<RunStep>(effect);
      std::string line = "step " + std::to_string(run.step.value - steps_before) + ":";
      for (const StepEntry& entry : run.entries) {
        line += " " + std::to_string(entry.request.value) + "@" +
                std::to_string(entry.first_position) + "+" + std::to_string(entry.count) +
                (entry.wants_token ? "!" : "");
      }
      lines.push_back(line);
    }
  }
  return lines;
}

/// Of a batcher that has run two steps with a request of their own, the second of which only
/// decoded; a new one has the first step in which prefill meets decoding do so.
class BatcherTest : public ::testing::Test {
 protected:
  BatcherTest() { restart({.max_step_tokens = 8, .max_running = 3}); }
  void restart(BatcherOptions options) {
    batcher = Batcher(options);
    num_steps_before = 0;
    arrive(99, 1);
    reserved(99);
    done(1);
    leave(99);
    done(2);
    num_steps_before = 2;
  }
  std::vector<std::string> tell(const BatcherEvent& event) {
    const auto effects = batcher.handle(event);
    for (const BatcherEffect& effect : effects) {
      if (const auto* ask = std::get_if<ReserveBlocks>(&effect)) asks[ask->request] = ask->ask;
      if (const auto* more = std::get_if<ExtendBlocks>(&effect)) asks[more->request] = more->ask;
    }
    EXPECT_EQ(batcher.check(), "");
    return text(effects, num_steps_before);
  }
  std::vector<std::string> arrive(uint64_t request, uint32_t num_known, uint32_t max_context = 100,
                                  int64_t order = 0, uint32_t num_scored = 0) {
    return tell(Arrived{RequestId{request}, num_known, max_context, order, num_scored});
  }
  /// Grants the request's last question.
  std::vector<std::string> reserved(uint64_t request, uint32_t num_tokens = 100,
                                    uint32_t num_cached = 0) {
    return tell(
        BlocksReserved{asks[RequestId{request}], RequestId{request}, num_tokens, num_cached});
  }
  std::vector<std::string> refused(uint64_t request) {
    return tell(BlocksRefused{asks[RequestId{request}], RequestId{request}});
  }
  std::vector<std::string> pending(uint64_t request) {
    return tell(BlocksPending{asks[RequestId{request}], RequestId{request}});
  }
  std::vector<std::string> wake(uint64_t request) { return tell(BlocksWake{RequestId{request}}); }
  std::vector<std::string> done(uint64_t step, Duration took = {}, Duration scoring = {}) {
    return tell(StepDone{StepId{step + num_steps_before}, took, {}, scoring});
  }
  /// Without the token of this request.
  std::vector<std::string> done_without(uint64_t step, uint64_t request) {
    return tell(StepDone{StepId{step + num_steps_before}, {}, {RequestId{request}}});
  }
  std::vector<std::string> mask_ready(uint64_t request) {
    return tell(MaskReady{RequestId{request}});
  }
  std::vector<std::string> leave(uint64_t request) { return tell(Left{RequestId{request}}); }

  Batcher batcher{{}};
  uint64_t num_steps_before = 0;  ///< steps are counted from the one after them
  std::map<RequestId, AskId> asks;
};

TEST_F(BatcherTest, RunsARequestOnlyAfterItsBlocksAreReserved) {
  EXPECT_THAT(arrive(1, 3, 20), ElementsAre("reserve 1: 4"));
  EXPECT_EQ(batcher.num_waiting(), 1U);
  EXPECT_THAT(reserved(1), ElementsAre("step 1: 1@0+3!"));
  EXPECT_EQ(batcher.num_running(), 1U);
}

TEST_F(BatcherTest, ComputesOnlyWhatIsNotCached) {
  arrive(1, 7);
  EXPECT_THAT(reserved(1, 100, 5), ElementsAre("step 1: 1@5+2!"));
}

TEST_F(BatcherTest, DecodesOneTokenPerStepUntilTheRequestLeaves) {
  arrive(1, 3);
  reserved(1);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@3+1!"));
  EXPECT_THAT(done(2), ElementsAre("step 3: 1@4+1!"));
  EXPECT_THAT(leave(1), IsEmpty());
  EXPECT_THAT(done(3), IsEmpty());
  EXPECT_EQ(batcher.num_running(), 0U);
}

TEST_F(BatcherTest, SplitsALongPromptIntoChunksAndAsksForATokenInTheLast) {
  arrive(1, 20);
  EXPECT_THAT(reserved(1), ElementsAre("step 1: 1@0+8"));
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@8+8"));
  EXPECT_THAT(done(2), ElementsAre("step 3: 1@16+4!"));
  EXPECT_THAT(done(3), ElementsAre("step 4: 1@20+1!"));
}

TEST_F(BatcherTest, MeasuresDecodingAsSoonAsPrefillMeetsIt) {
  batcher = Batcher({.max_step_tokens = 8, .max_running = 3});
  num_steps_before = 0;
  arrive(1, 3);
  reserved(1);
  arrive(2, 20);
  reserved(2);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@3+1!"));
  EXPECT_THAT(done(2), ElementsAre("step 3: 1@4+1! 2@0+7"));
}

TEST_F(BatcherTest, TakesFewRowsOfPrefillBesideOthersAsLongAsItKnowsNoCosts) {
  restart({.max_step_tokens = 64, .max_running = 3, .min_prefill_tokens = 4});
  arrive(1, 3);
  reserved(1);
  arrive(2, 50);
  reserved(2);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@3+1! 2@0+4"));
}

TEST_F(BatcherTest, SharesPrefillBetweenTheFirstAndTheShortest) {
  arrive(1, 30, 100, 1);
  reserved(1);
  arrive(2, 9, 100, 2);
  reserved(2);
  arrive(3, 5, 100, 3);
  reserved(3);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@8+4 3@0+4"));
  EXPECT_THAT(done(2), ElementsAre("step 3: 1@12+4 2@0+3 3@4+1!")) << "the next shortest";
  EXPECT_THAT(done(3), ElementsAre("step 4: 3@5+1! 1@16+4 2@3+3"));
}

TEST_F(BatcherTest, PutsDecodeBeforePrefillAndPrefillInOrder) {
  arrive(1, 1);
  reserved(1);
  EXPECT_THAT(arrive(2, 5), ElementsAre("reserve 2: 6"));
  reserved(2);
  arrive(3, 9);
  reserved(3);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@1+1! 2@0+5! 3@0+2"));
  EXPECT_THAT(done(2), ElementsAre("step 3: 1@2+1! 2@5+1! 3@2+6"));
  EXPECT_THAT(done(3), ElementsAre("step 4: 1@3+1! 2@6+1! 3@8+1!"));
}

TEST_F(BatcherTest, AsksForReservationsOneByOneInOrderAndThenByArrival) {
  EXPECT_THAT(arrive(5, 1, 10), ElementsAre("reserve 5: 2"));
  EXPECT_THAT(arrive(4, 2, 11, 20), IsEmpty());
  EXPECT_THAT(arrive(6, 3, 12, 10), IsEmpty());
  EXPECT_THAT(arrive(7, 4, 12, 10), IsEmpty());
  EXPECT_THAT(reserved(5), ElementsAre("reserve 6: 4", "step 1: 5@0+1!"));
  EXPECT_THAT(reserved(6), ElementsAre("reserve 7: 5"));
}

TEST_F(BatcherTest, AsksForNoMoreThanMayRun) {
  for (uint64_t r = 1; r <= 4; ++r) arrive(r, 1);
  for (uint64_t r = 1; r <= 3; ++r) reserved(r);
  EXPECT_EQ(batcher.num_running(), 3U);
  EXPECT_EQ(batcher.num_waiting(), 1U);
  EXPECT_THAT(leave(2), ElementsAre("reserve 4: 2"));
}

TEST_F(BatcherTest, AsksForMoreRoomOnePositionAhead) {
  arrive(1, 3);
  EXPECT_THAT(reserved(1, 4), ElementsAre("step 1: 1@0+3!"));
  EXPECT_THAT(done(1), ElementsAre("extend 1: 5", "step 2: 1@3+1!"));
  EXPECT_THAT(reserved(1, 8), IsEmpty());
  EXPECT_THAT(done(2), ElementsAre("step 3: 1@4+1!"));
}

TEST_F(BatcherTest, LeavesOutWhoWaitsForRoom) {
  arrive(1, 3);
  reserved(1, 4);
  arrive(2, 1);
  reserved(2);
  done(1);
  EXPECT_THAT(done(2), ElementsAre("step 3: 2@1+1!")) << "1 has no room for position 4";
  reserved(1, 8);
  EXPECT_THAT(done(3), ElementsAre("step 4: 1@4+1! 2@2+1!"));
}

TEST_F(BatcherTest, PreemptsTheLastInOrderWhenBlocksRunOut) {
  arrive(1, 3, 100, 1);
  reserved(1, 4);
  arrive(2, 2, 100, 3);
  reserved(2);
  arrive(3, 2, 100, 2);
  reserved(3);
  EXPECT_THAT(done(1), ElementsAre("extend 1: 5", "step 2: 1@3+1! 3@0+2! 2@0+2!"));
  EXPECT_THAT(refused(1), IsEmpty()) << "position 3 still has room";
  EXPECT_THAT(done(2), ElementsAre("preempt 2", "extend 1: 6", "step 3: 3@2+1!"));
  EXPECT_EQ(batcher.num_preempted(), 1U);
  EXPECT_THAT(reserved(1, 8), IsEmpty());
  EXPECT_THAT(done(3), ElementsAre("step 4: 1@4+1! 3@3+1!")) << "2 is not taken in yet";
  leave(3);
  EXPECT_THAT(done(4), ElementsAre("reserve 2: 4", "step 5: 1@5+1!")) << "with its new token";
  EXPECT_THAT(reserved(2, 8, 2), IsEmpty());
  EXPECT_THAT(done(5), ElementsAre("step 6: 1@6+1! 2@2+1!"));
}

TEST_F(BatcherTest, PreemptsTheStarvedItselfIfItIsTheLast) {
  arrive(1, 3, 100, 1);
  reserved(1);
  arrive(2, 2, 100, 2);
  reserved(2, 3);
  done(1);
  EXPECT_THAT(done(2), ElementsAre("extend 2: 4", "step 3: 1@4+1! 2@2+1!"));
  refused(2);
  EXPECT_THAT(done(3), ElementsAre("preempt 2", "step 4: 1@5+1!"));
  leave(1);
  EXPECT_THAT(done(4), ElementsAre("reserve 2: 5"));
}

TEST_F(BatcherTest, AsksAgainAtOnceForRoomWhenBlocksWereFreedMeanwhile) {
  arrive(1, 3);
  reserved(1, 4);
  arrive(2, 1);
  reserved(2);
  EXPECT_THAT(done(1), ElementsAre("extend 1: 5", "step 2: 1@3+1! 2@0+1!"));
  leave(2);
  EXPECT_THAT(done(2), IsEmpty());
  EXPECT_THAT(refused(1), ElementsAre("extend 1: 6")) << "refused before the blocks of 2 came back";
}

TEST_F(BatcherTest, AsksARefusedRequestAgainWhenBlocksAreFreedAndLetsNobodyPass) {
  arrive(1, 1);
  reserved(1);
  EXPECT_THAT(arrive(2, 89, 90), ElementsAre("reserve 2: 89"));
  EXPECT_THAT(refused(2), IsEmpty());
  EXPECT_THAT(arrive(3, 1, 5), IsEmpty()) << "a small request does not starve a large one";
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@1+1!"));
  EXPECT_THAT(leave(1), IsEmpty()) << "step 2 may still read its blocks";
  EXPECT_THAT(done(2), ElementsAre("reserve 2: 89"));
  EXPECT_THAT(reserved(2), ElementsAre("reserve 3: 2", "step 3: 2@0+8"));
}

TEST_F(BatcherTest, LetsOthersPassWhoeverWaitsForASharedPrefix) {
  arrive(1, 30);
  reserved(1);
  EXPECT_THAT(arrive(2, 30), ElementsAre("reserve 2: 31"));
  EXPECT_THAT(pending(2), IsEmpty()) << "request 1 computes its prefix just now";
  EXPECT_THAT(arrive(3, 1), ElementsAre("reserve 3: 2"));
  EXPECT_THAT(wake(2), IsEmpty()) << "one question at a time";
  EXPECT_THAT(reserved(3), ElementsAre("reserve 2: 31"));
  EXPECT_THAT(wake(9), IsEmpty());
}

TEST_F(BatcherTest, AsksTheNextWhenTheRefusedRequestLeaves) {
  arrive(1, 1);
  reserved(1);
  arrive(2, 1, 90);
  arrive(3, 1, 5);
  refused(2);
  EXPECT_THAT(leave(2), ElementsAre("reserve 3: 2"));
}

TEST_F(BatcherTest, AsksAgainAtOnceWhenBlocksWereFreedWhileTheRefusalWasUnderWay) {
  arrive(1, 1);
  reserved(1);
  arrive(2, 1, 90);
  leave(1);
  done(1);  // the holder refused before it heard of this
  EXPECT_THAT(refused(2), ElementsAre("reserve 2: 2"));
}

TEST_F(BatcherTest, AsksAgainAfterAStepDuringWhichSomebodyLeft) {
  arrive(1, 1);
  reserved(1);
  arrive(2, 1, 90);
  leave(1);
  EXPECT_THAT(refused(2), IsEmpty());
  EXPECT_THAT(done(1), ElementsAre("reserve 2: 2"));
}

TEST_F(BatcherTest, IgnoresTheAnswerForARequestThatLeftMeanwhile) {
  arrive(1, 1, 10);
  const AskId old = asks[RequestId{1}];
  arrive(2, 1, 20);
  EXPECT_THAT(leave(1), ElementsAre("reserve 2: 2"));
  EXPECT_THAT(arrive(1, 4, 30), IsEmpty()) << "the same id, another life";
  EXPECT_THAT(tell(BlocksReserved{old, RequestId{1}, 10, 0}), IsEmpty());
  EXPECT_THAT(reserved(2), ElementsAre("reserve 1: 5", "step 1: 2@0+1!"));
  reserved(1);
  EXPECT_EQ(batcher.num_running(), 2U);
}

TEST_F(BatcherTest, LeavesOutOfLaterStepsWhoLeftDuringAStep) {
  arrive(1, 2);
  reserved(1);
  arrive(2, 2);
  reserved(2);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@2+1! 2@0+2!"));
  leave(1);
  EXPECT_THAT(done(2), ElementsAre("step 3: 2@2+1!"));
}

TEST_F(BatcherTest, DoesNotCreditARunningStepToAnotherLifeOfTheSameRequest) {
  arrive(1, 2);
  reserved(1);
  leave(1);
  arrive(1, 4);
  reserved(1);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@0+4!"));
}

TEST_F(BatcherTest, ComputesALastRowAgainWhenTheMaskThatItLackedIsThere) {
  arrive(1, 3);
  reserved(1);
  arrive(2, 2);
  reserved(2);
  EXPECT_THAT(done_without(1, 1), ElementsAre("step 2: 2@0+2!")) << "the others go on";
  EXPECT_THAT(done(2), ElementsAre("step 3: 2@2+1!"));
  EXPECT_THAT(mask_ready(1), IsEmpty());
  EXPECT_THAT(done(3), ElementsAre("step 4: 2@3+1! 1@2+1!"));
  EXPECT_THAT(done(4), ElementsAre("step 5: 1@3+1! 2@4+1!"));
  EXPECT_THAT(done_without(5, 1), ElementsAre("step 6: 2@5+1!"));
  leave(2);
  EXPECT_THAT(done(6), IsEmpty()) << "no step for a mask that is not there";
  EXPECT_THAT(mask_ready(1), ElementsAre("step 7: 1@3+1!"));
  EXPECT_THAT(done(7), ElementsAre("step 8: 1@4+1!"));
}

TEST_F(BatcherTest, AMaskMayBeLateForThePlaceOrTheLifeThatLackedIt) {
  restart({.max_step_tokens = 8, .max_running = 2});
  arrive(1, 4, 40, 1);
  reserved(1, 5);
  arrive(2, 3, 40, 2);
  reserved(2, 4);
  EXPECT_THAT(done(1), ElementsAre("extend 1: 6", "step 2: 1@4+1! 2@0+3!"));
  refused(1);
  EXPECT_THAT(done_without(2, 2), ElementsAre("preempt 2", "extend 1: 7"));
  EXPECT_THAT(mask_ready(2), IsEmpty());
  reserved(1);
  leave(1);
  EXPECT_THAT(done(3), ElementsAre("reserve 2: 4"));
  EXPECT_THAT(reserved(2), ElementsAre("step 4: 2@0+3!"));
  leave(2);
  arrive(2, 4);
  EXPECT_THAT(reserved(2), IsEmpty());
  EXPECT_THAT(done_without(4, 2), ElementsAre("step 5: 2@0+4!"));
}

TEST_F(BatcherTest, WaitsWithAFullRequestUntilItLeaves) {
  EXPECT_THAT(arrive(1, 2, 3), ElementsAre("reserve 1: 2")) << "the last token is never computed";
  reserved(1, 2);
  EXPECT_THAT(done(1), IsEmpty());
}

TEST_F(BatcherTest, IgnoresRepeatedAndUnknownEvents) {
  arrive(1, 2);
  EXPECT_THAT(arrive(1, 2), IsEmpty());
  reserved(1);
  EXPECT_THAT(arrive(1, 2), IsEmpty());
  EXPECT_THAT(reserved(1), IsEmpty());
  EXPECT_THAT(reserved(9), IsEmpty());
  EXPECT_THAT(refused(9), IsEmpty());
  EXPECT_THAT(pending(1), IsEmpty());
  EXPECT_THAT(wake(1), IsEmpty());
  EXPECT_THAT(leave(9), IsEmpty());
  EXPECT_THAT(done(7), IsEmpty());
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@2+1!"));
  EXPECT_THAT(done(1), IsEmpty());
  EXPECT_EQ(batcher.num_running(), 1U);
  EXPECT_EQ(batcher.num_waiting(), 0U);
}

/// A router on a machine on which decoding takes 1 ms and a row of prefill 20 us, in which one
/// request decodes and another one begins its prefill.
class MixedSteps {
 public:
  explicit MixedSteps(Duration step_target)
      : batcher_({.max_step_tokens = 256,
                  .max_running = 4,
                  .step = {.target = step_target},
                  .min_prefill_tokens = 4}) {
    run(Arrived{RequestId{1}, 200, 1 << 20, 0});
    for (int i = 0; i < 21; ++i) run_step(20);
    run(Arrived{RequestId{2}, 100'000, 1 << 20, 0});
    run_step(20);
  }
  /// The step that is out ends; the next begins.
  void run_step(uint32_t row_us) {
    run(StepDone{StepId{step_}, microseconds((decodes_ ? 1000 : 0) + row_us * chunk_)});
  }
  void stop_decoding() { run(Left{RequestId{1}}); }
  [[nodiscard]] uint32_t chunk() const { return chunk_; }  ///< rows of prefill in the step

 private:
  void run(const BatcherEvent& event) {
    for (const BatcherEffect& effect : batcher_.handle(event)) {
      if (const auto* next = std::get_if<RunStep>(&effect)) {
        step_ = next->step.value;
        const StepEntry& last = next->entries.back();
        decodes_ = next->entries.front().count == 1;
        chunk_ = last.count == 1 ? 0 : last.count;
      }
      if (const auto* ask = std::get_if<ReserveBlocks>(&effect)) {
        run(BlocksReserved{ask->ask, ask->request, 1 << 20, 0});
      }
    }
  }

  Batcher batcher_;
  uint64_t step_ = 0;
  bool decodes_ = false;
  uint32_t chunk_ = 0;
};

TEST(Batcher, LimitsPrefillBesideDecodesToWhatDoublesTheStep) {
  MixedSteps steps(Duration{});
  EXPECT_NEAR(steps.chunk(), 50, 5);
  for (int i = 0; i < 50; ++i) steps.run_step(20);
  EXPECT_NEAR(steps.chunk(), 50, 5);
  // Prefill gets dearer as the context grows: the chunks shrink.
  for (int i = 0; i < 100; ++i) steps.run_step(40);
  EXPECT_NEAR(steps.chunk(), 25, 5);
  steps.stop_decoding();
  steps.run_step(40);
  EXPECT_EQ(steps.chunk(), 256U) << "nobody decodes any more";
}

TEST(Batcher, FillsShortStepsWithPrefillToTheTarget) {
  MixedSteps steps(milliseconds(4));
  for (int i = 0; i < 50; ++i) steps.run_step(20);
  EXPECT_NEAR(steps.chunk(), 150, 10) << "1 ms of decode and 3 ms of prefill";
  MixedSteps low(microseconds(1500));
  for (int i = 0; i < 50; ++i) low.run_step(20);
  EXPECT_NEAR(low.chunk(), 50, 5) << "twice the step is more than the target";
}

TEST_F(BatcherTest, DecodesOnlyUntilADearStepIsPaidFor) {
  restart(
      {.max_step_tokens = 64, .max_running = 3, .step = {.percent = 200}, .min_prefill_tokens = 4});
  arrive(1, 3);
  reserved(1);
  done(1, milliseconds(1));
  done(2, milliseconds(1));  // a token takes 1 ms, so it may take 2
  arrive(2, 50);
  reserved(2);
  EXPECT_THAT(done(3, milliseconds(1)), ElementsAre("step 4: 1@5+1! 2@0+4"));
  EXPECT_THAT(done(4, milliseconds(5)), ElementsAre("step 5: 1@6+1!")) << "3 ms too many";
  EXPECT_THAT(done(5, milliseconds(1)), ElementsAre("step 6: 1@7+1!"));
  EXPECT_THAT(done(6, milliseconds(1)), ElementsAre("step 7: 1@8+1!"));
  EXPECT_THAT(done(7, milliseconds(1)), ElementsAre("step 8: 1@9+1! 2@4+2"))
      << "as many again would make it take more than half as much again as agreed";
}

TEST_F(BatcherTest, TakesMorePrefillWhereManyWaitForTheirFirstTokenAndFewDecode) {
  restart({.max_step_tokens = 100,
           .max_running = 8,
           .step = {.percent = 200},
           .min_prefill_tokens = 4});
  arrive(1, 20, 300);
  reserved(1, 300);
  done(1, microseconds(2000));  // 0.1 ms for each row
  done(2, milliseconds(1));
  done(3, milliseconds(1));
  for (uint64_t r = 2; r <= 5; ++r) {
    arrive(r, 30, 300);
    reserved(r, 300);
  }
  arrive(6, 200, 300);  // more than a step: not about to get its first token
  reserved(6, 300);
  EXPECT_THAT(done(4, milliseconds(1)), ElementsAre("step 5: 1@23+1! 2@0+20"))
      << "4 for one that decodes: twice as much as for 2";
  leave(2);
  leave(3);
  EXPECT_THAT(done(5, milliseconds(3)), ElementsAre("step 6: 1@24+1! 4@0+10"));
}

TEST_F(BatcherTest, LetsAPromptGetOnHoweverDearItIs) {
  restart(
      {.max_step_tokens = 64, .max_running = 3, .step = {.percent = 100}, .min_prefill_tokens = 4});
  arrive(1, 3, 1000);
  reserved(1, 1000);
  done(1, milliseconds(1));
  done(2, milliseconds(1));
  arrive(2, 8, 1000);
  reserved(2, 1000);
  uint64_t step = 3;
  std::vector<uint64_t> with_prefill;
  for (; step < 40; ++step) {
    const bool prefilled = !with_prefill.empty() && with_prefill.back() == step;
    const auto next = done(step, prefilled ? seconds(1) : milliseconds(1));
    if (next.size() == 1 && next[0].find(" 2@") != std::string::npos) {
      with_prefill.push_back(step + 1);
      if (with_prefill.size() == 2) break;
    }
  }
  EXPECT_THAT(with_prefill, ElementsAre(4, 20)) << "16 steps later: nothing pays for it";
}

TEST_F(BatcherTest, BoundsTheTimeOfAStepThoughNobodyDecodes) {
  restart({.max_step_tokens = 64,
           .max_running = 3,
           .max_step_time = milliseconds(100),
           .min_prefill_tokens = 4,
           .attention_span = 64});
  arrive(1, 500, 1000);
  EXPECT_THAT(reserved(1, 1000), ElementsAre("step 1: 1@0+64")) << "its cost is not known yet";
  // 64 rows, and 2,016 positions before them that cost 31.5 rows: 95.5 rows of 4 ms.
  EXPECT_THAT(done(1, milliseconds(382)), ElementsAre("step 2: 1@64+12"))
      << "half of the 25 rows that take 100 ms, since those here cost twice as much";
  EXPECT_THAT(done(2, milliseconds(100)), ElementsAre("step 3: 1@76+11"));
  EXPECT_THAT(done(3, seconds(10)), ElementsAre("step 4: 1@87+4")) << "at any cost";
}

TEST_F(BatcherTest, TakesFewerDeepRowsThoughNobodyDecodes) {
  restart({.max_step_tokens = 64, .max_running = 3, .min_prefill_tokens = 4, .attention_span = 64});
  arrive(1, 2000, 3000);
  EXPECT_THAT(reserved(1, 3000), ElementsAre("step 1: 1@0+64"));
  EXPECT_THAT(done(1, milliseconds(1)), ElementsAre("step 2: 1@64+32"))
      << "they cost twice as much";
  EXPECT_THAT(done(2, milliseconds(1)), ElementsAre("step 3: 1@96+25")) << "64 / 2.5";
  uint64_t step = 3;
  std::vector<std::string> next;
  do {
    next = done(step++, milliseconds(1));
  } while (next.size() == 1 && next[0].find("+4") == std::string::npos && step < 200);
  EXPECT_THAT(next, ElementsAre("step 87: 1@759+4")) << "the fewest of a step";
}

TEST_F(BatcherTest, CountsADeepRowForTheRowsThatItCostsBesideThoseWhoDecode) {
  restart({.max_step_tokens = 64,
           .max_running = 3,
           .step = {.percent = 200},
           .min_prefill_tokens = 4,
           .attention_span = 10});
  arrive(1, 8, 1000);
  reserved(1, 1000);
  done(1, microseconds(1080));  // 8 rows, 28 positions before them: 10.8 rows of 0.1 ms
  done(2, milliseconds(2));
  arrive(2, 200, 1000, 1);
  reserved(2, 1000);
  EXPECT_THAT(done(3, milliseconds(2)), ElementsAre("step 4: 1@10+1! 2@0+13"))
      << "13 and 7 for the 78 positions before them come to the 2 ms that are agreed";
}

TEST_F(BatcherTest, CountsAScoredRowForTheRowsThatItCosts) {
  restart({.max_step_tokens = 64, .max_running = 3, .min_prefill_tokens = 4});
  arrive(1, 40, 100, 0, 39);
  EXPECT_THAT(reserved(1), ElementsAre("step 1: 1@0+4")) << "not known yet: few";
  // 1 ms for each row and 4 more because it is scored.
  EXPECT_THAT(done(1, milliseconds(20), milliseconds(16)), ElementsAre("step 2: 1@4+12"));
  arrive(2, 70, 100, 1);
  reserved(2);
  EXPECT_THAT(done(2, milliseconds(60), milliseconds(48)), ElementsAre("step 3: 1@16+6 2@0+34"))
      << "half of it goes to the cheaper prompt, that of 70 rows, not of 24 that cost 116";
  EXPECT_THAT(done(3, milliseconds(64), milliseconds(24)), ElementsAre("step 4: 1@22+6 2@34+34"));
  EXPECT_THAT(done(4, milliseconds(64), milliseconds(24)), ElementsAre("step 5: 1@28+12! 2@68+2!"));
}

TEST_F(BatcherTest, ScoresOneRowInAStepIfItIsDearerThanTheStep) {
  restart(
      {.max_step_tokens = 64, .max_running = 3, .step = {.percent = 200}, .min_prefill_tokens = 4});
  arrive(1, 8, 100, 0, 7);
  reserved(1);
  EXPECT_THAT(done(1, milliseconds(404), milliseconds(400)), ElementsAre("step 2: 1@4+1"));
  EXPECT_THAT(done(2, milliseconds(101), milliseconds(100)), ElementsAre("step 3: 1@5+1"));
  done(3, milliseconds(101), milliseconds(100));
  EXPECT_THAT(done(4, milliseconds(101), milliseconds(100)), ElementsAre("step 5: 1@7+1!"));
  EXPECT_THAT(done(5, milliseconds(1)), ElementsAre("step 6: 1@8+1!"));
  done(6, milliseconds(1));
  arrive(2, 8, 100, 1, 7);
  reserved(2);
  EXPECT_THAT(done(7, milliseconds(1)), ElementsAre("step 8: 1@10+1! 2@0+1"));
  for (uint64_t step = 8; step < 23; ++step) {
    const Duration took = milliseconds(step == 8 ? 101 : 1);
    EXPECT_THAT(done(step, took, milliseconds(step == 8 ? 100 : 0)),
                ElementsAre(::testing::Not(::testing::HasSubstr("2@"))))
        << "paid for by decoding";
  }
}

TEST_F(BatcherTest, ScoresARowOnceThoughItIsComputedAgain) {
  restart({.max_step_tokens = 64, .max_running = 2, .min_prefill_tokens = 4});
  arrive(1, 2, 100, 1);
  reserved(1, 3);
  arrive(2, 9, 100, 2, 8);
  reserved(2);
  EXPECT_THAT(done(1), ElementsAre("extend 1: 4", "step 2: 1@2+1! 2@0+1"));
  refused(1);
  EXPECT_THAT(done(2), ElementsAre("preempt 2", "extend 1: 5"));
  reserved(1);
  leave(1);
  EXPECT_THAT(done(3), ElementsAre("reserve 2: 10"));
  EXPECT_THAT(reserved(2), ElementsAre("step 4: 2@0+4")) << "the first cost little: 1 + 3 x 16";
}

TEST_F(BatcherTest, RunsAPromptThatComesBeforeThoseWhoDecodeWithoutThem) {
  restart({.max_step_tokens = 128,
           .max_running = 5,
           .step = {.percent = 200},
           .min_prefill_tokens = 4});
  arrive(1, 30, 100, 10);
  reserved(1);
  arrive(2, 30, 100, 30);
  done(1, microseconds(3000));  // 0.1 ms for each row
  for (uint64_t step = 2; step < 5; ++step) done(step, microseconds(1500));
  reserved(2);
  done(5, microseconds(1500));
  for (uint64_t step = 6; step < 9; ++step) done(step, microseconds(1500));
  // Both decode, 1.5 ms for a step; 15 rows may go beside them or 60 instead of them.
  arrive(3, 20, 100, 20);
  reserved(3);
  EXPECT_THAT(done(9, microseconds(1500)), ElementsAre("step 10: 1@38+1! 3@0+20!"))
      << "2 comes later in order and waits";
  EXPECT_THAT(done(10, microseconds(3000)), ElementsAre("step 11: 1@39+1! 3@20+1! 2@32+1!"));
  // A token of three takes 1.7 ms and may take 3.5. Of the 3 ms that 2 waited 1 is still owed: 5.9
  // of 6.9 are left, at 75 us a row too few for the next prompt. 0.7 are left beside them.
  arrive(4, 85, 100, 21);
  reserved(4);
  EXPECT_THAT(done(11, microseconds(1500)), ElementsAre("step 12: 1@40+1! 3@21+1! 2@33+1! 4@0+9"));
  EXPECT_THAT(done(12, microseconds(2200)), ElementsAre("step 13: 1@41+1! 3@22+1! 4@9+76!"));
}

TEST_F(BatcherTest, RunsAPromptThatComesBeforeThoseWhoDecodeWithoutThemIfShorterOnesTakeItsRows) {
  restart({.max_step_tokens = 128,
           .max_running = 5,
           .step = {.percent = 200},
           .min_prefill_tokens = 4});
  arrive(1, 30, 100, 30);
  reserved(1);
  done(1, microseconds(3000));  // 0.1 ms for each row
  for (uint64_t step = 2; step < 5; ++step) done(step, microseconds(1500));
  arrive(2, 25, 100, 20);
  reserved(2);
  arrive(3, 20, 100, 40);
  reserved(3);
  // With two that wait for one, 30 rows may go beside it: enough for 2, but 3 gets half of them.
  EXPECT_THAT(done(5, microseconds(1500)), ElementsAre("step 6: 2@0+25!"));
}

}  // namespace
}  // namespace troupe::scheduler
