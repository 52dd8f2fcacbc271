#include "experts/shard.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/random.hpp"

namespace troupe::experts {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// "run layer 3: 1/7.0 2/4.0" or "reject 1/7.0: stale epoch"; a dispatch is router/step.attempt.
std::vector<std::string> text(const std::vector<ShardEffect>& effects) {
  const auto name = [](const DispatchKey& key) {
    return std::to_string(key.router.value) + "/" + std::to_string(key.step.value) + "." +
           std::to_string(key.attempt);
  };
  std::vector<std::string> lines;
  for (const ShardEffect& effect : effects) {
    if (const auto* run = std::get_if<RunBatch>(&effect)) {
      std::string line = "run layer " + std::to_string(run->layer) + ":";
      for (const DispatchKey& key : run->dispatches) line += " " + name(key);
      lines.push_back(line);
    } else {
      const auto& reject = std::get<RejectRows>(effect);
      const char* reasons[] = {"stale epoch", "not held", "queue full", "duplicate"};
      lines.push_back("reject " + name(reject.key) + ": " +
                      reasons[static_cast<int>(reject.reason)]);
    }
  }
  return lines;
}

struct Rows {
  uint64_t router = 1, step = 1;
  LayerIdx layer = 0;
  uint32_t num_rows = 1;
  uint32_t attempt = 0;
  uint64_t epoch = 1;
  std::vector<ExpertIdx> experts = {0};
};

class ShardTest : public ::testing::Test {
 protected:
  std::vector<std::string> tell(const ShardEvent& event) {
    const auto lines = text(shard.handle(event));
    EXPECT_EQ(shard.check(), "");
    return lines;
  }
  std::vector<std::string> send(const Rows& rows) {
    return tell(RowsArrived{.key = {Epoch{rows.epoch}, NodeId{rows.router}, StepId{rows.step},
                                    rows.layer, rows.attempt},
                            .num_rows = rows.num_rows,
                            .experts = rows.experts});
  }
  void load(uint64_t epoch = 1) {
    tell(ExpertsLoaded{Epoch{epoch}, {{0, 0}, {0, 1}, {1, 0}, {2, 0}, {2, 5}}});
  }

  Shard shard{{.max_queued_rows = 20, .max_batch_rows = 8}};
};

TEST_F(ShardTest, RunsWhatArrivesAtOnceAndTheRestWhenTheBatchIsComputed) {
  load();
  EXPECT_THAT(send({.router = 1, .num_rows = 3}), ElementsAre("run layer 0: 1/1.0"));
  EXPECT_THAT(send({.router = 2, .num_rows = 2}), IsEmpty());
  EXPECT_THAT(send({.router = 3, .num_rows = 2}), IsEmpty());
  EXPECT_EQ(shard.queued_rows(), 4U);
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 2/1.0 3/1.0"));
  EXPECT_EQ(shard.queued_rows(), 0U);
  EXPECT_THAT(tell(BatchComputed{}), IsEmpty());
  EXPECT_THAT(tell(BatchComputed{}), IsEmpty()) << "one too many is harmless";
}

TEST_F(ShardTest, FormsABatchFromOneLayerThatOfTheOldestDispatch) {
  load();
  send({.router = 1, .layer = 0});
  send({.router = 2, .layer = 2});
  send({.router = 3, .layer = 1});
  send({.router = 4, .layer = 2});
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 2: 2/1.0 4/1.0"));
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 1: 3/1.0"));
}

TEST_F(ShardTest, KeepsABatchWithinItsRowsAndTheOrderOfArrival) {
  load();
  send({.router = 1});
  send({.router = 2, .num_rows = 5});
  send({.router = 3, .num_rows = 4});
  send({.router = 4, .num_rows = 3});
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 2/1.0"))
      << "4 would fit beside 2, but 3 came before it";
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 3/1.0 4/1.0"));
}

TEST_F(ShardTest, RunsADispatchLargerThanABatchAlone) {
  load();
  send({.router = 1});
  send({.router = 2, .num_rows = 12});
  send({.router = 3, .num_rows = 1});
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 2/1.0"));
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 3/1.0"));
}

TEST_F(ShardTest, RejectsWhatBelongsToAnotherEpoch) {
  EXPECT_THAT(send({}), ElementsAre("reject 1/1.0: stale epoch")) << "nothing is loaded yet";
  load(2);
  EXPECT_THAT(send({.epoch = 1}), ElementsAre("reject 1/1.0: stale epoch"));
  EXPECT_THAT(send({.epoch = 3}), ElementsAre("reject 1/1.0: stale epoch"));
  EXPECT_THAT(send({.epoch = 2}), ElementsAre("run layer 0: 1/1.0"));
}

TEST_F(ShardTest, RejectsWhatWaitsWhenANewEpochComes) {
  load(1);
  send({.router = 1});
  send({.router = 2});
  EXPECT_THAT(tell(ExpertsLoaded{Epoch{2}, {{0, 0}}}), ElementsAre("reject 2/1.0: stale epoch"));
  EXPECT_EQ(shard.queued_rows(), 0U);
  EXPECT_THAT(tell(ExpertsLoaded{Epoch{1}, {{9, 9}}}), IsEmpty()) << "an old epoch is ignored";
  EXPECT_THAT(send({.router = 3, .epoch = 2}), IsEmpty()) << "the old batch still runs";
  EXPECT_THAT(send({.router = 1, .epoch = 2}), IsEmpty())
      << "the same step of a new epoch is other work than that of the batch that runs";
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 3/1.0 1/1.0"));
}

TEST_F(ShardTest, RejectsExpertsItDoesNotHold) {
  load();
  EXPECT_THAT(send({.experts = {0, 2}}), ElementsAre("reject 1/1.0: not held"));
  EXPECT_THAT(send({.layer = 7}), ElementsAre("reject 1/1.0: not held"));
  EXPECT_THAT(send({.layer = 2, .experts = {3}}), ElementsAre("reject 1/1.0: not held"));
  EXPECT_THAT(send({.layer = 2, .experts = {UINT32_MAX}}), ElementsAre("reject 1/1.0: not held"));
  EXPECT_THAT(send({.layer = 2, .experts = {5, 0, 5}}), ElementsAre("run layer 2: 1/1.0"));
}

TEST_F(ShardTest, RejectsADuplicateButComputesAResend) {
  load();
  send({.router = 1});
  EXPECT_THAT(send({.router = 1}), ElementsAre("reject 1/1.0: duplicate")) << "it runs";
  send({.router = 2});
  EXPECT_THAT(send({.router = 2}), ElementsAre("reject 2/1.0: duplicate")) << "it waits";
  EXPECT_THAT(send({.router = 2, .attempt = 1}), IsEmpty());
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 2/1.0 2/1.1"));
}

TEST_F(ShardTest, RefusesRowsBeyondItsQueue) {
  load();
  send({.router = 1});
  EXPECT_THAT(send({.router = 2, .num_rows = 21}), ElementsAre("reject 2/1.0: queue full"));
  EXPECT_THAT(send({.router = 2, .num_rows = UINT32_MAX}), ElementsAre("reject 2/1.0: queue full"));
  EXPECT_THAT(send({.router = 3, .num_rows = 20}), IsEmpty());
  EXPECT_THAT(send({.router = 4, .num_rows = 1}), ElementsAre("reject 4/1.0: queue full"));
  EXPECT_THAT(send({.router = 4, .num_rows = 0}), ElementsAre("reject 4/1.0: queue full"))
      << "empty dispatches cannot fill the memory either";
}

TEST_F(ShardTest, DropsWhatARouterThatIsGoneStillWaitsFor) {
  load();
  send({.router = 1});
  send({.router = 2, .step = 1, .num_rows = 3});
  send({.router = 3});
  send({.router = 2, .step = 2, .num_rows = 4});
  EXPECT_THAT(tell(RouterGone{NodeId{2}}), IsEmpty());
  EXPECT_EQ(shard.queued_rows(), 1U);
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 3/1.0"));
}

TEST_F(ShardTest, ServesTheEpochInForceAndThePreparedOneUntilOneIsKept) {
  load(1);
  EXPECT_THAT(tell(ExpertsPrepared{Epoch{2}, {{0, 7}}}), IsEmpty());
  send({.router = 1});
  EXPECT_THAT(send({.router = 2, .epoch = 2, .experts = {7}}), IsEmpty());
  EXPECT_THAT(send({.router = 3, .epoch = 2, .experts = {0}}),
              ElementsAre("reject 3/1.0: not held"));
  EXPECT_THAT(send({.router = 3, .epoch = 1, .experts = {7}}),
              ElementsAre("reject 3/1.0: not held"));
  EXPECT_THAT(send({.router = 4}), IsEmpty());
  EXPECT_THAT(tell(EpochKept{Epoch{2}}), ElementsAre("reject 4/1.0: stale epoch"));
  EXPECT_THAT(tell(BatchComputed{}), ElementsAre("run layer 0: 2/1.0"));
  EXPECT_THAT(send({.epoch = 1}), ElementsAre("reject 1/1.0: stale epoch"));
}

TEST_F(ShardTest, ForgetsAPreparedEpochThatIsAbandonedAndIgnoresStrayOnes) {
  EXPECT_THAT(tell(ExpertsPrepared{Epoch{1}, {{0, 0}}}), IsEmpty()) << "beside nothing";
  EXPECT_THAT(send({}), ElementsAre("reject 1/1.0: stale epoch"));
  load(2);
  tell(ExpertsPrepared{Epoch{1}, {{0, 7}}});
  tell(ExpertsPrepared{Epoch{3}, {{0, 7}}});
  tell(EpochKept{Epoch{9}});
  tell(EpochKept{Epoch{2}});
  EXPECT_THAT(send({.epoch = 3, .experts = {7}}), ElementsAre("reject 1/1.0: stale epoch"));
  EXPECT_THAT(send({.epoch = 2}), ElementsAre("run layer 0: 1/1.0"));
  tell(ExpertsPrepared{Epoch{3}, {{0, 7}}});
  tell(ExpertsLoaded{Epoch{4}, {{0, 0}}});
  EXPECT_THAT(send({.epoch = 3, .experts = {7}}), ElementsAre("reject 1/1.0: stale epoch"))
      << "a formed epoch ends what was prepared";
}

// A dispatch waits only behind dispatches that came before it, whatever other routers send
// meanwhile, and never while the shard is idle.
TEST(Shard, LetsNoDispatchWaitWhileItIsIdleOrBehindALaterOne) {
  constexpr uint64_t kSeed = 9;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  uint64_t draws = 0;
  const auto draw = [&](uint64_t n) { return random_bits(kSeed, draws++) % n; };
  struct Waiting {
    uint64_t number;               // by arrival
    std::set<DispatchKey> before;  // of those that waited when it came, the ones that still do
  };
  uint64_t num_run = 0, num_mixed = 0, step = 0;
  Shard shard({.max_queued_rows = 400, .max_batch_rows = 16});
  std::map<DispatchKey, Waiting> waiting;
  bool running = false;
  ASSERT_TRUE(shard.handle(ExpertsLoaded{Epoch{1}, {{0, 0}, {1, 0}, {2, 0}}}).empty());
  const auto take = [&](const std::vector<ShardEffect>& effects) {
    for (const ShardEffect& effect : effects) {
      const auto* run = std::get_if<RunBatch>(&effect);
      ASSERT_NE(run, nullptr);
      ASSERT_FALSE(running);
      running = true;
      std::set<DispatchKey> batch(run->dispatches.begin(), run->dispatches.end());
      std::set<NodeId> routers;
      uint64_t oldest = UINT64_MAX;
      for (const DispatchKey& key : batch) {
        for (const DispatchKey& before : waiting.at(key).before) {
          ASSERT_TRUE(before.layer != key.layer || batch.contains(before)) << "overtaken";
        }
        oldest = std::min(oldest, waiting.at(key).number);
        routers.insert(key.router);
      }
      for (const auto& [key, entry] : waiting) ASSERT_GE(entry.number, oldest);
      num_mixed += routers.size() > 1 ? 1 : 0;
      for (const DispatchKey& key : batch) {
        waiting.erase(key);
        ++num_run;
      }
      for (auto& [key, entry] : waiting) {
        std::erase_if(entry.before, [&](const auto& before) { return batch.contains(before); });
      }
    }
  };
  for (int i = 0; i < 40'000; ++i) {
    if (running && draw(3) == 0) {
      running = false;
      ASSERT_NO_FATAL_FAILURE(take(shard.handle(BatchComputed{})));
    } else if (waiting.size() < 40) {
      // Router 1 sends far more than the others.
      const NodeId router{draw(4) != 0 ? 1 : 2 + draw(3)};
      const DispatchKey key{Epoch{1}, router, StepId{++step}, static_cast<LayerIdx>(draw(3))};
      Waiting entry{.number = step, .before = {}};
      for (const auto& [other, unused] : waiting) entry.before.insert(other);
      waiting[key] = std::move(entry);
      ASSERT_NO_FATAL_FAILURE(
          take(shard.handle(RowsArrived{key, static_cast<uint32_t>(1 + draw(6)), {0}})));
    }
    ASSERT_TRUE(running || waiting.empty()) << "work waits while nothing runs";
    ASSERT_EQ(shard.check(), "");
  }
  EXPECT_GT(num_run, 10'000U);
  EXPECT_GT(num_mixed, 1'000U) << "batches of rows of several routers";
}

// Every dispatch is answered exactly once (run or rejected) unless its router is gone.
TEST(Shard, AnswersEveryDispatchOnceUnderRandomEvents) {
  constexpr uint64_t kSeed = 5;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  Shard shard({.max_queued_rows = 60, .max_batch_rows = 16});
  uint64_t draws = 0;
  const auto draw = [&](uint64_t n) { return random_bits(kSeed, draws++) % n; };
  std::map<DispatchKey, uint32_t> waiting;  // key -> rows
  std::set<DispatchKey> running;
  uint64_t epoch = 0, step = 0, num_run = 0, num_rejected = 0;
  std::vector<DispatchKey> sent;

  const auto take = [&](const std::vector<ShardEffect>& effects,
                        std::optional<DispatchKey> fresh = std::nullopt, bool here_before = false) {
    for (const ShardEffect& effect : effects) {
      if (const auto* reject = std::get_if<RejectRows>(&effect)) {
        ++num_rejected;
        if (reject->reason == RejectReason::kStaleEpoch && !fresh) {
          ASSERT_EQ(waiting.erase(reject->key), 1U);
        } else {
          ASSERT_EQ(reject->key, *fresh);
          if (!here_before) waiting.erase(reject->key);
        }
        continue;
      }
      const auto& run = std::get<RunBatch>(effect);
      ASSERT_TRUE(running.empty()) << "two batches run";
      uint64_t num_rows = 0;
      for (const DispatchKey& key : run.dispatches) {
        ++num_run;
        ASSERT_EQ(key.layer, run.layer);
        ASSERT_TRUE(waiting.contains(key)) << "never sent, or answered twice";
        num_rows += waiting[key];
        waiting.erase(key);
        ASSERT_TRUE(running.insert(key).second);
      }
      ASSERT_TRUE(num_rows <= 16 || run.dispatches.size() == 1);
    }
  };

  for (int i = 0; i < 120'000; ++i) {
    const uint64_t what = draw(100);
    if (what < 55) {
      const bool again = !sent.empty() && draw(10) == 0;
      const DispatchKey key =
          again ? sent[sent.size() - 1 - draw(std::min<size_t>(sent.size(), 8))]
                : DispatchKey{Epoch{draw(20) == 0 ? epoch + 1 : epoch}, NodeId{1 + draw(4)},
                              StepId{++step}, static_cast<LayerIdx>(draw(3)),
                              static_cast<uint32_t>(draw(2))};
      sent.push_back(key);
      const auto num_rows = static_cast<uint32_t>(draw(20));
      const bool here = waiting.contains(key) || running.contains(key);
      if (!here) waiting[key] = num_rows;
      ASSERT_NO_FATAL_FAILURE(
          take(shard.handle(RowsArrived{
                   key, num_rows, {static_cast<ExpertIdx>(draw(30) == 0 ? 4 : draw(4))}}),
               key, here));
    } else if (what < 97) {
      running.clear();
      ASSERT_NO_FATAL_FAILURE(take(shard.handle(BatchComputed{})));
    } else if (what < 99) {
      const NodeId router{1 + draw(4)};
      std::erase_if(waiting, [&](const auto& entry) { return entry.first.router == router; });
      ASSERT_NO_FATAL_FAILURE(take(shard.handle(RouterGone{router})));
    } else {
      std::vector<ExpertKey> held;
      for (LayerIdx layer = 0; layer < 3; ++layer) {
        for (ExpertIdx expert = 0; expert < 4; ++expert) held.push_back({layer, expert});
      }
      if (draw(2) == 0) ++epoch;
      ASSERT_NO_FATAL_FAILURE(take(shard.handle(ExpertsLoaded{Epoch{epoch}, held})));
    }
    ASSERT_EQ(shard.check(), "") << "event " << i;
    uint64_t num_rows = 0;
    for (const auto& [key, rows] : waiting) num_rows += std::max(rows, 1U);
    ASSERT_EQ(shard.queued_rows(), num_rows) << "event " << i;
  }
  EXPECT_GT(num_run, 10'000U);
  EXPECT_GT(num_rejected, 1'000U);
}

}  // namespace
}  // namespace troupe::experts
