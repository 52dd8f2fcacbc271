#include "loadgen/workload.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace troupe::loadgen {
namespace {

const WordPool kPool = common_words(300, 3000);

std::vector<TokenId> tokens(const Workload& workload, uint64_t conversation, uint32_t turn = 0) {
  return tokens_of(kPool, workload.seed(), workload.plan(conversation, turn).segments);
}

size_t common_prefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  size_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

TEST(Workload, IsDecidedByItsSeed) {
  const WorkloadOptions options{
      .seed = 7, .input = {100, 0.5}, .output = {20, 0.5}, .later_input = {50, 0}, .num_turns = 2};
  WorkloadOptions other = options;
  other.seed = 8;
  const Workload a(options), same(options), b(other);
  for (uint64_t i = 0; i < 50; ++i) {
    for (uint32_t turn = 0; turn < 2; ++turn) {
      EXPECT_EQ(tokens(a, i, turn), tokens(same, i, turn));
      EXPECT_EQ(a.plan(i, turn).output_tokens, same.plan(i, turn).output_tokens);
      EXPECT_LT(common_prefix(tokens(a, i, turn), tokens(b, i, turn)), 4U);
    }
  }
}

TEST(Workload, DrawsLengthsEvenlyFromTheirRange) {
  const Workload workload({.input = {100, 0.2}, .output = {10, 0}, .later_input = {1, 0}});
  double sum = 0;
  std::set<uint32_t> seen;
  for (uint64_t i = 0; i < 4000; ++i) {
    const PlannedRequest request = workload.plan(i, 0);
    EXPECT_EQ(request.output_tokens, 10U);
    seen.insert(request.num_words());
    sum += request.num_words();
  }
  EXPECT_EQ(*seen.begin(), 80U);
  EXPECT_EQ(*seen.rbegin(), 120U);
  EXPECT_NEAR(sum / 4000, 100, 1);  // the standard error is 0.19
}

TEST(Workload, SharesPrefixesAndNothingElse) {
  const Workload workload({.input = {40, 0},
                           .output = {1, 0},
                           .later_input = {1, 0},
                           .num_prefixes = 3,
                           .prefix_len = 64});
  std::set<std::vector<TokenId>> prefixes;
  for (uint64_t i = 0; i < 60; ++i) {
    const auto a = tokens(workload, i);
    EXPECT_EQ(a.size(), 104U);
    prefixes.emplace(a.begin(), a.begin() + 64);
    for (uint64_t j = 0; j < i; ++j) {
      const size_t common = common_prefix(a, tokens(workload, j));
      EXPECT_TRUE(common < 4 || (common >= 64 && common < 68)) << common;
    }
  }
  EXPECT_EQ(prefixes.size(), 3U);
}

TEST(Workload, SharesMooncakesBlocksExactlyAsItsHashIdsSay) {
  const auto rows = std::make_shared<const std::vector<TraceRow>>(
      parse_mooncake(R"({"timestamp":0,"input_length":1300,"output_length":1,"hash_ids":[1,2,3]})"
                     "\n"
                     R"({"timestamp":0,"input_length":1536,"output_length":1,"hash_ids":[1,2,4]})"
                     "\n"
                     R"({"timestamp":0,"input_length":600,"output_length":1,"hash_ids":[1,5]})"
                     "\n"
                     R"({"timestamp":0,"input_length":1300,"output_length":1,"hash_ids":[1,2,3]})"
                     "\n"
                     R"({"timestamp":0,"input_length":700,"output_length":1,"hash_ids":[6,2]})")
          .value());
  const Workload workload({.seed = 3, .rows = rows});
  ASSERT_EQ(workload.size(), 5U);
  std::vector<std::vector<TokenId>> prompts;
  for (uint64_t i = 0; i < 5; ++i) prompts.push_back(tokens(workload, i));
  EXPECT_EQ(prompts[0].size(), 1300U);
  EXPECT_EQ(prompts[1].size(), 1536U);
  EXPECT_EQ(prompts[2].size(), 600U);
  // Behind the shared blocks chance may agree for a token or two.
  const auto expect_common = [&](size_t a, size_t b, size_t blocks) {
    const size_t common = common_prefix(prompts[a], prompts[b]);
    EXPECT_GE(common, blocks * 512);
    EXPECT_LT(common, blocks * 512 + 4);
  };
  expect_common(0, 1, 2);
  expect_common(0, 2, 1);
  expect_common(0, 4, 0);  // block 2 at another place is no shared prefix
  EXPECT_EQ(prompts[0], prompts[3]);
}

TEST(Workload, KeepsHashIdsOf63BitsApartFromEverythingElse) {
  // The highest bits of these are what other draws are marked with, and what the sign bit leaves.
  std::vector<TraceRow> rows;
  for (const uint64_t use : {0, 1, 2, 3, 4, 5, 6, 7, 0x7f}) {
    rows.push_back({.at = {}, .input_tokens = 512, .output_tokens = 1, .hash_ids = {use << 56}});
  }
  rows.push_back({.at = {}, .input_tokens = 512, .output_tokens = 1});  // words of its own
  const Workload of_rows({.rows = std::make_shared<const std::vector<TraceRow>>(rows)});
  const Workload drawn(
      {.input = {512, 0}, .output = {1, 0}, .later_input = {1, 0}, .prefix_len = 512});
  std::set<std::vector<TokenId>> blocks;
  for (uint64_t i = 0; i < rows.size(); ++i) blocks.insert(tokens(of_rows, i));
  const auto prefix_and_input = tokens(drawn, 0);
  blocks.emplace(prefix_and_input.begin(), prefix_and_input.begin() + 512);
  blocks.emplace(prefix_and_input.begin() + 512, prefix_and_input.end());
  EXPECT_EQ(blocks.size(), rows.size() + 2);
}

TEST(Prompts, AreTheSameWordsInTextsOfEqualSegments) {
  const std::vector<Segment> segments = {{1, 5}, {2, 3}};
  const std::string text = text_of(kPool, 1, segments);
  EXPECT_EQ(std::count(text.begin(), text.end(), ' '), 8);
  EXPECT_TRUE(text.starts_with(text_of(kPool, 1, {{1, 5}})));
}

TEST(Prompts, HaveExactLengthsWithATokenizer) {
  const auto tokenizer = model::Tokenizer::load(std::string(TROUPE_SOURCE_DIR) + "/models/demo");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const auto pool = words_of(*tokenizer);
  ASSERT_TRUE(pool.ok()) << pool.error().message;
  for (uint64_t stream = 0; stream < 20; ++stream) {
    const std::vector<Segment> segments = {{stream, 100}, {stream + 100, 57}};
    const auto encoded = tokenizer->encode_plain(text_of(*pool, 1, segments));
    ASSERT_TRUE(encoded.ok());
    EXPECT_EQ(*encoded, tokens_of(*pool, 1, segments));
  }
}

}  // namespace
}  // namespace troupe::loadgen
