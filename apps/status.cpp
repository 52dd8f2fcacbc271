// troupe status: what a running cluster is doing.

#include <boost/json.hpp>
#include <cstdio>
#include <map>
#include <string>

#include "apps/command.hpp"
#include "apps/server_error.hpp"
#include "gateway/http_client.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace json = boost::json;
namespace {

/// Members of a status; what a server of another version lacks shows as "-".
std::string text(const json::value& object, const char* key) {
  const json::value* value = object.is_object() ? object.get_object().if_contains(key) : nullptr;
  if (value == nullptr || value->is_null()) return "-";
  if (value->is_string()) return value->get_string().c_str();
  return json::serialize(*value);
}

const json::array& list(const json::value& object, const char* key) {
  static const json::array none;
  const json::value* value = object.is_object() ? object.get_object().if_contains(key) : nullptr;
  return value != nullptr && value->is_array() ? value->get_array() : none;
}

void print_table(const json::value& status) {
  std::printf("%s; epoch %s\n", text(status, "condition").c_str(), text(status, "epoch").c_str());
  const json::value* counts = status.get_object().if_contains("requests");
  if (counts != nullptr) {
    std::printf(
        "requests: %s running, %s queued, %s finished, %s failed, %s cancelled, %s refused\n",
        text(*counts, "running").c_str(), text(*counts, "queued").c_str(),
        text(*counts, "finished_total").c_str(), text(*counts, "failed_total").c_str(),
        text(*counts, "cancelled_total").c_str(), text(*counts, "refused_total").c_str());
  }
  std::printf("\n%-16s %-8s %-8s %-8s %-8s %-8s %-14s %-10s %s\n", "NODE", "ROLE", "STATE", "PID",
              "DEVICE", "CPUS", "KV BLOCKS", "ROWS", "EXPERTS");
  for (const json::value& node : list(status, "nodes")) {
    const std::string kv = text(node, "role") == "router"
                               ? text(node, "kv_blocks_used") + "/" + text(node, "kv_blocks_total")
                               : "-";
    const std::string cpus = text(node, "cpus");
    std::printf("%-16s %-8s %-8s %-8s %-8s %-8s %-14s %-10s %s\n", text(node, "name").c_str(),
                text(node, "role").c_str(),
                (text(node, "drained") == "true" ? "drained" : text(node, "state")).c_str(),
                text(node, "pid").c_str(), text(node, "device").c_str(),
                cpus.empty() ? "any" : cpus.c_str(), kv.c_str(),
                text(node, "rows_computed").c_str(), text(node, "experts").c_str());
  }
  std::map<std::string, std::string> names;
  for (const json::value& node : list(status, "nodes")) {
    names[text(node, "id")] = text(node, "name");
  }
  std::printf("\n%-16s %-16s %-24s %10s %10s %14s %14s\n", "FROM", "TO", "TRANSPORT", "SENT",
              "RECEIVED", "BYTES SENT", "BYTES RECEIVED");
  for (const json::value& node : list(status, "nodes")) {
    for (const json::value& link : list(node, "links")) {
      std::printf("%-16s %-16s %-24s %10s %10s %14s %14s\n", text(node, "name").c_str(),
                  names[text(link, "peer")].c_str(), text(link, "transport").c_str(),
                  text(link, "frames_sent").c_str(), text(link, "frames_received").c_str(),
                  text(link, "bytes_sent").c_str(), text(link, "bytes_received").c_str());
    }
  }
}

/// What the scheduler and the nodes found when they looked at their own integrity, or that one of
/// them did not answer.
Result<void> find_problems(const json::value& status) {
  if (text(status, "checked") != "true") {
    return Error{Code::kUnavailable, "the server did not check itself; is it of an older version?"};
  }
  std::string problems;
  const auto note = [&](const std::string& who, const json::value& of) {
    const std::string problem = text(of, "problem");
    if (!problem.empty()) problems.append("\n  ").append(who).append(": ").append(problem);
  };
  note("scheduler", status);
  for (const json::value& node : list(status, "nodes")) note(text(node, "name"), node);
  if (problems.empty()) return {};
  return Error{Code::kInternal,
               "the integrity check failed; where it found something wrong, restart the node and "
               "report it:" +
                   problems};
}

Result<int> show_status(const Values& values) {
  const auto client = TRY(gateway::HttpClient::create(values["url"].as<std::string>(),
                                                      {.silence_timeout = seconds(10)}));
  const bool check = values.count("check") != 0;
  const auto response = TRY(client.get(check ? "/v1/troupe/status?check=1" : "/v1/troupe/status"));
  if (response.status != 200) return gateway_error(response.status, response.body);
  boost::system::error_code failed;
  const json::value status = json::parse(response.body, failed);
  if (failed || !status.is_object()) {
    return Error{Code::kCorrupt, "the server's status is no JSON object"};
  }
  const bool as_json = values.count("json") != 0;
  if (as_json) {
    std::printf("%s\n", response.body.c_str());
  } else {
    print_table(status);
  }
  if (!check) return kSuccess;
  TRY(find_problems(status));
  if (!as_json) {
    std::printf("\nintegrity: nothing wrong with members, requests, KV blocks and expert shards\n");
  }
  return kSuccess;
}

}  // namespace

int run_status(const Arguments& arguments) {
  CommandLine line{.usage = "troupe status [--url URL] [--check]",
                   .text =
                       "Shows a running cluster: nodes and their roles, experts held, links and "
                       "their transports, requests."};
  line.options.add_options()("url",
                             po::value<std::string>()->default_value("http://127.0.0.1:8000"),
                             "of the gateway")("json", "print the server's JSON")(
      "check",
      "let the scheduler and all nodes look at their own integrity; fails if they find "
      "something wrong, or a node does not answer");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = show_status(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
