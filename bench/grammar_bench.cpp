// Structured output: compiling grammars, masks over a whole vocabulary, advancing.
//
//   grammar_bench --tokenizer=DIRECTORY
//
// Without arguments: made-up vocabularies of 20,000 and 129,280 tokens. Masks are measured cold (a
// new TokenMasker for each), warm (its state met before), and along documents token by token.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/check.hpp"
#include "base/random.hpp"
#include "model/grammar.hpp"
#include "model/grammar_mask.hpp"
#include "model/grammar_state.hpp"
#include "model/grammar_vocabulary.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

using Kind = GrammarSpec::Kind;

constexpr size_t kVocabSize = 129'280;  // of DeepSeek-V3

/// All bytes; then words of random letters, a third of them behind a space and a few behind
/// punctuation; numbers of up to three digits; and words of one to three Chinese characters.
std::vector<std::string> made_up_tokens(size_t vocab_size) {
  std::vector<std::string> tokens;
  std::set<std::string> seen;
  uint64_t at = 0;
  const auto below = [&](uint64_t bound) { return random_bits(1, at++) % bound; };
  const auto add = [&](std::string token) {
    if (seen.insert(token).second) tokens.push_back(std::move(token));
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (int number = 0; number < 1000; ++number) add(std::to_string(number));
  constexpr std::string_view kPunctuation = "\"'.,:;{}[]()<>/\\-_=+*&^%$#@!?|~` \n\t";
  while (tokens.size() + 1 < vocab_size) {
    std::string token;
    if (below(10) < 3) {
      for (uint64_t left = 1 + below(3); left > 0; --left) {
        append_utf8(token, static_cast<char32_t>(0x4E00 + below(4000)));
      }
    } else {
      const uint64_t kind = below(30);
      if (kind < 10) token = " ";
      if (kind == 10) token += kPunctuation[below(kPunctuation.size())];
      if (kind <= 11) token += kPunctuation[below(kPunctuation.size())];
      // Letters by falling frequency, so that prefixes are shared as in words.
      for (uint64_t left = 1 + below(9); left > 0; --left) {
        token += "etaoinshrdlcumwfgypbvkjxqz"[std::min({below(26), below(26), below(26)})];
      }
    }
    add(std::move(token));
  }
  tokens.emplace_back();  // the end token
  return tokens;
}

constexpr std::string_view kPersonSchema = R"({
  "type": "object",
  "properties": {
    "name": {"type": "string"},
    "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "email": {"type": "string", "format": "email"},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 10},
    "address": {"$ref": "#/$defs/address"},
    "status": {"enum": ["active", "inactive", "unknown"]},
    "score": {"anyOf": [{"type": "number"}, {"type": "null"}]}
  },
  "required": ["name", "age", "tags", "status"],
  "$defs": {"address": {"type": "object", "properties": {
    "street": {"type": "string"}, "city": {"type": "string"},
    "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["street", "city"]}}
})";
constexpr std::string_view kPerson =
    R"({"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "tags": ["mathematics", )"
    R"("first of the programmers"], "address": {"street": "12 St James's Square", "city": )"
    R"("London", "zip": "12345"}, "status": "active", "score": 99.5})";

/// 200 properties, every other one optional, of strings, numbers and lists.
std::string large_schema() {
  std::string properties, required;
  for (int i = 0; i < 200; ++i) {
    const std::string name = "\"property_" + std::to_string(i) + "\"";
    const char* type = i % 3 == 0   ? R"({"type":"string"})"
                       : i % 3 == 1 ? R"({"type":"number"})"
                                    : R"({"type":"array","items":{"type":"string"}})";
    properties += (i ? "," : "") + name + ":" + type;
    if (i % 2 == 0) required += (i ? "," : "") + name;
  }
  return R"({"type":"object","properties":{)" + properties + R"(},"required":[)" + required + "]}";
}

std::shared_ptr<const Grammar> compiled(Kind kind, std::string_view text) {
  auto grammar = compile_grammar({.kind = kind, .text = std::string(text)});
  if (!grammar.ok()) internal::check_failed(__FILE__, __LINE__, "", grammar.error().message);
  return *grammar;
}

GrammarState state_after(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarState state(grammar);
  CHECK(state.advance(text).ok());
  return state;
}

/// The longest token at each place.
std::vector<TokenId> tokens_of(const Vocabulary& vocabulary, std::string_view text) {
  std::vector<TokenId> out;
  const auto nodes = vocabulary.nodes();
  while (!text.empty()) {
    TokenId longest = -1;
    size_t depth = 0, num_bytes = 0;
    for (uint32_t i = 0; i < nodes.size() && nodes[i].depth > depth;) {
      if (depth == text.size() || nodes[i].byte != static_cast<uint8_t>(text[depth])) {
        i = nodes[i].next;
        continue;
      }
      depth = nodes[i].depth;
      if (nodes[i].token >= 0) longest = nodes[i].token, num_bytes = depth;
      ++i;
    }
    CHECK_GE(longest, 0);
    out.push_back(longest);
    text.remove_prefix(num_bytes);
  }
  return out;
}

void add_compile(const std::string& name, GrammarSpec spec) {
  benchmark::RegisterBenchmark(("compile/" + name).c_str(), [spec](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(compile_grammar(spec));
  })->Unit(benchmark::kMicrosecond);
}

void add_masks(const std::string& name, const std::shared_ptr<const Vocabulary>& vocabulary,
               Kind kind, std::string_view text, std::string_view prefix) {
  const auto grammar = compiled(kind, text);
  const auto state = state_after(grammar, prefix);
  const auto bits = std::make_shared<std::vector<uint64_t>>(vocabulary->num_words());
  benchmark::RegisterBenchmark(("mask_cold/" + name).c_str(), [=](benchmark::State& run) {
    size_t allowed = 0;
    for (auto _ : run) allowed = *TokenMasker(grammar, vocabulary).mask(state, *bits);
    run.counters["allowed"] = static_cast<double>(allowed);
  })->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark(("mask_warm/" + name).c_str(), [=](benchmark::State& run) {
    TokenMasker masker(grammar, vocabulary);
    for (auto _ : run) benchmark::DoNotOptimize(masker.mask(state, *bits));
  })->Unit(benchmark::kMicrosecond);
}

/// Mask, then advance, for each token of a document; time is for all tokens.
void add_document(const std::string& name, const std::shared_ptr<const Vocabulary>& vocabulary,
                  Kind kind, std::string_view text, std::string_view document) {
  const auto grammar = compiled(kind, text);
  const auto tokens = tokens_of(*vocabulary, document);
  const auto bits = std::make_shared<std::vector<uint64_t>>(vocabulary->num_words());
  const auto follow = [=](TokenMasker& masker) {
    GrammarState state(grammar);
    for (const TokenId token : tokens) {
      CHECK(masker.mask(state, *bits).ok());
      CHECK((*bits)[token / 64] >> token % 64 & 1);
      CHECK(state.advance(*vocabulary, token).ok());
    }
    CHECK(state.complete());
  };
  const auto add = [&](const std::string& kind_of_run, auto body) {
    benchmark::RegisterBenchmark((kind_of_run + name).c_str(), [=](benchmark::State& run) {
      body(run);
      run.counters["tokens"] = static_cast<double>(tokens.size());
      run.counters["s/token"] = benchmark::Counter(
          static_cast<double>(tokens.size()),
          benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
    })->Unit(benchmark::kMicrosecond);
  };
  add("document_cold/", [=](benchmark::State& run) {
    for (auto _ : run) {
      TokenMasker masker(grammar, vocabulary);
      follow(masker);
    }
  });
  // CPU time of single tokens, mask and advance, as a request with a new grammar has them.
  add("tokens_cold/", [=](benchmark::State& run) {
    const auto cpu_us = [] {
      timespec now{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
      return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
    };
    std::vector<double> times_us;
    for (auto _ : run) {
      TokenMasker masker(grammar, vocabulary);
      GrammarState state(grammar);
      for (const TokenId token : tokens) {
        const double begin = cpu_us();
        CHECK(masker.mask(state, *bits).ok());
        CHECK(state.advance(*vocabulary, token).ok());
        times_us.push_back(cpu_us() - begin);
      }
    }
    std::sort(times_us.begin(), times_us.end());
    run.counters["p50_us"] = times_us[times_us.size() / 2];
    run.counters["p99_us"] = times_us[times_us.size() * 99 / 100];
    run.counters["max_us"] = times_us.back();
  });
  add("document_warm/", [=](benchmark::State& run) {
    TokenMasker masker(grammar, vocabulary);
    for (auto _ : run) follow(masker);
  });
  add("advance/", [=](benchmark::State& run) {
    for (auto _ : run) {
      GrammarState state(grammar);
      for (const TokenId token : tokens) CHECK(state.advance(*vocabulary, token).ok());
    }
  });
}

/// Rules that call each other in many ways at once: the slowest to follow that we know.
std::string ambiguous_ebnf(size_t num_rules, bool repeats) {
  std::string any, rules;
  for (size_t i = 0; i < num_rules; ++i) {
    const std::string j = std::to_string((i + 1) % num_rules);
    const std::string k = std::to_string((7 * i + 3) % num_rules);
    any += (i == 0 ? "r" : " | r") + std::to_string(i);
    rules += "r" + std::to_string(i) + " ::= [a-z] | [a-z] r" + j + " r" + k + "?\n";
  }
  return "root ::= ((" + any + ")" + (repeats ? "+" : "") + " \" \")*\n" + rules;
}

/// Until its work is refused; its words are as long as the bound of a byte lets them be.
std::string slowest_answer(const std::shared_ptr<const Grammar>& grammar) {
  std::string answer;
  GrammarState state(grammar);
  GrammarMachine machine(*grammar);
  for (std::string_view next = "a"; next != "" && answer.size() < 20'000;) {
    if (state.advance(next, machine).ok()) {
      answer += next;
      next = "a";
    } else {
      next = next == "a" ? " " : "";
    }
  }
  return answer;
}

/// What coming back to a place in an answer takes at most.
void add_slowest_answer(size_t num_rules, bool repeats) {
  const std::string name = std::to_string(num_rules) + (repeats ? "+" : "");
  benchmark::RegisterBenchmark(("slowest_answer/" + name).c_str(), [=](benchmark::State& run) {
    const auto grammar = compiled(Kind::kEbnf, ambiguous_ebnf(num_rules, repeats));
    const std::string answer = slowest_answer(grammar);
    for (auto _ : run) {
      GrammarState state(grammar);
      GrammarMachine machine(*grammar);
      for (const char& byte : answer) CHECK(state.advance({&byte, 1}, machine).ok());
    }
    run.counters["bytes"] = static_cast<double>(answer.size());
  })->Unit(benchmark::kMillisecond);
}

std::shared_ptr<const Vocabulary> made_up(size_t vocab_size) {
  const std::vector<std::string> tokens = made_up_tokens(vocab_size);
  const std::vector<std::string_view> views(tokens.begin(), tokens.end());
  const TokenId end = static_cast<TokenId>(views.size() - 1);
  return Vocabulary::create(views, std::span(&end, 1)).value();
}

std::optional<std::shared_ptr<const Vocabulary>> load(const std::string& directory) {
  auto loaded = Tokenizer::load(directory);
  if (!loaded.ok() || !loaded->eos()) {
    std::fprintf(stderr, "%s\n", loaded.ok() ? "no end token" : loaded.error().message.c_str());
    return std::nullopt;
  }
  const auto tokenizer = std::make_shared<const Tokenizer>(std::move(*loaded));
  const TokenId end = *tokenizer->eos();
  const size_t size = std::max(kVocabSize, tokenizer->vocab_size());
  benchmark::RegisterBenchmark("vocabulary", [tokenizer, end, size](benchmark::State& state) {
    for (auto _ : state) {
      benchmark::DoNotOptimize(Vocabulary::create(*tokenizer, std::span(&end, 1), size));
    }
  })->Unit(benchmark::kMillisecond);
  return Vocabulary::create(*tokenizer, std::span(&end, 1), size).value();
}

void add_masks_and_documents(const std::shared_ptr<const Vocabulary>& vocabulary) {
  const std::string prefix = std::to_string(vocabulary->size()) + "/";
  add_masks(prefix + "json_object/start", vocabulary, Kind::kJsonObject, "", "");
  add_masks(prefix + "json_object/value", vocabulary, Kind::kJsonObject, "", "{\"a\":");
  add_masks(prefix + "json_object/string", vocabulary, Kind::kJsonObject, "",
            "{\"a\":[{\"b\":\"text");
  add_masks(prefix + "schema/key", vocabulary, Kind::kJsonSchema, kPersonSchema, "{\"");
  add_masks(prefix + "schema/string", vocabulary, Kind::kJsonSchema, kPersonSchema,
            "{\"name\": \"A");
  add_masks(prefix + "schema/short_string", vocabulary, Kind::kJsonSchema, kPersonSchema,
            "{\"name\": \"A\", \"age\": 1, \"tags\": [\"ab");
  add_masks(prefix + "schema_200_properties/key", vocabulary, Kind::kJsonSchema, large_schema(),
            "{\"");
  add_masks(prefix + "regex/any_300_words", vocabulary, Kind::kRegex, "(\\w+[ ,.]+){1,300}",
            "some wor");
  add_document(prefix + "json_object", vocabulary, Kind::kJsonObject, "", kPerson);
  add_document(prefix + "schema", vocabulary, Kind::kJsonSchema, kPersonSchema, kPerson);
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string directory;
  if (argc == 2 && std::strncmp(argv[1], "--tokenizer=", 12) == 0) {
    directory = argv[1] + 12;
  } else if (argc > 1) {
    std::fprintf(stderr, "unknown argument %s\n", argv[1]);
    return 2;
  }
  std::vector<std::shared_ptr<const Vocabulary>> vocabularies;
  if (directory.empty()) {
    vocabularies = {made_up(20'000), made_up(kVocabSize)};
  } else if (const auto loaded = load(directory)) {
    vocabularies = {*loaded};
  } else {
    return 1;
  }
  std::vector<std::string> choices;
  for (int i = 0; i < 1000; ++i) choices.push_back("choice number " + std::to_string(i));
  for (const size_t num_rules : {5, 8, 13, 20, 50}) {
    add_slowest_answer(num_rules, false);
    add_slowest_answer(num_rules, true);
  }
  add_compile("json_object", {.kind = Kind::kJsonObject});
  add_compile("schema", {.kind = Kind::kJsonSchema, .text = std::string(kPersonSchema)});
  add_compile("schema_200_properties", {.kind = Kind::kJsonSchema, .text = large_schema()});
  add_compile("choice_1000", {.kind = Kind::kChoice, .choices = choices});
  add_compile("regex_email", {.kind = Kind::kRegex, .text = R"([\w.+-]{1,64}@(\w+\.)+\w{2,10})"});
  add_compile("regex_large", {.kind = Kind::kRegex, .text = "[a-z]{1,10000}"});
  add_compile("refused_regex", {.kind = Kind::kRegex, .text = "(a|b)*a(a|b){40}"});
  add_compile("refused_schema", {.kind = Kind::kJsonSchema, .text = std::string(262144, '[')});

  for (const auto& vocabulary : vocabularies) add_masks_and_documents(vocabulary);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace troupe::model

int main(int argc, char** argv) { return troupe::model::run(argc, argv); }
