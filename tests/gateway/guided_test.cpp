// Structured output through real sockets: a fake cluster whose model likes any token as well as any
// other, and whose answers follow the grammars that come with the requests.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <ctime>
#include <set>

#include "base/random.hpp"
#include "gateway/http_client.hpp"
#include "gateway/server.hpp"
#include "model/guide.hpp"
#include "tests/gateway/fake_client.hpp"
#include "tests/gateway/test_model.hpp"

namespace troupe::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kSchema =
    R"({"type":"object","properties":{"name":{"type":"string","pattern":"^[a-z]{2,5}$"},)"
    R"("age":{"type":"integer","minimum":0,"maximum":150},"mood":{"enum":["good","bad"]}},)"
    R"("required":["name","age","mood"]})";
constexpr const char* kStrictTool =
    R"("tools":[{"function":{"name":"time","strict":true,"parameters":{"type":"object",)"
    R"("properties":{"zone":{"type":"integer","minimum":-12,"maximum":12}},"required":["zone"]}}}])";
constexpr const char* kTools =
    R"("tools":[{"function":{"name":"weather","parameters":{"type":"object","properties":)"
    R"({"city":{"enum":["Bern","Rom"]}},"required":["city"]}}},)"
    R"({"function":{"name":"time","strict":true,"parameters":{"type":"object","properties":)"
    R"({"zone":{"type":"integer","minimum":-12,"maximum":12}},"required":["zone"]}}}])";

class GuidedTest : public ::testing::Test {
 protected:
  void start(std::optional<model::ChatFormatKind> kind = std::nullopt) {
    kind ? model_.emplace(*kind) : model_.emplace();
    const auto& tokenizer = model_->tokenizer;
    vocabulary_ = *model::Vocabulary::create(tokenizer, model_->gateway.eos_token_ids,
                                             tokenizer.vocab_size());
    client_.emplace([this](const scheduler::RequestSpec& spec) { return answer(spec); });
    auto server = gateway::start({.port = 0, .version = "test"}, *client_, model_->gateway);
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
  }

  /// Tokens drawn from the seed, within the grammar. Where that begins later, it does so behind the
  /// third token; what is open is closed behind the fortieth, so that any JSON ends.
  FakeAnswer answer(const scheduler::RequestSpec& spec) const {
    FakeAnswer out;
    out.failure = failure_;
    if (failure_) return out;
    model::Guides guides(vocabulary_);
    model::GuideState state;
    const auto& params = spec.sampling;
    while (out.tokens.size() < spec.max_tokens) {
      std::vector<float> logits(vocabulary_->size());
      for (size_t i = 0; i < logits.size(); ++i) {
        logits[i] =
            static_cast<float>(random_uniform(params.seed, out.tokens.size() * logits.size() + i));
      }
      if (out.tokens.size() >= 40) {
        for (const char* closer : {"\"", "]", "}"}) logits[*model_->tokenizer.id_of(closer)] = 50;
        logits[vocabulary_->end_tokens()[0]] = 100;
      }
      std::span<const uint64_t> mask;
      if (params.grammar) {
        const auto made = guides.mask(*params.grammar, out.tokens, state);
        if (!made.ok()) {
          out.failure = made.error();
          return out;
        }
        mask = *made;
        if (params.grammar->begins_after >= 0 && out.tokens.size() == 3) {
          logits[params.grammar->begins_after] = 100;
        }
      }
      const model::TokenHistory history(
          params,
          {.prompt = spec.prompt, .emitted = out.tokens, .stop_token_ids = spec.stop_token_ids});
      const auto sampled =
          model::sample(logits, params, spec.prompt.size() + out.tokens.size(), history, mask);
      if (sampled.token < 0) {
        out.failure = model::no_token_error(sampled.token);
        return out;
      }
      out.tokens.push_back(sampled.token);
      if (std::ranges::count(spec.stop_token_ids, sampled.token) > 0) return out;
    }
    out.reason = scheduler::FinishReason::kLength;
    return out;
  }

  [[nodiscard]] std::string body(const std::string& fields) const {
    return R"({"seed":7,"messages":[{"role":"user","content":"hi"}],"max_tokens":)" +
           std::to_string(model_->gateway.max_context / 2) + "," + fields + "}";
  }
  HttpClient http() const {
    return HttpClient::create("http://127.0.0.1:" + std::to_string(server_->port())).value();
  }
  ClientResponse ask(const std::string& fields) { return http().post(kChat, body(fields)).value(); }
  /// The choices of an answer, which has to be one.
  json::array choices(const std::string& fields) {
    const ClientResponse response = ask(fields);
    EXPECT_EQ(response.status, 200) << response.body;
    if (response.status != 200) return {};
    return json::parse(response.body).at("choices").as_array();
  }
  std::string content(const std::string& fields) {
    const json::array all = choices(fields);
    if (all.empty()) return "";
    EXPECT_EQ(all[0].at("finish_reason").as_string(), "stop");
    return std::string(all[0].at("message").at("content").as_string());
  }
  /// name{arguments} of each call of the first choice.
  std::vector<std::string> calls(const std::string& fields) {
    std::vector<std::string> out;
    const json::array all = choices(fields);
    if (all.empty()) return out;
    EXPECT_EQ(all[0].at("finish_reason").as_string(), "tool_calls") << json::serialize(all);
    EXPECT_TRUE(all[0].at("message").at("content").is_null()) << json::serialize(all);
    const auto* listed = all[0].at("message").as_object().if_contains("tool_calls");
    if (listed == nullptr) return out;
    for (const auto& call : listed->as_array()) {
      const auto& function = call.at("function");
      out.push_back(std::string(function.at("name").as_string()) +
                    std::string(function.at("arguments").as_string()));
    }
    return out;
  }
  void expect_refused(const std::string& fields, std::string_view param, const char* message) {
    const std::clock_t begin = std::clock();
    const ClientResponse response = ask(fields);
    EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC,
              5.0);  // sanitizers included
    EXPECT_EQ(response.status, 400) << response.body;
    EXPECT_EQ(json::parse(response.body).at("error").at("param").as_string(), param);
    EXPECT_THAT(response.body, HasSubstr(message));
  }

  /// The error that ends such an answer, in a stream that has begun as its last event.
  json::value error_of(const std::string& fields) {
    const ClientResponse response = ask(fields);
    if (response.body.starts_with("{")) {
      EXPECT_EQ(response.status, 400);
      return json::parse(response.body).at("error");
    }
    const size_t at = response.body.rfind("data: {");
    const size_t end = response.body.find("\n\n", at);
    EXPECT_EQ(response.body.substr(end), "\n\ndata: [DONE]\n\n");
    return json::parse(response.body.substr(at + 6, end - at - 6)).at("error");
  }

  std::optional<Error> failure_;  ///< of every answer
  std::optional<TestModel> model_;
  std::shared_ptr<const model::Vocabulary> vocabulary_;
  std::optional<FakeClient> client_;
  std::unique_ptr<Server> server_;
};

void expect_follows_schema(std::string_view text) {
  const json::object person = json::parse(text).as_object();
  EXPECT_EQ(person.size(), 3U) << text;
  EXPECT_THAT(std::string(person.at("name").as_string()), MatchesRegex("[a-z]{2,5}"));
  EXPECT_LE(person.at("age").as_int64(), 150);
  EXPECT_THAT(std::string(person.at("mood").as_string()), MatchesRegex("good|bad"));
}

TEST_F(GuidedTest, EveryChoiceFollowsTheSchemaAndIsAnswerOfItsSeed) {
  start();
  const std::string format =
      R"("n":3,"response_format":{"type":"json_schema","json_schema":{"name":"p","schema":)" +
      std::string(kSchema) + "}}";
  const json::array all = choices(format);
  ASSERT_EQ(all.size(), 3U);
  std::set<std::string> texts;
  for (const auto& choice : all) {
    texts.emplace(choice.at("message").at("content").as_string());
    expect_follows_schema(*texts.rbegin());
    EXPECT_EQ(choice.at("finish_reason").as_string(), "stop");
  }
  EXPECT_GT(texts.size(), 1U);
  EXPECT_EQ(choices(format), all);
  const auto specs = client_->submitted();
  EXPECT_EQ(specs[0].sampling.grammar, specs[2].sampling.grammar) << "one text for all choices";
}

TEST_F(GuidedTest, WhatTurnsOutToBeTooAmbiguousIsAnErrorOfItsField) {
  start();
  const std::string grammar =
      R"(root ::= (([a-z]{1,500}){1,500} | ([a-y]{1,500} \" \"?){1,500}){1,500})";
  for (const std::string field : {"guided_grammar", "ebnf"}) {
    for (const char* stream : {"", R"("stream":true,)"}) {
      const auto error = error_of(stream + ("\"" + field) + "\":\"" + grammar + "\"");
      EXPECT_EQ(error.at("param").as_string(), field);
      EXPECT_EQ(error.at("code").as_string(), "invalid_value");
      EXPECT_THAT(std::string(error.at("message").as_string()), HasSubstr("too ambiguous"));
    }
  }
  const auto nested = error_of(R"("structured_outputs":{"grammar":")" + grammar + "\"}");
  EXPECT_EQ(nested.at("param").as_string(), "structured_outputs.grammar");
}

TEST_F(GuidedTest, OtherErrorsWithAGrammarNameNoField) {
  failure_ = Error{Code::kUnavailable, "gone"};
  start();
  const auto response = ask(R"("guided_choice":["a"])");
  EXPECT_EQ(response.status, 503);
  EXPECT_TRUE(json::parse(response.body).at("error").at("param").is_null());
}

TEST_F(GuidedTest, StreamsWhatItAnswersAtOnce) {
  start();
  const std::string format = R"("guided_json":)" + std::string(kSchema);
  std::string text;
  const auto response =
      http().post_stream(kChat, body(R"("stream":true,)" + format), [&](std::string_view data) {
        if (data == "[DONE]") return true;
        const json::value event = json::parse(data);
        const auto& delta = event.at("choices").as_array().at(0).at("delta").as_object();
        if (const auto* piece = delta.if_contains("content")) {
          text += std::string_view(piece->as_string());
        }
        return true;
      });
  EXPECT_EQ(response.value().status, 200);
  expect_follows_schema(text);
  EXPECT_EQ(text, content(format));
}

TEST_F(GuidedTest, FollowsEveryKindOfGrammar) {
  start();
  EXPECT_THAT(content(R"("structured_outputs":{"regex":"[a-c]{3}-[0-9]{2}"})"),
              MatchesRegex("[a-c]{3}-[0-9]{2}"));
  EXPECT_THAT(content(R"("structured_outputs":{"choice":["yes","no"]})"), MatchesRegex("yes|no"));
  EXPECT_THAT(content(R"("ebnf":"root ::= digit \"+\" digit\ndigit ::= [0-9]")"),
              MatchesRegex("[0-9]\\+[0-9]"));
  const auto completion =
      http().post("/v1/completions", R"({"prompt":"x","seed":1,"guided_choice":["left","right"]})");
  EXPECT_THAT(std::string(json::parse(completion.value().body)
                              .at("choices")
                              .as_array()
                              .at(0)
                              .at("text")
                              .as_string()),
              MatchesRegex("left|right"));
}

TEST_F(GuidedTest, AnObjectMayBeAskedForByEachOfItsNames) {
  start();
  std::set<std::vector<std::string>> answers;
  for (const std::string fields :
       {R"("response_format":{"type":"json_object"})", R"("guided_json":{"type":"object"})",
        R"("guided_json":"{\"type\":\"object\"}")", R"("json_schema":{"type":"object"})",
        R"("structured_outputs":{"json_object":true})"}) {
    std::vector<std::string> texts;
    for (const auto& choice : choices(R"("n":4,)" + fields)) {
      EXPECT_EQ(choice.at("finish_reason").as_string(), "stop");
      texts.emplace_back(choice.at("message").at("content").as_string());
      EXPECT_TRUE(json::parse(texts.back()).is_object()) << texts.back();
    }
    EXPECT_EQ(texts.size(), 4U);
    EXPECT_NE(std::ranges::min(texts), "{}") << "some have members";
    answers.insert(texts);
  }
  EXPECT_EQ(answers.size(), 1U) << "one grammar by all names, and the same seeds";
  expect_follows_schema(
      content(R"("response_format":{"type":"json_object","schema":)" + std::string(kSchema) + "}"));
}

TEST_F(GuidedTest, RefusesHostileGrammarsQuicklyAndByName) {
  start();
  expect_refused(R"("guided_regex":"(a|b)*a(a|b){30}")", "guided_regex", "more than 49152");
  expect_refused(R"("guided_regex":"((a{1,1000}){1,1000}){1,1000}")", "guided_regex",
                 "too complex");
  expect_refused(R"("regex":")" + std::string(3U << 20, 'a') + '"', "regex",
                 "longer than 262144 bytes");
  expect_refused(R"("regex":")" + std::string(100'000, '(') + '"', "regex", "at most 64");
  expect_refused(R"("guided_json":")" + std::string(200'000, '[') + '"', "guided_json",
                 "not valid JSON");
  expect_refused(R"("guided_json":{"$ref":"#"})", "guided_json", "left recursion");
  expect_refused(R"("guided_json":{"uniqueItems":true})", "guided_json", "uniqueItems");
  expect_refused(R"("ebnf":"root ::= root")", "ebnf", "left recursion");
  EXPECT_TRUE(client_->submitted().empty()) << "refused before admission";
}

TEST_F(GuidedTest, RequestsWhoseOwnRulesLeaveNoTokenEndWithAnError) {
  start();
  const auto response = ask(R"("guided_choice":["yes"],"allowed_token_ids":[5])");
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("leave no token"));
  EXPECT_EQ(json::parse(response.body).at("error").at("param").as_string(), "guided_choice");
  const auto too_long = ask(R"("guided_choice":["yes"],"min_tokens":50)");
  EXPECT_EQ(too_long.status, 400);
  EXPECT_THAT(too_long.body, HasSubstr("the grammar of structured output"));
}

TEST_F(GuidedTest, TheGrammarBeginsBehindTheReasoning) {
  start(model::ChatFormatKind::kDeepseekR1);
  const json::array all = choices(R"("guided_choice":["yes","no"])");
  ASSERT_FALSE(all.empty());
  EXPECT_THAT(std::string(all[0].at("message").at("content").as_string()), MatchesRegex("yes|no"));
  EXPECT_FALSE(all[0].at("message").at("reasoning").as_string().empty());
  start(model::ChatFormatKind::kDeepseekV31);
  EXPECT_THAT(content(R"("guided_choice":["yes","no"])"), MatchesRegex("yes|no"));
  EXPECT_EQ(client_->submitted().back().sampling.grammar->begins_after, -1);
  choices(R"("guided_choice":["yes","no"],"chat_template_kwargs":{"thinking":true})");
  EXPECT_EQ(client_->submitted().back().sampling.grammar->begins_after,
            model_->tokenizer.id_of("</think>"));
}

class GuidedCalls : public GuidedTest,
                    public ::testing::WithParamInterface<model::ChatFormatKind> {};

constexpr const char* kOneCall =
    R"re((weather\{"city": ?"(Bern|Rom)"\}|time\{"zone": ?(-?[0-9]|-?1[0-2])\}))re";

TEST_P(GuidedCalls, AreForcedWithArgumentsThatFollowTheSchemas) {
  start(GetParam());
  const std::string tools = kTools;
  for (int seed = 0; seed < 5; ++seed) {
    const auto some =
        calls(tools + R"(,"tool_choice":"required","temperature":1.)" + std::to_string(seed));
    EXPECT_GE(some.size(), 1U);
    for (const std::string& call : some) EXPECT_THAT(call, MatchesRegex(kOneCall));
  }
  EXPECT_EQ(calls(tools + R"(,"tool_choice":"required","parallel_tool_calls":false)").size(), 1U);
  const auto named =
      calls(tools + R"(,"tool_choice":{"type":"function","function":{"name":"time"}})");
  EXPECT_THAT(named, ElementsAre(MatchesRegex("time.*")));
}

TEST_P(GuidedCalls, FollowTheSchemasOfStrictToolsWhereTheModelCallsByItself) {
  start(GetParam());
  if (GetParam() == model::ChatFormatKind::kDeepseekR1) {
    return expect_refused(kStrictTool, "tools", "strict");
  }
  const json::array all = choices(kStrictTool);
  ASSERT_FALSE(all.empty());
  const auto& message = all[0].at("message").as_object();
  EXPECT_FALSE(message.at("content").as_string().empty()) << "the model wrote something before";
  for (const auto& call : message.at("tool_calls").as_array()) {
    const auto& function = call.at("function");
    EXPECT_LE(json::parse(function.at("arguments").as_string()).at("zone").as_int64(), 12);
  }
  ask(kTools);
  const auto spec = client_->submitted().back().sampling.grammar;
  EXPECT_TRUE(spec->may_end_before) << "the model need not call";
  EXPECT_THAT(spec->text, HasSubstr(R"(["weather","{}"])")) << "which is not strict";
}

TEST_P(GuidedCalls, AreRefusedWhereTheirSchemasCannotBeFollowed) {
  start(GetParam());
  expect_refused(R"("tool_choice":"required","tools":[{"function":{"name":"f","parameters":)"
                 R"({"type":"object","properties":{"a":{"not":{}}}}}}])",
                 "tools", "parameters of the tool \\\"f\\\"");
  expect_refused(R"("tool_choice":"required","tools":[{"function":{"name":"f","parameters":)"
                 R"({"type":"string"}}}])",
                 "tools", "object");
  expect_refused(std::string(kTools) + R"(,"guided_regex":"a")", "guided_regex", "`tools`");
  expect_refused(std::string(kTools) + R"(,"tool_choice":"required","ignore_eos":true)",
                 "ignore_eos", "behind them");
}

TEST_P(GuidedCalls, AnErrorWhileTheyAreFollowedNamesTheTools) {
  failure_ = Error{Code::kInvalidArgument, "too ambiguous"};
  start(GetParam());
  const auto forced = error_of(std::string(kTools) + R"(,"tool_choice":"required")");
  EXPECT_EQ(forced.at("param").as_string(), "tools");
  EXPECT_EQ(forced.at("code").as_string(), "invalid_value");
  const auto free = error_of(R"("tools":[{"function":{"name":"weather"}}])");
  EXPECT_TRUE(free.at("param").is_null()) << "nothing is followed";
}

INSTANTIATE_TEST_SUITE_P(Formats, GuidedCalls,
                         ::testing::Values(model::ChatFormatKind::kDeepseekV3,
                                           model::ChatFormatKind::kDeepseekR1,
                                           model::ChatFormatKind::kDeepseekV31),
                         [](const auto& info) {
                           return std::string(model::to_string(info.param));
                         });

}  // namespace
}  // namespace troupe::gateway
