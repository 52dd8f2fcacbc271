// troupe experts: who holds the routed experts of a running cluster, how busy they are, and a
// change of placement on request.

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "apps/command.hpp"
#include "apps/server_error.hpp"
#include "gateway/http_client.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace json = boost::json;
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(100);

/// A member of the answer; what a server of another version lacks is null.
const json::value& member(const json::value& object, const char* key) {
  static const json::value nothing;
  const json::value* value = object.is_object() ? object.get_object().if_contains(key) : nullptr;
  return value == nullptr ? nothing : *value;
}

const json::array& list(const json::value& object, const char* key) {
  static const json::array none;
  const json::value& value = member(object, key);
  return value.is_array() ? value.get_array() : none;
}

std::string text(const json::value& value) {
  return value.is_string() ? std::string(value.get_string()) : json::serialize(value);
}

double number(const json::value& value) {
  return value.is_number() ? value.to_number<double>() : 0;
}

Result<json::value> parsed(const gateway::ClientResponse& response) {
  if (response.status != 200) return gateway_error(response.status, response.body);
  boost::system::error_code failed;
  json::value answer = json::parse(response.body, failed);
  if (failed || !answer.is_object()) {
    return Error{Code::kCorrupt, "the server's answer is no JSON object"};
  }
  return answer;
}

std::string holders(const json::value& expert) {
  std::string names;
  for (const json::value& holder : list(expert, "holders")) {
    names += (names.empty() ? "" : " ") + text(holder);
  }
  return names;
}

void print_table(const json::value& status, size_t most) {
  std::printf(
      "epoch %s; balancedness %.1f%% (recent rows: mean of the shards / busiest in each layer,"
      " both summed)\n",
      text(member(status, "epoch")).c_str(), number(member(status, "balancedness")) * 100);
  if (const std::string change = text(member(status, "last_change")); !change.empty()) {
    std::printf("%s\n", change.c_str());
  }
  std::printf("\n%-16s %10s %12s\n", "SHARD", "REPLICAS", "ROWS");
  for (const json::value& shard : list(status, "shards")) {
    std::printf("%-16s %10s %12.0f\n", text(member(shard, "name")).c_str(),
                text(member(shard, "replicas")).c_str(), number(member(shard, "rows")));
  }
  std::printf("\n%-6s %-13s %-7s %12s  %s\n", "LAYER", "BALANCEDNESS", "EXPERT", "ROWS", "HOLDERS");
  for (const json::value& layer : list(status, "layers")) {
    std::vector<const json::value*> experts;
    for (const json::value& expert : list(layer, "experts")) experts.push_back(&expert);
    std::ranges::stable_sort(experts, [](const json::value* a, const json::value* b) {
      return number(member(*a, "rows")) > number(member(*b, "rows"));
    });
    const size_t shown = std::min(experts.size(), most);
    for (size_t i = 0; i < shown; ++i) {
      char balancedness[16] = "";
      if (i == 0) {
        std::snprintf(balancedness, sizeof balancedness, "%.1f%%",
                      number(member(layer, "balancedness")) * 100);
      }
      std::printf("%-6s %-13s %-7s %12.0f  %s\n",
                  i == 0 ? text(member(layer, "layer")).c_str() : "", balancedness,
                  text(member(*experts[i], "expert")).c_str(), number(member(*experts[i], "rows")),
                  holders(*experts[i]).c_str());
    }
    if (shown < experts.size()) {
      std::printf("%-6s %-13s and %zu more\n", "", "", experts.size() - shown);
    }
  }
}

Result<int> show(const gateway::HttpClient& client, const Values& values) {
  const auto response = TRY(client.get("/v1/troupe/experts"));
  const json::value status = TRY(parsed(response));
  if (values.count("json") != 0) {
    std::printf("%s\n", response.body.c_str());
  } else {
    print_table(status, values.count("all") != 0 ? SIZE_MAX : values["top"].as<uint32_t>());
  }
  return kSuccess;
}

Result<int> rebalance(const gateway::HttpClient& client, const Values& values) {
  auto response = TRY(client.post("/v1/troupe/experts/rebalance", ""));
  json::value status = TRY(parsed(response));
  const bool begun = member(status, "changing") == json::value(true);
  const double changes = number(member(status, "changes_total"));
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(values["timeout"].as<uint32_t>());
  while (member(status, "changing") == json::value(true)) {
    if (std::chrono::steady_clock::now() > deadline) {
      return Error{Code::kDeadlineExceeded,
                   "the change goes on: " + text(member(status, "last_change")) +
                       "; 'troupe experts' shows what becomes of it"};
    }
    std::this_thread::sleep_for(kPollInterval);
    response = TRY(client.get("/v1/troupe/experts"));
    status = TRY(parsed(response));
  }
  const bool abandoned = begun && number(member(status, "changes_total")) == changes;
  const std::string outcome = text(member(status, "last_change"));
  if (values.count("json") != 0) {
    std::printf("%s\n", response.body.c_str());
  } else if (!abandoned) {
    std::printf("%s\n", outcome.c_str());
  }
  if (abandoned) return Error{Code::kInternal, outcome};
  return kSuccess;
}

Result<int> run(const Values& values) {
  const auto client = TRY(gateway::HttpClient::create(values["url"].as<std::string>(),
                                                      {.silence_timeout = seconds(10)}));
  const auto what = values["what"].as<std::string>();
  if (what == "show") return show(client, values);
  if (what == "rebalance") return rebalance(client, values);
  return Error{Code::kInvalidArgument,
               "'troupe experts " + what + "' is not known; it takes show or rebalance"};
}

}  // namespace

int run_experts(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe experts [show|rebalance] [--url URL]",
      .text =
          "Shows who holds the routed experts of a running cluster and how many rows each got\n"
          "lately (older rows weigh less, experts.half_life). 'rebalance' changes to the "
          "placement\n"
          "that fits this load best, while requests go on, and waits for the end. It is an error\n"
          "if the change cannot begin (nothing is served, another one is under way) or was\n"
          "abandoned, and none if no placement is better.\n\n"
          "  troupe experts --all\n  troupe experts rebalance",
      .positional = {"what"}};
  line.options.add_options()("what", po::value<std::string>()->default_value("show"),
                             "show or rebalance")(
      "url", po::value<std::string>()->default_value("http://127.0.0.1:8000"), "of the gateway")(
      "top", po::value<uint32_t>()->default_value(4),
      "show so many experts per layer, busiest first")("all", "show every expert")(
      "timeout", po::value<uint32_t>()->default_value(600),
      "seconds to wait for the end of a change")("json", "print the server's JSON");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = run(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
