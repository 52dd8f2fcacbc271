// The first byte says of what kind the grammar is (see kind_of), the bytes up to the first NUL are
// its text, those behind it choose tokens. A grammar that is accepted never leads into a dead end,
// its masks hold exactly the tokens that advance, and a finished answer in JSON is JSON.

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.hpp"
#include "model/grammar.hpp"
#include "model/grammar_mask.hpp"
#include "model/tokenizer_utf8.hpp"

namespace {

using namespace troupe;
using namespace troupe::model;
using Kind = GrammarSpec::Kind;

Kind kind_of(char c) {
  switch (c) {
    case 'j': return Kind::kJsonObject;
    case 's': return Kind::kJsonSchema;
    case 'c': return Kind::kChoice;
    case 'e': return Kind::kEbnf;
    case 't': return Kind::kToolCalls;
    default: return Kind::kRegex;
  }
}

const std::shared_ptr<const Vocabulary>& vocabulary() {
  static const auto kVocabulary = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (const char* token :
         {"{\"", "\":", "\",", "\"}", "]}", "},", "true", "12", "0.5", "ab", "a\"", "\\u",
          "\xE4\xBD", "\xBD\xA0", "\xE4\xBD\xA0", "  ", ", ", "\xF0\x9F"}) {
      tokens.emplace_back(token);
    }
    const auto end = static_cast<TokenId>(tokens.size());
    tokens.emplace_back();
    const std::vector<std::string_view> views(tokens.begin(), tokens.end());
    return Vocabulary::create(views, std::span(&end, 1)).value();
  }();
  return kVocabulary;
}

/// No Error but that the grammar is too ambiguous to go on.
template <class T>
bool went_on(const Result<T>& result) {
  if (result.ok()) return true;
  CHECK(result.error().code == Code::kResourceExhausted);
  return false;
}

void walk(const std::shared_ptr<const Grammar>& grammar, Kind kind, std::string_view draws) {
  GrammarState state(grammar);
  TokenMasker masker(grammar, vocabulary(), {.max_walk = 4096});
  std::vector<uint64_t> bits(masker.num_words());
  std::string text;
  for (const char draw : draws.substr(0, 64)) {
    const auto num_allowed = masker.mask(state, bits);
    if (!went_on(num_allowed)) return;
    const auto is_allowed = [&](size_t id) { return (bits[id / 64] >> (id % 64) & 1) != 0; };
    CHECK_GT(*num_allowed, 0U);
    auto token = static_cast<size_t>(static_cast<unsigned char>(draw)) * 7 % vocabulary()->size();
    GrammarState tried = state;
    const auto advanced = tried.advance(*vocabulary(), static_cast<TokenId>(token));
    CHECK_EQ(advanced.ok(), is_allowed(token));
    while (!is_allowed(token)) token = (token + 1) % vocabulary()->size();
    if (!went_on(state.advance(*vocabulary(), static_cast<TokenId>(token)))) return;
    text += vocabulary()->token_bytes(static_cast<TokenId>(token));
    if (state.finished()) break;
  }
  const bool is_json = kind == Kind::kJsonObject || kind == Kind::kJsonSchema;
  if (state.finished()) CHECK_EQ(valid_utf8_prefix(text), text.size());
  if (state.finished() && is_json) {
    boost::json::error_code ec;
    boost::json::parse(text, ec, {}, {.max_depth = 64});
    CHECK(!ec);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t nul = std::min(input.find('\0', 1), input.size());
  const std::string_view text = input.substr(1, nul - 1);
  GrammarSpec spec{.kind = kind_of(input[0]), .text = std::string(text), .choices = {}};
  if (spec.kind == Kind::kChoice) {
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      spec.choices.emplace_back(text.substr(at, end - at));
      at = end + 1;
    }
  }
  GrammarLimits limits;
  limits.max_instructions = 16'384;
  limits.max_automaton = 2'048;
  limits.max_depth = 8;
  const auto grammar = compile_grammar(spec, limits);
  if (!grammar.ok()) {
    CHECK(grammar.error().code == Code::kInvalidArgument);
    CHECK(!grammar.error().message.empty());
    return 0;
  }
  walk(*grammar, spec.kind, nul < size ? input.substr(nul + 1) : text);
  return 0;
}
