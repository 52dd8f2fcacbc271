#include "tests/model/grammar_walks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>

#include "base/check.hpp"

namespace troupe::model {

using Kind = GrammarSpec::Kind;

std::shared_ptr<const Grammar> compiled(const GrammarSpec& spec, const GrammarLimits& limits) {
  auto grammar = compile_grammar(spec, limits);
  if (!grammar.ok()) internal::check_failed(__FILE__, __LINE__, "grammar", grammar.error().message);
  return *grammar;
}

std::shared_ptr<const Grammar> compiled_regex(std::string_view pattern) {
  return compiled({.kind = Kind::kRegex, .text = std::string(pattern)});
}

std::shared_ptr<const Grammar> compiled_schema(std::string_view schema) {
  return compiled({.kind = Kind::kJsonSchema, .text = std::string(schema)});
}

bool accepts(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarState state(grammar);
  return state.advance(text).ok() && state.complete();
}

bool continues(const std::shared_ptr<const Grammar>& grammar, std::string_view prefix) {
  return GrammarState(grammar).advance(prefix).ok();
}

std::shared_ptr<const Vocabulary> small_vocabulary(const std::vector<std::string>& tokens) {
  std::vector<std::string> all;
  for (int byte = 0; byte < 256; ++byte) all.emplace_back(1, static_cast<char>(byte));
  all.insert(all.end(), tokens.begin(), tokens.end());
  all.emplace_back();
  const std::vector<std::string_view> views(all.begin(), all.end());
  const auto end = static_cast<TokenId>(all.size() - 1);
  return Vocabulary::create(views, std::span(&end, 1)).value();
}

std::shared_ptr<const Vocabulary> json_vocabulary() {
  return small_vocabulary({"{\"",      "\":",
                           "\": ",     "\",",
                           "\", \"",   "\"}",
                           "}}",       "]}",
                           "},{",      "[[",
                           "]]",       "{}",
                           "[]",       "[{\"",
                           "\"]",      ", ",
                           ": ",       "true",
                           "false",    "null",
                           "tru",      "rue",
                           "12",       "345",
                           "0.5",      "-1",
                           "e5",       "1e",
                           "00",       "abc",
                           "bc",       "name",
                           "a\"",      "\\\"",
                           "\\u00",    "\\u",
                           "d83d",     "\\n",
                           "\\",       "\xC3\xA9",
                           "\xE4\xBD", "\xBD\xA0",
                           "\xF0\x9F", "\x98\x80",
                           "\xA9\"",   "\xE4\xBD\xA0\"}",
                           "a\xF0",    " ",
                           "  ",       "\n",
                           "value",    "\"value\"",
                           "x",        "ab",
                           "null}",    "1,",
                           "1]",       "2}",
                           "\"\""});
}

bool allowed(const std::vector<uint64_t>& bits, TokenId token) {
  return (bits[token / 64] >> (token % 64) & 1) != 0;
}

std::vector<uint64_t> mask_of(TokenMasker& masker, const GrammarState& state) {
  std::vector<uint64_t> bits(masker.num_words(), ~uint64_t{0});
  const auto num_allowed = masker.mask(state, bits);
  if (!num_allowed.ok())
    internal::check_failed(__FILE__, __LINE__, "", num_allowed.error().message);
  size_t num_bits = 0;
  for (const uint64_t word : bits) num_bits += std::popcount(word);
  EXPECT_EQ(num_bits, *num_allowed);
  return bits;
}

std::string random_text(TokenMasker& masker, const std::shared_ptr<const Vocabulary>& vocabulary,
                        const std::shared_ptr<const Grammar>& grammar, Draws& draws,
                        size_t num_free) {
  const TokenId end = vocabulary->end_tokens()[0];
  GrammarState state(grammar);
  std::string text;
  for (size_t step = 0; step < 5'000; ++step) {
    const auto bits = mask_of(masker, state);
    std::vector<TokenId> choices;
    for (size_t token = 0; token < vocabulary->size(); ++token) {
      if (allowed(bits, static_cast<TokenId>(token)))
        choices.push_back(static_cast<TokenId>(token));
    }
    if (choices.empty()) {
      ADD_FAILURE() << "nothing may follow " << text;
      return text;
    }
    TokenId token = choices[draws.below(choices.size())];
    if (step >= num_free && draws.one_in(2)) {
      // Any byte, for what has to come before the end; or what closes most.
      while (token >= 256 && token != end) token = choices[draws.below(choices.size())];
    } else if (step >= num_free) {
      for (const char closer : {'}', ']', '"'}) {
        const TokenId byte = static_cast<unsigned char>(closer);
        if (allowed(bits, byte)) token = byte;
      }
      if (allowed(bits, end)) token = end;
    }
    EXPECT_TRUE(state.advance(*vocabulary, token).ok()) << text << " and token " << token;
    if (state.finished()) return text;
    text += vocabulary->token_bytes(token);
  }
  ADD_FAILURE() << "the text did not end: " << text;
  return text;
}

std::string follow(TokenMasker& masker, const std::shared_ptr<const Vocabulary>& vocabulary,
                   const std::shared_ptr<const Grammar>& grammar, std::string_view text,
                   Draws& draws) {
  std::map<std::string_view, TokenId> by_bytes;
  for (size_t id = 0; id < vocabulary->size(); ++id) {
    by_bytes.emplace(vocabulary->token_bytes(static_cast<TokenId>(id)), static_cast<TokenId>(id));
  }
  GrammarState state(grammar);
  for (size_t at = 0; at < text.size();) {
    std::vector<TokenId> tokens;
    for (size_t length = 1; length <= std::min<size_t>(text.size() - at, 16); ++length) {
      const auto found = by_bytes.find(text.substr(at, length));
      if (found != by_bytes.end()) tokens.push_back(found->second);
    }
    const TokenId token = tokens[draws.below(tokens.size())];
    const std::string where = " at byte " + std::to_string(at) + " of " + std::string(text);
    if (!allowed(mask_of(masker, state), token)) return "token is masked" + where;
    if (!state.advance(*vocabulary, token).ok()) return "token is refused" + where;
    at += vocabulary->token_bytes(token).size();
  }
  const TokenId end = vocabulary->end_tokens()[0];
  if (!allowed(mask_of(masker, state), end)) return "the end is masked after " + std::string(text);
  if (!state.advance(*vocabulary, end).ok() || !state.finished()) return "the end is refused";
  return "";
}

}  // namespace troupe::model
