// troupe drain, troupe undrain: a router out of service, and back in.

#include <boost/json.hpp>
#include <cstdio>

#include "apps/command.hpp"
#include "apps/server_error.hpp"
#include "gateway/http_client.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace json = boost::json;
namespace {

Result<int> ask(const Values& values, bool drained) {
  const auto client = TRY(gateway::HttpClient::create(values["url"].as<std::string>(),
                                                      {.silence_timeout = seconds(10)}));
  const auto node = values["node"].as<std::string>();
  const json::object body{{"node", node}, {"drained", drained}};
  const auto response = TRY(client.post("/v1/troupe/drain", json::serialize(body)));
  if (response.status != 200) return gateway_error(response.status, response.body);
  std::printf("%s %s\n", node.c_str(),
              drained ? "is drained: it takes no requests" : "takes requests again");
  return kSuccess;
}

int run(const Arguments& arguments, CommandLine line, bool drained) {
  line.positional = {"node"};
  line.options.add_options()("node", po::value<std::string>()->required(), "name of a router")(
      "url", po::value<std::string>()->default_value("http://127.0.0.1:8000"), "of the gateway");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = ask(values, drained);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace

int run_drain(const Arguments& arguments) {
  return run(arguments,
             {.usage = "troupe drain NODE [--url URL]",
              .text = "Takes a router out of service, for an upgrade say: its requests go on on "
                      "another router with the\nsame tokens, or finish where they are if there is "
                      "none. Ends with 'troupe undrain NODE'."},
             true);
}

int run_undrain(const Arguments& arguments) {
  return run(arguments,
             {.usage = "troupe undrain NODE [--url URL]",
              .text = "Has a router take requests again after 'troupe drain NODE'."},
             false);
}

}  // namespace troupe::apps
