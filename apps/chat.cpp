// troupe chat: a conversation with a running cluster, in the terminal.

#include <unistd.h>

#include <cstdio>

#include "apps/ask.hpp"
#include "apps/command.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

Result<int> converse(const Values& values) {
  const auto client = TRY(gateway::HttpClient::create(values["url"].as<std::string>()));
  AskOptions options{.max_tokens = values["max-tokens"].as<uint32_t>(),
                     .temperature = values["temperature"].as<double>()};
  options.model =
      values.count("model") != 0 ? values["model"].as<std::string>() : TRY(first_model(client));
  std::vector<loadgen::Message> turns;
  if (values.count("system") != 0) turns.emplace_back("system", values["system"].as<std::string>());
  const bool once = values.count("message") != 0;
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (!once && terminal) {
    std::printf("%s at %s. An empty line or Ctrl-D ends; /clear forgets the conversation.\n",
                options.model.c_str(), values["url"].as<std::string>().c_str());
  }
  for (;;) {
    std::string line;
    if (once) {
      line = values["message"].as<std::string>();
    } else {
      if (terminal) std::printf("> ");
      std::fflush(stdout);
      if (!std::getline(std::cin, line) || line.empty()) break;
    }
    if (line == "/clear") {
      turns.clear();
      continue;
    }
    turns.emplace_back("user", line);
    auto answer = ask(client, turns, options);
    std::printf("\n");
    if (!answer.ok()) {
      if (once || !terminal) return std::move(answer).error();
      fail(answer.error());
      turns.pop_back();
      continue;
    }
    turns.emplace_back("assistant", answer->text);
    if (values.count("stats") != 0) {
      std::fprintf(stderr, "TTFT %.2f ms, TPOT %.2f ms\n", answer->ttft_ms, answer->tpot_ms);
    }
    if (once) break;
  }
  return kSuccess;
}

}  // namespace

int run_chat(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe chat [--url URL] [MESSAGE]",
      .text =
          "Talks to a running cluster, or to any OpenAI-compatible server. With MESSAGE: "
          "asks once.\n\n  troupe chat 'What is Troupe?'",
      .positional = {"message"}};
  line.options.add_options()("message", po::value<std::string>(), "ask this and end")(
      "url", po::value<std::string>()->default_value("http://127.0.0.1:8000"), "of the gateway")(
      "model", po::value<std::string>(), "default: the first that the server lists")(
      "system", po::value<std::string>(), "system message")(
      "max-tokens", po::value<uint32_t>()->default_value(512), "most tokens of an answer")(
      "temperature", po::value<double>()->default_value(0.0), "0: greedy")(
      "stats", "print times to standard error");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = converse(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
