// The commands that ask a server, against one whose answers the test writes.

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "tests/e2e/processes.hpp"
#include "tests/loadgen/scripted_server.hpp"

namespace troupe {
namespace {

using loadgen::plain;
using loadgen::Scripted;
using loadgen::ScriptedServer;

/// A command's end where the server has this answer to everything.
Finished against(const Scripted& answer, std::vector<std::string> arguments) {
  ScriptedServer server([&](const std::string&, int) { return answer; });
  arguments.insert(arguments.end(), {"--url", "http://127.0.0.1:" + server.port()});
  return troupe(std::move(arguments));
}

TEST(ServerCommands, SayThatAnotherServerMayBeNoGateway) {
  const Scripted other = plain(404, "", "<html>nothing here</html>");
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"status"}, {"experts"}, {"experts", "rebalance"}, {"drain", "router-0"}}) {
    const Finished asked = against(other, command);
    EXPECT_EQ(asked.code, 3) << asked.output;
    EXPECT_EQ(asked.output,
              "troupe: the server answered HTTP status 404; is it a Troupe gateway?\n");
  }
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"chat", "Hello"}, {"bench", "serve"}}) {
    const Finished asked = against(other, command);
    EXPECT_EQ(asked.code, 2) << asked.output;
    EXPECT_EQ(asked.output, "troupe: the server answered HTTP status 404\n");
  }
}

TEST(ServerCommands, TellAllOfTheServersWords) {
  const std::string words = "waiting for größer-" + std::string(300, 'x');
  const Scripted refusal = plain(503, "", R"({"error":{"message":")" + words + "\"}}");
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"experts", "rebalance"}, {"chat", "Hello"}, {"bench", "serve"}}) {
    const Finished asked = against(refusal, command);
    EXPECT_EQ(asked.code, 3) << asked.output;
    EXPECT_EQ(asked.output, "troupe: " + words + "\n");
  }
}

TEST(ServerCommands, PrintTheJsonOfAnAbandonedChangeAndFail) {
  const std::string before = R"({"changing":true,"changes_total":4,"last_change":"changing"})";
  const std::string after =
      R"({"changing":false,"changes_total":4,"last_change":"a change was abandoned: late"})";
  ScriptedServer server([&](const std::string& request, int) {
    return plain(200, "", request.starts_with("POST ") ? before : after);
  });
  const std::string url = "http://127.0.0.1:" + server.port();
  const Finished raw = troupe({"experts", "rebalance", "--json", "--url", url});
  EXPECT_EQ(raw.code, 1) << raw.output;
  EXPECT_TRUE(raw.output.starts_with(after + "\n")) << raw.output;
  const Finished told = troupe({"experts", "rebalance", "--url", url});
  EXPECT_EQ(told.code, 1) << told.output;
  EXPECT_EQ(told.output, "troupe: a change was abandoned: late\n");
}

}  // namespace
}  // namespace troupe
