#pragma once

// Requests to the demo model whose answers have to follow grammars, and whether they do.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <memory>
#include <regex>
#include <string>
#include <vector>

#include "base/check.hpp"
#include "model/grammar.hpp"
#include "model/tokenizer.hpp"
#include "tests/support/requests.hpp"

namespace troupe::actors {

inline const std::string kDemoModel = std::string(TROUPE_SOURCE_DIR) + "/models/demo";

inline const model::Tokenizer& demo_tokenizer() {
  static const model::Tokenizer kTokenizer = model::Tokenizer::load(kDemoModel).value();
  return kTokenizer;
}

struct GuidedRequest {
  scheduler::RequestSpec spec;
  std::function<bool(const std::string& text)> follows;
};

/// A person as kPersonSchema says.
inline bool is_person(const std::string& text) {
  boost::json::error_code ec;
  const auto value = boost::json::parse(text, ec);
  if (ec || !value.is_object()) return false;
  const auto* name = value.get_object().if_contains("name");
  const auto* ages = value.get_object().if_contains("ages");
  return name && name->is_string() && name->get_string().size() <= 4 * 12 && ages &&
         ages->is_array() && ages->get_array().size() == 3 && ages->get_array()[2].is_int64();
}

inline bool is_object(const std::string& text) {
  boost::json::error_code ec;
  const auto value = boost::json::parse(text, ec);
  return !ec && value.is_object();
}

inline constexpr const char* kPersonSchema =
    R"({"type":"object","properties":{"name":{"type":"string","maxLength":12},"ages":)"
    R"({"type":"array","items":{"type":"integer","minimum":0,"maximum":150},"minItems":3,)"
    R"("maxItems":3},"mood":{"enum":["good","bad",null]}},"required":["name","ages"]})";

/// Greedy and sampled, with and without log-probabilities, of every kind of grammar.
inline std::vector<GuidedRequest> guided_requests(size_t count) {
  using Kind = model::GrammarSpec::Kind;
  const auto matches = [](const char* pattern) {
    return [regex = std::regex(pattern)](const std::string& text) {
      return std::regex_match(text, regex);
    };
  };
  const std::vector<std::pair<model::GrammarSpec, std::function<bool(const std::string&)>>> kinds =
      {{{.kind = Kind::kJsonSchema, .text = kPersonSchema}, is_person},
       {{.kind = Kind::kRegex, .text = "[0-9]{1,3} [a-z]{4,9}(, [a-z]{2,5}){2}"},
        matches("[0-9]{1,3} [a-z]{4,9}(, [a-z]{2,5}){2}")},
       {{.kind = Kind::kChoice, .choices = {"yes", "no", "perhaps tomorrow"}},
        matches("yes|no|perhaps tomorrow")},
       {{.kind = Kind::kEbnf, .text = "root ::= term (\" + \" term){3,6}\nterm ::= [1-9][0-9]?"},
        matches("[1-9][0-9]?( \\+ [1-9][0-9]?){3,6}")},
       {{.kind = Kind::kJsonObject}, is_object}};
  std::vector<GuidedRequest> out;
  for (size_t i = 0; i < count; ++i) {
    const auto& [grammar, follows] = kinds[i % kinds.size()];
    scheduler::RequestSpec spec{.max_tokens = 150, .stop_token_ids = {1}, .timeout = seconds(60)};
    spec.prompt =
        demo_tokenizer()
            .encode("What is " + std::to_string(i) + " + 30? " + std::string(i % 3 * 60, 'a'),
                    {.add_special_tokens = true})
            .value();
    spec.sampling.temperature = i % 5 == 0 ? 0.0F : 0.8F;
    spec.sampling.seed = 100 + i;
    spec.sampling.want_logprobs = i % 2 == 0;
    spec.sampling.num_top_logprobs = i % 4 == 0 ? 2 : 0;
    if (i % 3 == 1) spec.sampling.frequency_penalty = 0.2F;
    spec.sampling.grammar = std::make_shared<const model::GrammarSpec>(grammar);
    out.push_back({std::move(spec), follows});
  }
  return out;
}

inline std::vector<scheduler::RequestSpec> specs_of(const std::vector<GuidedRequest>& requests) {
  std::vector<scheduler::RequestSpec> out;
  for (const GuidedRequest& request : requests) out.push_back(request.spec);
  return out;
}

/// The answer is whole and follows its grammar.
inline void expect_follows(const Stream& stream, const GuidedRequest& request) {
  ASSERT_EQ(stream.error ? stream.error->message : "", "");
  ASSERT_EQ(stream.finished, scheduler::FinishReason::kStop);
  std::vector<TokenId> ids = stream.ids();
  ASSERT_EQ(ids.back(), 1);
  ids.pop_back();
  const std::string text = demo_tokenizer().decode(ids);
  EXPECT_TRUE(request.follows(text)) << text;
}

}  // namespace troupe::actors
