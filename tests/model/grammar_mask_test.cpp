#include "model/grammar_mask.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <ctime>
#include <map>

#include "tests/model/grammar_walks.hpp"
#include "tests/model/tokenizer_files.hpp"

namespace troupe::model {
namespace {

using Kind = GrammarSpec::Kind;
using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<GrammarSpec>& specs() {
  static const std::vector<GrammarSpec> kSpecs = {
      {.kind = Kind::kJsonObject},
      {.kind = Kind::kJsonSchema,
       .text = R"({"type":"object","properties":{"name":{"type":"string","maxLength":5},
                   "value":{"anyOf":[{"type":"number"},{"enum":["abc","ab",null,true]}]},
                   "list":{"type":"array","items":{"type":"integer"},"minItems":2}},
                   "required":["value"]})"},
      {.kind = Kind::kJsonSchema,
       .text = R"({"properties":{"name":{"type":"integer"}},"additionalProperties":true})"},
      {.kind = Kind::kRegex, .text = "(abc|[^x\\d]{1,4})+(12|3)?"},
      {.kind = Kind::kChoice, .choices = {"abc", "ab", "true", "\xE4\xBD\xA0"}},
      {.kind = Kind::kEbnf, .text = R"(root ::= "{" (item (", " item)*)? "}"
                                       item ::= [a-c]+ | "[" root "]")"},
  };
  return kSpecs;
}

/// The slow twin: tries every token.
std::vector<uint64_t> tried(const GrammarState& state, const Vocabulary& vocabulary) {
  std::vector<uint64_t> bits(vocabulary.num_words());
  for (size_t token = 0; token < vocabulary.size(); ++token) {
    GrammarState next = state;
    if (next.advance(vocabulary, static_cast<TokenId>(token)).ok()) {
      bits[token / 64] |= uint64_t{1} << token % 64;
    }
  }
  return bits;
}

TEST(TokenMasker, AllowsExactlyTheTokensThatAdvance) {
  const auto vocabulary = json_vocabulary();
  for (const GrammarSpec& spec : specs()) {
    const auto grammar = compiled(spec);
    TokenMasker kept(grammar, vocabulary);
    // It forgets its states and masks all the time, which must not show.
    TokenMasker forgetful(grammar, vocabulary, {.max_states = 2, .max_mask_bytes = 200});
    for (uint64_t seed = 0; seed < 8; ++seed) {
      Draws draws(seed);
      GrammarState state(grammar);
      for (int step = 0; step < 25 && !state.finished(); ++step) {
        const auto bits = mask_of(kept, state);
        ASSERT_EQ(bits, tried(state, *vocabulary));
        ASSERT_EQ(bits, mask_of(forgetful, state));
        std::vector<TokenId> choices;
        for (size_t token = 0; token < vocabulary->size(); ++token) {
          if (allowed(bits, static_cast<TokenId>(token)))
            choices.push_back(static_cast<TokenId>(token));
        }
        ASSERT_FALSE(choices.empty());
        ASSERT_TRUE(state.advance(*vocabulary, choices[draws.below(choices.size())]).ok());
      }
    }
  }
}

TEST(TokenMasker, AllowsEndTokensExactlyWhenTheTextIsComplete) {
  const auto vocabulary = small_vocabulary({"ab", "abc"});
  const TokenId end = vocabulary->end_tokens()[0];
  const auto grammar = compiled_regex("ab(cd)?");
  TokenMasker masker(grammar, vocabulary);
  GrammarState state(grammar);
  EXPECT_FALSE(allowed(mask_of(masker, state), end));
  EXPECT_FALSE(state.advance(*vocabulary, end).ok());
  ASSERT_TRUE(state.advance("ab").ok());
  EXPECT_TRUE(allowed(mask_of(masker, state), end));
  ASSERT_TRUE(state.advance("c").ok());
  EXPECT_FALSE(allowed(mask_of(masker, state), end));
  ASSERT_TRUE(state.advance("d").ok());
  std::vector<uint64_t> bits(masker.num_words());
  EXPECT_EQ(*masker.mask(state, bits), 1U);  // forced
  EXPECT_TRUE(allowed(bits, end));
  ASSERT_TRUE(state.advance(*vocabulary, end).ok());
  EXPECT_TRUE(state.finished());
  EXPECT_EQ(*masker.mask(state, bits), 0U);
  EXPECT_FALSE(state.advance(*vocabulary, end).ok());
  EXPECT_FALSE(state.advance(*vocabulary, 'a').ok());
}

TEST(TokenMasker, FollowsCharactersThatTokensCut) {
  const auto vocabulary =
      small_vocabulary({"\xE4\xBD", "\xBD\xA0", "a\xF0\x9F", "\x98\x80\"", "\xA0"});
  const auto grammar = compiled_schema(R"({"type":"string","maxLength":3})");
  TokenMasker masker(grammar, vocabulary);
  GrammarState state(grammar);
  for (const TokenId token :
       {TokenId{'"'}, TokenId{256}, TokenId{0xA0}, TokenId{258}, TokenId{259}}) {
    ASSERT_TRUE(allowed(mask_of(masker, state), token)) << token;
    ASSERT_TRUE(state.advance(*vocabulary, token).ok());
  }
  EXPECT_TRUE(state.complete());
  // In the middle of a character only its continuations may come.
  GrammarState within(grammar);
  ASSERT_TRUE(within.advance("\"\xE4\xBD").ok());
  const auto bits = mask_of(masker, within);
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(allowed(bits, byte), byte >= 0x80 && byte < 0xC0) << byte;
  }
}

TEST(TokenMasker, TokensOfOneTextAreAllowedAlike) {
  const auto vocabulary = small_vocabulary({"ab", "ab", "abc", "a"});
  const auto grammar = compiled_regex("abcd");
  TokenMasker masker(grammar, vocabulary);
  const auto bits = mask_of(masker, GrammarState(grammar));
  for (const TokenId token : {256, 257, 258, 259, int{'a'}}) EXPECT_TRUE(allowed(bits, token));
  EXPECT_FALSE(allowed(bits, 'b'));
}

TEST(TokenMasker, KeepsAPlainStringsMaskWhateverItsTokensLookLike) {
  // Tokens around what strings may hold anywhere: the walk may skip some subtrees and not others.
  const auto vocabulary = small_vocabulary({"plain",
                                            "pl\"",
                                            "pl\"}",
                                            "\\plain",
                                            "\xC3\xA9t\xC3\xA9",
                                            "\xC3\xA9\"",
                                            "\xA9t\xC3\xA9",
                                            "a\n",
                                            "a\nb",
                                            "\xE4\xBD\xA0\xE5\xA5\xBD",
                                            "\xE4\xBD\xA0\xE5",
                                            "\x7F",
                                            "\x7F\x7F",
                                            "\\n",
                                            "\\nplain",
                                            "\\q",
                                            "\xC3",
                                            "\xC3(",
                                            "\xED\xA0\x80",
                                            "\xF0\x9F\x98\x80",
                                            "pl"});
  for (const char* schema :
       {R"({"type":"string"})", R"({"type":"string","pattern":"^[^a]*$"})",
        R"({"type":"string","pattern":"^[^\\x7f]*$"})",
        R"({"type":"string","pattern":"^[^\u4f60]*$"})", R"({"type":"string","minLength":4})"}) {
    const auto grammar = compiled_schema(schema);
    for (const char* prefix : {"\"", "\"b", "\"bcdef", "\"\xC3", "\"\\"}) {
      GrammarState state(grammar);
      ASSERT_TRUE(state.advance(prefix).ok());
      TokenMasker masker(grammar, vocabulary);
      EXPECT_EQ(mask_of(masker, state), tried(state, *vocabulary)) << schema << " after " << prefix;
    }
  }
}

TEST(TokenMasker, RefusesAWalkBeyondItsBoundWhateverItKeeps) {
  const auto vocabulary = json_vocabulary();
  const auto grammar = compiled({.kind = Kind::kJsonObject});
  TokenMasker strict(grammar, vocabulary, {.max_walk = 60});
  GrammarState state(grammar);
  size_t num_refused = 0;
  for (const char byte : std::string_view("{\"ab\":[1,{\"c\":\"\\n\"},null,true]}")) {
    TokenMasker fresh(grammar, vocabulary, {.max_walk = 60});
    std::vector<uint64_t> bits(fresh.num_words());
    const auto from_kept = strict.mask(state, bits);
    const auto from_fresh = fresh.mask(state, bits);
    ASSERT_EQ(from_kept.ok(), from_fresh.ok());
    if (!from_kept.ok()) {
      EXPECT_EQ(from_kept.error().code, Code::kResourceExhausted);
      ++num_refused;
    }
    ASSERT_TRUE(state.advance(std::string_view(&byte, 1)).ok());
  }
  EXPECT_GT(num_refused, 0U);
}

/// Letters, each followed by `num_empty` calls of a rule that is empty in eight ways: much work
/// that leaves one thread.
std::string busy_letter(size_t num_empty) {
  std::string text = "([a-z]";
  for (size_t i = 0; i < num_empty; ++i) text += " empty";
  return text + ")";
}
constexpr const char* kEmpty = "\nempty ::= ''|''|''|''|''|''|''|''";

TEST(TokenMasker, CountsTheWorkOfAWalkWhoseStatesAreSmall) {
  std::vector<std::string> words;
  for (const char* word : {"abcdefgh", "bacadaea", "mnmnmnmn", "zzzzazzz"}) {
    for (size_t length = 2; length <= 8; ++length)
      words.push_back(std::string(word).substr(0, length));
  }
  const auto vocabulary = small_vocabulary(words);
  const auto refusal = [&](size_t num_empty, uint32_t max_walk) {
    const auto grammar = compiled(
        {.kind = Kind::kEbnf, .text = "root ::= " + busy_letter(num_empty) + "{1,50}" + kEmpty});
    TokenMasker masker(grammar, vocabulary, {.max_walk = max_walk});
    std::vector<uint64_t> bits(masker.num_words());
    const auto num_allowed = masker.mask(GrammarState(grammar), bits);
    return num_allowed.ok() ? "" : num_allowed.error().message;
  };
  EXPECT_EQ(refusal(0, 100), "") << "nine states of one thread";
  EXPECT_THAT(refusal(100, 100), HasSubstr("more than 100 states"));
  EXPECT_EQ(refusal(100, 65'536), "");
}

TEST(GrammarMachine, AStepsWorkDependsOnTheValueOfItsStateAlone) {
  // Ambiguous, so that stacks of one value are made at different times.
  for (const char* text :
       {"root ::= 'a'* y [ab]\ny ::= [ab]* z\nz ::= 'a' y*",
        "root ::= z*\ny ::= [ab]{1,2}\nz ::= 'a' y*", "root ::= y*\ny ::= z{2,}\nz ::= 'a' 'a'*"}) {
    const auto grammar = compiled({.kind = Kind::kEbnf, .text = text});
    std::map<uint64_t, std::vector<ThreadSetPtr>> by_hash;
    for (size_t bits = 2; bits < 128; ++bits) {  // below the highest 1: a text of a and b
      GrammarState state(grammar);
      std::string prefix;
      for (size_t left = bits; left > 1; left /= 2) prefix += left % 2 ? 'a' : 'b';
      if (state.advance(prefix).ok()) by_hash[state.threads()->hash].push_back(state.threads());
    }
    GrammarMachine machine(*grammar);
    const auto work_of = [&](const ThreadSetPtr& state, unsigned char byte) {
      const size_t before = machine.work();
      EXPECT_TRUE(machine.step(*state, byte).ok());
      return machine.work() - before;
    };
    size_t num_equal = 0;
    for (const auto& [hash, states] : by_hash) {
      num_equal += states.size() - 1;
      for (const ThreadSetPtr& state : states) {
        ASSERT_TRUE(equal(*state, *states[0]));
        EXPECT_EQ(work_of(state, 'a'), work_of(states[0], 'a')) << text;
      }
    }
    EXPECT_GT(num_equal, 2U) << text;
  }
}

TEST(GrammarMachine, CountsTheFramesThatItReturnsTo) {
  // A rule that is called in many places and is empty in as many ways: returns times frames.
  const auto work_of = [](size_t num) {
    std::string places = "empty 'x'", ways = "''";
    for (size_t i = 1; i < num; ++i) places += " | empty 'x'", ways += "|''";
    const auto grammar =
        compiled({.kind = Kind::kEbnf,
                  .text = "root ::= 'a' places\nplaces ::= " + places + "\nempty ::= " + ways});
    GrammarMachine machine(*grammar);
    const auto start = machine.start().value();
    const size_t before = machine.work();
    EXPECT_TRUE(machine.step(*start, 'a').ok());
    return machine.work() - before;
  };
  EXPECT_GT(work_of(100), 100U * 100U);
}

TEST(TokenMasker, BoundsTheWorkForAHostileGrammar) {
  // Each of these compiles and is as ambiguous as its kind allows.
  std::string patterns, wide;
  for (int i = 0; i < 60; ++i) {
    if (i < 10) {
      patterns += std::string(i ? "," : "") + R"({"type":"string","pattern":"^.*[a-m].{)" +
                  std::to_string(i % 5) + R"(}$"})";
    }
    wide += std::string(i ? "," : "") + R"({"type":"array","items":{"$ref":"#"},"maxItems":)" +
            std::to_string(100 + i) + "}";
  }
  const std::vector<std::pair<GrammarSpec, std::string>> hostile = {
      {{.kind = Kind::kJsonSchema, .text = "{\"anyOf\":[" + patterns + "]}"}, "\"abcxyz"},
      {{.kind = Kind::kJsonSchema, .text = "{\"anyOf\":[" + wide + "]}"}, "[[[[[[],[]],[[],[[]"},
      {{.kind = Kind::kEbnf,
        .text = "root ::= (([a-z]{1,500}){1,500} | ([a-y]{1,500} \" \"?){1,500}){1,500}"},
       "abcdefghijklmnopqrstu"},
      {{.kind = Kind::kEbnf,
        .text = "root ::= " + busy_letter(250) + "* [a-m] " + busy_letter(250) + "{12}" + kEmpty},
       "abcdefghijklmnopqrstu"},
  };
  const auto vocabulary = json_vocabulary();
  for (const auto& [spec, prefix] : hostile) {
    const auto grammar = compiled(spec);
    TokenMasker masker(grammar, vocabulary);
    GrammarState state(grammar);
    std::vector<uint64_t> bits(masker.num_words());
    for (const char byte : prefix) {
      const std::clock_t begin = std::clock();
      const auto num_allowed = masker.mask(state, bits);
      EXPECT_TRUE(num_allowed.ok() || num_allowed.error().code == Code::kResourceExhausted);
      const auto advanced = state.advance(std::string_view(&byte, 1));
      EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 5.0);
      if (!advanced.ok()) {
        EXPECT_EQ(advanced.error().code, Code::kResourceExhausted) << prefix;
        break;
      }
    }
  }
}

TEST(GrammarState, IsAFunctionOfTheTokensAlone) {
  const auto vocabulary = json_vocabulary();
  for (const GrammarSpec& spec : specs()) {
    const auto grammar = compiled(spec);
    TokenMasker masker(grammar, vocabulary);
    Draws draws(7);
    const std::string text = random_text(masker, vocabulary, grammar, draws, 20);
    GrammarState whole(grammar), bytewise(grammar);
    ASSERT_TRUE(whole.advance(text).ok());
    for (const char byte : text) {
      const GrammarState before = bytewise;  // a copy is not changed by going on
      ASSERT_TRUE(bytewise.advance(std::string_view(&byte, 1)).ok());
      GrammarState again = before;
      ASSERT_TRUE(again.advance(std::string_view(&byte, 1)).ok());
      EXPECT_EQ(again, bytewise);
    }
    EXPECT_EQ(whole, bytewise);
    EXPECT_TRUE(whole.complete());
    // Another worker compiles for itself and gets the same masks.
    const auto elsewhere = compiled(spec);
    TokenMasker other(elsewhere, vocabulary);
    GrammarState resumed(elsewhere);
    ASSERT_TRUE(resumed.advance(text).ok());
    EXPECT_EQ(mask_of(other, resumed), mask_of(masker, whole));
  }
}

TEST(GrammarState, AnErrorLeavesItAsItWas) {
  const auto grammar = compiled_regex("abc");
  GrammarState state(grammar);
  const GrammarState before = state;
  const auto advanced = state.advance("abx");
  ASSERT_FALSE(advanced.ok());
  EXPECT_EQ(advanced.error().code, Code::kInvalidArgument);
  EXPECT_THAT(advanced.error().message, HasSubstr("byte 2"));
  EXPECT_EQ(state, before);
}

TEST(Vocabulary, HoldsTheTokensInTheOrderOfTheirPrefixes) {
  const std::vector<std::string_view> tokens = {"b", "ab", "", "abc", "a", "end"};
  const std::vector<TokenId> ends = {5};
  const auto vocabulary = *Vocabulary::create(tokens, ends);
  std::vector<TokenId> order;
  for (const auto& node : vocabulary->nodes()) order.push_back(node.token);
  EXPECT_THAT(order, ElementsAre(4, 1, 3, 0));
  EXPECT_EQ(vocabulary->nodes()[0].next, 3U);
  EXPECT_EQ(vocabulary->token_bytes(3), "abc");
  EXPECT_EQ(vocabulary->token_bytes(5), "");
  EXPECT_EQ(vocabulary->token_bytes(-1), "");
  EXPECT_EQ(vocabulary->token_bytes(6), "");
}

TEST(Vocabulary, RefusesWhatCannotEndATextOrHasNoBounds) {
  const std::vector<std::string_view> tokens = {"a", "b"};
  const std::string long_token(2000, 'x');
  const std::vector<std::string_view> with_long = {"a", long_token};
  EXPECT_FALSE(Vocabulary::create(tokens, {}).ok());
  const std::vector<TokenId> outside = {2}, negative = {-1}, first = {0};
  EXPECT_FALSE(Vocabulary::create(tokens, outside).ok());
  EXPECT_FALSE(Vocabulary::create(tokens, negative).ok());
  EXPECT_FALSE(Vocabulary::create(with_long, first).ok());
}

/// With a real tokenizer: what it makes of a document is allowed, and added tokens never are.
TEST(TokenMasker, FollowsTheTokensOfRealTokenizers) {
  for (const char* name : {"demo", "v2", "v3"}) {
    const Tokenizer tokenizer = golden_tokenizer(name);
    const TokenId end = tokenizer.eos().value_or(static_cast<TokenId>(tokenizer.vocab_size() - 1));
    const auto vocabulary =
        *Vocabulary::create(tokenizer, std::span(&end, 1), tokenizer.vocab_size() + 100);
    EXPECT_EQ(vocabulary->size(), tokenizer.vocab_size() + 100);
    const auto grammar = compiled({.kind = Kind::kJsonObject});
    TokenMasker masker(grammar, vocabulary);
    GrammarState state(grammar);
    const std::string document =
        "{\"city\": \"M\xC3\xBCnchen\", \"hello\": [\"\xE4\xBD\xA0\xE5\xA5\xBD\", -12.5e3, true], "
        "\"emoji\":\"\xF0\x9F\x98\x80 <\xEF\xBD\x9C"
        "User\xEF\xBD\x9C>\"}";
    const auto tokens = tokenizer.encode_plain(document);
    ASSERT_TRUE(tokens.ok());
    for (const TokenId token : *tokens) {
      const auto bits = mask_of(masker, state);
      ASSERT_TRUE(allowed(bits, token)) << name << ": " << tokenizer.token_bytes(token);
      for (const AddedToken& added : tokenizer.added_tokens()) {
        EXPECT_FALSE(allowed(bits, added.id)) << added.content;
      }
      ASSERT_TRUE(state.advance(*vocabulary, token).ok());
    }
    EXPECT_TRUE(allowed(mask_of(masker, state), end));
  }
}

}  // namespace
}  // namespace troupe::model
