#include "actors/step_run.hpp"

#include <gtest/gtest.h>

#include "base/random.hpp"

namespace troupe::actors {
namespace {

StepPart part(TokenId first, uint32_t first_position, uint32_t count, bool wants_token) {
  StepPart part{.first_position = first_position, .wants_token = wants_token};
  for (uint32_t i = 0; i < count; ++i) part.tokens.push_back(first + static_cast<TokenId>(i));
  part.sampling.seed = static_cast<uint64_t>(first);
  return part;
}

TEST(CutRows, CutsAPromptInTheMiddleAndSamplesAfterItsLastRow) {
  const auto batches = cut_rows({part(100, 8, 6, true)}, 2);
  ASSERT_EQ(batches.size(), 2U);
  ASSERT_EQ(batches[0].size(), 1U);
  ASSERT_EQ(batches[1].size(), 1U);
  EXPECT_EQ(batches[0][0].tokens, (std::vector<TokenId>{100, 101, 102}));
  EXPECT_EQ(batches[0][0].first_position, 8U);
  EXPECT_FALSE(batches[0][0].wants_token);
  EXPECT_EQ(batches[1][0].tokens, (std::vector<TokenId>{103, 104, 105}));
  EXPECT_EQ(batches[1][0].first_position, 11U);
  EXPECT_TRUE(batches[1][0].wants_token);
  EXPECT_EQ(batches[1][0].sampling.seed, 100U);
}

TEST(CutRows, CutsTheScoredTokensWithTheirRows) {
  for (uint32_t first_scored = 0; first_scored <= 6; ++first_scored) {
    StepPart whole = part(100, 8, 6, false);
    whole.first_scored = first_scored;
    whole.sampling.num_prompt_logprobs = 2;
    for (uint32_t row = first_scored; row < 6; ++row) {
      whole.scored.push_back(200 + static_cast<TokenId>(row));
    }
    std::vector<TokenId> scored_after(6, 0);
    uint32_t first_row = 0;
    for (const auto& batch : cut_rows({std::move(whole)}, 2)) {
      EXPECT_EQ(batch.at(0).sampling.num_prompt_logprobs, 2U);
      for (size_t i = 0; i < batch.at(0).scored.size(); ++i) {
        scored_after.at(first_row + batch.at(0).first_scored + i) = batch.at(0).scored[i];
      }
      first_row += static_cast<uint32_t>(batch.at(0).tokens.size());
    }
    for (uint32_t row = 0; row < 6; ++row) {
      EXPECT_EQ(scored_after[row], row < first_scored ? 0 : 200 + static_cast<TokenId>(row));
    }
  }
}

TEST(CutRows, LeavesWholeWhatFits) {
  const auto batches = cut_rows({part(1, 5, 1, true), part(2, 7, 1, true)}, 2);
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[0][0].tokens, std::vector<TokenId>{1});
  EXPECT_EQ(batches[1][0].tokens, std::vector<TokenId>{2});
}

TEST(CutRows, KeepsEveryRowOnceInOrderAndTheBatchesEven) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    uint64_t draws = 0;
    const auto draw = [&](uint64_t n) { return random_bits(seed, draws++) % n; };
    std::vector<StepPart> parts;
    std::vector<std::pair<TokenId, uint32_t>> rows;  // token, position
    std::vector<TokenId> sampled_after;
    const uint64_t num_parts = 2 + draw(6);
    for (uint64_t p = 0; p < num_parts; ++p) {
      const auto first = static_cast<TokenId>(1000 * p);
      parts.push_back(part(first, static_cast<uint32_t>(draw(50)),
                           static_cast<uint32_t>(1 + draw(9)), draw(2) == 0));
      for (size_t i = 0; i < parts.back().tokens.size(); ++i) {
        rows.emplace_back(parts.back().tokens[i],
                          parts.back().first_position + static_cast<uint32_t>(i));
      }
      if (parts.back().wants_token) sampled_after.push_back(parts.back().tokens.back());
    }
    const auto batches = cut_rows(std::move(parts), 2);
    std::vector<std::pair<TokenId, uint32_t>> cut;
    std::vector<TokenId> cut_sampled;
    for (const auto& batch : batches) {
      size_t size = 0;
      for (const StepPart& piece : batch) {
        ASSERT_FALSE(piece.tokens.empty());
        size += piece.tokens.size();
        for (size_t i = 0; i < piece.tokens.size(); ++i) {
          cut.emplace_back(piece.tokens[i], piece.first_position + static_cast<uint32_t>(i));
        }
        if (piece.wants_token) cut_sampled.push_back(piece.tokens.back());
      }
      ASSERT_GE(size, rows.size() / 2);
      ASSERT_LE(size, (rows.size() + 1) / 2);
    }
    ASSERT_EQ(cut, rows);
    ASSERT_EQ(cut_sampled, sampled_after);
  }
}

}  // namespace
}  // namespace troupe::actors
