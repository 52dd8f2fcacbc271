// The server through real sockets: what bad, slow and vanishing clients get, and that they hurt
// nobody else. Timeouts are short where a test waits for one; none measures time.

#include "gateway/server.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <fstream>
#include <future>
#include <iterator>
#include <thread>

#include "cluster/config.hpp"
#include "cluster/config_values.hpp"
#include "gateway/http_client.hpp"
#include "tests/gateway/fake_client.hpp"
#include "tests/gateway/raw_client.hpp"
#include "tests/gateway/test_model.hpp"

namespace troupe::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kHi = R"({"messages":[{"role":"user","content":"hi"}]})";
constexpr const char* kHiStream = R"({"stream":true,"messages":[{"role":"user","content":"hi"}]})";

class ServerTest : public ::testing::Test {
 protected:
  void start(FakeClient::Script script, ServerOptions options = {}) {
    client_.emplace(std::move(script));
    // Pings would hide a lost wake-up: without them it leaves the client waiting for ever.
    if (options.ping_interval == ServerOptions().ping_interval)
      options.ping_interval = seconds(3600);
    options.port = 0;
    options.version = "test";
    auto server = gateway::start(options, *client_, model_.gateway);
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
  }
  void start_saying(const std::string& text, ServerOptions options = {}) {
    start(says(model_.tokenizer, text), std::move(options));
  }
  /// Sends the tokens a and b and then waits for its cancellation.
  void start_hanging(ServerOptions options = {}) {
    start(
        [this](const scheduler::RequestSpec&) {
          FakeAnswer answer;
          answer.tokens = {*model_.tokenizer.id_of("a"), *model_.tokenizer.id_of("b")};
          answer.hangs = true;
          return answer;
        },
        std::move(options));
  }
  HttpClient http() const {
    return HttpClient::create("http://127.0.0.1:" + std::to_string(server_->port())).value();
  }
  uint16_t port() const { return server_->port(); }
  void expect_alive() { EXPECT_EQ(http().get("/health").value().status, 200); }
  static std::string text_of(const ClientResponse& response) {
    return std::string(json::parse(response.body)
                           .at("choices")
                           .as_array()
                           .at(0)
                           .at("message")
                           .at("content")
                           .as_string());
  }

  TestModel model_;
  std::optional<FakeClient> client_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, AnswersAChat) {
  start_saying("good day");
  const auto response = http().post(kChat, kHi).value();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.header("content-type"), "application/json");
  EXPECT_EQ(response.header("access-control-allow-origin"), "*");
  EXPECT_FALSE(response.header("x-request-id").empty());
  EXPECT_EQ(text_of(response), "good day");
}

TEST_F(ServerTest, StreamsAChat) {
  start_saying("good day");
  std::string text;
  std::string last;
  const auto response =
      http()
          .post_stream(kChat, kHiStream,
                       [&](std::string_view data) {
                         last = data;
                         if (data == "[DONE]") return true;
                         const auto event = json::parse(data);
                         const auto& delta =
                             event.at("choices").as_array().at(0).at("delta").as_object();
                         if (delta.contains("content"))
                           text += std::string_view(delta.at("content").as_string());
                         return true;
                       })
          .value();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.header("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(response.header("cache-control"), "no-cache");
  EXPECT_EQ(response.header("x-accel-buffering"), "no");
  EXPECT_EQ(text, "good day");
  EXPECT_EQ(last, "[DONE]");
}

TEST_F(ServerTest, KeepsTheConnectionAndTheClientsRequestId) {
  start_saying("x");
  RawClient raw(port());
  for (const char* id : {"first", "second"}) {
    raw.send(post(kChat, kHi, "X-Request-Id: " + std::string(id) + "\r\n"));
    const std::string response = raw.read_response();
    EXPECT_THAT(response, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(response, HasSubstr("x-request-id: " + std::string(id) + "\r\n"));
    EXPECT_THAT(response, HasSubstr("\"id\":\"chatcmpl-" + std::string(id) + "\""));
  }
  raw.send("GET /health HTTP/1.1\r\nX-Request-Id: bad id\x01\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(raw.read_all(), Not(HasSubstr("bad id")));
}

TEST_F(ServerTest, ReadsTheClientsDeadline) {
  start_saying("x", {.request_timeout = seconds(100)});
  for (const auto& [header, expected] :
       {std::pair("", seconds(100)), {"x-request-timeout: 1.5\r\n", milliseconds(1500)}}) {
    RawClient raw(port());
    raw.send(post(kChat, kHi, header));
    EXPECT_THAT(raw.read_response(), StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_EQ(client_->submitted().back().timeout, expected);
  }
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  start_saying("x");
  RawClient raw(port());
  raw.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n" + post(kChat, kHiStream) +
           "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + post(kChat, kHi));
  EXPECT_THAT(raw.read_response(), HasSubstr("{\"version\":\"test\"}"));
  EXPECT_THAT(raw.read_response(), HasSubstr("data: [DONE]"));
  EXPECT_THAT(raw.read_response(), StartsWith("HTTP/1.1 404 Not Found\r\n"));
  EXPECT_THAT(raw.read_response(), HasSubstr("\"object\":\"chat.completion\""));
}

TEST_F(ServerTest, TakesBodiesInChunks) {
  start_saying("x");
  RawClient raw(port());
  const std::string body = kHi;
  raw.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  raw.send("5\r\n" + body.substr(0, 5) + "\r\n");
  char size[20];
  std::snprintf(size, sizeof size, "%zx", body.size() - 5);
  raw.send(std::string(size) + "\r\n" + body.substr(5) + "\r\n0\r\n\r\n");
  EXPECT_THAT(raw.read_response(), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(ServerTest, AsksForTheBodyOfCautiousClients) {
  start_saying("x");
  RawClient raw(port());
  const std::string body = kHi;
  raw.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_EQ(raw.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  raw.send(body);
  EXPECT_THAT(raw.read_response(), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(ServerTest, AnswersHttp10WithoutChunks) {
  start_saying("x");
  RawClient raw(port());
  const std::string body = kHiStream;
  raw.send("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + body);
  const std::string response = raw.read_all();
  EXPECT_THAT(response, StartsWith("HTTP/1.0 200 OK\r\n"));
  EXPECT_THAT(response, Not(HasSubstr("chunked")));
  EXPECT_THAT(response, ::testing::EndsWith("data: [DONE]\n\n"));
}

TEST_F(ServerTest, AnswersHeadWithoutABodyAndOptionsWithoutContent) {
  start_saying("x");
  RawClient raw(port());
  raw.send("HEAD /version HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string head = raw.read_until("\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 18"));
  raw.send(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
      "Access-Control-Request-Headers: authorization\r\n\r\n");
  const std::string options = raw.read_until("\r\n\r\n");
  EXPECT_THAT(options, StartsWith("HTTP/1.1 204 No Content\r\n"));
  EXPECT_THAT(options, HasSubstr("Access-Control-Allow-Headers: authorization\r\n"));
  raw.send("GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(raw.read_all(), StartsWith("HTTP/1.1 200 OK\r\n"));
}

/// Takes long over one kind of request, until it is let go.
class SlowClient final : public actors::ClusterClient {
 public:
  RequestId submit(scheduler::RequestSpec, EventHandler) override { return RequestId{1}; }
  void cancel(RequestId) override {}
  void drain(const std::string&, bool) override {
    entered.set_value();
    let_go.get_future().wait();
  }
  void experts(bool, std::function<void(Result<actors::ExpertsStatus>)>) override {}
  [[nodiscard]] bool serving() const override { return true; }
  void status(bool, std::function<void(actors::ClusterStatus)> on_status) override {
    on_status({});
  }

  std::promise<void> entered, let_go;
};

class LongRequests : public ::testing::TestWithParam<std::string> {};

TEST_P(LongRequests, KeepNobodyElseWaiting) {
  TestModel model;
  SlowClient client;
  auto server = gateway::start({.port = 0, .num_io_threads = 1}, client, model.gateway);
  ASSERT_TRUE(server.ok()) << server.error().message;
  RawClient slow((*server)->port());
  slow.send(post("/v1/troupe/drain", R"({"node":"router-0",)" + GetParam() + "}"));
  client.entered.get_future().wait();
  const auto other = HttpClient::create("http://127.0.0.1:" + std::to_string((*server)->port()),
                                        {.silence_timeout = seconds(5)});
  const auto answer = other.value().get("/health");
  client.let_go.set_value();
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->status, 200);
  EXPECT_THAT(slow.read_response(), StartsWith("HTTP/1.1 404 Not Found\r\n"));
}

INSTANTIATE_TEST_SUITE_P(Members, LongRequests,
                         ::testing::Values(R"("padding":")" + std::string(20'000, 'x') + '"',
                                           R"("guided_regex":"a")", R"("response_form\u0061t":{})",
                                           R"("tools":[])"));

TEST(ServerOptions, HasTheLimitsOfTheConfigurationAsTheDocumentationTellsThem) {
  const ServerOptions options;
  const cluster::ClusterConfig config;
  EXPECT_EQ(options.max_body_bytes, config.max_body_bytes);
  EXPECT_EQ(options.max_connections, config.max_connections);
  EXPECT_EQ(options.request_timeout, config.request_timeout);
  std::ifstream file(TROUPE_SOURCE_DIR "/docs/http_api.md");
  const std::string docs{std::istreambuf_iterator<char>(file), {}};
  const std::string body = cluster::size_text(config.max_body_bytes);  // "8MiB"
  EXPECT_THAT(docs, HasSubstr("size of the body (`limits.max_body`, " +
                              body.substr(0, body.size() - 3) + " MiB)"));
  const std::string timeout = std::to_string(config.request_timeout.ns / seconds(1).ns);
  EXPECT_THAT(docs, HasSubstr("(`limits.request_timeout`, " + timeout + " s)"));
}

struct RawCase {
  const char* name;
  std::string bytes;
  const char* answer;  ///< how it starts
};
void PrintTo(const RawCase& c, std::ostream* out) { *out << c.name; }

class BadBytes : public ServerTest, public ::testing::WithParamInterface<RawCase> {};

TEST_P(BadBytes, GetAnErrorAndHurtNobody) {
  start_saying("x", {.max_body_bytes = 10'000});
  RawClient raw(port());
  raw.send(GetParam().bytes);
  raw.shutdown_send();
  const std::string response = raw.read_all();
  EXPECT_THAT(response, StartsWith(GetParam().answer));
  EXPECT_THAT(response, HasSubstr("{\"error\":{\"message\":"));
  EXPECT_THAT(response, HasSubstr("x-request-id: "));
  expect_alive();
}

std::vector<RawCase> bad_bytes() {
  const std::string json_head = "Host: x\r\nContent-Type: application/json\r\n";
  return {
      {"garbage", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls?", 16),
       "HTTP/1.1 400"},
      {"no_http", "hello there\r\n\r\n", "HTTP/1.1 400"},
      {"http2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 400"},
      {"http9", "GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 400"},
      {"bad_header", "GET / HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400"},
      {"bare_newline_in_header", "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", "HTTP/1.1 400"},
      {"nul", std::string("GET /\0 HTTP/1.1\r\n\r\n", 20), "HTTP/1.1 400"},
      {"half_request_line", "GET /hea", "HTTP/1.1 400"},
      {"half_header", "GET /health HTTP/1.1\r\nHost: x\r\n", "HTTP/1.1 400"},
      {"half_body",
       "POST /v1/chat/completions HTTP/1.1\r\n" + json_head +
           "Content-Length: 50\r\n\r\n{\"messages\":",
       "HTTP/1.1 400"},
      {"half_chunk",
       "POST /v1/chat/completions HTTP/1.1\r\n" + json_head +
           "Transfer-Encoding: chunked\r\n\r\nff\r\n{",
       "HTTP/1.1 400"},
      {"bad_chunk",
       "POST /v1/chat/completions HTTP/1.1\r\n" + json_head +
           "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
       "HTTP/1.1 400"},
      {"length_not_a_number",
       "POST /tokenize HTTP/1.1\r\n" + json_head + "Content-Length: abc\r\n\r\n", "HTTP/1.1 400"},
      {"length_negative", "POST /tokenize HTTP/1.1\r\n" + json_head + "Content-Length: -1\r\n\r\n",
       "HTTP/1.1 400"},
      {"two_lengths",
       "POST /tokenize HTTP/1.1\r\n" + json_head +
           "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
       "HTTP/1.1 400"},
      {"huge_length",
       "POST /tokenize HTTP/1.1\r\n" + json_head + "Content-Length: 99999999999999\r\n\r\n",
       "HTTP/1.1 413"},
      {"huge_body", post("/tokenize", "\"" + std::string(20'000, 'x') + "\""), "HTTP/1.1 413"},
      {"huge_chunks",
       "POST /tokenize HTTP/1.1\r\n" + json_head + "Transfer-Encoding: chunked\r\n\r\n4e20\r\n" +
           std::string(20'000, 'x') + "\r\n0\r\n\r\n",
       "HTTP/1.1 413"},
      {"huge_header", "GET / HTTP/1.1\r\nA: " + std::string(20'000, 'x') + "\r\n\r\n",
       "HTTP/1.1 431"},
      {"huge_target", "GET /" + std::string(20'000, 'x') + " HTTP/1.1\r\n\r\n", "HTTP/1.1 431"},
      {"many_headers",
       [] {
         std::string text = "GET / HTTP/1.1\r\n";
         for (int i = 0; i < 3000; ++i) text += "A" + std::to_string(i) + ": b\r\n";
         return text + "\r\n";
       }(),
       "HTTP/1.1 431"},
      {"no_body", "POST /v1/chat/completions HTTP/1.1\r\n" + json_head + "\r\n", "HTTP/1.1 400"},
      {"no_json", post(kChat, "{\"messages\":"), "HTTP/1.1 400"},
      {"not_utf8", post(kChat, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xc3\"}]}"),
       "HTTP/1.1 400"},
      {"nested",
       post(kChat, "{\"messages\":" + std::string(4000, '[') + std::string(4000, ']') + "}"),
       "HTTP/1.1 400"},
      {"form",
       "POST /v1/completions HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx",
       "HTTP/1.1 415"},
      {"unknown_path", "GET /wp-admin HTTP/1.1\r\n\r\n", "HTTP/1.1 404"},
      {"wrong_method", "GET /v1/chat/completions HTTP/1.1\r\n\r\n", "HTTP/1.1 405"},
      {"odd_method", "FROB /health HTTP/1.1\r\n\r\n", "HTTP/1.1 405"},
  };
}

INSTANTIATE_TEST_SUITE_P(Server, BadBytes, ::testing::ValuesIn(bad_bytes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(ServerTest, ClosesSlowHeadersWith408) {
  start_saying("x", {.header_timeout = milliseconds(100)});
  RawClient raw(port());
  raw.send("GET /health HTTP/1.1\r\nHo");
  const std::string answer = raw.read_all();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 408 "));
  EXPECT_THAT(answer, HasSubstr("\"code\":\"request_timeout\""));
  expect_alive();
}

TEST_F(ServerTest, ClosesSlowBodiesWith408) {
  start_saying("x", {.body_timeout = milliseconds(100)});
  RawClient raw(port());
  raw.send("POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"pro");
  EXPECT_THAT(raw.read_all(), StartsWith("HTTP/1.1 408 "));
}

TEST_F(ServerTest, ClosesIdleConnectionsSilently) {
  start_saying("x", {.idle_timeout = milliseconds(100)});
  RawClient raw(port());
  EXPECT_EQ(raw.read_all(), "");
}

TEST_F(ServerTest, CancelsWhenAStreamingClientVanishes) {
  start_hanging();
  RawClient raw(port());
  raw.send(post(kChat, kHiStream));
  EXPECT_THAT(raw.read_until("b\"}"), HasSubstr("b\"}"));
  raw.close();
  client_->wait_for_cancelled(1);
  EXPECT_THAT(http().get("/metrics").value().body,
              HasSubstr("troupe_client_disconnects_total 1\n"));
}

TEST_F(ServerTest, CancelsWhenAClientResetsBeforeTheFirstByte) {
  start([](const scheduler::RequestSpec&) { return FakeAnswer{.hangs = true}; });
  RawClient raw(port());
  raw.send(post(kChat, kHi));
  while (client_->num_running() == 0) std::this_thread::yield();
  raw.reset();
  client_->wait_for_cancelled(1);
  expect_alive();
}

TEST_F(ServerTest, CancelsWhenAClientWithPipelinedRequestsVanishes) {
  start_hanging();
  RawClient raw(port());
  raw.send(post(kChat, kHiStream) + post(kChat, kHi));
  EXPECT_THAT(raw.read_until("b\"}"), HasSubstr("b\"}"));
  raw.close();
  client_->wait_for_cancelled(1);
  client_->wait_until_idle();
  EXPECT_EQ(client_->submitted().size(), 1U);
}

TEST_F(ServerTest, CancelsWhenAClientReadsNothing) {
  start(
      [this](const scheduler::RequestSpec&) {
        FakeAnswer answer;
        answer.tokens.assign(400, *model_.tokenizer.id_of("a"));
        answer.hangs = true;
        return answer;
      },
      {.write_timeout = milliseconds(100)});
  RawClient raw(port());
  // Some 15 MB of events, more than the kernel's buffers hold.
  raw.send(post(kChat, R"({"stream":true,"n":16,"max_tokens":400,"logprobs":true,)"
                       R"("top_logprobs":20,"messages":[{"role":"user","content":"hi"}]})"));
  client_->wait_for_cancelled(16);
  expect_alive();
}

TEST_F(ServerTest, CancelsWhenAClientClosesItsSideDuringTheAnswer) {
  start_hanging();
  RawClient raw(port());
  raw.send(post(kChat, kHiStream));
  EXPECT_THAT(raw.read_until("b\"}"), HasSubstr("b\"}"));
  raw.shutdown_send();
  client_->wait_for_cancelled(1);
  expect_alive();
}

TEST_F(ServerTest, BadClientsDoNotDisturbAStreamInProgress) {
  start_saying("good day");
  client_->set_paused(true);
  RawClient streaming(port());
  streaming.send(post(kChat, kHiStream));
  while (client_->num_running() == 0) std::this_thread::yield();
  RawClient slow(port());
  slow.send("POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
  for (const std::string& bytes :
       {std::string("\x16\x03\x01"), std::string("GET / HTTP/1.1\r\n"),
        post(kChat, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}"),
        post(kChat, std::string(1000, '['))}) {
    RawClient bad(port());
    bad.send(bytes);
    bad.shutdown_send();
    EXPECT_THAT(bad.read_all(), StartsWith("HTTP/1.1 400 "));
    RawClient rude(port());
    rude.send(bytes);
    rude.reset();
  }
  client_->set_paused(false);
  const std::string answer = streaming.read_response();
  EXPECT_THAT(answer, HasSubstr("\"finish_reason\":\"stop\""));
  EXPECT_THAT(answer, HasSubstr("data: [DONE]\n\n"));
}

TEST_F(ServerTest, CancelsAtAStopString) {
  start([this](const scheduler::RequestSpec&) {
    FakeAnswer answer;
    answer.tokens = model_.tokenizer.encode_plain("one two three").value();
    answer.hangs = true;
    return answer;
  });
  const auto response =
      http()
          .post(kChat, R"({"stop":" three","messages":[{"role":"user","content":"hi"}]})")
          .value();
  EXPECT_EQ(text_of(response), "one two");
  client_->wait_for_cancelled(1);
}

TEST_F(ServerTest, SendsCommentsThroughSilence) {
  start_hanging({.ping_interval = milliseconds(20)});
  RawClient raw(port());
  raw.send(post(kChat, kHiStream));
  EXPECT_THAT(raw.read_until(": ping\n\n"), HasSubstr("b\"}"));
}

struct RefusalCase {
  Error error;
  int status;
  const char* code;
};

TEST_F(ServerTest, RefusesWithAStatusAlsoForStreams) {
  Error refusal;
  std::optional<Duration> retry_after;
  start([&](const scheduler::RequestSpec&) {
    FakeAnswer answer;
    answer.refusal = refusal;
    answer.retry_after = retry_after;
    return answer;
  });
  for (const auto& expected :
       {RefusalCase{{Code::kResourceExhausted, "full"}, 429, "queue_full"},
        RefusalCase{{Code::kDeadlineExceeded, "late"}, 429, "deadline_exceeded"},
        RefusalCase{{Code::kUnavailable, "no router"}, 503, "no_capacity"},
        RefusalCase{{Code::kDeadlineExceeded, "too long"}, 400, "timeout_too_short"},
        RefusalCase{{Code::kInvalidArgument, "bad"}, 400, "invalid_value"}}) {
    refusal = expected.error;
    retry_after = expected.status == 400 ? std::nullopt : std::optional(milliseconds(1500));
    for (const char* body : {kHi, kHiStream}) {
      const auto response = http().post(kChat, body).value();
      EXPECT_EQ(response.status, expected.status);
      EXPECT_EQ(json::parse(response.body).at("error").at("code").as_string(), expected.code);
      EXPECT_EQ(json::parse(response.body).at("error").at("message").as_string(),
                expected.error.message);
      EXPECT_EQ(response.header("retry-after"), expected.status == 400 ? "" : "2");
      const bool is_useless = std::string_view(expected.code) == "timeout_too_short";
      EXPECT_EQ(response.header("x-should-retry"), is_useless ? "false" : "");
    }
  }
}

TEST_F(ServerTest, EndsAFailedStreamWithAnErrorEvent) {
  start([this](const scheduler::RequestSpec&) {
    FakeAnswer answer;
    answer.tokens = {*model_.tokenizer.id_of("a"), *model_.tokenizer.id_of("b")};
    answer.failure = Error{Code::kUnavailable, "node experts-2 is gone"};
    return answer;
  });
  RawClient raw(port());
  raw.send(post(kChat, kHiStream));
  const std::string response = raw.read_response();
  if (response.find("HTTP/1.1 503") != 0) {  // else the failure overtook the first token
    EXPECT_THAT(response, HasSubstr("data: {\"error\":{\"message\":\"node experts-2 is gone\""));
    EXPECT_THAT(response, HasSubstr("data: [DONE]\n\n"));
  }
  expect_alive();
}

TEST_F(ServerTest, ServesManyStreamsAtOnce) {
  start(babbles(model_.tokenizer));
  constexpr int kStreams = 32;
  std::vector<std::string> texts(kStreams);
  std::vector<std::thread> threads;
  const auto stream = [&](int i) {
    const std::string body = R"({"stream":true,"n":2,"ignore_eos":true,"max_tokens":40,"seed":)" +
                             std::to_string(i / 2) +
                             R"(,"messages":[{"role":"user","content":"hi"}]})";
    const auto response = http().post_stream(kChat, body, [&](std::string_view data) {
      if (data == "[DONE]") return true;
      const auto event = json::parse(data);
      const auto& choice = event.at("choices").as_array().at(0);
      const auto& delta = choice.at("delta").as_object();
      if (choice.at("index").as_int64() == 1 && delta.contains("content")) {
        texts[static_cast<size_t>(i)] += std::string_view(delta.at("content").as_string());
      }
      return true;
    });
    EXPECT_TRUE(response.ok());
  };
  for (int i = 0; i < kStreams; ++i) threads.emplace_back(stream, i);
  for (auto& thread : threads) thread.join();
  for (size_t i = 0; i < kStreams; i += 2) {
    EXPECT_FALSE(texts[i].empty());
    EXPECT_EQ(texts[i], texts[i + 1]) << "the same seed";
  }
  client_->wait_until_idle();
}

TEST_F(ServerTest, DrawsASeedForEachRequestWithoutOne) {
  start_saying("x");
  http().post(kChat, kHi).value();
  http().post(kChat, kHi).value();
  const auto specs = client_->submitted();
  EXPECT_NE(specs[0].sampling.seed, specs[1].sampling.seed);
}

TEST_F(ServerTest, SamplingParametersReachTheSampler) {
  // A model that likes "a" best and "b" next, always.
  const TokenId a = *model_.tokenizer.id_of("a");
  const TokenId b = *model_.tokenizer.id_of("b");
  start([&](const scheduler::RequestSpec& spec) {
    std::vector<float> logits(model_.tokenizer.vocab_size(), 0.0F);
    logits[static_cast<size_t>(a)] = 10;
    logits[static_cast<size_t>(b)] = 9;
    FakeAnswer answer;
    for (uint32_t i = 0; i < spec.max_tokens; ++i) {
      const model::TokenHistory history(
          spec.sampling,
          {.prompt = spec.prompt, .emitted = answer.tokens, .stop_token_ids = spec.stop_token_ids});
      const auto token =
          model::sample(logits, spec.sampling, spec.prompt.size() + i, history).token;
      if (token < 0) {
        answer.failure = model::no_token_error(token);
        break;
      }
      answer.tokens.push_back(token);
    }
    answer.reason = scheduler::FinishReason::kLength;
    return answer;
  });
  const auto ask = [&](const std::string& fields) {
    return http()
        .post(kChat, R"({"temperature":0,"max_tokens":4,"messages":[{"role":"user",)"
                     R"("content":"hi"}],)" +
                         fields + "}")
        .value();
  };
  EXPECT_EQ(text_of(ask(R"("top_k":1)")), "aaaa");
  EXPECT_EQ(text_of(ask(R"("bad_words":["a"])")), "bbbb");
  EXPECT_EQ(text_of(ask(R"("bad_words":"aa")")), "abab");
  EXPECT_EQ(text_of(ask(R"("presence_penalty":2)")), "abaa");
  EXPECT_EQ(text_of(ask(R"("frequency_penalty":0.6)")), "aaba");
  EXPECT_EQ(text_of(ask(R"("repetition_penalty":1.2)")), "abaa");
  EXPECT_EQ(text_of(ask("\"logit_bias\":{\"" + std::to_string(b) + "\":1.5}")), "bbbb");
  EXPECT_EQ(text_of(ask("\"allowed_token_ids\":[" + std::to_string(b) + "]")), "bbbb");
  const auto nothing_left =
      ask("\"bad_words\":\"b\",\"allowed_token_ids\":[" + std::to_string(b) + "]");
  EXPECT_EQ(nothing_left.status, 400);
  EXPECT_THAT(nothing_left.body, HasSubstr("leave no token"));
}

TEST_F(ServerTest, DrainsARouterByName) {
  start_saying("x");
  const auto drain = [this](const char* body) {
    return http().post("/v1/troupe/drain", body).value();
  };
  const auto drained = drain(R"({"node":"router-0"})");
  EXPECT_EQ(drained.status, 200);
  EXPECT_TRUE(json::parse(drained.body).at("nodes").at(0).at("drained").as_bool());
  const auto back = drain(R"({"node":"router-0","drained":false})");
  EXPECT_FALSE(json::parse(back.body).at("nodes").at(0).at("drained").as_bool());
  EXPECT_EQ(drain(R"({"node":"router-9"})").status, 404);
  EXPECT_EQ(drain("{}").status, 400);
}

TEST_F(ServerTest, ShowsAndRebalancesTheExperts) {
  start_saying("x");
  const auto shown = json::parse(http().get("/v1/troupe/experts").value().body);
  EXPECT_EQ(shown.at("epoch").as_int64(), 3);
  EXPECT_EQ(shown.at("balancedness").as_double(), 0.75);
  EXPECT_FALSE(shown.at("changing").as_bool());
  EXPECT_EQ(shown.at("shards").at(1).at("name").as_string(), "shard-1");
  ASSERT_EQ(shown.at("layers").as_array().size(), 1U) << "dense layers have no experts";
  const auto& layer = shown.at("layers").at(0);
  EXPECT_EQ(layer.at("layer").as_int64(), 1);
  EXPECT_EQ(layer.at("balancedness").as_double(), 0.625) << "as the cluster says";
  const auto& holders = layer.at("experts").at(1).at("holders").as_array();
  ASSERT_EQ(holders.size(), 2U);
  EXPECT_EQ(holders[1].as_string(), "shard-1");
  EXPECT_EQ(http().post("/v1/troupe/experts", "{}").value().status, 405);
  const auto ordered = http().post("/v1/troupe/experts/rebalance", "").value();
  EXPECT_EQ(ordered.status, 200);
  EXPECT_TRUE(json::parse(ordered.body).at("changing").as_bool());
  client_->set_serving(false);
  const auto refused = http().post("/v1/troupe/experts/rebalance", "").value();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(json::parse(refused.body).at_pointer("/error/message").as_string(),
            "waiting for router-0");
  EXPECT_EQ(http().get("/v1/troupe/experts").value().status, 200) << "who asks only is told";
}

TEST_F(ServerTest, ShowsTheClustersState) {
  start_saying("x");
  const auto status = json::parse(http().get("/v1/troupe/status").value().body);
  EXPECT_TRUE(status.at("serving").as_bool());
  EXPECT_EQ(status.at("epoch").as_int64(), 3);
  EXPECT_EQ(status.at("requests").at("moved_to_begin_total").as_int64(), 12);
  EXPECT_EQ(status.at("requests").at("yielded_total").as_int64(), 13);
  const auto& node = status.at("nodes").as_array().at(0);
  EXPECT_EQ(node.at("name").as_string(), "router-0");
  EXPECT_EQ(node.at("role").as_string(), "router");
  EXPECT_EQ(node.at("links").as_array().at(0).at("transport").as_string(), "loopback");
}

TEST_F(ServerTest, TurnsAwayConnectionsBeyondItsBound) {
  start_saying("x", {.max_connections = 2});
  RawClient first(port());
  RawClient second(port());
  for (RawClient* raw : {&first, &second}) {
    raw->send("GET /ping HTTP/1.1\r\n\r\n");
    raw->read_response();
  }
  RawClient third(port());
  EXPECT_THAT(third.read_all(), StartsWith("HTTP/1.1 429 "));
  first.send("GET /ping HTTP/1.1\r\n\r\n");
  EXPECT_THAT(first.read_response(), StartsWith("HTTP/1.1 200 "));
}

TEST_F(ServerTest, NamesTheBusyPort) {
  start_saying("x");
  ServerOptions options;
  options.port = port();
  const auto second = gateway::start(options, *client_, model_.gateway);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Code::kUnavailable);
  EXPECT_THAT(second.error().message, HasSubstr("127.0.0.1:" + std::to_string(port())));
  EXPECT_THAT(second.error().message, HasSubstr("another program uses this port"));
}

TEST_F(ServerTest, RefusesAHostThatIsNoAddress) {
  start_saying("x");
  ServerOptions options;
  options.host = "nowhere";
  const auto server = gateway::start(options, *client_, model_.gateway);
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.error().code, Code::kInvalidArgument);
}

TEST_F(ServerTest, LetsAnswersInProgressEndWhenStopped) {
  start_saying("good day");
  client_->set_paused(true);
  std::thread asker([&] { EXPECT_EQ(text_of(http().post(kChat, kHi).value()), "good day"); });
  while (client_->num_running() == 0) std::this_thread::yield();
  RawClient idle(port());
  std::thread stopper([&] { server_->stop(); });
  EXPECT_EQ(idle.read_all(), "") << "idle connections are closed first";
  client_->set_paused(false);
  asker.join();
  stopper.join();
}

TEST_F(ServerTest, InterruptsAnswersThatOutliveTheDrain) {
  start_hanging({.drain_timeout = milliseconds(50)});
  RawClient streaming(port());
  streaming.send(post(kChat, kHiStream));
  EXPECT_THAT(streaming.read_until("b\"}"), HasSubstr("b\"}"));
  RawClient whole(port());
  whole.send(post(kChat, kHi));
  while (client_->num_running() < 2) std::this_thread::yield();
  server_->stop();
  const std::string tail = streaming.read_all();
  EXPECT_THAT(tail, HasSubstr("\"code\":\"draining\""));
  EXPECT_THAT(tail, HasSubstr("data: [DONE]"));
  EXPECT_THAT(whole.read_all(), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(client_->num_running(), 0U);
}

}  // namespace
}  // namespace troupe::gateway
