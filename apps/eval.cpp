// troupe eval: accuracy on held-out examples, the yardstick for every change of precision.

#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <map>

#include "apps/command.hpp"
#include "apps/local_options.hpp"
#include "model/chat_format.hpp"
#include "model/tokenizer.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

constexpr uint32_t kMaxTokens = 64;

struct Example {
  std::string task, prompt, answer;
};

struct Score {
  size_t right = 0;
  size_t total = 0;
};

Result<std::vector<Example>> read_examples(const std::string& path) {
  std::ifstream in(path);
  if (!in) return Error{Code::kNotFound, "cannot read the examples in " + path};
  std::vector<Example> examples;
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    boost::system::error_code error;
    const auto value = boost::json::parse(line, error);
    const auto text = [&](const char* key) -> const boost::json::string* {
      if (error || !value.is_object()) return nullptr;
      const auto* found = value.get_object().if_contains(key);
      return found == nullptr ? nullptr : found->if_string();
    };
    const auto *task = text("task"), *prompt = text("prompt"), *answer = text("answer");
    if (task == nullptr || prompt == nullptr || answer == nullptr) {
      return Error{Code::kInvalidArgument,
                   path + ":" + std::to_string(number) +
                       ": expected an object with the strings task, prompt and answer"};
    }
    examples.push_back({task->c_str(), prompt->c_str(), answer->c_str()});
  }
  if (examples.empty()) return Error{Code::kInvalidArgument, path + " has no examples"};
  return examples;
}

std::string stripped(const std::string& text) {
  const char* blanks = " \t\r\n";
  const size_t first = text.find_first_not_of(blanks);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

Result<int> evaluate(const Values& values) {
  const auto directory = values["model"].as<std::string>();
  const std::string path = values.count("examples") != 0 ? values["examples"].as<std::string>()
                                                         : directory + "/eval.jsonl";
  const std::vector<Example> examples = TRY(read_examples(path));
  const model::Tokenizer tokenizer = TRY(model::Tokenizer::load(directory));
  const model::ChatFormat format = TRY(model::ChatFormat::detect(tokenizer));
  const auto local = TRY(load_local_model(values));
  std::map<std::string, Score> scores;
  const bool show_wrong = values.count("show-wrong") != 0;
  const bool terminal = isatty(fileno(stderr)) != 0;
  for (size_t i = 0; i < examples.size(); ++i) {
    const Example& example = examples[i];
    const model::ChatMessage message{.content = example.prompt};
    scheduler::RequestSpec spec{.prompt = TRY(format.encode(tokenizer, {&message, 1})),
                                .max_tokens = kMaxTokens,
                                .stop_token_ids = local->config().eos_token_ids};
    spec.sampling.temperature = 0;
    std::vector<TokenId> tokens;
    TRY(local->generate(spec, [&](const model::SampledToken& token) {
      tokens.push_back(token.token);
      return true;
    }));
    const std::string answer = tokenizer.decode(tokens, true);
    Score& score = scores[example.task];
    ++score.total;
    if (stripped(answer) == stripped(example.answer)) {
      ++score.right;
    } else if (show_wrong) {
      std::printf("%s\n  asked    %.200s\n  expected %s\n  got      %s\n", example.task.c_str(),
                  example.prompt.c_str(), example.answer.c_str(), answer.c_str());
    }
    if (terminal) std::fprintf(stderr, "\r%zu of %zu", i + 1, examples.size());
  }
  if (terminal) std::fprintf(stderr, "\r\033[K");
  Score all;
  std::printf("%-24s %9s %7s\n", "TASK", "ACCURACY", "RIGHT");
  const auto print = [](const std::string& task, const Score& score) {
    std::printf("%-24s %8.1f%% %4zu/%zu\n", task.c_str(),
                100.0 * static_cast<double>(score.right) / static_cast<double>(score.total),
                score.right, score.total);
  };
  bool all_reached = true;
  for (const auto& [task, score] : scores) {
    print(task, score);
    all.right += score.right;
    all.total += score.total;
    all_reached =
        all_reached && static_cast<double>(score.right) >=
                           values["floor"].as<double>() * static_cast<double>(score.total);
  }
  print("all", all);
  if (!all_reached) std::fprintf(stderr, "troupe: a task is below the floor\n");
  return all_reached ? kSuccess : kPartial;
}

}  // namespace

int run_eval(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe eval MODEL",
      .text =
          "Asks every held-out example of MODEL/eval.jsonl in the chat format, greedily, "
          "and prints the\nshare of exactly right answers per task.\n\n"
          "  troupe eval models/demo",
      .positional = {"model"}};
  add_local_options(line.options);
  line.options.add_options()("examples", po::value<std::string>(),
                             "JSON lines with task, prompt and answer")(
      "floor", po::value<double>()->default_value(0.0),
      "exit with code 4 if a task's accuracy is below this, 0 to 1")(
      "show-wrong", "print the examples answered wrongly");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = evaluate(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
