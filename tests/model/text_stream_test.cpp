#include "model/text_stream.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/random.hpp"
#include "model/tokenizer_utf8.hpp"
#include "tests/model/tokenizer_files.hpp"

namespace troupe::model {
namespace {

using Tokens = std::vector<TokenId>;

/// One token per byte, so that every cut inside a character and a stop string happens.
const Tokenizer& bytes() {
  static const Tokenizer tokenizer = [] {
    TokenizerParts parts;
    parts.added_tokens = R"([{"id":256,"content":"<s>","special":true}])";
    return make_tokenizer(parts);
  }();
  return tokenizer;
}

TextStream stream_of(TextStreamOptions options = {}) {
  auto stream = TextStream::create(bytes(), std::move(options));
  EXPECT_TRUE(stream.ok());
  return std::move(stream).value();
}

Tokens tokens_of(std::string_view text) {
  Tokens out;
  for (const char byte : text) out.push_back(static_cast<unsigned char>(byte));
  return out;
}

struct Outcome {
  std::string text;
  std::optional<size_t> stopped;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
  return out << testing::PrintToString(outcome.text) << " stopped by "
             << (outcome.stopped ? std::to_string(*outcome.stopped) : "nothing");
}

Outcome run(std::string_view text, TextStreamOptions options) {
  TextStream stream = stream_of(std::move(options));
  Outcome out;
  for (const TokenId token : tokens_of(text)) {
    const std::string piece = stream.push(token);
    EXPECT_EQ(valid_utf8_prefix(piece), piece.size());
    out.text += piece;
  }
  out.text += stream.flush();
  out.stopped = stream.stopped();
  return out;
}

TEST(TextStream, GivesOutWholeCharactersOnly) {
  TextStream stream = stream_of();
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.push(0xB8), "");
  EXPECT_EQ(stream.push(0xAD), "中");
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
  EXPECT_EQ(stream.flush(), "");
}

TEST(TextStream, ABrokenPlaceIsReplacedAsSoonAsItIsCertain) {
  TextStream stream = stream_of();
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.push('x'), "\uFFFDx");
  EXPECT_EQ(stream.push(0xFF), "\uFFFD");
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.push(0xE4), "\uFFFD");
  EXPECT_EQ(stream.push(0xB8), "");
  EXPECT_EQ(stream.push(0xAD), "中");
}

TEST(TextStream, JoinedPushesEqualDecodeForAnyBytes) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Tokens tokens;
    for (uint64_t i = 0; i < 40; ++i) {
      constexpr std::string_view kBytes = "a\xE4\xB8\xAD\xF0\x9F\x98\x80\xC3\xA9\xED\xA0\xFF<";
      tokens.push_back(static_cast<unsigned char>(kBytes[random_bits(seed, i) % kBytes.size()]));
    }
    for (const std::vector<std::string>& stop :
         {std::vector<std::string>{}, std::vector<std::string>{"no such text", "\xE4\xB8zz"}}) {
      TextStream stream = stream_of({.stop = stop});
      std::string joined;
      for (const TokenId token : tokens) {
        const std::string piece = stream.push(token);
        ASSERT_EQ(valid_utf8_prefix(piece), piece.size());
        joined += piece;
      }
      joined += stream.flush();
      ASSERT_EQ(joined, bytes().decode(tokens)) << seed;
    }
  }
}

TEST(TextStream, SkipsSpecialTokensUnlessAsked) {
  TextStream skipping = stream_of();
  EXPECT_EQ(skipping.push(256), "");
  EXPECT_EQ(skipping.push('a'), "a");
  EXPECT_EQ(skipping.push(99999), "");
  EXPECT_EQ(skipping.push(-1), "");
  TextStream showing = stream_of({.skip_special = false});
  EXPECT_EQ(showing.push(256), "<s>");
}

TEST(TextStream, HoldsBackWhatMayBeginAStopString) {
  TextStream stream = stream_of({.stop = {"END", "</s>"}});
  EXPECT_EQ(stream.push('x'), "x");
  EXPECT_EQ(stream.push('E'), "");
  EXPECT_EQ(stream.push('N'), "");
  EXPECT_EQ(stream.push('E'), "EN");
  EXPECT_EQ(stream.push('N'), "");
  EXPECT_EQ(stream.push('<'), "EN");
  EXPECT_EQ(stream.push('/'), "");
  EXPECT_EQ(stream.flush(), "</");
  EXPECT_EQ(stream.stopped(), std::nullopt);
}

TEST(TextStream, StopsAtTheStringThatIsCompleteFirst) {
  struct Case {
    std::string_view text;
    std::vector<std::string> stop;
    Outcome without, with;
  };
  const std::vector<Case> cases = {
      {"abcdef", {"cd"}, {"ab", 0}, {"abcd", 0}},
      {"abcdef", {"x", "a"}, {"", 1}, {"a", 1}},
      {"abcdef", {"abcdX", "bc"}, {"a", 1}, {"abc", 1}},    // the longer one is given up
      {"abcdef", {"c", "bc", "abc"}, {"", 2}, {"abc", 2}},  // complete together: the longest
      {"aaab", {"aab"}, {"a", 0}, {"aaab", 0}},             // overlaps itself
      {"ababac", {"abac"}, {"ab", 0}, {"ababac", 0}},
      {"一中二", {"中"}, {"一", 0}, {"一中", 0}},
      {"abc", {"abcd"}, {"abc", std::nullopt}, {"abc", std::nullopt}},
      {"", {"a"}, {"", std::nullopt}, {"", std::nullopt}},
      {"a\n\nb", {"\n\n"}, {"a", 0}, {"a\n\n", 0}},
      {"\xFFz", {"\uFFFDz"}, {"", 0}, {"\uFFFDz", 0}},  // of the text, not of the bytes
      {"x\xE4", {"\uFFFD"}, {"x", 0}, {"x\uFFFD", 0}},  // found by flush()
  };
  for (const Case& test : cases) {
    EXPECT_EQ(run(test.text, {.stop = test.stop}), test.without) << test.text;
    EXPECT_EQ(run(test.text, {.stop = test.stop, .include_stop = true}), test.with) << test.text;
  }
}

TEST(TextStream, NothingFollowsAStop) {
  TextStream stream = stream_of({.stop = {"."}});
  EXPECT_EQ(stream.push('.'), "");
  EXPECT_EQ(stream.stopped(), 0U);
  EXPECT_EQ(stream.push('a'), "");
  EXPECT_EQ(stream.flush(), "");
}

TEST(TextStream, WhereItStopsDoesNotDependOnHowTextIsCutIntoTokens) {
  TokenizerParts parts;
  parts.extra_tokens = {"ab", "bc", "abc", "cab"};
  const Tokenizer words = make_tokenizer(parts);
  const TextStreamOptions options{.stop = {"bcab", "cabc", "aa"}};
  for (uint64_t seed = 0; seed < 300; ++seed) {
    auto by_word = TextStream::create(words, options);
    ASSERT_TRUE(by_word.ok());
    std::string text;
    Outcome outcome;
    for (uint64_t i = 0; i < 12; ++i) {
      const uint64_t draw = random_bits(seed, i) % 7;
      const auto token = static_cast<TokenId>(draw < 3 ? 'a' + draw : 256 + draw - 3);
      text += words.token_bytes(token);
      outcome.text += by_word->push(token);
    }
    outcome.text += by_word->flush();
    outcome.stopped = by_word->stopped();
    ASSERT_EQ(outcome, run(text, options)) << text;
  }
}

TEST(TextStream, RefusesAnEmptyStopString) {
  const auto stream = TextStream::create(bytes(), {.stop = {"a", ""}});
  ASSERT_FALSE(stream.ok());
  EXPECT_EQ(stream.error().code, Code::kInvalidArgument);
}

TEST(TextStream, LooksForStopStringsOnlyBehindMinTokens) {
  TextStream stream = stream_of({.stop = {"ab"}, .min_tokens = 3});
  std::string text;
  for (const TokenId token : tokens_of("abaab!")) text += stream.push(token);
  // The first "ab" lies within three tokens, the next begins with the fourth.
  EXPECT_EQ(text, "aba");
  EXPECT_TRUE(stream.stopped().has_value());
}

}  // namespace
}  // namespace troupe::model
