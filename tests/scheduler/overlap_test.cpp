#include "scheduler/overlap.hpp"

#include <gtest/gtest.h>

namespace troupe::scheduler {
namespace {

/// Steps of 64 rows of decode; returns how many of the last 1,000 were cut.
int cut_of_last_1000(Overlap& overlap, Duration one, Duration two) {
  int cut = 0;
  for (int i = 0; i < 2000; ++i) {
    const uint32_t chosen = overlap.choose(64, false);
    overlap.learn(64, false, chosen, 0, chosen == 2 ? two : one);
    if (i >= 1000) cut += chosen == 2 ? 1 : 0;
  }
  return cut;
}

TEST(Overlap, LearnsWhetherTwoMicroBatchesAreFaster) {
  Overlap overlap(0);
  EXPECT_GT(cut_of_last_1000(overlap, milliseconds(3), milliseconds(2)), 990);
  EXPECT_LT(cut_of_last_1000(overlap, milliseconds(2), milliseconds(3)), 30) << "it changed";
  EXPECT_GT(cut_of_last_1000(overlap, milliseconds(3), milliseconds(2)), 950) << "and back";
}

TEST(Overlap, KeepsOneWhereBothAreTheSame) {
  Overlap overlap(0);
  EXPECT_LT(cut_of_last_1000(overlap, milliseconds(2), milliseconds(2)), 10);
}

TEST(Overlap, IsNotWorthItForTwoPercent) {
  Overlap overlap(0);
  EXPECT_LT(cut_of_last_1000(overlap, microseconds(1000), microseconds(980)), 10);
}

TEST(Overlap, TriesTheWorseKindMoreSeldomAndOftenAgainAfterAChange) {
  Overlap overlap(0);
  const auto trials = [&](int steps, uint32_t faster) {
    int tried = 0;
    for (int i = 0; i < steps; ++i) {
      const uint32_t chosen = overlap.choose(64, false);
      overlap.learn(64, false, chosen, 0, chosen == faster ? milliseconds(1) : milliseconds(2));
      tried += chosen == faster ? 0 : 1;
    }
    return tried;
  };
  EXPECT_EQ(trials(6, 1), 3) << "both kinds, to begin with";
  const int first = trials(200, 1);
  EXPECT_LT(trials(20'000, 1), 30);
  EXPECT_GE(trials(20'000, 1), 18) << "every 1024 steps at least";
  while (overlap.choose(64, false) != 2) {  // now two are faster, until that is known
    overlap.learn(64, false, 1, 0, milliseconds(2));
    overlap.learn(64, false, 2, 0, milliseconds(1));
  }
  EXPECT_GE(trials(200, 2), first - 1) << "it is as unsure as it was";
}

TEST(Overlap, LearnsByTheNumberAndTheKindOfRows) {
  Overlap overlap(0);
  const auto fast_if = [&](uint32_t rows, bool prefills, uint32_t faster) {
    const uint32_t chosen = overlap.choose(rows, prefills);
    overlap.learn(rows, prefills, chosen, 0, chosen == faster ? milliseconds(1) : milliseconds(2));
    return chosen;
  };
  for (int i = 0; i < 40; ++i) {
    fast_if(8, false, 1);
    fast_if(200, false, 2);
    fast_if(8, true, 2);
  }
  EXPECT_EQ(fast_if(9, false, 1) + fast_if(10, false, 1) + fast_if(11, false, 1), 3U);
  EXPECT_EQ(fast_if(130, false, 2) + fast_if(255, false, 2), 4U);
  EXPECT_EQ(fast_if(15, true, 2) + fast_if(9, true, 2), 4U);
}

TEST(Overlap, DoesNotMindAColdStartOrASlowStepNowAndThen) {
  Overlap overlap(0);
  int cut = 0;
  for (int i = 0; i < 2000; ++i) {
    const uint32_t chosen = overlap.choose(64, true);
    const bool slow = i == 0 || i % 50 == 30;
    overlap.learn(64, true, chosen, 0,
                  slow ? milliseconds(40) : milliseconds(chosen == 2 ? 11 : 10));
    if (i >= 6) cut += chosen == 2 ? 1 : 0;
  }
  EXPECT_LE(cut, 12) << "trials, and no more";
}

TEST(Overlap, ComparesByWhatTheRowsCost) {
  Overlap overlap(0, /*attention_span=*/1000);
  // Prompts of two steps, the second of which attends to the first: all that is cut is deep.
  for (int i = 0; i < 200; ++i) {
    const bool deep = i % 2 == 1;
    const uint32_t chosen = overlap.choose(64, true);
    const Duration shallow = chosen == 2 ? milliseconds(8) : milliseconds(10);
    overlap.learn(64, true, chosen, deep ? 64 * 1000 : 0, deep ? shallow * 2 : shallow);
  }
  EXPECT_EQ(overlap.choose(64, true) + overlap.choose(64, true), 4U);
}

TEST(Overlap, NeverCutsASingleRowAndObeysTheSetting) {
  EXPECT_EQ(Overlap(2).choose(1, false), 1U);
  EXPECT_EQ(Overlap(2).choose(2, false), 2U);
  EXPECT_EQ(Overlap(1).choose(1000, true), 1U);
}

}  // namespace
}  // namespace troupe::scheduler
