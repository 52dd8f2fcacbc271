#include "model/guide.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/model/grammar_walks.hpp"

namespace troupe::model {
namespace {

using Kind = GrammarSpec::Kind;
using testing::HasSubstr;

constexpr TokenId kEndThink = 256;

/// Bytes, "</think>" and the end token.
std::shared_ptr<const Vocabulary> vocabulary() {
  static const auto kVocabulary = small_vocabulary({Vocabulary::mark("</think>")});
  return kVocabulary;
}

std::vector<TokenId> tokens_of(std::string_view text) {
  std::vector<TokenId> out;
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

/// The tokens of a mask; all, if there is none.
std::vector<TokenId> allowed_after(Guides& guides, const GrammarSpec& spec,
                                   std::span<const TokenId> emitted, GuideState& state) {
  const auto mask = guides.mask(spec, emitted, state);
  EXPECT_TRUE(mask.ok()) << (mask.ok() ? "" : mask.error().message);
  std::vector<TokenId> out;
  if (!mask.ok()) return out;
  for (size_t id = 0; id < vocabulary()->size(); ++id) {
    const bool is_allowed = mask->empty() || ((*mask)[id / 64] >> id % 64 & 1);
    if (is_allowed) out.push_back(static_cast<TokenId>(id));
  }
  return out;
}

TEST(Guides, AResumedAnswerMayGoOnAsTheOneThatWasNotInterrupted) {
  const GrammarSpec spec{.kind = Kind::kRegex, .text = "(ab|ac)*d"};
  Guides one(vocabulary());
  GuideState kept;
  const auto answer = tokens_of("abacab");
  for (size_t n = 0; n <= answer.size(); ++n) {
    Guides other(vocabulary());
    GuideState resumed;
    const auto emitted = std::span(answer).first(n);
    const auto expected = allowed_after(one, spec, emitted, kept);
    EXPECT_EQ(allowed_after(other, spec, emitted, resumed), expected);
    EXPECT_EQ(allowed_after(one, spec, emitted, kept), expected) << "asked again";
    EXPECT_EQ(expected, n % 2 == 0 ? tokens_of("ad") : tokens_of("bc"));
  }
}

TEST(Guides, EndTokensAreAllowedExactlyBehindACompleteAnswer) {
  const GrammarSpec spec{.kind = Kind::kChoice, .choices = {"a", "ab"}};
  Guides guides(vocabulary());
  GuideState state;
  const TokenId end = vocabulary()->end_tokens()[0];
  auto answer = tokens_of("a");
  EXPECT_EQ(allowed_after(guides, spec, {}, state), tokens_of("a"));
  EXPECT_EQ(allowed_after(guides, spec, answer, state), (std::vector<TokenId>{'b', end}));
  answer.push_back('b');
  EXPECT_EQ(allowed_after(guides, spec, answer, state), (std::vector<TokenId>{end}));
  answer.push_back(end);
  EXPECT_TRUE(allowed_after(guides, spec, answer, state).empty()) << "nothing follows the end";
}

TEST(Guides, AGrammarMayBeginBehindAToken) {
  GrammarSpec spec{.kind = Kind::kChoice, .choices = {"x"}, .begins_after = kEndThink};
  Guides guides(vocabulary());
  const TokenId end = vocabulary()->end_tokens()[0];
  for (const bool may_end : {false, true}) {
    spec.may_end_before = may_end;
    GuideState state;
    auto answer = tokens_of("hm");
    const auto before = allowed_after(guides, spec, answer, state);
    EXPECT_EQ(std::ranges::count(before, end), may_end ? 1 : 0);
    EXPECT_EQ(std::ranges::count(before, kEndThink), 1);
    EXPECT_EQ(before.size(), vocabulary()->size() - (may_end ? 0 : 1));
    answer.push_back(kEndThink);
    EXPECT_EQ(allowed_after(guides, spec, answer, state), tokens_of("x"));
    answer.push_back('x');
    EXPECT_EQ(allowed_after(guides, spec, answer, state), (std::vector<TokenId>{end}));
    GuideState resumed;
    EXPECT_EQ(allowed_after(guides, spec, answer, resumed), (std::vector<TokenId>{end}));
  }
}

TEST(Guides, WhereAllTokensMayFollowThereIsNoMask) {
  const GrammarSpec spec{
      .kind = Kind::kChoice, .choices = {"x"}, .begins_after = kEndThink, .may_end_before = true};
  Guides guides(vocabulary());
  GuideState state;
  auto answer = tokens_of("hm");
  EXPECT_TRUE(guides.mask(spec, answer, state)->empty());
  EXPECT_TRUE(guides.mask(spec, answer, state)->empty()) << "asked again";
  answer.push_back(kEndThink);
  EXPECT_FALSE(guides.mask(spec, answer, state)->empty());
}

TEST(Guides, RequestsWithOneGrammarCompileItOnce) {
  Guides guides(vocabulary());
  const auto prepared = [&](std::string text, TokenId begins_after) {
    GuideState state;
    const GrammarSpec spec{
        .kind = Kind::kRegex, .text = std::move(text), .begins_after = begins_after};
    EXPECT_TRUE(guides.mask(spec, {}, state).ok());
    return state.masker;
  };
  const auto first = prepared("a", -1);
  EXPECT_EQ(prepared("a", -1), first);
  EXPECT_EQ(prepared("a", kEndThink), first);
  EXPECT_NE(prepared("b", -1), first);
  for (size_t i = 0; i < Guides::kMaxKept; ++i) {
    EXPECT_EQ(prepared("a", -1), first) << "the last used is kept";
    prepared("x" + std::to_string(i), -1);
  }
  EXPECT_EQ(prepared("a", -1), first);
  for (size_t i = 0; i < Guides::kMaxKept; ++i) prepared("x" + std::to_string(i), -1);
  EXPECT_NE(prepared("a", -1), first) << "only so many are kept";
}

/// A state whose masks have this bound, whatever that of the Guides is.
GuideState bounded(const std::shared_ptr<const Grammar>& grammar, MaskLimits limits = {}) {
  GuideState state;
  state.masker = std::make_shared<TokenMasker>(grammar, vocabulary(), limits);
  return state;
}

TEST(Guides, AMaskThatCannotBeMadeIsAnErrorHoweverOftenItIsAskedFor) {
  const GrammarSpec spec{.kind = Kind::kJsonObject};
  Guides guides(vocabulary());
  GuideState state = bounded(compiled(spec), {.max_walk = 60});
  const auto answer = tokens_of("{\"ab\":[1,{\"c\":1}]}");
  size_t num_made = 0;
  for (; num_made <= answer.size(); ++num_made) {
    if (!guides.mask(spec, std::span(answer).first(num_made), state).ok()) break;
  }
  ASSERT_GT(num_made, 0U) << "there is an older mask";
  ASSERT_LE(num_made, answer.size());
  for (int i = 0; i < 2; ++i) {
    const auto mask = guides.mask(spec, std::span(answer).first(num_made), state);
    ASSERT_FALSE(mask.ok());
    EXPECT_EQ(mask.error().code, Code::kInvalidArgument);
    EXPECT_THAT(mask.error().message, HasSubstr("more than 60"));
  }
}

TEST(Guides, TheWorkForAnAnswerIsBoundedByItsTokensAlone) {
  const GrammarSpec spec{.kind = Kind::kJsonObject};
  const auto grammar = compiled(spec, {.max_answer_work = 500, .work_per_byte = 0});
  const auto answer = tokens_of("{\"a\":[" + std::string(20, '[') + "1");
  Guides guides(vocabulary());
  GuideState kept = bounded(grammar);
  bool was_refused = false;
  for (size_t n = 0; n <= answer.size() && !was_refused; ++n) {
    const auto emitted = std::span(answer).first(n);
    const auto mask = guides.mask(spec, emitted, kept);
    // Another worker, which follows the whole answer at once.
    GuideState resumed = bounded(compiled(spec, {.max_answer_work = 500, .work_per_byte = 0}));
    const auto again = guides.mask(spec, emitted, resumed);
    ASSERT_EQ(mask.ok(), again.ok()) << n;
    was_refused = !mask.ok();
    if (!was_refused) continue;
    EXPECT_GT(n, 2U);
    EXPECT_EQ(mask.error().code, Code::kInvalidArgument);
    EXPECT_THAT(mask.error().message, HasSubstr("more than 500 steps"));
    EXPECT_EQ(mask.error().message, again.error().message);
  }
  EXPECT_TRUE(was_refused);
}

TEST(Guides, AnAnswerMayBeAsLongAsItLikesWhereItsBytesTakeNoMoreThanOthers) {
  std::string answer = "{\"a\":[1";
  for (int i = 0; i < 2000; ++i) answer += ",{\"b\":\"text\"}";
  const GrammarSpec spec{.kind = Kind::kJsonObject};
  GrammarState state(compiled(spec, {.max_answer_work = 0}));
  const auto followed = state.advance(answer);
  EXPECT_TRUE(followed.ok()) << followed.error().message;
}

TEST(Guides, LookAtNoAutomataAgain) {
  // Refused where requests are taken; here its masks are bounded like any other's.
  const GrammarSpec spec{.kind = Kind::kRegex, .text = "(a|b)*a(a|b){30}"};
  ASSERT_FALSE(compile_grammar(spec).ok());
  Guides guides(vocabulary());
  GuideState state;
  EXPECT_EQ(allowed_after(guides, spec, tokens_of("abba"), state), tokens_of("ab"));
}

TEST(Guides, WhatCannotBeGuidedIsTheRequestsError) {
  const auto fails_with = [](Guides guides, const GrammarSpec& spec,
                             const std::vector<TokenId>& emitted, const char* message) {
    GuideState state;
    const auto mask = guides.mask(spec, emitted, state);
    ASSERT_FALSE(mask.ok());
    EXPECT_EQ(mask.error().code, Code::kInvalidArgument);
    EXPECT_THAT(mask.error().message, HasSubstr(message));
  };
  const GrammarSpec spec{.kind = Kind::kRegex, .text = "ab"};
  fails_with(Guides(Error{Code::kNotFound, "no tokenizer.json"}), spec, {}, "no tokenizer.json");
  fails_with(Guides(vocabulary()), {.kind = Kind::kRegex, .text = "("}, {}, "not closed");
  fails_with(Guides(vocabulary()), {}, {}, "no grammar");
  fails_with(Guides(vocabulary()), spec, tokens_of("ax"), "the answer so far");
}

}  // namespace
}  // namespace troupe::model
