#include "loadgen/load.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <map>

#include "tests/loadgen/scripted_server.hpp"

namespace troupe::loadgen {
namespace {

using ::testing::HasSubstr;
namespace json = boost::json;

const WordPool kPool = common_words(300, 3000);

std::shared_ptr<const Workload> workload(uint32_t num_turns = 1) {
  return std::make_shared<const Workload>(WorkloadOptions{
      .input = {8, 0}, .output = {4, 0}, .later_input = {3, 0}, .num_turns = num_turns});
}

Stream closed(uint32_t num_clients, uint64_t num_requests) {
  Stream stream;
  stream.workload = workload();
  stream.tenants = {0};
  stream.source.num_clients = num_clients;
  stream.source.num_requests = num_requests;
  return stream;
}

LoadOptions options(const ScriptedServer& server) {
  LoadOptions load;
  load.host = "127.0.0.1";
  load.port = server.port();
  load.path = "/v1/completions";
  load.body.model = "m";
  load.sends_tokens = true;
  load.tenants = {{.name = "all", .api_key = ""}};
  load.timeout = seconds(20);
  return load;
}

LoadResult run(const LoadOptions& load, const std::vector<Stream>& streams) {
  auto result = run_load(load, kPool, streams, [](const Progress&) {});
  EXPECT_TRUE(result.ok());
  return result.ok() ? std::move(*result) : LoadResult{};
}

size_t count(const LoadResult& result, Outcome outcome) {
  return static_cast<size_t>(std::ranges::count_if(
      result.records, [&](const Record& record) { return record.outcome == outcome; }));
}

TEST(Load, MeasuresEveryRequestAndKeepsItsConnections) {
  ScriptedServer server([](const std::string&, int) { return streamed(4); });
  const LoadResult result = run(options(server), {closed(3, 30)});
  ASSERT_EQ(result.records.size(), 30U);
  EXPECT_EQ(count(result, Outcome::kServed), 30U);
  EXPECT_EQ(server.num_connections(), 3);
  for (const Record& record : result.records) {
    EXPECT_EQ(record.tokens.size(), 4U);
    EXPECT_EQ(record.input_tokens, 11U);
    EXPECT_EQ(record.output_tokens, 4U);
    EXPECT_TRUE(record.has_usage);
    EXPECT_LE(record.start, record.tokens.front());
    EXPECT_LE(record.tokens.back(), record.last);
    EXPECT_LE(record.last, record.ended);
    EXPECT_LE(record.ended, result.end);
  }
}

TEST(Load, SendsWhatTheWorkloadSays) {
  std::vector<std::string> requests;
  {
    ScriptedServer server([&](const std::string& request, int) {
      requests.push_back(request);
      return streamed(4);
    });
    LoadOptions load = options(server);
    load.tenants[0].api_key = "key-1";
    run(load, {closed(1, 2)});
  }
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_THAT(requests[1], HasSubstr("POST /v1/completions HTTP/1.1\r\n"));
  EXPECT_THAT(requests[1], HasSubstr("Authorization: Bearer key-1\r\n"));
  const json::value body = json::parse(requests[1].substr(requests[1].find("\r\n\r\n") + 4));
  std::vector<TokenId> prompt;
  for (const auto& token : body.at("prompt").as_array()) {
    prompt.push_back(token.to_number<TokenId>());
  }
  EXPECT_EQ(prompt, tokens_of(kPool, 0, workload()->plan(1, 0).segments));
  EXPECT_EQ(body.at("max_tokens"), 4);
}

TEST(Load, SendsTheServersAnswersWithTheNextTurn) {
  std::vector<json::value> bodies;
  {
    ScriptedServer server([&](const std::string& request, int number) {
      bodies.push_back(json::parse(request.substr(request.find("\r\n\r\n") + 4)));
      return streamed(2, "answer" + std::to_string(number) + ".");
    });
    LoadOptions load = options(server);
    load.sends_tokens = false;
    load.body.is_chat = true;
    Stream stream = closed(1, 3);
    stream.workload = workload(3);
    stream.source.num_turns = 3;
    run(load, {stream});
  }
  ASSERT_EQ(bodies.size(), 3U);
  const json::array& messages = bodies[2].at("messages").as_array();
  ASSERT_EQ(messages.size(), 5U);
  EXPECT_EQ(messages[1].at("role"), "assistant");
  EXPECT_EQ(messages[1].at("content"), "answer0.answer0.");
  EXPECT_EQ(messages[3].at("content"), "answer1.answer1.");
  EXPECT_EQ(messages[0], bodies[0].at("messages").at(0));
}

TEST(Load, CountsRefusalsAndOnlyRetriesWhenAsked) {
  const auto answer = [](const std::string&, int number) {
    return number < 2 ? plain(number == 0 ? 429 : 503, "Retry-After: 0\r\n",
                              R"({"error":{"message":"full"}})")
                      : streamed(4);
  };
  {
    ScriptedServer server(answer);
    const LoadResult result = run(options(server), {closed(1, 3)});
    EXPECT_EQ(count(result, Outcome::kRefused), 2U);
    EXPECT_EQ(count(result, Outcome::kServed), 1U);
    EXPECT_EQ(result.records[0].error_kind, "HTTP 429");
    EXPECT_EQ(result.records[0].error, "full");
    EXPECT_EQ(result.records[0].refusals.size(), 1U);
  }
  ScriptedServer server(answer);
  LoadOptions load = options(server);
  load.retries = true;
  const LoadResult result = run(load, {closed(1, 1)});
  ASSERT_EQ(result.records.size(), 1U);
  EXPECT_EQ(result.records[0].outcome, Outcome::kServed);
  EXPECT_EQ(result.records[0].refusals.size(), 2U);
  EXPECT_EQ(server.num_requests(), 3);
}

TEST(Load, TellsFailuresApart) {
  const std::string whole = streamed(4).bytes;
  const std::map<std::string, Scripted> answers = {
      {"HTTP 400", plain(400, "", R"({"error":{"message":"bad"}})")},
      {"connection cut", {whole.substr(0, 200), true}},
      {"broken answer", {"SSH-2.0\r\n", true}},
      {"stream cut", plain(200, "Content-Type: text/event-stream\r\n", "")},
      {"empty answer", plain(200, "Content-Type: text/event-stream\r\n", "data: [DONE]\n\n")},
      {"broken event", plain(200, "Content-Type: text/event-stream\r\n", "data: {\n\n")},
      {"error event", plain(200, "Content-Type: text/event-stream\r\n",
                            "data: {\"error\":{\"message\":\"draining\"}}\n\ndata: [DONE]\n\n")}};
  for (const auto& [kind, answer] : answers) {
    ScriptedServer server([answer = answer](const std::string&, int) { return answer; });
    const LoadResult result = run(options(server), {closed(1, 1)});
    ASSERT_EQ(result.records.size(), 1U) << kind;
    EXPECT_EQ(result.records[0].outcome, Outcome::kFailed) << kind;
    EXPECT_EQ(result.records[0].error_kind, kind);
    EXPECT_FALSE(result.records[0].error.empty()) << kind;
  }
}

TEST(Load, GivesUpOnASilentServer) {
  ScriptedServer server([](const std::string&, int) { return Scripted{}; });
  LoadOptions load = options(server);
  load.timeout = milliseconds(50);
  const LoadResult result = run(load, {closed(2, 2)});
  EXPECT_EQ(count(result, Outcome::kFailed), 2U);
  EXPECT_EQ(result.records[0].error_kind, "timeout");
}

TEST(Load, SaysWhereNobodyListens) {
  LoadOptions load;
  {
    ScriptedServer server([](const std::string&, int) { return Scripted{}; });
    load = options(server);
  }
  const LoadResult result = run(load, {closed(1, 1)});
  ASSERT_EQ(result.records.size(), 1U);
  EXPECT_EQ(result.records[0].error_kind, "no connection");
}

TEST(Load, SendsAgainWhatAnIdleConnectionLost) {
  // Each answer promises to keep the connection, and closes it.
  ScriptedServer server([](const std::string&, int) {
    Scripted answer = streamed(4);
    answer.closes = true;
    return answer;
  });
  const LoadResult result = run(options(server), {closed(1, 5)});
  EXPECT_EQ(count(result, Outcome::kServed), 5U);
  EXPECT_EQ(server.num_requests(), 5);
}

TEST(Load, MeasuresAnOpenLoopFromItsArrivals) {
  ScriptedServer server([](const std::string&, int) { return streamed(1); });
  Stream stream = closed(1, 4);
  stream.source.is_open = true;
  stream.source.max_in_flight = 1;  // at once four arrive, one at a time is sent
  const LoadResult result = run(options(server), {stream});
  ASSERT_EQ(result.records.size(), 4U);
  for (const Record& record : result.records) EXPECT_EQ(record.start, result.start);
  EXPECT_GT(result.records[3].sent, result.records[0].ended);
}

TEST(Load, CutsTheBackgroundWhenTheRestIsDone) {
  ScriptedServer server([](const std::string& request, int) {
    return request.find("\"max_tokens\":1,") == std::string::npos ? streamed(4) : Scripted{};
  });
  Stream background;
  background.workload = std::make_shared<const Workload>(
      WorkloadOptions{.input = {100, 0}, .output = {1, 0}, .later_input = {1, 0}});
  background.tenants = {0};
  background.is_background = true;
  background.source.is_open = true;
  background.source.rate = 1e-3;
  background.source.num_requests = 1000;
  const LoadResult result = run(options(server), {closed(1, 20), background});
  EXPECT_EQ(count(result, Outcome::kServed), 20U);
  EXPECT_EQ(count(result, Outcome::kInterrupted), 1U);
  EXPECT_TRUE(result.records.back().is_background);
}

TEST(Load, DrawsTenantsByWeight) {
  ScriptedServer server([](const std::string&, int) { return streamed(1); });
  LoadOptions load = options(server);
  load.tenants = {{.name = "a", .api_key = "a", .weight = 3}, {.name = "b", .api_key = "b"}};
  Stream stream = closed(4, 400);
  stream.tenants = {0, 1};
  const LoadResult result = run(load, {stream});
  const auto of_a =
      std::ranges::count_if(result.records, [](const Record& r) { return r.tenant == 0; });
  EXPECT_NEAR(static_cast<double>(of_a), 300, 40);  // the deviation is 8.7
}

TEST(Load, CountsUnsentArrivalsForTheTenantsThatTheyWereOf) {
  ScriptedServer server([](const std::string&, int) { return Scripted{}; });
  LoadOptions load = options(server);
  load.tenants = {{.name = "a", .api_key = "a"}, {.name = "b", .api_key = "b"}};
  load.timeout = milliseconds(50);
  Stream stream = closed(1, 10);
  stream.tenants = {0, 1};
  stream.source.is_open = true;
  stream.source.max_in_flight = 1;
  stream.source.duration = milliseconds(20);
  const auto arrivals_by_tenant = [](const LoadResult& of) {
    std::vector<uint64_t> arrivals = of.num_unsent;
    for (const Record& record : of.records) ++arrivals.at(record.tenant);
    return arrivals;
  };
  const LoadResult result = run(load, {stream});
  ASSERT_EQ(result.records.size(), 1U);
  ASSERT_EQ(result.num_unsent.size(), 2U);
  EXPECT_EQ(result.num_unsent[0] + result.num_unsent[1], 9U);
  stream.source.max_in_flight = 10;
  const LoadResult all_sent = run(load, {stream});
  ASSERT_EQ(all_sent.records.size(), 10U);
  EXPECT_EQ(arrivals_by_tenant(result), arrivals_by_tenant(all_sent));
}

TEST(Load, ReportsWhatItHasWhenItIsInterrupted) {
  ScriptedServer server([](const std::string&, int number) {
    if (number == 10) std::raise(SIGINT);
    return number < 10 ? streamed(4) : Scripted{};
  });
  const LoadResult result = run(options(server), {closed(2, 1000)});
  EXPECT_TRUE(result.interrupted);
  EXPECT_GE(count(result, Outcome::kServed), 9U);
  EXPECT_GE(count(result, Outcome::kInterrupted), 1U);
  EXPECT_EQ(count(result, Outcome::kFailed), 0U);
}

}  // namespace
}  // namespace troupe::loadgen
