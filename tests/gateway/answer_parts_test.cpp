// Reasoning and tool calls from the request's JSON to the answer's, over the real service.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "gateway/service.hpp"
#include "tests/gateway/fake_client.hpp"
#include "tests/gateway/test_model.hpp"

namespace troupe::gateway {
namespace {

using ::testing::HasSubstr;
namespace json = boost::json;

constexpr const char* kTools =
    R"("tools":[{"type":"function","function":{"name":"weather","description":"Tells it.",)"
    R"("parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}])";
constexpr const char* kTwoCalls =
    "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": "
    "\"Bern\"}"
    "<｜tool▁call▁end｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": "
    "\"七\"}<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>";

/// What a client of OpenAI's makes of a stream: strings of one field are joined.
struct Gathered {
  int num_roles = 0;
  std::string content, reasoning_content, reasoning, finish_reason;
  std::vector<ToolCallResult> calls;
  uint64_t num_argument_steps = 0;  ///< of all calls
  uint64_t num_logprobs = 0;
};

class AnswerPartsTest : public ::testing::Test {
 protected:
  void start(model::ChatFormatKind kind, const std::string& text, Duration pause = {}) {
    model_ = std::make_unique<TestModel>(kind);
    const auto script = [this, text](const scheduler::RequestSpec& spec) {
      FakeAnswer answer;
      // Marks are tokens of their own, as a model writes them.
      answer.tokens = model_->tokenizer.encode(text).value();
      if (answer.tokens.size() >= spec.max_tokens) {
        answer.tokens.resize(spec.max_tokens);
        answer.reason = scheduler::FinishReason::kLength;
      } else {
        answer.tokens.push_back(*model_->tokenizer.eos());
      }
      return answer;
    };
    client_ = std::make_unique<FakeClient>(script, pause);
    service_ = std::make_unique<Service>(ServiceOptions{}, *client_, model_->gateway, metrics_);
  }

  Answer ask(const std::string& fields, const std::string& messages = kUser) {
    HttpRequest request;
    request.method = "POST";
    request.target = "/v1/chat/completions";
    request.body = R"({"seed":1,"max_tokens":300,"messages":[)" + messages + "]" +
                   (fields.empty() ? "" : "," + fields) + "}";
    request.request_id = "r";
    return service_->answer(request);
  }

  /// Drives an exchange to its end; the whole body or all events.
  std::string finish(Answer answer) {
    if (auto* response = std::get_if<HttpResponse>(&answer)) return response->body;
    auto& exchange = std::get<std::unique_ptr<Exchange>>(answer);
    std::mutex mutex;
    std::condition_variable woken;
    bool wake = false;
    exchange->start([&] {
      const std::lock_guard lock(mutex);
      wake = true;
      woken.notify_one();
    });
    std::string text;
    while (true) {
      auto progress = exchange->poll(Instant{});
      text += progress.response ? progress.response->body : progress.events;
      if (progress.done) break;
      std::unique_lock lock(mutex);
      woken.wait(lock, [&] { return wake; });
      wake = false;
    }
    exchange.reset();
    return text;
  }

  json::value whole(const std::string& fields, const std::string& messages = kUser) {
    return json::parse(finish(ask(fields, messages)));
  }
  static const json::value& message_of(const json::value& body) {
    return body.at("choices").as_array().at(0).at("message");
  }

  Gathered streamed(const std::string& fields, const std::string& messages = kUser) {
    std::string text =
        finish(ask(R"("stream":true)" + (fields.empty() ? "" : "," + fields), messages));
    Gathered out;
    while (!text.empty()) {
      const size_t end = text.find("\n\n");
      const std::string data = text.substr(6, end - 6);
      text.erase(0, end + 2);
      if (data == "[DONE]") continue;
      const json::value event = json::parse(data);
      const auto& choice = event.at("choices").as_array().at(0);
      gather(choice.at("delta").as_object(), out);
      if (choice.at("logprobs").is_object()) {
        out.num_logprobs += choice.at("logprobs").at("content").as_array().size();
      }
      if (choice.at("finish_reason").is_string()) {
        out.finish_reason = std::string_view(choice.at("finish_reason").as_string());
        EXPECT_TRUE(choice.at("delta").as_object().empty());
      }
    }
    return out;
  }

  static void gather(const json::object& delta, Gathered& out) {
    const auto join = [&](const char* name, std::string& field) {
      if (const auto* value = delta.if_contains(name))
        field += std::string_view(value->as_string());
    };
    out.num_roles += delta.contains("role") ? 1 : 0;
    join("content", out.content);
    join("reasoning_content", out.reasoning_content);
    join("reasoning", out.reasoning);
    const auto* calls = delta.if_contains("tool_calls");
    if (calls == nullptr) return;
    for (const auto& step : calls->as_array()) {
      const auto index = static_cast<size_t>(step.at("index").as_int64());
      const auto& function = step.at("function").as_object();
      if (index == out.calls.size()) {  // the first step: everything but arguments
        EXPECT_EQ(step.at("type").as_string(), "function");
        EXPECT_EQ(function.at("arguments").as_string(), "");
        out.calls.push_back({std::string(std::string_view(step.at("id").as_string())),
                             std::string(std::string_view(function.at("name").as_string())), ""});
      } else {
        ASSERT_LT(index, out.calls.size());
        EXPECT_FALSE(step.as_object().contains("id")) << "clients would join it";
        EXPECT_FALSE(function.contains("name"));
        EXPECT_EQ(index + 1, out.calls.size()) << "calls come one after the other";
        EXPECT_FALSE(function.at("arguments").as_string().empty());
        out.calls[index].arguments += std::string_view(function.at("arguments").as_string());
        ++out.num_argument_steps;
      }
    }
  }

  static constexpr const char* kUser = R"({"role":"user","content":"hi"})";
  Metrics metrics_{"m", "v"};
  std::unique_ptr<TestModel> model_;
  std::unique_ptr<FakeClient> client_;
  std::unique_ptr<Service> service_;
};

TEST_F(AnswerPartsTest, SplitsTheReasoningOfR1) {
  start(model::ChatFormatKind::kDeepseekR1, "Let me see, 七.\n</think>\n\nIt is 42.");
  const auto body = whole("");
  EXPECT_EQ(message_of(body).at("reasoning_content").as_string(), "Let me see, 七.\n");
  EXPECT_EQ(message_of(body).at("reasoning").as_string(), "Let me see, 七.\n");
  EXPECT_EQ(message_of(body).at("content").as_string(), "\n\nIt is 42.");
  EXPECT_FALSE(message_of(body).as_object().contains("tool_calls"));
  const auto reasoning_tokens =
      body.at("usage").at("completion_tokens_details").at("reasoning_tokens").as_int64();
  const auto expected = model_->tokenizer.encode("Let me see, 七.\n</think>").value().size();
  EXPECT_EQ(reasoning_tokens, static_cast<int64_t>(expected));

  const Gathered stream = streamed("");
  EXPECT_EQ(stream.num_roles, 1);
  EXPECT_EQ(stream.reasoning_content, "Let me see, 七.\n");
  EXPECT_EQ(stream.reasoning, stream.reasoning_content);
  EXPECT_EQ(stream.content, "\n\nIt is 42.");
  EXPECT_EQ(stream.finish_reason, "stop");
}

TEST_F(AnswerPartsTest, V31ReasonsOnlyWhereAsked) {
  start(model::ChatFormatKind::kDeepseekV31, "Hm.</think>42");
  const auto thinking = whole(R"("chat_template_kwargs":{"thinking":true})");
  EXPECT_EQ(message_of(thinking).at("reasoning").as_string(), "Hm.");
  EXPECT_EQ(message_of(thinking).at("content").as_string(), "42");
  const auto plain = whole("");
  EXPECT_FALSE(message_of(plain).as_object().contains("reasoning"));
  EXPECT_EQ(message_of(plain).at("content").as_string(), "Hm.</think>42");
  start(model::ChatFormatKind::kDeepseekV3, "Hm.</think>42");
  EXPECT_EQ(message_of(whole("")).at("content").as_string(), "Hm.</think>42");
}

TEST_F(AnswerPartsTest, ReasoningThatIsCutOffLeavesNoContent) {
  start(model::ChatFormatKind::kDeepseekR1, "one two three four five six seven eight");
  const auto body = whole(R"("max_completion_tokens":4)");
  EXPECT_TRUE(message_of(body).at("content").is_null());
  EXPECT_EQ(body.at("choices").as_array().at(0).at("finish_reason").as_string(), "length");
  EXPECT_FALSE(message_of(body).at("reasoning").as_string().empty());
}

TEST_F(AnswerPartsTest, GivesCallsWholeAndStreamed) {
  start(model::ChatFormatKind::kDeepseekV31, kTwoCalls);
  const auto body = whole(kTools);
  EXPECT_EQ(message_of(body).at("content").as_string(), "Let me look.");
  const auto& calls = message_of(body).at("tool_calls").as_array();
  ASSERT_EQ(calls.size(), 2U);
  EXPECT_EQ(calls[1].at("type").as_string(), "function");
  EXPECT_EQ(calls[1].at("function").at("name").as_string(), "weather");
  EXPECT_EQ(calls[1].at("function").at("arguments").as_string(), R"({"city": "七"})");
  EXPECT_NE(calls[0].at("id"), calls[1].at("id"));
  EXPECT_EQ(body.at("choices").as_array().at(0).at("finish_reason").as_string(), "tool_calls");

  const Gathered stream = streamed(std::string(kTools) + R"(,"logprobs":true)");
  EXPECT_EQ(stream.content, "Let me look.");
  ASSERT_EQ(stream.calls.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(stream.calls[i].id, std::string_view(calls[i].at("id").as_string()));
    EXPECT_EQ(stream.calls[i].name, "weather");
    EXPECT_EQ(stream.calls[i].arguments,
              std::string_view(calls[i].at("function").at("arguments").as_string()));
  }
  EXPECT_EQ(stream.finish_reason, "tool_calls");
  EXPECT_EQ(stream.num_logprobs, model_->tokenizer.encode(kTwoCalls).value().size());
}

TEST_F(AnswerPartsTest, ReadsTheCallsOfV3InTheirFence) {
  start(model::ChatFormatKind::kDeepseekV3,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        "{\"city\": \"Bern\"}\n```<｜tool▁call▁end｜>");
  const auto body = whole(kTools);
  EXPECT_TRUE(message_of(body).at("content").is_null());
  EXPECT_EQ(message_of(body).at("tool_calls").as_array().at(0).at("function").at("arguments"),
            R"({"city": "Bern"})");
}

TEST_F(AnswerPartsTest, WhatDoesNotBeginAsACallIsContent) {
  const std::string text =
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>[\"city\"]"
      "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  start(model::ChatFormatKind::kDeepseekV31, text);
  const auto body = whole(kTools);
  EXPECT_EQ(message_of(body).at("content").as_string(), text);
  EXPECT_FALSE(message_of(body).as_object().contains("tool_calls"));
  EXPECT_EQ(body.at("choices").as_array().at(0).at("finish_reason").as_string(), "stop");
  EXPECT_EQ(streamed(kTools).content, text);
}

TEST_F(AnswerPartsTest, ArgumentsThatAreNoJsonAreTheSameWholeAndStreamed) {
  start(model::ChatFormatKind::kDeepseekV31,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": Bern"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  const auto body = whole(kTools);
  EXPECT_TRUE(message_of(body).at("content").is_null());
  const auto& call = message_of(body).at("tool_calls").as_array().at(0);
  EXPECT_EQ(call.at("function").at("arguments").as_string(), "{\"city\": Bern");
  EXPECT_EQ(body.at("choices").as_array().at(0).at("finish_reason").as_string(), "tool_calls");
  const Gathered stream = streamed(kTools);
  ASSERT_EQ(stream.calls.size(), 1U);
  EXPECT_EQ(stream.calls[0].arguments, "{\"city\": Bern");
  EXPECT_EQ(stream.content, "");
}

TEST_F(AnswerPartsTest, StreamsArgumentsAsTheyCome) {
  for (const auto kind :
       {model::ChatFormatKind::kDeepseekV31, model::ChatFormatKind::kDeepseekV3}) {
    const bool is_plain = kind == model::ChatFormatKind::kDeepseekV31;
    const std::string arguments = R"({"city":"Bern, 七 <or> ``` {\"elsewhere\"}"})";
    const std::string call =
        "<｜tool▁call▁begin｜>" +
        (is_plain ? "weather<｜tool▁sep｜>" + arguments
                  : "function<｜tool▁sep｜>weather\n```json\n" + arguments + "\n```") +
        "<｜tool▁call▁end｜>";
    start(kind,
          "<｜tool▁calls▁begin｜>" + call + (is_plain ? "" : "\n") + call + "<｜tool▁calls▁end｜>",
          microseconds(500));
    for (const char* choice : {R"("auto")", R"("required")"}) {
      SCOPED_TRACE(std::string(model::to_string(kind)) + " " + choice);
      const std::string fields = std::string(kTools) + R"(,"tool_choice":)" + choice;
      const auto body = whole(fields);
      const auto& calls = message_of(body).at("tool_calls").as_array();
      ASSERT_EQ(calls.size(), 2U);
      const Gathered stream = streamed(fields);
      ASSERT_EQ(stream.calls.size(), 2U);
      for (size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(calls[i].at("function").at("arguments").as_string(), arguments);
        EXPECT_EQ(stream.calls[i].arguments, arguments);
        EXPECT_EQ(stream.calls[i].name, "weather");
        EXPECT_EQ(stream.calls[i].id, std::string_view(calls[i].at("id").as_string()));
      }
      // Tokens that wait are joined, so where the machine has other work there may be few steps.
      EXPECT_GT(stream.num_argument_steps, 4U) << "more than what two calls need";
      EXPECT_EQ(stream.finish_reason, "tool_calls");

      // Where max_tokens cuts the answer, it cuts the arguments, in the stream as in the whole.
      const size_t num_tokens = model_->tokenizer.encode(call).value().size();
      const std::string cut =
          fields + R"(,"max_completion_tokens":)" + std::to_string(num_tokens - 10);
      const auto cut_body = whole(cut);
      const auto& cut_calls = message_of(cut_body).at("tool_calls").as_array();
      ASSERT_EQ(cut_calls.size(), 1U);
      const std::string cut_arguments(
          std::string_view(cut_calls[0].at("function").at("arguments").as_string()));
      EXPECT_TRUE(arguments.starts_with(cut_arguments));
      EXPECT_LT(cut_arguments.size(), arguments.size());
      const Gathered cut_stream = streamed(cut);
      ASSERT_EQ(cut_stream.calls.size(), 1U);
      EXPECT_EQ(cut_stream.calls[0].arguments, cut_arguments);
      EXPECT_EQ(cut_stream.content, "");
      EXPECT_EQ(cut_stream.finish_reason, "length");
    }
  }
}

TEST_F(AnswerPartsTest, EndsBehindTheFirstCallWhereOneIsEnough) {
  start(model::ChatFormatKind::kDeepseekV31, kTwoCalls);
  const std::string fields = std::string(kTools) + R"(,"parallel_tool_calls":false)";
  const auto body = whole(fields);
  const auto& calls = message_of(body).at("tool_calls").as_array();
  EXPECT_EQ(calls.at(0).at("function").at("arguments").as_string(), R"({"city": "Bern"})");
  EXPECT_EQ(message_of(body).at("tool_calls").as_array().size(), 1U);
  EXPECT_EQ(body.at("choices").as_array().at(0).at("finish_reason").as_string(), "tool_calls");
  const Gathered stream = streamed(fields);
  EXPECT_EQ(stream.calls.size(), 1U);
  EXPECT_EQ(stream.finish_reason, "tool_calls");
}

TEST_F(AnswerPartsTest, WithoutToolsNothingIsReadAsACall) {
  start(model::ChatFormatKind::kDeepseekV31, kTwoCalls);
  const std::string shown = std::string(message_of(whole("")).at("content").as_string());
  EXPECT_THAT(shown, HasSubstr("<｜tool▁call▁begin｜>weather"));
  const auto none = whole(std::string(kTools) + R"(,"tool_choice":"none")");
  EXPECT_EQ(message_of(none).at("content").as_string(), shown);
  const auto prompts = client_->submitted();
  EXPECT_EQ(prompts[0].prompt, prompts[1].prompt) << "the tools are not described either";
}

TEST_F(AnswerPartsTest, RendersCallsResultsAndDropsReasoningOfTheHistory) {
  start(model::ChatFormatKind::kDeepseekV31, "ok");
  const std::string history =
      R"({"role":"user","content":"hi"},)"
      R"({"role":"assistant","content":null,"reasoning_content":"secret","reasoning":"secret",)"
      R"("tool_calls":[{"id":"c1","type":"function","function":{"name":"weather",)"
      R"("arguments":"{\"city\": \"Bern\"}"}}]},)"
      R"({"role":"tool","tool_call_id":"c1","content":[{"type":"text","text":"sun"}]})";
  whole(kTools, history);
  const std::string prompt =
      model_->tokenizer.decode(client_->submitted()[0].prompt, /*skip_special=*/false);
  EXPECT_THAT(prompt, HasSubstr("### weather\nDescription: Tells it.\n\nParameters: {\"type\": "));
  EXPECT_THAT(prompt, HasSubstr("<｜Assistant｜></think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
                                "weather<｜tool▁sep｜>{\"city\": \"Bern\"}<｜tool▁call▁end｜>"));
  EXPECT_THAT(prompt, ::testing::EndsWith("<｜tool▁output▁begin｜>sun<｜tool▁output▁end｜>"));
  EXPECT_THAT(prompt, ::testing::Not(HasSubstr("secret")));
}

TEST_F(AnswerPartsTest, StopStringsEndAnswersWithReasoningToo) {
  start(model::ChatFormatKind::kDeepseekR1, "hm</think>one two three");
  const auto body = whole(R"("stop":" three")");
  EXPECT_EQ(message_of(body).at("reasoning").as_string(), "hm");
  EXPECT_EQ(message_of(body).at("content").as_string(), "one two");
}

TEST_F(AnswerPartsTest, RefusesToolsOfAModelWithoutThem) {
  TestModel demo;
  Service service({}, *(client_ = std::make_unique<FakeClient>(says(demo.tokenizer, "x"))),
                  demo.gateway, metrics_);
  HttpRequest request;
  request.method = "POST";
  request.target = "/v1/chat/completions";
  request.body = R"({"messages":[{"role":"user","content":"hi"}],)" + std::string(kTools) + "}";
  const Answer answer = service.answer(request);
  const auto& response = std::get<HttpResponse>(answer);
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("has no tools"));
  EXPECT_THAT(response.body, HasSubstr("\"param\":\"tools\""));
}

}  // namespace
}  // namespace troupe::gateway
