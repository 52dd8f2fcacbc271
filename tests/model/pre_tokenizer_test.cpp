#include "model/pre_tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "base/random.hpp"
#include "model/tokenizer_utf8.hpp"
#include "tests/model/tokenizer_files.hpp"

namespace troupe::model {
namespace {

using testing::ElementsAre;
using Pieces = std::vector<std::string>;

/// The regexes of the goldens' tokenizers, as their files spell them.
std::vector<std::string> golden_patterns(const std::string& name) {
  const auto document =
      boost::json::parse(read_test_file("tests/golden/tokenizers/" + name + "/tokenizer.json"));
  std::vector<std::string> out;
  for (const auto& step : document.at_pointer("/pre_tokenizer/pretokenizers").as_array()) {
    if (step.at("type").as_string() == "Split") {
      out.emplace_back(step.at_pointer("/pattern/Regex").as_string());
    }
  }
  return out;
}

std::vector<uint32_t> offsets_of(std::string_view text) {
  std::vector<uint32_t> offsets;
  for (size_t at = 0; at < text.size(); decode_utf8(text, at)) {
    offsets.push_back(static_cast<uint32_t>(at));
  }
  offsets.push_back(static_cast<uint32_t>(text.size()));
  return offsets;
}

std::vector<uint32_t> split_by_pcre2(const RegexPattern& pattern, std::string_view text) {
  const auto offsets = offsets_of(text);
  std::vector<uint32_t> ends;
  EXPECT_TRUE(
      pattern.split(text, offsets, 0, static_cast<uint32_t>(offsets.size() - 1), ends).ok());
  return ends;
}

/// A pattern with an alphabet of its own.
struct OwnMatcher {
  static std::optional<OwnMatcher> compile(std::string_view pattern) {
    OwnMatcher out;
    auto runs = RunPattern::compile(pattern, out.alphabet);
    if (!runs || !out.alphabet.finish()) return std::nullopt;
    out.pattern = std::move(*runs);
    out.pattern.bind(out.alphabet);
    return out;
  }
  [[nodiscard]] std::vector<uint32_t> split(std::string_view text) const {
    std::vector<uint8_t> symbols;
    for (size_t at = 0; at < text.size();)
      symbols.push_back(alphabet.symbol(decode_utf8(text, at)));
    std::vector<uint32_t> ends;
    pattern.split(alphabet, symbols, 0, static_cast<uint32_t>(symbols.size()), ends);
    return ends;
  }
  Alphabet alphabet;
  RunPattern pattern;
};

/// Scalar values that PCRE2's Unicode version knows, without U+180E, which its \s takes for space.
const std::vector<char32_t>& known_to_pcre2() {
  static const std::vector<char32_t> known = [] {
    const auto unassigned = RegexPattern::compile("\\p{Cn}", false);
    EXPECT_TRUE(unassigned.ok());
    std::vector<char32_t> out;
    for (char32_t c = 0; c <= 0x10FFFF; ++c) {
      if ((c >= 0xD800 && c <= 0xDFFF) || c == 0x180E) continue;
      std::string text = "a";
      append_utf8(text, c);
      if (split_by_pcre2(*unassigned, text).size() == 1) out.push_back(c);
    }
    return out;
  }();
  return known;
}

TEST(RunPattern, EqualsPcre2OnRandomTextsOfEveryKnownCharacter) {
  std::vector<std::string> patterns = golden_patterns("v3");
  const auto v2 = golden_patterns("v2");
  patterns.insert(patterns.end(), v2.begin(), v2.end());
  patterns.emplace_back(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  patterns.emplace_back(R"(a{2,3}b|a?b+|[^a\s]{3}|\s*$|x*y)");
  const auto& known = known_to_pcre2();
  ASSERT_GT(known.size(), 250'000U);
  constexpr std::string_view kCommon = "  \n\r\t\tab xyzABs't're.,!<>0123";
  uint64_t position = 0;
  const auto random = [&](size_t n) { return random_bits(7, position++) % n; };
  for (const std::string& source : patterns) {
    SCOPED_TRACE(source.substr(0, 40));
    const auto own = OwnMatcher::compile(source);
    if (source.ends_with("x*y")) {  // \s*$ can match nothing
      EXPECT_FALSE(own.has_value());
      continue;
    }
    ASSERT_TRUE(own.has_value());
    const auto pcre2 = RegexPattern::compile(source, false);
    ASSERT_TRUE(pcre2.ok()) << pcre2.error().message;
    size_t next = 0;
    while (next < known.size()) {
      std::string text;
      for (int i = 0; i < 40; ++i) {
        if (random(2) == 0 && next < known.size()) {
          append_utf8(text, known[next++]);
        } else {
          text.push_back(kCommon[random(kCommon.size())]);
        }
      }
      ASSERT_EQ(own->split(text), split_by_pcre2(*pcre2, text)) << testing::PrintToString(text);
    }
  }
}

TEST(RunPattern, KnowsUnicode16BeyondPcre2) {
  // U+2EBF0 (CJK extension I, Unicode 15.1) and U+1C89 (Unicode 16) are letters.
  const auto own = OwnMatcher::compile("\\p{L}+");
  ASSERT_TRUE(own.has_value());
  EXPECT_THAT(own->split("a\U0002EBF0\u1C89"), ElementsAre(3));
}

TEST(RunPattern, LeavesToPcre2WhatItCannotReadOrRunInLinearTime) {
  for (const char* pattern : {"",
                              "a|",
                              "a*",
                              "a?",
                              "(ab)+",
                              "(?i:'s)",
                              "(?<=a)b",
                              ".",
                              "^a",
                              "a+?",
                              "a++",
                              "a{0}",
                              "a{3,2}",
                              "a{1000}",
                              "[",
                              "[]a]",
                              "[a",
                              "[b-a]",
                              "[a-\\s]",
                              "[a&&b]",
                              "[[:alpha:]]",
                              "\\d",
                              "\\p{Lu}",
                              "\\p{L",
                              "\\",
                              "a\\",
                              "(?!a)",
                              "$",
                              "b+a*c",
                              "a{2,}b",
                              "\xFF",
                              "a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?b"}) {
    EXPECT_FALSE(OwnMatcher::compile(pattern).has_value()) << pattern;
  }
}

Pieces split(const std::string& pre_tokenizer_json, std::string_view text) {
  auto splitter = PreTokenizer::parse(boost::json::parse(pre_tokenizer_json));
  EXPECT_TRUE(splitter.ok()) << splitter.error().message;
  if (!splitter.ok()) return {};
  PreTokenizer::Scratch scratch;
  const auto ends = splitter->split(text, scratch);
  EXPECT_TRUE(ends.ok());
  Pieces out;
  size_t begin = 0;
  for (const uint32_t end : *ends) {
    out.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return out;
}

std::string sequence(const std::string& steps) {
  return R"({"type":"Sequence","pretokenizers":[)" + steps +
         R"(,{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})";
}

std::string split_step(const std::string& kind, const std::string& pattern) {
  return R"({"type":"Split","pattern":{")" + kind + "\":" + boost::json::serialize(pattern) +
         R"(},"behavior":"Isolated","invert":false})";
}

TEST(PreTokenizer, EachStepSeesOnlyThePiecesOfTheStepBefore) {
  // "\s+(?!\S)" looks at the end of its piece: the "1" behind it belongs to another.
  EXPECT_EQ(
      split(sequence(split_step("Regex", "\\p{N}") + "," + split_step("Regex", "\\s+(?!\\S)")),
            "a  1  b"),
      (Pieces{"a", "  ", "1", " ", " b"}));
}

TEST(PreTokenizer, AStringPatternIsPlainText) {
  EXPECT_EQ(split(sequence(split_step("String", "a+")), "aa+a"), (Pieces{"a", "a+", "a"}));
}

TEST(PreTokenizer, DigitsAreCutAloneOrTogether) {
  EXPECT_EQ(split(sequence(R"({"type":"Digits","individual_digits":true})"), "a12"),
            (Pieces{"a", "1", "2"}));
  EXPECT_EQ(split(sequence(R"({"type":"Digits","individual_digits":false})"), "a12b"),
            (Pieces{"a", "12", "b"}));
}

TEST(PreTokenizer, ByteLevelMaySplitLikeGpt2) {
  EXPECT_EQ(
      split(R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})", "I'll  go 12!"),
      (Pieces{"I", "'ll", " ", " go", " 12", "!"}));
}

TEST(PreTokenizer, UnknownPatternsGoToPcre2) {
  EXPECT_EQ(split(sequence(split_step("Regex", "(?i:'s|'t)|(?<=x)y")), "A'Sxyy"),
            (Pieces{"A", "'S", "x", "y", "y"}));
}

TEST(PreTokenizer, APatternThatNeedsTooManyStepsIsAnError) {
  const auto splitter =
      PreTokenizer::parse(boost::json::parse(sequence(split_step("Regex", "(x+x+)+[yz]"))));
  ASSERT_TRUE(splitter.ok()) << splitter.error().message;
  PreTokenizer::Scratch scratch;
  const auto ends = splitter->split(std::string(200, 'x'), scratch);
  ASSERT_FALSE(ends.ok());
  EXPECT_EQ(ends.error().code, Code::kResourceExhausted);
  EXPECT_THAT(ends.error().message, testing::HasSubstr("(x+x+)+[yz]"));
}

}  // namespace
}  // namespace troupe::model
