#include "gateway/service.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <set>

#include "gateway/openai_request.hpp"
#include "gateway/openai_response.hpp"
#include "gateway/openapi.hpp"
#include "tests/gateway/fake_client.hpp"
#include "tests/gateway/test_model.hpp"

namespace troupe::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace json = boost::json;

class ServiceTest : public ::testing::Test {
 protected:
  HttpResponse ask(std::string method, std::string target, std::string body = "",
                   std::string content_type = "application/json") {
    HttpRequest request;
    request.method = std::move(method);
    request.target = std::move(target);
    request.body = std::move(body);
    request.content_type = std::move(content_type);
    request.request_id = "r";
    Answer answer = service_.answer(request);
    auto* response = std::get_if<HttpResponse>(&answer);
    if (response != nullptr) return std::move(*response);
    ADD_FAILURE() << "not answered at once";
    return {};
  }
  static json::value body_of(const HttpResponse& response) { return json::parse(response.body); }
  static std::string header_of(const HttpResponse& response, std::string_view name) {
    for (const auto& [key, value] : response.headers) {
      if (key == name) return value;
    }
    return "";
  }

  TestModel model_;
  FakeClient client_{says(model_.tokenizer, "hello")};
  Metrics metrics_{"m", "v"};
  Service service_{{.version = "1.2.3"}, client_, model_.gateway, metrics_};
};

TEST_F(ServiceTest, ListsItsModel) {
  const auto list = body_of(ask("GET", "/v1/models"));
  EXPECT_EQ(list.at("object").as_string(), "list");
  const auto& card = list.at("data").as_array().at(0);
  EXPECT_EQ(card.at("id").as_string(), "org/demo");
  EXPECT_EQ(card.at("object").as_string(), "model");
  EXPECT_EQ(card.at("max_model_len").as_int64(), 512);
  EXPECT_EQ(body_of(ask("GET", "/v1/models/org%2Fdemo")), card);
  EXPECT_EQ(body_of(ask("GET", "/v1/models/org/demo?x=1")), card);
}

TEST_F(ServiceTest, DoesNotKnowOtherModels) {
  for (const char* target : {"/v1/models/x", "/v1/models/%ff", "/v1/models/%", "/v1/models/a%2"}) {
    EXPECT_EQ(ask("GET", target).status, 404) << target;
  }
  const auto response = ask("POST", "/v1/chat/completions",
                            R"({"model":"x","messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(body_of(response).at("error").at("code").as_string(), "model_not_found");
  EXPECT_EQ(body_of(response).at("error").at("message").as_string(),
            "The model `x` does not exist.");
}

TEST_F(ServiceTest, AnswersUnknownPathsAndMethodsWithJson) {
  const auto missing = ask("GET", "/nothing");
  EXPECT_EQ(missing.status, 404);
  EXPECT_TRUE(body_of(missing).at("error").is_object());
  const auto wrong = ask("GET", "/v1/chat/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(header_of(wrong, "Allow"), "POST, OPTIONS");
  EXPECT_EQ(ask("POST", "/health", "{}").status, 405);
  EXPECT_EQ(ask("DELETE", "/v1/models").status, 405);
  EXPECT_EQ(ask("FROB", "/v1/models").status, 405);
}

TEST_F(ServiceTest, WantsJson) {
  const auto response =
      ask("POST", "/v1/completions", "prompt=x", "application/x-www-form-urlencoded");
  EXPECT_EQ(response.status, 415);
  EXPECT_THAT(response.body, HasSubstr("Content-Type"));
  EXPECT_EQ(ask("POST", "/tokenize", R"({"prompt":"x"})", "Application/JSON; charset=utf-8").status,
            200);
  EXPECT_EQ(ask("POST", "/tokenize", R"({"prompt":"x"})", "").status, 200);
}

TEST_F(ServiceTest, AllowsBrowsersToAsk) {
  HttpRequest request;
  request.method = "OPTIONS";
  request.target = "/v1/chat/completions";
  request.preflight_headers = "authorization, x-stainless-os";
  Answer answer = service_.answer(request);
  const auto& response = std::get<HttpResponse>(answer);
  EXPECT_EQ(response.status, 204);
  EXPECT_EQ(header_of(response, "Access-Control-Allow-Headers"), "authorization, x-stainless-os");
  EXPECT_EQ(header_of(response, "Access-Control-Allow-Methods"), "POST, OPTIONS");
}

TEST_F(ServiceTest, IsHealthyOnlyWhileTheClusterServes) {
  EXPECT_EQ(ask("GET", "/health").body, R"({"status":"ok"})");
  client_.set_serving(false);
  const auto response = ask("GET", "/health");
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(body_of(response).at("error").at("code").as_string(), "loading");
  EXPECT_NE(header_of(response, "Retry-After"), "");
  EXPECT_EQ(ask("GET", "/ping").status, 200);
}

TEST_F(ServiceTest, TellsItsVersion) {
  EXPECT_EQ(ask("GET", "/version").body, R"({"version":"1.2.3"})");
}

TEST_F(ServiceTest, TokenizesAndBack) {
  const auto tokens =
      body_of(ask("POST", "/tokenize",
                  R"({"prompt":"hi 七","add_special_tokens":false,"return_token_strs":true})"));
  EXPECT_EQ(tokens.at("count").as_int64(),
            static_cast<int64_t>(tokens.at("tokens").as_array().size()));
  EXPECT_EQ(tokens.at("token_strs").as_array().size(), tokens.at("tokens").as_array().size());
  EXPECT_EQ(tokens.at("max_model_len").as_int64(), 512);
  const auto text = body_of(
      ask("POST", "/detokenize", R"({"tokens":)" + json::serialize(tokens.at("tokens")) + "}"));
  EXPECT_EQ(text.at("prompt").as_string(), "hi 七");
  EXPECT_EQ(ask("POST", "/detokenize", R"({"tokens":[1000000000]})").status, 400);
  const auto chat =
      body_of(ask("POST", "/tokenize", R"({"messages":[{"role":"user","content":"hi"}]})"));
  EXPECT_GT(chat.at("count").as_int64(), 2);
}

TEST_F(ServiceTest, RefusesPromptsBeyondTheContext) {
  std::string text;
  for (int i = 0; i < 600; ++i) text += "x ";
  const auto response = ask("POST", "/v1/completions", R"({"prompt":")" + text + R"("})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(body_of(response).at("error").at("code").as_string(), "context_length_exceeded");
  EXPECT_EQ(body_of(response).at("error").at("param").as_string(), "prompt");
}

TEST_F(ServiceTest, RefusesByItsBytesAPromptThatCannotFitWithoutTokenizingIt) {
  // Only what is not tokenized is refused with "at least". The context has 512 tokens.
  const uint64_t longest = [&] {
    size_t bytes = 0;
    for (size_t id = 0; id < model_.tokenizer.vocab_size(); ++id) {
      bytes = std::max(bytes, model_.tokenizer.token_bytes(static_cast<TokenId>(id)).size());
    }
    return bytes;
  }();
  EXPECT_EQ(model_.tokenizer.fewest_tokens(longest * 511 + 1), 512U);
  const auto refused = [&](const std::string& target, const std::string& body) {
    const HttpResponse response = ask("POST", target, body);
    EXPECT_EQ(response.status, 400);
    EXPECT_EQ(body_of(response).at("error").at("code").as_string(), "context_length_exceeded");
    return std::string(body_of(response).at("error").at("message").as_string());
  };
  const std::string fits(longest * 511, 'x'), too_long(longest * 511 + 1, 'x');
  constexpr const char* kAtLeast = "requested at least 512 tokens";
  EXPECT_THAT(refused("/v1/completions", R"({"prompt":")" + too_long + R"("})"),
              HasSubstr(kAtLeast));
  EXPECT_THAT(refused("/v1/completions", R"({"prompt":["a",")" + too_long + R"("]})"),
              HasSubstr(kAtLeast));
  EXPECT_THAT(refused("/v1/completions", R"({"prompt":")" + fits + R"("})"),
              Not(HasSubstr("at least")));
  EXPECT_THAT(refused("/v1/chat/completions",
                      R"({"messages":[{"role":"user","content":")" + too_long + R"("}]})"),
              HasSubstr("requested at least "));
  EXPECT_GT(body_of(ask("POST", "/tokenize", R"({"prompt":")" + too_long + R"("})"))
                .at("count")
                .as_int64(),
            512)
      << "who counts tokens gets their number";
}

TEST_F(ServiceTest, LetsClientsSetADeadlineWithinItsLimit) {
  const auto answer_of = [&](const std::string& timeout, bool is_chat) {
    HttpRequest request;
    request.method = "POST";
    request.target = is_chat ? "/v1/chat/completions" : "/v1/completions";
    request.body =
        is_chat ? R"({"messages":[{"role":"user","content":"hi"}]})" : R"({"prompt":"hi"})";
    request.request_id = "r";
    request.timeout = timeout;
    return service_.answer(request);
  };
  for (const bool is_chat : {true, false}) {
    for (const auto& [timeout, expected] : {std::pair("", seconds(300)),
                                            {"2.5", milliseconds(2500)},
                                            {"0.001", milliseconds(1)},
                                            {"300", seconds(300)},
                                            {"301", seconds(300)},
                                            {"1e300", seconds(300)},
                                            {"inf", seconds(300)}}) {
      Answer answer = answer_of(timeout, is_chat);
      ASSERT_TRUE(std::holds_alternative<std::unique_ptr<Exchange>>(answer)) << timeout;
      std::get<std::unique_ptr<Exchange>>(answer)->start([] {});
      EXPECT_EQ(client_.submitted().back().timeout, expected) << timeout;
    }
    for (const char* timeout : {"0", "-1", "0.0009", "-inf", "nan", "soon", "5s", "1,5", "\xff"}) {
      const Answer answer = answer_of(timeout, is_chat);
      ASSERT_TRUE(std::holds_alternative<HttpResponse>(answer)) << timeout;
      const auto& response = std::get<HttpResponse>(answer);
      EXPECT_EQ(response.status, 400);
      const auto error = body_of(response).at("error");
      EXPECT_EQ(error.at("code").as_string(), "invalid_value");
      EXPECT_EQ(error.at("param").as_string(), "X-Request-Timeout");
      EXPECT_THAT(std::string(error.at("message").as_string()), HasSubstr("limit of 300000 ms"));
    }
  }
}

TEST_F(ServiceTest, NamesRoutesForMetricsWithoutWhatClientsMakeUp) {
  EXPECT_EQ(Service::route_of("/health?x=1"), "/health");
  EXPECT_EQ(Service::route_of("/v1/models/any/thing"), "/v1/models/{id}");
  EXPECT_EQ(Service::route_of("/etc/passwd"), "other");
}

TEST_F(ServiceTest, DescribesExactlyItsRoutesInOpenapi) {
  const auto document = json::parse(openapi_document());
  std::set<std::string> described;
  for (const auto& [path, item] : document.at("paths").as_object()) {
    for (const auto& [method, operation] : item.as_object()) {
      described.insert(std::string(method == "get" ? "GET " : "POST ") + std::string(path));
      EXPECT_TRUE(operation.as_object().contains("summary")) << path;
    }
  }
  std::set<std::string> served;
  for (const auto& [path, methods] : Service::routes()) {
    if (methods.find("GET") != std::string_view::npos) served.insert("GET " + std::string(path));
    if (methods.find("POST") != std::string_view::npos) served.insert("POST " + std::string(path));
  }
  EXPECT_EQ(described, served);
  EXPECT_EQ(ask("GET", "/openapi.json").body, openapi_document());
}

/// "temperature", "stream_options.include_usage", "messages[].role": the fields of a schema.
void collect_fields(const json::value& document, const json::value& schema,
                    const std::string& prefix, std::set<std::string>& out) {
  if (const auto* reference = schema.as_object().if_contains("$ref")) {
    const std::string pointer(reference->as_string().subview(1));
    return collect_fields(document, document.at_pointer(pointer), prefix, out);
  }
  const auto* properties = schema.as_object().if_contains("properties");
  if (properties == nullptr) return;
  for (const auto& [name, property] : properties->as_object()) {
    const std::string path = prefix + std::string(name);
    out.insert(path);
    collect_fields(document, property, path + ".", out);
    if (const auto* items = property.as_object().if_contains("items")) {
      collect_fields(document, *items, path + "[].", out);
    }
  }
}

// Bodies that lead the parsers into every object they read.
constexpr std::string_view kWholeChat =
    R"({"messages":[{"role":"assistant","content":"x","tool_calls":[{"function":{"name":"f"}}]}],)"
    R"("tools":[{"function":{"name":"f"}}],"stream":true,"stream_options":{},)"
    R"("tool_choice":{"function":{"name":"f"}},"structured_outputs":{},)"
    R"("response_format":{"type":"json_schema","json_schema":{"schema":{}}},)"
    R"("chat_template_kwargs":{}})";
constexpr std::string_view kWholeCompletion =
    R"({"prompt":"x","stream":true,"stream_options":{},"structured_outputs":{},)"
    R"("response_format":{"type":"json_schema","json_schema":{"schema":{}}}})";
// What another type of response_format reads.
constexpr std::string_view kJsonObjectFormat =
    R"({"messages":[{"role":"user","content":"x"}],"prompt":"x",)"
    R"("response_format":{"type":"json_object"}})";

TEST_F(ServiceTest, DescribesExactlyTheFieldsThatItReadsInOpenapi) {
  const auto document = json::parse(openapi_document());
  const auto described = [&](const std::string& name) {
    std::set<std::string> fields;
    collect_fields(document, document.at_pointer("/components/schemas/" + name), "", fields);
    return fields;
  };
  std::set<std::string> chat, completion, tokenize, detokenize, drain;
  ASSERT_EQ(parse_chat_request(kWholeChat, {}, &chat).index(), 0U);
  ASSERT_EQ(parse_completion_request(kWholeCompletion, {}, &completion).index(), 0U);
  ASSERT_EQ(parse_chat_request(kJsonObjectFormat, {}, &chat).index(), 0U);
  ASSERT_EQ(parse_completion_request(kJsonObjectFormat, {}, &completion).index(), 0U);
  ASSERT_EQ(parse_tokenize_request(kWholeChat, &tokenize).index(), 0U);
  ASSERT_EQ(parse_tokenize_request(R"({"prompt":"x"})", &tokenize).index(), 0U);
  ASSERT_EQ(parse_detokenize_request(R"({"tokens":[1]})", &detokenize).index(), 0U);
  EXPECT_EQ(described("ChatRequest"), chat);
  EXPECT_EQ(described("CompletionRequest"), completion);
  EXPECT_EQ(described("TokenizeRequest"), tokenize);
  EXPECT_EQ(described("DetokenizeRequest"), detokenize);
  ASSERT_EQ(parse_drain_request(R"({"node":"router-0"})", &drain).index(), 0U);
  EXPECT_EQ(described("DrainRequest"), drain);
}

TEST_F(ServiceTest, DescribesTheFieldsOfItsAnswersInOpenapi) {
  const auto document = json::parse(openapi_document());
  for (const ResponseKind kind : {ResponseKind::kChat, ResponseKind::kText}) {
    const ChoiceResult choice{.reasoning = "r",
                              .tool_calls = {{"i", "n", "{}"}},
                              .logprobs = "{}",
                              .prompt_logprobs = "[null]",
                              .finish_reason = "stop",
                              .stop_reason = "s"};
    const auto answer = json::parse(response_json({kind, "i", 1, "m"}, {&choice, 1}, {}));
    const std::string name = kind == ResponseKind::kChat ? "ChatCompletion" : "Completion";
    const auto& properties = document.at_pointer("/components/schemas/" + name + "/properties");
    for (const auto& [field, value] : answer.as_object()) {
      EXPECT_TRUE(properties.as_object().contains(field)) << name << ": " << field;
    }
    const auto& of_choice = properties.at_pointer("/choices/items/properties").as_object();
    for (const auto& [field, value] : answer.at("choices").as_array().at(0).as_object()) {
      EXPECT_TRUE(of_choice.contains(field)) << name << ": choices[]." << field;
    }
  }
}

TEST_F(ServiceTest, DescribesExactlyItsErrorsInOpenapi) {
  const auto document = json::parse(openapi_document());
  std::set<std::string> described_codes;
  for (const auto& code :
       document.at_pointer("/components/schemas/Error/properties/error/properties/code/enum")
           .as_array()) {
    if (code.is_string()) described_codes.emplace(std::string_view(code.as_string()));
  }
  std::set<std::string> codes;
  for (const ErrorCode code : kErrorCodes) codes.emplace(to_string(code));
  EXPECT_EQ(described_codes, codes);

  std::set<int> described_statuses;
  for (const auto& [path, item] : document.at("paths").as_object()) {
    for (const auto& [method, operation] : item.as_object()) {
      for (const auto& [status, response] : operation.at("responses").as_object()) {
        described_statuses.insert(std::stoi(std::string(status)));
      }
    }
  }
  // What the connection and the router of paths refuse; 405 is for methods without a description.
  std::set<int> statuses = {200, 400, 404, 408, 413, 415, 431};
  for (int code = 0; code <= static_cast<int>(Code::kInternal); ++code) {
    statuses.insert(from_error({static_cast<Code>(code), ""}).status);
  }
  for (const ApiError& error : {loading(""), draining(), too_many_connections(), invalid_json(""),
                                model_not_found("x"), context_length_exceeded(1, 1, 1, "x")}) {
    statuses.insert(error.status);
  }
  EXPECT_EQ(described_statuses, statuses);
}

TEST_F(ServiceTest, ResolvesEveryReferenceOfOpenapi) {
  const std::string_view text = openapi_document();
  const auto document = json::parse(text);
  constexpr std::string_view kReference = R"("$ref": "#)";
  size_t count = 0;
  for (size_t at = text.find(kReference); at != std::string_view::npos;
       at = text.find(kReference, at + 1)) {
    const size_t begin = at + kReference.size();
    boost::system::error_code ec;
    EXPECT_NE(document.find_pointer(text.substr(begin, text.find('"', begin) - begin), ec),
              nullptr);
    ++count;
  }
  EXPECT_GT(count, 20U);
}

TEST(Metrics, ShowsWhatHappened) {
  Metrics metrics("org/demo", "9");
  metrics.first_token(milliseconds(30));
  metrics.next_tokens(3, milliseconds(20));
  metrics.choice_ended("stop", 11, 4, seconds(1));
  metrics.http_request("/health", "GET", 200, milliseconds(1));
  metrics.client_disconnected();
  actors::ClusterStatus status;
  status.serving = true;
  status.counts.running = 2;
  status.counts.queued = 5;
  status.counts.moved_to_begin_total = 4;
  status.counts.yielded_total = 6;
  const std::string text = metrics.render(status);
  for (const char* line : {
           "vllm:num_requests_running{engine=\"0\",model_name=\"org/demo\"} 2\n",
           "vllm:num_requests_waiting{engine=\"0\",model_name=\"org/demo\"} 5\n",
           "vllm:prompt_tokens_total{engine=\"0\",model_name=\"org/demo\"} 11\n",
           "vllm:generation_tokens_total{engine=\"0\",model_name=\"org/demo\"} 4\n",
           "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"org/"
           "demo\"} 1\n",
           "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\",model_name=\"org/"
           "demo\"} 0\n",
           "vllm:time_to_first_token_seconds_bucket{engine=\"0\",model_name=\"org/"
           "demo\",le=\"0.04\"} 1\n",
           "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"org/demo\"} 1\n",
           "vllm:e2e_request_latency_seconds_count{engine=\"0\",model_name=\"org/demo\"} 1\n",
           "troupe_http_requests_total{handler=\"/health\",method=\"GET\",status=\"2xx\"} 1\n",
           "troupe_client_disconnects_total 1\n",
           "troupe_build_info{version=\"9\"} 1\n",
           "troupe_serving 1\n",
           "troupe_requests_moved_to_begin_total 4\n",
           "troupe_requests_yielded_total 6\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace troupe::gateway
