#include "actors/prompt_scoring.hpp"

#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

namespace troupe::actors {
namespace {

/// Computes these rows of a prompt whose token i is i. @returns the positions that were scored.
std::pair<uint32_t, uint32_t> compute(PromptScoring& scoring, uint32_t first, uint32_t count) {
  const auto rows = scoring.next_of(first, count);
  std::vector<model::SampledToken> scored;
  for (uint32_t i = 0; i < rows.count; ++i) {
    scored.push_back({.token = static_cast<TokenId>(rows.first + i + 1)});
  }
  scoring.take(scored);
  return {rows.first, rows.count};
}

std::vector<TokenId> finish(PromptScoring& scoring) {
  std::vector<TokenId> tokens;
  for (const auto& token : scoring.finish()) tokens.push_back(token.token);
  return tokens;
}

using Rows = std::pair<uint32_t, uint32_t>;

TEST(PromptScoring, ScoresEveryTokenButTheFirstOnceInAnyChunks) {
  PromptScoring scoring(10);
  EXPECT_EQ(scoring.num_cacheable(10), 1U) << "one is computed in any case: nothing is cached";
  EXPECT_EQ(compute(scoring, 0, 4), Rows(0, 4));
  EXPECT_EQ(scoring.num_cacheable(10), 5U);
  EXPECT_EQ(compute(scoring, 4, 6), Rows(4, 5)) << "behind the last one comes the answer";
  EXPECT_TRUE(scoring.is_over());
  EXPECT_EQ(scoring.num_cacheable(10), 10U);
  EXPECT_EQ(finish(scoring), (std::vector<TokenId>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(compute(scoring, 10, 1), Rows(0, 0));
}

TEST(PromptScoring, GoesOnWhereItWasPreemptedHoweverLittleIsCached) {
  const std::map<uint32_t, Rows> scored_of{{0, {0, 0}}, {2, {4, 2}}, {4, {4, 3}}};
  for (const auto& [cached, scored] : scored_of) {
    PromptScoring scoring(8);
    compute(scoring, 0, 4);
    EXPECT_EQ(scoring.num_cacheable(8), 5U) << "of what is scored all may come from the cache";
    EXPECT_EQ(compute(scoring, cached, 4), scored);
    compute(scoring, cached + 4, 4 - cached);
    EXPECT_EQ(finish(scoring).size(), 7U);
  }
}

TEST(PromptScoring, WantsNothingOfAPromptOfOneTokenAndWithoutBeingAsked) {
  for (PromptScoring scoring : {PromptScoring(), PromptScoring(1)}) {
    EXPECT_TRUE(scoring.is_over());
    EXPECT_EQ(scoring.num_cacheable(7), 7U);
    EXPECT_EQ(compute(scoring, 0, 7), Rows(0, 0));
    EXPECT_TRUE(scoring.finish().empty());
  }
}

}  // namespace
}  // namespace troupe::actors
