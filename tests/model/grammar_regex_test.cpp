#include "model/grammar_regex.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/tokenizer_utf8.hpp"
#include "tests/model/grammar_walks.hpp"
#include "tests/model/schema_checker.hpp"

namespace troupe::model {
namespace {

struct RegexCase {
  std::string pattern;
  std::vector<std::string> matching;
  std::vector<std::string> others;
};

TEST(GrammarRegex, AcceptsWhatTheWholePatternMatches) {
  const std::vector<RegexCase> cases = {
      {"abc", {"abc"}, {"", "ab", "abcd", "xabc"}},
      {"a|bc|", {"", "a", "bc"}, {"b", "abc"}},
      {"a*", {"", "a", "aaaa"}, {"b", "ab"}},
      {"a+?b??", {"a", "aab"}, {"", "b", "abb"}},
      {"(ab){2,3}", {"abab", "ababab"}, {"ab", "abababab", "aba"}},
      {"(ab){2}", {"abab"}, {"ab", "ababab"}},
      {"a{2,}", {"aa", "aaaaaaa"}, {"a", ""}},
      {"a{0}b", {"b"}, {"ab"}},
      {"(a?){3}", {"", "a", "aa", "aaa"}, {"aaaa"}},
      {"(a*b?){2,4}c", {"c", "aabac", "bbbbc"}, {"bbbbbc", "aab"}},
      {"((a|b)*)*c", {"c", "ababc"}, {"ab"}},
      {"[a-c\\d_-]+", {"a-b_7"}, {"d", ""}},
      {"[^a-c]", {"d", "\n", "\xC3\xA9", "\xF0\x9F\x98\x80"}, {"a", "", "dd"}},
      {"[\\]\\\\^-]+", {"]\\^-"}, {"["}},
      {"[\\b]", {"\b"}, {"b"}},
      {".", {"x", "\r", "\xE4\xBD\xA0"}, {"\n", ""}},
      {"\\w\\W\\d\\D\\s\\S", {"a-1a x"}, {"a-1a  "}},
      {"\\t\\n\\r\\f\\0\\x41\\x{e9}\\u4f60\\u{1F600}\\/\\.",
       {std::string("\t\n\r\f\0A\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80/.", 17)},
       {}},
      {"^(?:x|y)$", {"x", "y"}, {"xy", "^x$"}},
      {"^a$|^b", {"a", "b"}, {"ab"}},
      {"(?P<first>a)(?<second>b)", {"ab"}, {"a"}},
      {"\\{\"k\": {a}\\}", {"{\"k\": {a}}"}, {"{\"k\": a}"}},
      {"[0-9]{5}(-[0-9]{4})?", {"12345", "12345-6789"}, {"1234", "12345-", "123456"}},
      {"[\xC3\xA9-\xE4\xBD\xA0]", {"\xC3\xA9", "\xE4\xBD\xA0", "\xD0\x90"}, {"e", "\xE4\xBD\xA1"}},
  };
  for (const RegexCase& one : cases) {
    const auto grammar = compiled_regex(one.pattern);
    for (const std::string& text : one.matching) {
      EXPECT_TRUE(accepts(grammar, text)) << one.pattern << " on " << text;
    }
    for (const std::string& text : one.others) {
      EXPECT_FALSE(accepts(grammar, text)) << one.pattern << " on " << text;
    }
  }
}

TEST(GrammarRegex, StopsAtTheFirstByteThatLeadsNowhere) {
  const auto grammar = compiled_regex("(cat|car|dog)s?");
  EXPECT_TRUE(continues(grammar, "ca"));
  EXPECT_FALSE(continues(grammar, "co"));
  EXPECT_TRUE(continues(grammar, "cars"));
  EXPECT_FALSE(continues(grammar, "carss"));
}

TEST(GrammarRegex, AcceptsCharactersExactlyWhereTheyAreValidUtf8) {
  const auto any = compiled_regex("[\\s\\S]");
  const auto check = [&](const std::string& bytes) {
    const Utf8Unit unit = next_utf8_unit(bytes);
    const bool is_one = unit.kind == Utf8Unit::Kind::kCharacter && unit.num_bytes == bytes.size();
    ASSERT_EQ(accepts(any, bytes), is_one) << testing::PrintToString(bytes);
    const bool is_prefix = is_one || unit.kind == Utf8Unit::Kind::kIncomplete;
    ASSERT_EQ(continues(any, bytes), is_prefix) << testing::PrintToString(bytes);
  };
  Draws draws(1);
  for (int first = 0; first < 256; ++first) {
    const std::string one(1, static_cast<char>(first));
    check(one);
    for (int second = 0; second < 256; ++second) {
      const std::string two = one + static_cast<char>(second);
      check(two);
      if (first < 0xC0 || second < 0x70 || second > 0xC8) continue;
      for (const int third : {0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0}) {
        check(two + static_cast<char>(third));
        check(two + static_cast<char>(third) + static_cast<char>(draws.below(256)));
        check(two + static_cast<char>(third) + static_cast<char>(0x80 + draws.below(64)));
      }
    }
  }
}

TEST(GrammarRegex, AcceptsTheCharactersOfAClassAndNoOthers) {
  struct ClassCase {
    std::string pattern;
    CodePointSet set;
  };
  const std::vector<ClassCase> cases = {
      {"[\\x{7f}-\\x{80}]", {{0x7F, 0x80}}},
      {"[\\x{700}-\\x{900}\\x{d7ff}]", {{0x700, 0x900}, {0xD7FF, 0xD7FF}}},
      {"[\\x{fff0}-\\x{1000f}]", {{0xFFF0, 0x1000F}}},
      {"[^\\x{100}-\\x{10ffff}]", {{0, 0xFF}}},
      {"[\\x{12345}-\\x{56789}]", {{0x12345, 0x56789}}},
  };
  for (const ClassCase& one : cases) {
    const auto grammar = compiled_regex(one.pattern);
    for (char32_t c = 0; c <= 0x10FFFF; c += c < 0x3000 || (c > 0xD700 && c < 0x10100) ? 1 : 61) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      std::string bytes;
      append_utf8(bytes, c);
      ASSERT_EQ(accepts(grammar, bytes), contains(one.set, c)) << one.pattern << ' ' << uint32_t{c};
    }
  }
}

/// A random regex that also makes texts that it matches.
struct RandomRegex {
  enum class Kind { kAtom, kSequence, kEither, kRepeat };
  Kind kind = Kind::kAtom;
  std::string atom;
  std::vector<std::string> characters;  // that the atom matches
  std::vector<RandomRegex> parts;
  size_t min = 0, max = 0;
  std::string quantifier;

  static RandomRegex make(Draws& draws, size_t depth) {
    struct Atom {
      std::string pattern;
      std::vector<std::string> characters;
    };
    static const std::vector<Atom> kAtoms = {
        {"a", {"a"}},
        {"b", {"b"}},
        {"\xC3\xA9", {"\xC3\xA9"}},
        {"\\.", {"."}},
        {"\\x{1F600}", {"\xF0\x9F\x98\x80"}},
        {"[a-c]", {"a", "b", "c"}},
        {"[^a\\d]", {"b", "\xE4\xBD\xA0", " ", "\n"}},
        {"\\d", {"0", "9"}},
        {"\\w", {"a", "Z", "_", "5"}},
        {"\\s", {" ", "\t"}},
        {"\\S", {"a", "\xF0\x9F\x98\x80"}},
        {".", {"x", "\xC3\xA9"}},
        {"[\xC3\xA0-\xE4\xBD\xA0]", {"\xC3\xA9", "\xE4\xBD\xA0"}},
        {"[\\w.-]", {"-", ".", "a"}},
    };
    struct Quantifier {
      std::string pattern;
      size_t min, max;
    };
    static const std::vector<Quantifier> kQuantifiers = {
        {"*", 0, 3},   {"+", 1, 4},     {"?", 0, 1},    {"{2}", 2, 2},
        {"{0}", 0, 0}, {"{1,3}", 1, 3}, {"{2,}", 2, 4}, {"{0,2}?", 0, 2},
    };
    RandomRegex out;
    const size_t kind = depth == 0 ? 0 : draws.below(6);
    if (kind <= 1) {
      const Atom& atom = kAtoms[draws.below(kAtoms.size())];
      out.atom = atom.pattern;
      out.characters = atom.characters;
      return out;
    }
    out.kind = kind <= 3 ? Kind::kSequence : kind == 4 ? Kind::kEither : Kind::kRepeat;
    const size_t num_parts = out.kind == Kind::kRepeat ? 1 : 2 + draws.below(2);
    for (size_t i = 0; i < num_parts; ++i) out.parts.push_back(make(draws, depth - 1));
    if (out.kind == Kind::kRepeat) {
      const Quantifier& quantifier = kQuantifiers[draws.below(kQuantifiers.size())];
      out.quantifier = quantifier.pattern;
      out.min = quantifier.min;
      out.max = quantifier.max;
    }
    return out;
  }

  [[nodiscard]] std::string pattern() const {
    std::string out;
    switch (kind) {
      case Kind::kAtom: return atom;
      case Kind::kSequence:
        for (const RandomRegex& part : parts) out += part.pattern();
        return out;
      case Kind::kEither:
        for (const RandomRegex& part : parts) out += (out.empty() ? "(" : "|") + part.pattern();
        return out + ")";
      case Kind::kRepeat: return "(?:" + parts[0].pattern() + ")" + quantifier;
    }
    return out;
  }

  [[nodiscard]] std::string sample(Draws& draws) const {
    std::string out;
    switch (kind) {
      case Kind::kAtom: return characters[draws.below(characters.size())];
      case Kind::kSequence:
        for (const RandomRegex& part : parts) out += part.sample(draws);
        return out;
      case Kind::kEither: return parts[draws.below(parts.size())].sample(draws);
      case Kind::kRepeat:
        for (size_t left = min + draws.below(max - min + 1); left > 0; --left) {
          out += parts[0].sample(draws);
        }
        return out;
    }
    return out;
  }
};

/// Removes, doubles or replaces one character.
std::string mutated(const std::string& text, Draws& draws) {
  std::vector<std::string> characters;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    decode_utf8(text, at);
    characters.push_back(text.substr(begin, at - begin));
  }
  static const std::vector<std::string> kOthers = {
      "a", "b", "0", " ", "\n", ".", "\xC3\xA9", "\xE4\xBD\xA0", "\xF0\x9F\x98\x80"};
  const size_t at = draws.below(characters.size() + 1);
  if (at == characters.size()) {
    characters.push_back(kOthers[draws.below(kOthers.size())]);
  } else if (draws.one_in(3)) {
    characters.erase(characters.begin() + static_cast<ptrdiff_t>(at));
  } else if (draws.one_in(2)) {
    characters.insert(characters.begin() + static_cast<ptrdiff_t>(at), characters[at]);
  } else {
    characters[at] = kOthers[draws.below(kOthers.size())];
  }
  std::string out;
  for (const std::string& character : characters) out += character;
  return out;
}

TEST(GrammarRegex, AgreesWithPcre2OnRandomPatternsAndTexts) {
  size_t num_matching = 0, num_others = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    Draws draws(seed);
    const RandomRegex regex = RandomRegex::make(draws, 4);
    const std::string pattern = regex.pattern();
    const auto grammar = compiled_regex(pattern);
    for (int i = 0; i < 8; ++i) {
      std::string text = regex.sample(draws);
      ASSERT_TRUE(accepts(grammar, text)) << "seed " << seed << ": " << pattern << " on " << text;
      for (int edits = 0; edits < 3; ++edits) {
        text = mutated(text, draws);
        const auto expected = pcre2_matches(pattern, text, Match::kWhole);
        if (!expected) continue;
        ASSERT_EQ(accepts(grammar, text), *expected)
            << "seed " << seed << ": " << pattern << " on " << text;
        ++(*expected ? num_matching : num_others);
      }
    }
  }
  EXPECT_GT(num_matching, 2000U);
  EXPECT_GT(num_others, 2000U);
}

TEST(GrammarRegex, RandomWalksEndInTextsThatMatch) {
  const auto vocabulary = json_vocabulary();
  for (uint64_t seed = 0; seed < 150; ++seed) {
    Draws draws(seed);
    const std::string pattern = RandomRegex::make(draws, 4).pattern();
    const auto grammar = compiled_regex(pattern);
    TokenMasker masker(grammar, vocabulary);
    for (int i = 0; i < 4; ++i) {
      const std::string text = random_text(masker, vocabulary, grammar, draws, 12);
      ASSERT_NE(pcre2_matches(pattern, text, Match::kWhole), false)
          << "seed " << seed << ": " << pattern << " on " << text;
    }
  }
}

TEST(GrammarRegex, RunsAnAmbiguousRepetitionWithFewThreads) {
  const auto grammar = compiled_regex("(\\w+\\s?){1,60}");
  GrammarState state(grammar);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(state.advance("word").ok());
  EXPECT_LE(state.threads()->threads.size(), 8U);
  EXPECT_TRUE(state.complete());
}

}  // namespace
}  // namespace troupe::model
