#include "scheduler/batcher.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "base/random.hpp"

namespace troupe::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// "reserve 1: 20 tokens" and "step 3: 1@7+1! 2@0+4": request@first+count, ! for wants_token.
std::vector<std::string> text(const std::vector<BatcherEffect>& effects) {
  std::vector<std::string> lines;
  for (const BatcherEffect& effect : effects) {
    if (const auto* ask = std::get_if<ReserveBlocks>(&effect)) {
      lines.push_back("reserve " + std::to_string(ask->request.value) + ": " +
                      std::to_string(ask->num_tokens) + " tokens");
      continue;
    }
    const auto& run = std::get<RunStep>(effect);
    std::string line = "step " + std::to_string(run.step.value) + ":";
    for (const StepEntry& entry : run.entries) {
      line += " " + std::to_string(entry.request.value) + "@" +
              std::to_string(entry.first_position) + "+" + std::to_string(entry.count) +
              (entry.wants_token ? "!" : "");
    }
    lines.push_back(line);
  }
  return lines;
}

class BatcherTest : public ::testing::Test {
 protected:
  std::vector<std::string> tell(const BatcherEvent& event) {
    const auto lines = text(batcher.handle(event));
    EXPECT_EQ(batcher.check(), "");
    return lines;
  }
  std::vector<std::string> arrive(uint64_t request, uint32_t num_known,
                                  uint32_t max_context = 100) {
    return tell(Arrived{RequestId{request}, num_known, max_context});
  }
  std::vector<std::string> reserved(uint64_t request) {
    return tell(BlocksReserved{RequestId{request}});
  }
  std::vector<std::string> refused(uint64_t request) {
    return tell(BlocksRefused{RequestId{request}});
  }
  std::vector<std::string> done(uint64_t step) { return tell(StepDone{StepId{step}}); }
  std::vector<std::string> leave(uint64_t request) { return tell(Left{RequestId{request}}); }

  Batcher batcher{{.max_step_tokens = 8, .max_running = 3}};
};

TEST_F(BatcherTest, RunsARequestOnlyAfterItsBlocksAreReserved) {
  EXPECT_THAT(arrive(1, 3, 20), ElementsAre("reserve 1: 20 tokens"));
  EXPECT_EQ(batcher.num_waiting(), 1U);
  EXPECT_THAT(reserved(1), ElementsAre("step 1: 1@0+3!"));
  EXPECT_EQ(batcher.num_running(), 1U);
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

TEST_F(BatcherTest, PutsDecodeBeforePrefillAndPrefillInArrivalOrder) {
  arrive(1, 1);
  reserved(1);
  EXPECT_THAT(arrive(2, 5), ElementsAre("reserve 2: 100 tokens"));
  reserved(2);
  arrive(3, 9);
  reserved(3);
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@1+1! 2@0+5! 3@0+2"));
  EXPECT_THAT(done(2), ElementsAre("step 3: 1@2+1! 2@5+1! 3@2+6"));
  EXPECT_THAT(done(3), ElementsAre("step 4: 1@3+1! 2@6+1! 3@8+1!"));
}

TEST_F(BatcherTest, AsksForReservationsOneByOneInArrivalOrder) {
  EXPECT_THAT(arrive(5, 1, 10), ElementsAre("reserve 5: 10 tokens"));
  EXPECT_THAT(arrive(4, 1, 11), IsEmpty());
  EXPECT_THAT(arrive(6, 1, 12), IsEmpty());
  EXPECT_THAT(reserved(5), ElementsAre("reserve 4: 11 tokens", "step 1: 5@0+1!"));
  EXPECT_THAT(reserved(4), ElementsAre("reserve 6: 12 tokens"));
}

TEST_F(BatcherTest, AsksForNoMoreThanMayRun) {
  for (uint64_t r = 1; r <= 4; ++r) arrive(r, 1);
  for (uint64_t r = 1; r <= 3; ++r) reserved(r);
  EXPECT_EQ(batcher.num_running(), 3U);
  EXPECT_EQ(batcher.num_waiting(), 1U);
  EXPECT_THAT(leave(2), ElementsAre("reserve 4: 100 tokens"));
}

TEST_F(BatcherTest, AsksARefusedRequestAgainWhenBlocksAreFreedAndLetsNobodyPass) {
  arrive(1, 1);
  reserved(1);
  EXPECT_THAT(arrive(2, 1, 90), ElementsAre("reserve 2: 90 tokens"));
  EXPECT_THAT(refused(2), IsEmpty());
  EXPECT_THAT(arrive(3, 1, 5), IsEmpty()) << "a small request does not starve a large one";
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@1+1!"));
  EXPECT_THAT(leave(1), IsEmpty()) << "step 2 may still read its blocks";
  EXPECT_THAT(done(2), ElementsAre("reserve 2: 90 tokens"));
  EXPECT_THAT(reserved(2), ElementsAre("reserve 3: 5 tokens", "step 3: 2@0+1!"));
}

TEST_F(BatcherTest, AsksTheNextWhenTheRefusedRequestLeaves) {
  arrive(1, 1);
  reserved(1);
  arrive(2, 1, 90);
  arrive(3, 1, 5);
  refused(2);
  EXPECT_THAT(leave(2), ElementsAre("reserve 3: 5 tokens"));
}

TEST_F(BatcherTest, AsksAgainAtOnceWhenBlocksWereFreedWhileTheRefusalWasUnderWay) {
  arrive(1, 1);
  reserved(1);
  arrive(2, 1, 90);
  leave(1);
  done(1);  // the holder refused before it heard of this
  EXPECT_THAT(refused(2), ElementsAre("reserve 2: 90 tokens"));
  EXPECT_THAT(refused(2), IsEmpty());
}

TEST_F(BatcherTest, AsksAgainAfterAStepDuringWhichSomebodyLeft) {
  arrive(1, 1);
  reserved(1);
  arrive(2, 1, 90);
  leave(1);
  EXPECT_THAT(refused(2), IsEmpty());
  EXPECT_THAT(done(1), ElementsAre("reserve 2: 90 tokens"));
}

TEST_F(BatcherTest, ForgetsTheAnswerForARequestThatLeftMeanwhile) {
  arrive(1, 1, 10);
  arrive(2, 1, 20);
  EXPECT_THAT(leave(1), IsEmpty()) << "one question at a time";
  EXPECT_THAT(arrive(1, 1, 30), IsEmpty()) << "the same id, another life";
  EXPECT_THAT(reserved(1), ElementsAre("reserve 2: 20 tokens"));
  EXPECT_THAT(reserved(2), ElementsAre("reserve 1: 30 tokens", "step 1: 2@0+1!"));
  EXPECT_THAT(reserved(1), IsEmpty());
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

TEST_F(BatcherTest, WaitsWithAFullRequestUntilItLeaves) {
  arrive(1, 2, 3);
  reserved(1);
  EXPECT_THAT(done(1), IsEmpty()) << "its context is full: its next position has no block";
}

TEST_F(BatcherTest, IgnoresRepeatedAndUnknownEvents) {
  arrive(1, 2);
  EXPECT_THAT(arrive(1, 2), IsEmpty());
  reserved(1);
  EXPECT_THAT(arrive(1, 2), IsEmpty());
  EXPECT_THAT(reserved(1), IsEmpty());
  EXPECT_THAT(reserved(9), IsEmpty());
  EXPECT_THAT(refused(9), IsEmpty());
  EXPECT_THAT(leave(9), IsEmpty());
  EXPECT_THAT(done(7), IsEmpty());
  EXPECT_THAT(done(1), ElementsAre("step 2: 1@2+1!"));
  EXPECT_THAT(done(1), IsEmpty());
  EXPECT_EQ(batcher.num_running(), 1U);
  EXPECT_EQ(batcher.num_waiting(), 0U);
}

TEST(Batcher, NeverDelaysADecodeEvenIfTheBudgetIsSmall) {
  Batcher batcher({.max_step_tokens = 2, .max_running = 3});
  for (uint64_t r = 1; r <= 3; ++r) {
    (void)batcher.handle(Arrived{RequestId{r}, 1, 100});
    (void)batcher.handle(BlocksReserved{RequestId{r}});
  }
  EXPECT_THAT(text(batcher.handle(StepDone{StepId{1}})), ElementsAre("step 2: 1@1+1! 2@0+1!"));
  EXPECT_THAT(text(batcher.handle(StepDone{StepId{2}})), ElementsAre("step 3: 1@2+1! 2@1+1!"));
  EXPECT_THAT(text(batcher.handle(Left{RequestId{1}})), IsEmpty());
  EXPECT_THAT(text(batcher.handle(StepDone{StepId{3}})), ElementsAre("step 4: 2@2+1! 3@0+1!"));
}

// A shell with a block pool counted in tokens, whose messages travel in order but arrive whenever
// the seed says. It follows every request's positions itself.
class RandomShell {
 public:
  RandomShell(uint64_t seed, BatcherOptions options, uint32_t pool)
      : seed_(seed), options_(options), batcher_(options), free_(pool), pool_(pool) {}

  uint64_t draw(uint64_t n) { return random_bits(seed_, draws_++) % n; }
  size_t num_live() const { return lives_.size(); }
  uint64_t num_finished() const { return num_finished_; }

  void arrive() {
    const RequestId request{draw(40)};
    if (lives_.contains(request) || std::ranges::count(released_, request) != 0) return;
    const auto max_context = static_cast<uint32_t>(2 + draw(pool_ - 1));
    const auto num_known = static_cast<uint32_t>(1 + draw(max_context - 1));
    const auto wanted = static_cast<uint32_t>(1 + draw(max_context - num_known));
    lives_[request] = {num_known, num_known + wanted, max_context};
    arrivals_.push_back(request);
    tell(Arrived{request, num_known, max_context});
  }
  void leave(RequestId request) {
    if (lives_.erase(request) == 0) return;
    std::erase(arrivals_, request);
    if (asked_ == request) abandoned_ = true;
    if (step_) {
      released_.push_back(request);
    } else {
      to_holder_.push_back({request, std::nullopt});
    }
    tell(Left{request});
  }
  void leave_any() {
    if (lives_.empty()) return;
    leave(std::next(lives_.begin(), static_cast<int64_t>(draw(lives_.size())))->first);
  }
  void holder_acts() {
    if (to_holder_.empty()) return;
    const auto [request, num_tokens] = to_holder_.front();
    to_holder_.pop_front();
    if (!num_tokens) {
      if (!held_.contains(request)) return;
      free_ += held_[request];
      held_.erase(request);
      return;
    }
    ASSERT_FALSE(held_.contains(request)) << "asked twice";
    const bool fits = *num_tokens <= free_;
    if (fits) {
      held_[request] = *num_tokens;
      free_ -= *num_tokens;
    }
    to_batcher_.push_back({request, fits});
  }
  void holder_answers() {
    if (to_batcher_.empty()) return;
    const auto [request, fits] = to_batcher_.front();
    to_batcher_.pop_front();
    ASSERT_EQ(asked_, request);
    asked_.reset();
    if (fits && !abandoned_) {
      ASSERT_EQ(arrivals_.front(), request) << "out of arrival order";
      arrivals_.pop_front();
    }
    abandoned_ = false;
    if (fits) {
      tell(BlocksReserved{request});
    } else {
      tell(BlocksRefused{request});
    }
  }
  void finish_step() {
    if (!step_) return;
    const RunStep step = *std::exchange(step_, std::nullopt);
    for (const RequestId request : released_) to_holder_.push_back({request, std::nullopt});
    released_.clear();
    for (const StepEntry& entry : step.entries) {
      const auto life = lives_.find(entry.request);
      // A request that left, perhaps to come back, has no part in this step any more.
      if (life == lives_.end() || !life->second.in_step) continue;
      life->second.num_computed += entry.count;
      life->second.in_step = false;
      if (!entry.wants_token) continue;
      life->second.decoding = true;
      if (++life->second.num_known == life->second.ends_at) {
        ++num_finished_;
        leave(entry.request);
      }
    }
    tell(StepDone{step.step});
  }

 private:
  struct Life {
    uint32_t num_known = 0, ends_at = 0, max_context = 0, num_computed = 0;
    bool in_step = false;
    bool decoding = false;
  };

  void tell(const BatcherEvent& event) {
    const auto effects = batcher_.handle(event);
    ASSERT_EQ(batcher_.check(), "");
    for (const BatcherEffect& effect : effects) {
      if (const auto* ask = std::get_if<ReserveBlocks>(&effect)) {
        ASSERT_FALSE(asked_.has_value()) << "two questions at a time";
        asked_ = ask->request;
        ASSERT_EQ(ask->request, arrivals_.front()) << "out of arrival order";
        ASSERT_EQ(ask->num_tokens, lives_.at(ask->request).max_context);
        to_holder_.push_back({ask->request, ask->num_tokens});
      } else {
        ASSERT_NO_FATAL_FAILURE(start(std::get<RunStep>(effect)));
      }
    }
  }
  void start(const RunStep& step) {
    ASSERT_FALSE(step_.has_value()) << "two steps at a time";
    ASSERT_FALSE(step.entries.empty());
    ASSERT_GT(step.step, last_step_);
    last_step_ = step.step;
    uint32_t num_tokens = 0;
    for (const StepEntry& entry : step.entries) {
      ASSERT_TRUE(lives_.contains(entry.request)) << "it left";
      ASSERT_TRUE(held_.contains(entry.request)) << "it has no blocks";
      Life& life = lives_[entry.request];
      ASSERT_FALSE(life.in_step) << "twice in one step";
      ASSERT_GT(entry.count, 0U);
      ASSERT_EQ(entry.first_position, life.num_computed) << "each position once, in order";
      const uint32_t end = entry.first_position + entry.count;
      ASSERT_LE(end, life.num_known);
      ASSERT_LT(end, life.max_context) << "beyond its blocks";
      ASSERT_EQ(entry.wants_token, end == life.num_known);
      life.in_step = true;
      num_tokens += entry.count;
    }
    ASSERT_LE(num_tokens, options_.max_step_tokens);
    ASSERT_LE(batcher_.num_running(), options_.max_running);
    for (const auto& [request, life] : lives_) {
      ASSERT_TRUE(life.in_step || !life.decoding) << "a decode had to wait";
    }
    step_ = step;
  }

  uint64_t seed_, draws_ = 0, num_finished_ = 0;
  BatcherOptions options_;
  Batcher batcher_;
  uint32_t free_, pool_;
  std::map<RequestId, Life> lives_;
  std::deque<RequestId> arrivals_;  // without blocks, by arrival
  std::map<RequestId, uint32_t> held_;
  std::deque<std::pair<RequestId, std::optional<uint32_t>>> to_holder_;  // reserve or release
  std::deque<std::pair<RequestId, bool>> to_batcher_;
  std::vector<RequestId> released_;  // when the step is done
  std::optional<RequestId> asked_;
  bool abandoned_ = false;  // the one asked for left meanwhile
  std::optional<RunStep> step_;
  StepId last_step_;
};

class RandomBatcherTest : public ::testing::TestWithParam<BatcherOptions> {};

TEST_P(RandomBatcherTest, ComputesEveryPositionOnceInOrderAndEndsEveryRequest) {
  for (const uint64_t seed : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomShell shell(seed, GetParam(), 60);
    for (int i = 0; i < 50'000; ++i) {
      switch (shell.draw(16)) {
        case 0: ASSERT_NO_FATAL_FAILURE(shell.arrive()); break;
        case 1:
          if (shell.draw(8) == 0) {
            ASSERT_NO_FATAL_FAILURE(shell.leave_any());
          }
          break;
        case 2:
        case 3:
        case 4: ASSERT_NO_FATAL_FAILURE(shell.holder_acts()); break;
        case 5:
        case 6:
        case 7: ASSERT_NO_FATAL_FAILURE(shell.holder_answers()); break;
        default: ASSERT_NO_FATAL_FAILURE(shell.finish_step());
      }
    }
    EXPECT_GT(shell.num_finished(), 400U);
    // Liveness: without arrivals all that is here comes to its end.
    for (int i = 0; i < 20'000 && shell.num_live() > 0; ++i) {
      ASSERT_NO_FATAL_FAILURE(shell.holder_acts());
      ASSERT_NO_FATAL_FAILURE(shell.holder_answers());
      ASSERT_NO_FATAL_FAILURE(shell.finish_step());
    }
    EXPECT_EQ(shell.num_live(), 0U) << "somebody waits for ever";
  }
}

INSTANTIATE_TEST_SUITE_P(Options, RandomBatcherTest,
                         ::testing::Values(BatcherOptions{.max_step_tokens = 8, .max_running = 3},
                                           BatcherOptions{.max_step_tokens = 2, .max_running = 6},
                                           BatcherOptions{.max_step_tokens = 1, .max_running = 1},
                                           BatcherOptions{.max_step_tokens = 256,
                                                          .max_running = 16}));

}  // namespace
}  // namespace troupe::scheduler
