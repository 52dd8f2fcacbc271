// troupe eval: accuracy on held-out examples, and how far a model is from another: the yardsticks
// for every change of precision.

#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>

#include "apps/command.hpp"
#include "apps/device_option.hpp"
#include "apps/local_options.hpp"
#include "base/random.hpp"
#include "model/chat_format.hpp"
#include "model/divergence.hpp"
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

/// Where the examples are, whether or not they exist.
std::string examples_path(const Values& values) {
  return values.count("examples") != 0 ? values["examples"].as<std::string>()
                                       : values["model"].as<std::string>() + "/eval.jsonl";
}

constexpr size_t kRandomSequence = 128;

/// What both models read: the examples with their answers, or random tokens if there are none.
Result<std::vector<std::vector<TokenId>>> read_sequences(const Values& values, size_t vocab_size,
                                                         size_t num_positions) {
  std::vector<std::vector<TokenId>> sequences;
  size_t positions = 0;
  const auto add = [&](std::vector<TokenId> tokens) {
    tokens.resize(std::min(tokens.size(), num_positions - positions));
    positions += tokens.size();
    sequences.push_back(std::move(tokens));
  };
  const std::string path = examples_path(values);
  if (values.count("examples") == 0 && !std::filesystem::exists(path)) {
    while (positions < num_positions) {
      std::vector<TokenId> tokens(kRandomSequence);
      for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<TokenId>(random_bits(0, positions + i) % vocab_size);
      }
      add(std::move(tokens));
    }
    return sequences;
  }
  const std::vector<Example> examples = TRY(read_examples(path));
  const model::Tokenizer tokenizer = TRY(model::Tokenizer::load(values["model"].as<std::string>()));
  const model::ChatFormat format = TRY(model::ChatFormat::detect(tokenizer));
  for (size_t i = 0; i < examples.size() && positions < num_positions; ++i) {
    const model::ChatMessage message{.content = examples[i].prompt};
    std::vector<TokenId> tokens = TRY(format.encode(tokenizer, {&message, 1}));
    const std::vector<TokenId> answer = TRY(tokenizer.encode(examples[i].answer));
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    add(std::move(tokens));
  }
  return sequences;
}

Result<int> compare(const Values& values) {
  const auto wanted = values["positions"].as<uint32_t>();
  if (wanted == 0) return Error{Code::kInvalidArgument, "--positions must be at least 1"};
  const auto reference_directory = values["against"].as<std::string>();
  const auto checkpoint = TRY(model::Checkpoint::open(reference_directory));
  actors::LocalModelOptions exact = TRY(read_local_options(values));
  exact.kv_dtype = DType::kF32;
  const auto reference = TRY(actors::LocalModel::load(checkpoint, exact));
  const auto other = TRY(load_local_model(values));
  const size_t vocab_size = reference->config().vocab_size;
  if (vocab_size != other->config().vocab_size) {
    return Error{Code::kInvalidArgument,
                 reference_directory + " has " + std::to_string(vocab_size) + " tokens, " +
                     values["model"].as<std::string>() + " has " +
                     std::to_string(other->config().vocab_size) + ": they cannot be compared"};
  }
  const bool terminal = isatty(fileno(stderr)) != 0;
  model::Divergence divergence;
  for (const auto& tokens : TRY(read_sequences(values, vocab_size, wanted))) {
    std::vector<float> expected;
    TRY(reference->logits(tokens, [&](uint32_t, std::span<const float> row) {
      expected.insert(expected.end(), row.begin(), row.end());
    }));
    TRY(other->logits(tokens, [&](uint32_t position, std::span<const float> row) {
      divergence.add(std::span(expected).subspan(position * vocab_size, vocab_size), row);
    }));
    if (terminal) std::fprintf(stderr, "\r%zu of %u positions", divergence.positions(), wanted);
  }
  if (terminal) std::fprintf(stderr, "\r\033[K");
  std::printf("positions            %zu\n", divergence.positions());
  std::printf("top-1 agreement      %.2f %%\n", 100 * divergence.top1_agreement());
  std::printf("KL divergence, mean  %.3g nats\n", divergence.mean_kl());
  std::printf("KL divergence, p99   %.3g nats\n", divergence.kl_quantile(0.99));
  std::printf("logits' error        %.2f %%\n", 100 * divergence.relative_error());
  return kSuccess;
}

Result<int> evaluate(const Values& values) {
  const auto directory = values["model"].as<std::string>();
  const std::vector<Example> examples = TRY(read_examples(examples_path(values)));
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
          "  troupe eval models/demo\n\n"
          "With --against, how far the model's choices of the next token are from another's "
          "instead: over\nthe examples with their answers, or over random tokens if MODEL has no "
          "eval.jsonl.\n\n"
          "  troupe eval /tmp/demo-int4 --against models/demo\n"
          "  troupe eval models/demo --kv-dtype bf16 --against models/demo   # that one keeps f32\n"
          "  troupe eval models/demo --device cuda:0 --against models/demo   # that one on CPUs",
      .positional = {"model"}};
  add_local_options(line.options);
  add_device_option(line.options);
  add_cuda_graphs_option(line.options);
  line.options.add_options()("examples", po::value<std::string>(),
                             "JSON lines with task, prompt and answer")(
      "floor", po::value<double>()->default_value(0.0),
      "exit with code 4 if a task's accuracy is below this, 0 to 1")(
      "show-wrong", "print the examples answered wrongly")(
      "against", po::value<std::string>(), "checkpoint directory of the model to compare with")(
      "positions", po::value<uint32_t>()->default_value(1024), "to compare, at most");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = values.count("against") != 0 ? compare(values) : evaluate(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
