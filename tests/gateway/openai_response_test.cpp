#include "gateway/openai_response.hpp"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "gateway/api_error.hpp"
#include "gateway/exchange.hpp"
#include "tests/gateway/test_model.hpp"

namespace troupe::gateway {
namespace {

const ResponseHead kChat{ResponseKind::kChat, "chatcmpl-1", 1700000000, "m"};
const ResponseHead kText{ResponseKind::kText, "cmpl-1", 1700000000, "m"};
constexpr const char* kUsage =
    R"({"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,)"
    R"("prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}})";

TEST(OpenaiResponse, WritesAChatCompletion) {
  const ChoiceResult choice{.index = 0, .text = "hi \"you\"", .finish_reason = "stop"};
  EXPECT_EQ(
      response_json(kChat, {&choice, 1}, {3, 2}),
      R"({"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m",)"
      R"("choices":[{"index":0,"message":{"role":"assistant","content":"hi \"you\"",)"
      R"("refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":)" +
          std::string(kUsage) + "}");
}

TEST(OpenaiResponse, WritesATextCompletion) {
  const ChoiceResult choice{.index = 1, .text = "x", .finish_reason = "stop", .stop_reason = "END"};
  EXPECT_EQ(response_json(kText, {&choice, 1}, {3, 2}),
            R"({"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m",)"
            R"("choices":[{"index":1,"text":"x","logprobs":null,"finish_reason":"stop",)"
            R"("stop_reason":"END"}],"usage":)" +
                std::string(kUsage) + "}");
}

TEST(OpenaiResponse, WritesChatChunks) {
  const std::string head =
      R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",)";
  EXPECT_EQ(chunk_json(kChat, {.index = 2, .opens = true}, ""),
            head + R"("choices":[{"index":2,"delta":{"role":"assistant","content":""},)"
                   R"("logprobs":null,"finish_reason":null}]})");
  EXPECT_EQ(chunk_json(kChat, {.index = 2, .text = "a\nb"}, "null"),
            head + R"("choices":[{"index":2,"delta":{"content":"a\nb"},)"
                   R"("logprobs":null,"finish_reason":null}],"usage":null})");
  EXPECT_EQ(chunk_json(kChat, {.index = 2, .finish_reason = "length"}, ""),
            head + R"("choices":[{"index":2,"delta":{},)"
                   R"("logprobs":null,"finish_reason":"length","stop_reason":null}]})");
  EXPECT_EQ(usage_chunk_json(kChat, {3, 2}), head + R"("choices":[],"usage":)" + kUsage + "}");
}

TEST(OpenaiResponse, WritesTextChunks) {
  EXPECT_EQ(chunk_json(kText, {.index = 0, .text = "a"}, ""),
            R"({"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m",)"
            R"("choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":null}]})");
}

TEST(OpenaiResponse, FramesEvents) {
  EXPECT_EQ(sse_event("{}"), "data: {}\n\n");
  EXPECT_EQ(kSseDone, "data: [DONE]\n\n");
}

TEST(OpenaiResponse, WritesLogprobsWithTheBytesOfBrokenCharacters) {
  const TestModel model;
  const TokenId a = model.tokenizer.id_of("a").value();
  const TokenId broken = model.tokenizer.id_of("\xE4").value();
  const std::vector<TokenLogprob> entries = {
      {.token = {.token = broken, .logprob = -0.5F, .top_logprobs = {{broken, -0.5F}, {a, -2.0F}}},
       .text_offset = 4}};
  EXPECT_EQ(logprobs_json(ResponseKind::kChat, model.tokenizer, entries),
            R"({"content":[{"token":"�","logprob":-0.5,"bytes":[228],"top_logprobs":[)"
            R"({"token":"�","logprob":-0.5,"bytes":[228]},)"
            R"({"token":"a","logprob":-2,"bytes":[97]}]}],"refusal":null})");
  EXPECT_EQ(logprobs_json(ResponseKind::kText, model.tokenizer, entries),
            R"({"text_offset":[4],"token_logprobs":[-0.5],"tokens":["�"],)"
            R"("top_logprobs":[{"�":-0.5,"a":-2}]})");
}

TEST(OpenaiResponse, WritesMinusInfinityAsAVeryLowNumber) {
  const TestModel model;
  const TokenId a = model.tokenizer.id_of("a").value();
  const std::vector<TokenLogprob> entries = {
      {.token = {.token = a, .logprob = -INFINITY, .top_logprobs = {}}, .text_offset = 0}};
  EXPECT_NE(logprobs_json(ResponseKind::kText, model.tokenizer, entries).find("[-9999]"),
            std::string::npos);
}

struct ErrorCase {
  Code code;
  int status;
  const char* type;
  const char* error_code;
  const char* retry_after;
  bool retry_is_useless;
};

TEST(ApiError, MapsEveryCodeToAStatusThatTellsWhetherToRetry) {
  const ErrorCase cases[] = {
      {Code::kInvalidArgument, 400, "invalid_request_error", "invalid_value", "", false},
      {Code::kNotFound, 404, "not_found_error", "", "", false},
      {Code::kUnsupported, 501, "not_supported_error", "not_implemented", "", true},
      {Code::kResourceExhausted, 429, "rate_limit_error", "queue_full", "3", false},
      {Code::kUnavailable, 503, "unavailable_error", "no_capacity", "3", false},
      {Code::kDeadlineExceeded, 408, "timeout_error", "request_timeout", "", false},
      {Code::kInternal, 500, "server_error", "internal_error", "", true},
      {Code::kCorrupt, 500, "server_error", "internal_error", "", true},
      {Code::kCancelled, 500, "server_error", "cancelled", "", true},
  };
  for (const auto& expected : cases) {
    const ApiError error = from_error({expected.code, "why"}, milliseconds(2001));
    EXPECT_EQ(error.status, expected.status);
    EXPECT_EQ(error.type, expected.type);
    EXPECT_EQ(error.code ? to_string(*error.code) : "", expected.error_code);
    const HttpResponse response = error_response(error);
    std::string retry_after;
    bool useless = false;
    for (const auto& [name, value] : response.headers) {
      if (name == "Retry-After") retry_after = value;
      if (name == "x-should-retry") useless = value == "false";
    }
    EXPECT_EQ(retry_after, expected.retry_after);
    EXPECT_EQ(useless, expected.retry_is_useless);
    const auto body = boost::json::parse(response.body);
    EXPECT_EQ(body.at("error").at("message").as_string(), "why");
    EXPECT_TRUE(body.at("error").at("param").is_null());
  }
}

TEST(ApiError, ARefusalForItsDeadlineIsOverloadWithACodeOfItsOwn) {
  const ApiError late = from_refusal({Code::kDeadlineExceeded, "why"}, seconds(4));
  EXPECT_EQ(late.status, 429);
  EXPECT_EQ(late.type, "rate_limit_error");
  EXPECT_EQ(late.code, ErrorCode::kDeadlineExceeded);
  EXPECT_EQ(late.message, "why");
  EXPECT_EQ(late.retry_after_s, 4U);
  EXPECT_EQ(from_refusal({Code::kResourceExhausted, ""}, seconds(4)).code, ErrorCode::kQueueFull);
}

TEST(ApiError, ATimeThatIsTooShortForWhatIsAskedIsTheRequestsFault) {
  const ApiError error = from_refusal({Code::kDeadlineExceeded, "why"}, std::nullopt);
  EXPECT_EQ(error.status, 400) << "which no client or proxy sends again by itself";
  EXPECT_EQ(error.type, "invalid_request_error");
  EXPECT_EQ(error.code, ErrorCode::kTimeoutTooShort);
  EXPECT_EQ(error.message, "why");
  EXPECT_TRUE(error.retry_is_useless);
  EXPECT_EQ(error.retry_after_s, std::nullopt);
}

TEST(ApiError, KeepsRetryAfterWithinOneAndSixtySeconds) {
  EXPECT_EQ(from_error({Code::kUnavailable, ""}, seconds(0)).retry_after_s, 1U);
  EXPECT_EQ(from_error({Code::kUnavailable, ""}, seconds(-5)).retry_after_s, 1U);
  EXPECT_EQ(from_error({Code::kUnavailable, ""}, seconds(1000)).retry_after_s, 60U);
}

TEST(ApiError, SaysContextLengthAsClientsSearchForIt) {
  const ApiError error = context_length_exceeded(100, 90, 20, "messages");
  EXPECT_EQ(error.message.find("This model's maximum context length is 100 tokens. However, you "
                               "requested 110 tokens (90 in the messages, 20 in the completion)."),
            0U);
}

}  // namespace
}  // namespace troupe::gateway
