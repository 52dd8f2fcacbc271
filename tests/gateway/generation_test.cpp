#include "gateway/generation.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <map>

#include "tests/gateway/test_model.hpp"

namespace troupe::gateway {
namespace {

using namespace scheduler;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace json = boost::json;

size_t num_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

/// A cluster whose events are given by hand.
class HandClient final : public actors::ClusterClient {
 public:
  RequestId submit(RequestSpec spec, EventHandler on_event) override {
    specs.push_back(std::move(spec));
    handlers.push_back(std::move(on_event));
    return RequestId{specs.size()};
  }
  void cancel(RequestId request) override { cancelled.push_back(request.value); }
  void drain(const std::string&, bool) override {}
  void experts(bool, std::function<void(Result<actors::ExpertsStatus>)>) override {}
  [[nodiscard]] bool serving() const override { return true; }
  void status(bool, std::function<void(actors::ClusterStatus)>) override {}

  std::vector<RequestSpec> specs;
  std::vector<EventHandler> handlers;
  std::vector<uint64_t> cancelled;
};

class GenerationTest : public ::testing::Test {
 protected:
  /// Starts the request; each choice is request 1, 2, ... of the cluster. Prompts may spell special
  /// tokens.
  void start(GenerationRequest request, ResponseKind kind = ResponseKind::kChat,
             std::vector<std::string> prompts = {"hi"}, bool echo = false, bool echo_only = false) {
    GenerationPlan plan{
        .kind = kind, .request = std::move(request), .echo = echo, .echo_only = echo_only};
    for (const auto& prompt : prompts)
      plan.prompts.push_back(model_.tokenizer.encode(prompt).value());
    plan.request_id = "r";
    plan.created = 1;
    plan.timeout = seconds(9);
    const auto error = complete_plan(plan, model_.gateway);
    ASSERT_FALSE(error.has_value()) << error->message;
    exchange_ = make_generation(std::move(plan), client_, model_.gateway, metrics_);
    exchange_->start([] {});
  }

  std::vector<TokenId> encode(const std::string& text) {
    return model_.tokenizer.encode_plain(text).value();
  }
  void admit(uint32_t choice) { client_.handlers[choice](Admitted{}); }
  void admit_all() {
    for (uint32_t i = 0; i < client_.handlers.size(); ++i) admit(i);
  }
  void emit(uint32_t choice, const std::string& text) { emit_tokens(choice, encode(text)); }
  void emit_tokens(uint32_t choice, const std::vector<TokenId>& tokens) {
    for (const TokenId token : tokens) {
      TokensEmitted event{RequestId{choice + 1}, num_sent_[choice]++, {}};
      event.tokens.push_back({.token = token, .logprob = -0.5F, .top_logprobs = {}});
      client_.handlers[choice](std::move(event));
    }
  }
  void finish(uint32_t choice, FinishReason reason = FinishReason::kStop) {
    client_.handlers[choice](Finished{RequestId{choice + 1}, reason});
  }
  Exchange::Progress poll() { return exchange_->poll(Instant{}); }

  /// The events of a stream: their JSON, and "[DONE]" as a string.
  static std::vector<json::value> events_of(std::string text) {
    std::vector<json::value> events;
    while (!text.empty()) {
      const size_t end = text.find("\n\n");
      EXPECT_TRUE(text.starts_with("data: ")) << text;
      EXPECT_NE(end, std::string::npos);
      const std::string data = text.substr(6, end - 6);
      EXPECT_EQ(data.find('\n'), std::string::npos);
      events.push_back(data == "[DONE]" ? json::value("[DONE]") : json::parse(data));
      text.erase(0, end + 2);
    }
    return events;
  }
  static const json::value& choice_of(const json::value& event) {
    return event.at("choices").as_array().at(0);
  }

  TestModel model_;
  HandClient client_;
  Metrics metrics_{"m", "v"};
  std::unique_ptr<Exchange> exchange_;
  std::map<uint32_t, uint32_t> num_sent_;
};

TEST_F(GenerationTest, AnswersAWholeChat) {
  start({});
  EXPECT_FALSE(poll().done);
  admit_all();
  emit(0, "good day");
  EXPECT_FALSE(poll().response.has_value());
  emit_tokens(0, model_.gateway.eos_token_ids);
  finish(0);
  const auto progress = poll();
  ASSERT_TRUE(progress.response.has_value());
  EXPECT_TRUE(progress.done);
  const auto body = json::parse(progress.response->body);
  EXPECT_EQ(body.at("id").as_string(), "chatcmpl-r");
  EXPECT_EQ(choice_of(body).at("message").at("content").as_string(), "good day");
  EXPECT_EQ(choice_of(body).at("finish_reason").as_string(), "stop");
  EXPECT_EQ(body.at("usage").at("completion_tokens").as_int64(),
            static_cast<int64_t>(encode("good day").size() + 1));
  EXPECT_TRUE(client_.cancelled.empty());
}

TEST_F(GenerationTest, StreamsRoleOnceThenTextThenFinishThenDone) {
  start({.stream = true});
  admit_all();
  EXPECT_EQ(poll().events, "") << "nothing before the first token";
  emit_tokens(0, {encode("word").front()});
  auto events = events_of(poll().events);
  ASSERT_GE(events.size(), 1U);
  EXPECT_EQ(choice_of(events[0]).at("delta").at("role").as_string(), "assistant");
  EXPECT_EQ(choice_of(events[0]).at("delta").at("content").as_string(), "");
  emit(0, " and more");
  events = events_of(poll().events);
  ASSERT_GE(events.size(), 1U);
  for (const auto& event : events) {
    EXPECT_FALSE(choice_of(event).at("delta").as_object().contains("role"));
    EXPECT_FALSE(event.as_object().contains("usage"));
  }
  finish(0, FinishReason::kLength);
  const auto progress = poll();
  events = events_of(progress.events);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(choice_of(events[0]).at("finish_reason").as_string(), "length");
  EXPECT_TRUE(choice_of(events[0]).at("delta").as_object().empty());
  EXPECT_EQ(events[1], "[DONE]");
  EXPECT_TRUE(progress.done);
}

TEST_F(GenerationTest, SendsUsageOnlyWhenAskedInAChunkWithoutChoices) {
  start({.stream = true, .include_usage = true});
  admit_all();
  emit(0, "x");
  finish(0);
  const auto events = events_of(poll().events);
  ASSERT_EQ(events.size(), 5U);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(events[i].at("usage").is_null());
  EXPECT_TRUE(events[3].at("choices").as_array().empty());
  EXPECT_EQ(events[3].at("usage").at("completion_tokens").as_int64(), 1);
  EXPECT_EQ(events[4], "[DONE]");
}

TEST_F(GenerationTest, SendsRunningUsageWhenAsked) {
  start({.stream = true, .continuous_usage = true});
  admit_all();
  emit(0, "x");
  finish(0);
  const auto events = events_of(poll().events);
  ASSERT_EQ(events.size(), 4U) << "no chunk without choices: include_usage was not asked for";
  EXPECT_EQ(events[2].at("usage").at("completion_tokens").as_int64(), 1);
}

TEST_F(GenerationTest, NeverSplitsACharacter) {
  start({.stream = true});
  admit_all();
  const auto bytes = [&](const char* byte) { return model_.tokenizer.id_of(byte).value(); };
  emit_tokens(0, {bytes("\xF0"), bytes("\x9F")});
  auto events = events_of(poll().events);
  ASSERT_EQ(events.size(), 1U) << "the role, but no half character";
  emit_tokens(0, {bytes("\x98"), bytes("\x80")});
  events = events_of(poll().events);
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(choice_of(events[0]).at("delta").at("content").as_string(), "😀");
}

TEST_F(GenerationTest, CutsAtAStopStringAndCancelsTheRequest) {
  start({.stop = {"END"}, .stream = true});
  admit_all();
  emit(0, "beforeE");
  std::string sent = poll().events;
  emit(0, "NDafter");
  const auto progress = poll();
  sent += progress.events;
  EXPECT_TRUE(progress.done);
  EXPECT_THAT(client_.cancelled, ElementsAre(1));
  std::string text;
  for (const auto& event : events_of(sent)) {
    if (event.is_string()) continue;
    const auto& delta = choice_of(event).at("delta").as_object();
    if (delta.contains("content")) text += std::string_view(delta.at("content").as_string());
    if (!choice_of(event).at("finish_reason").is_null()) {
      EXPECT_EQ(choice_of(event).at("finish_reason").as_string(), "stop");
      EXPECT_EQ(choice_of(event).at("stop_reason").as_string(), "END");
    }
  }
  EXPECT_EQ(text, "before");
}

TEST_F(GenerationTest, GivesTheLogprobsOfExactlyTheTokensInTheText) {
  GenerationRequest request{.stop = {"END"}};
  request.sampling.want_logprobs = true;
  start(request);
  admit_all();
  for (const char* letter : {"a", "b", "E", "N", "D"}) emit(0, letter);
  const auto body = json::parse(poll().response->body);
  const auto& content = choice_of(body).at("logprobs").at("content").as_array();
  ASSERT_EQ(content.size(), 2U);
  EXPECT_EQ(content[1].at("token").as_string(), "b");
  EXPECT_EQ(choice_of(body).at("message").at("content").as_string(), "ab");
}

TEST_F(GenerationTest, StreamsEachLogprobOnceAndNoneForTheEndToken) {
  GenerationRequest request{.stream = true};
  request.sampling.want_logprobs = true;
  start(request, ResponseKind::kText);
  admit_all();
  std::string sent;
  for (const char* letter : {"a", "b", "\xE4", "\xB8", "\x83"}) {
    emit_tokens(0, {model_.tokenizer.id_of(letter).value()});
    sent += poll().events;
  }
  emit_tokens(0, model_.gateway.eos_token_ids);
  finish(0);
  sent += poll().events;
  std::vector<int64_t> offsets;
  for (const auto& event : events_of(sent)) {
    if (event.is_string() || choice_of(event).at("logprobs").is_null()) continue;
    for (const auto& offset : choice_of(event).at("logprobs").at("text_offset").as_array()) {
      offsets.push_back(offset.to_number<int64_t>());
    }
  }
  EXPECT_THAT(offsets, ElementsAre(0, 1, 2, 3, 3));
}

TEST_F(GenerationTest, InterleavesChoicesAndGivesEachItsOwnSeed) {
  GenerationRequest request{.num_choices = 3, .stream = true};
  request.sampling.seed = 40;
  request.has_seed = true;
  start(request);
  ASSERT_EQ(client_.specs.size(), 3U);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(client_.specs[i].sampling.seed, 40 + i);
  admit(0);
  admit(1);
  emit(1, "x");
  EXPECT_EQ(poll().events, "") << "choice 2 may still be refused";
  admit(2);
  emit(0, "y");
  emit(2, "z");
  std::string sent = poll().events;
  for (uint32_t i : {2U, 0U, 1U}) finish(i);
  sent += poll().events;
  std::map<int64_t, int> roles;
  std::map<int64_t, int> ends;
  for (const auto& event : events_of(sent)) {
    if (event.is_string()) continue;
    const auto& choice = choice_of(event);
    const int64_t index = choice.at("index").as_int64();
    if (choice.at("delta").as_object().contains("role")) ++roles[index];
    if (!choice.at("finish_reason").is_null()) ++ends[index];
  }
  const std::map<int64_t, int> once = {{0, 1}, {1, 1}, {2, 1}};
  EXPECT_EQ(roles, once);
  EXPECT_EQ(ends, once);
}

TEST_F(GenerationTest, AnswersSeveralPromptsInOrder) {
  GenerationRequest request{.max_tokens = 5, .num_choices = 2};
  request.sampling.seed = 7;
  request.has_seed = true;
  start(request, ResponseKind::kText, {"one", "two"});
  ASSERT_EQ(client_.specs.size(), 4U);
  EXPECT_EQ(client_.specs[2].prompt, encode("two"));
  EXPECT_EQ(client_.specs[2].sampling.seed, 7U);
  EXPECT_EQ(client_.specs[3].sampling.seed, 8U);
  admit_all();
  for (uint32_t i = 0; i < 4; ++i) {
    emit(i, std::string(1, static_cast<char>('a' + i)));
    finish(i);
  }
  const auto body = json::parse(poll().response->body);
  const auto& choices = body.at("choices").as_array();
  ASSERT_EQ(choices.size(), 4U);
  EXPECT_EQ(choices[3].at("text").as_string(), "d");
  EXPECT_EQ(choices[3].at("index").as_int64(), 3);
}

TEST_F(GenerationTest, EchoesThePrompt) {
  start({}, ResponseKind::kText, {"say"}, /*echo=*/true);
  admit_all();
  emit(0, " it");
  finish(0);
  EXPECT_EQ(choice_of(json::parse(poll().response->body)).at("text").as_string(), "say it");
}

TEST_F(GenerationTest, EchoesThePromptWithItsLogprobs) {
  const std::string spelt =
      std::string(model_.tokenizer.token_bytes(model_.tokenizer.bos().value())) + "say good day";
  const std::vector<TokenId> prompt = model_.tokenizer.encode(spelt).value();
  ASSERT_GE(prompt.size(), 3U);
  ASSERT_TRUE(model_.tokenizer.is_special(prompt[0]));
  for (const bool echo_only : {false, true}) {
    for (const bool skip_special : {false, true}) {
      SCOPED_TRACE(testing::Message() << "echo_only " << echo_only << ", skip " << skip_special);
      client_.handlers.clear();
      num_sent_.clear();
      GenerationRequest request{.skip_special_tokens = skip_special};
      request.sampling.want_logprobs = true;
      request.sampling.num_top_logprobs = 1;
      request.sampling.num_prompt_logprobs = 2;  // more than `logprobs` wants
      start(request, ResponseKind::kText, {spelt}, /*echo=*/true, echo_only);
      admit_all();
      TokensEmitted event{RequestId{1}, num_sent_[0]++, {}};
      event.tokens.push_back({.token = encode(" it").at(0), .logprob = -0.5F, .top_logprobs = {}});
      for (size_t i = 1; i < prompt.size(); ++i) {
        event.prompt_logprobs.push_back({.token = prompt[i],
                                         .logprob = -static_cast<float>(i),
                                         .top_logprobs = {{prompt[i], -1}, {prompt[0], -2}}});
      }
      client_.handlers[0](std::move(event));
      finish(0);
      const auto body = json::parse(poll().response->body);
      const auto& logprobs = choice_of(body).at("logprobs");
      const auto& values = logprobs.at("token_logprobs").as_array();
      ASSERT_EQ(values.size(), prompt.size() + (echo_only ? 0 : 1));
      EXPECT_TRUE(values[0].is_null());
      EXPECT_TRUE(logprobs.at("top_logprobs").as_array()[0].is_null());
      std::string text;
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(logprobs.at("text_offset").as_array()[i].to_number<size_t>(),
                  num_characters(text));
        const bool is_shown = i > 0 || !skip_special;
        if (is_shown) text += std::string_view(logprobs.at("tokens").as_array()[i].as_string());
        if (i == 0) continue;
        EXPECT_EQ(values[i].to_number<float>(), i < prompt.size() ? -static_cast<float>(i) : -0.5F);
        EXPECT_EQ(logprobs.at("top_logprobs").as_array()[i].as_object().size(), 1U);
      }
      EXPECT_EQ(choice_of(body).at("text").as_string(), text);
      EXPECT_EQ(choice_of(body).at("finish_reason").as_string(), echo_only ? "length" : "stop");
      EXPECT_EQ(body.at("usage").at("completion_tokens").as_int64(), echo_only ? 0 : 1);
    }
  }
}

TEST_F(GenerationTest, CountsNoTokenWhereThePromptAloneIsShown) {
  for (const bool echo_only : {true, false}) {
    client_.handlers.clear();
    num_sent_.clear();
    start({}, ResponseKind::kText, {"say"}, /*echo=*/true, echo_only);
    admit_all();
    emit_tokens(0, {encode(" it").at(0)});
    finish(0);
    ASSERT_TRUE(poll().done);
    const std::string count =
        std::string("{engine=\"0\",model_name=\"m\"} ") + (echo_only ? "0\n" : "1\n");
    const std::string text = metrics_.render({});
    EXPECT_THAT(text, HasSubstr("vllm:generation_tokens_total" + count));
    EXPECT_THAT(text, HasSubstr("vllm:time_to_first_token_seconds_count" + count));
  }
}

TEST_F(GenerationTest, GivesThePromptsLogprobsInVllmsShape) {
  for (const ResponseKind kind : {ResponseKind::kChat, ResponseKind::kText}) {
    client_.handlers.clear();
    num_sent_.clear();
    GenerationRequest request;
    request.num_prompt_logprobs = request.sampling.num_prompt_logprobs = 2;
    start(request, kind);
    admit_all();
    TokensEmitted event{RequestId{1}, num_sent_[0]++, {{.token = encode("x").at(0)}}};
    event.prompt_logprobs = {{.token = 5, .logprob = -3, .top_logprobs = {{7, -0.25F}, {9, -1}}},
                             {.token = 9, .logprob = -1, .top_logprobs = {{7, -0.25F}, {9, -1}}}};
    client_.handlers[0](std::move(event));
    finish(0);
    const auto body = json::parse(poll().response->body);
    const auto& list =
        (kind == ResponseKind::kChat ? body : choice_of(body)).at("prompt_logprobs").as_array();
    ASSERT_EQ(list.size(), 3U);
    EXPECT_TRUE(list[0].is_null());
    EXPECT_EQ(list[1].as_object().size(), 3U);
    EXPECT_EQ(list[1].at("5").at("logprob").to_number<float>(), -3);
    EXPECT_TRUE(list[1].at("5").at("rank").is_null());
    EXPECT_EQ(list[1].at("7").at("rank").as_int64(), 1);
    EXPECT_EQ(list[1].at("9").at("decoded_token").as_string(), token_text(model_.tokenizer, 9));
    EXPECT_EQ(list[2].as_object().size(), 2U);
    EXPECT_EQ(list[2].at("9").at("rank").as_int64(), 2);
  }
}

TEST_F(GenerationTest, StreamsThePromptsLogprobsOnceInTheFirstChunk) {
  for (const ResponseKind kind : {ResponseKind::kChat, ResponseKind::kText}) {
    client_.handlers.clear();
    num_sent_.clear();
    GenerationRequest request{.num_choices = 2, .stream = true};
    request.num_prompt_logprobs = request.sampling.num_prompt_logprobs = 1;
    start(request, kind);
    admit_all();
    std::string text;
    for (const uint32_t choice : {1U, 0U}) {
      TokensEmitted event{RequestId{choice + 1}, num_sent_[choice]++, {{.token = encode("x")[0]}}};
      if (choice == 0 || kind == ResponseKind::kText) {
        event.prompt_logprobs = {{.token = 7, .logprob = -1, .top_logprobs = {{7, -1}}}};
      }
      client_.handlers[choice](std::move(event));
      emit(choice, "yz");
      text += poll().events;
      finish(choice);
    }
    text += poll().events;
    std::map<int64_t, size_t> num_chunks;
    std::map<int64_t, std::string> found;  // by choice: in which of its chunks
    for (const json::value& event : events_of(text)) {
      if (event.is_string()) continue;
      const int64_t choice = choice_of(event).at("index").as_int64();
      const auto& holder = (kind == ResponseKind::kChat ? event : choice_of(event)).as_object();
      if (const auto* list = holder.if_contains("prompt_logprobs")) {
        found[choice] += std::to_string(num_chunks[choice]);
        ASSERT_EQ(list->as_array().size(), 2U);
        EXPECT_TRUE(list->as_array()[0].is_null());
        EXPECT_EQ(list->as_array()[1].at("7").at("rank").as_int64(), 1);
      }
      ++num_chunks[choice];
    }
    std::map<int64_t, std::string> expected{{0, "0"}};
    if (kind == ResponseKind::kText) expected[1] = "0";
    EXPECT_EQ(found, expected);
    EXPECT_GE(num_chunks[0], 2U);
  }
}

TEST_F(GenerationTest, StreamsAGuidedCallFromItsNameOn) {
  GenerationPlan plan{.kind = ResponseKind::kChat, .prompts = {encode("hi")}};
  plan.request.stream = true;
  plan.syntax = {.tools = model::ToolSyntax::kPlain, .guided_calls = true};
  plan.request_id = "r";
  plan.timeout = seconds(9);
  ASSERT_FALSE(complete_plan(plan, model_.gateway).has_value());
  exchange_ = make_generation(std::move(plan), client_, model_.gateway, metrics_);
  exchange_->start([] {});
  admit(0);
  const auto deltas = [&] {
    std::vector<std::string> list;
    for (const json::value& event : events_of(poll().events)) {
      const auto& delta = choice_of(event).at("delta").as_object();
      const auto* calls = delta.if_contains("tool_calls");
      list.push_back(json::serialize(calls == nullptr ? delta.at("content") : *calls));
    }
    return list;
  };
  emit(0, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{");
  EXPECT_THAT(deltas(), ElementsAre(R"("")",
                                    R"([{"index":0,"id":"call_r-0-0","type":"function",)"
                                    R"("function":{"name":"get","arguments":""}}])",
                                    R"([{"index":0,"function":{"arguments":"{"}}])"));
  emit(0, "12");
  EXPECT_THAT(deltas(), ElementsAre(R"([{"index":0,"function":{"arguments":"12"}}])"));
  emit(0, "}<｜tool▁call▁end｜>");
  EXPECT_THAT(deltas(), ElementsAre(R"([{"index":0,"function":{"arguments":"}"}}])"));
}

TEST_F(GenerationTest, ScoresThePromptOfAChatOnce) {
  for (const ResponseKind kind : {ResponseKind::kChat, ResponseKind::kText}) {
    client_.specs.clear();
    GenerationRequest request{.num_choices = 3};
    request.num_prompt_logprobs = request.sampling.num_prompt_logprobs = 2;
    start(request, kind);
    ASSERT_EQ(client_.specs.size(), 3U);
    for (size_t i = 0; i < 3; ++i) {
      const bool is_scored = i == 0 || kind == ResponseKind::kText;
      EXPECT_EQ(client_.specs[i].sampling.num_prompt_logprobs,
                is_scored ? std::optional<uint32_t>(2) : std::nullopt);
    }
  }
}

TEST_F(GenerationTest, RefusesMorePromptLogprobsThanItWouldHoldInMemory) {
  GenerationPlan plan{.kind = ResponseKind::kText, .prompts = {std::vector<TokenId>(100, 1)}};
  plan.request.num_choices = 16;
  plan.request.num_prompt_logprobs = plan.request.sampling.num_prompt_logprobs = 20;
  EXPECT_FALSE(complete_plan(plan, model_.gateway).has_value());
  plan.prompts.resize(8, plan.prompts[0]);
  const auto error = complete_plan(plan, model_.gateway);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->param, "prompt_logprobs");
  EXPECT_THAT(error->message, HasSubstr("262144"));
  plan.kind = ResponseKind::kChat;  // shows them once
  EXPECT_FALSE(complete_plan(plan, model_.gateway).has_value());
}

TEST_F(GenerationTest, RefusalBecomesAStatusAndEndsTheOtherChoices) {
  start({.num_choices = 2, .stream = true});
  admit(0);
  emit(0, "x");
  client_.handlers[1](Refused{RequestId{2}, {Code::kResourceExhausted, "queue full"}, seconds(4)});
  const auto progress = poll();
  ASSERT_TRUE(progress.response.has_value());
  EXPECT_EQ(progress.response->status, 429);
  EXPECT_THAT(progress.response->headers, ElementsAre(std::pair("Retry-After", "4")));
  EXPECT_THAT(progress.response->body, HasSubstr("queue_full"));
  EXPECT_THAT(client_.cancelled, ElementsAre(1, 2));
}

TEST_F(GenerationTest, FailureBeforeTheFirstTokenIsAStatus) {
  start({.stream = true});
  admit_all();
  client_.handlers[0](Failed{RequestId{1}, {Code::kUnavailable, "node experts-1 is gone"}});
  const auto progress = poll();
  ASSERT_TRUE(progress.response.has_value());
  EXPECT_EQ(progress.response->status, 503);
  EXPECT_THAT(progress.response->body, HasSubstr("experts-1"));
}

TEST_F(GenerationTest, FailureInTheMiddleIsAnErrorEventThenDone) {
  start({.stream = true});
  admit_all();
  emit(0, "x");
  EXPECT_NE(poll().events, "");
  client_.handlers[0](Failed{RequestId{1}, {Code::kUnavailable, "node experts-1 is gone"}});
  const auto progress = poll();
  EXPECT_TRUE(progress.done);
  const auto events = events_of(progress.events);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_THAT(std::string(events[0].at("error").at("message").as_string()), HasSubstr("experts-1"));
  EXPECT_EQ(events[1], "[DONE]");
}

TEST_F(GenerationTest, AbandoningCancelsWhatRuns) {
  start({.num_choices = 2, .stream = true});
  admit_all();
  emit(0, "x");
  finish(0);
  EXPECT_NE(poll().events, "");
  exchange_->abandon(Instant{});
  EXPECT_THAT(client_.cancelled, ElementsAre(2));
  exchange_->abandon(Instant{});
  EXPECT_EQ(client_.cancelled.size(), 1U);
}

TEST_F(GenerationTest, DestructionCancelsWhatRuns) {
  start({});
  exchange_.reset();
  EXPECT_THAT(client_.cancelled, ElementsAre(1));
}

TEST_F(GenerationTest, GapInTheTokensIsAnErrorNotAWrongAnswer) {
  start({});
  admit_all();
  num_sent_[0] = 1;
  emit(0, "x");
  EXPECT_EQ(poll().response->status, 500);
}

TEST_F(GenerationTest, MoreTokensThanAskedForIsAnError) {
  start({.max_tokens = 1});
  admit_all();
  for (int i = 0; i < 8; ++i) emit(0, "x");
  EXPECT_EQ(poll().response->status, 500);
}

TEST_F(GenerationTest, SpecCarriesEndTokensUnlessTheyAreIgnored) {
  start({.stop_token_ids = {5}});
  EXPECT_THAT(client_.specs[0].stop_token_ids, ElementsAre(5, model_.gateway.eos_token_ids[0]));
  EXPECT_EQ(client_.specs[0].timeout, seconds(9));
  EXPECT_EQ(client_.specs[0].max_tokens, 512 - encode("hi").size());
  start({.ignore_eos = true});
  EXPECT_TRUE(client_.specs[1].stop_token_ids.empty());
  EXPECT_NE(client_.specs[0].sampling.seed, client_.specs[1].sampling.seed)
      << "a fresh seed for each request without one";
}

TEST_F(GenerationTest, SpecCarriesWhatSamplingNeeds) {
  GenerationRequest request{.bad_words = {"one", "two three"}};
  request.sampling.presence_penalty = 1.5F;
  request.sampling.min_tokens = 3;
  request.sampling.logit_bias = {{5, 2.0F}};
  start(std::move(request));
  const auto& sampling = client_.specs[0].sampling;
  EXPECT_TRUE(model::validate(sampling).ok());
  EXPECT_EQ(sampling.presence_penalty, 1.5F);
  EXPECT_EQ(sampling.min_tokens, 3U);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(std::pair(5, 2.0F)));
  for (const char* word : {"one", " one", "two three", " two three"}) {
    EXPECT_THAT(sampling.bad_words, ::testing::Contains(encode(word))) << word;
  }
}

TEST_F(GenerationTest, LooksForStopStringsOnlyBehindMinTokens) {
  const auto tokens = encode("one two one two");
  GenerationRequest request{.stop = {"two"}};
  request.sampling.min_tokens = static_cast<uint32_t>(encode("one two").size());
  start(std::move(request));
  admit_all();
  emit_tokens(0, tokens);
  const auto progress = poll();
  ASSERT_TRUE(progress.response.has_value());
  const auto body = json::parse(progress.response->body);
  EXPECT_EQ(choice_of(body).at("message").at("content").as_string(), "one two one ");
  EXPECT_EQ(choice_of(body).at("stop_reason").as_string(), "two");
}

TEST(GenerationPlan, RefusesTokenIdsAndLengthsThatCannotBe) {
  const TestModel model;
  const auto param_of = [&](auto change) -> std::string {
    GenerationPlan plan;
    plan.prompts = {{1, 2, 3}};
    change(plan.request);
    const auto error = complete_plan(plan, model.gateway);
    return error ? error->param.value() : "";
  };
  const auto beyond = static_cast<TokenId>(model.tokenizer.vocab_size());
  EXPECT_EQ(param_of([](auto&) {}), "");
  EXPECT_EQ(param_of([&](auto& r) { r.stop_token_ids = {beyond}; }), "stop_token_ids");
  EXPECT_EQ(param_of([&](auto& r) {
              r.sampling.allowed_token_ids = {1, beyond};
            }),
            "allowed_token_ids");
  EXPECT_EQ(param_of([&](auto& r) { r.sampling.logit_bias = {{beyond, 1.0F}}; }), "logit_bias");
  const auto with_lengths = [](uint32_t min_tokens, uint32_t max_tokens) {
    return [=](GenerationRequest& r) {
      r.sampling.min_tokens = min_tokens;
      r.max_tokens = max_tokens;
    };
  };
  EXPECT_EQ(param_of(with_lengths(6, 5)), "min_tokens");
  EXPECT_EQ(param_of(with_lengths(5, 5)), "");
}

TEST(GenerationPlan, GuardsContextAndVocabulary) {
  const TestModel model;
  const auto outcome = [&](std::vector<TokenId> prompt, std::optional<uint32_t> max_tokens) {
    GenerationPlan plan{.kind = ResponseKind::kText, .prompts = {std::move(prompt)}};
    plan.request.max_tokens = max_tokens;
    const auto error = complete_plan(plan, model.gateway);
    return error ? std::string(to_string(error->code.value())) : std::to_string(plan.max_tokens[0]);
  };
  const auto prompt = [](size_t size) { return std::vector<TokenId>(size, 5); };
  EXPECT_EQ(outcome(prompt(1), std::nullopt), "16");
  EXPECT_EQ(outcome(prompt(500), std::nullopt), "12");
  EXPECT_EQ(outcome(prompt(511), 1), "1");
  EXPECT_EQ(outcome(prompt(511), 2), "context_length_exceeded");
  EXPECT_EQ(outcome(prompt(512), std::nullopt), "context_length_exceeded");
  EXPECT_EQ(outcome({}, 1), "invalid_value");
  EXPECT_EQ(outcome({1 << 30}, 1), "invalid_value");
}

}  // namespace
}  // namespace troupe::gateway
