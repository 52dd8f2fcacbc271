// troupe generate: one request, one process, no cluster.

#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include "apps/command.hpp"
#include "apps/device_option.hpp"
#include "apps/local_options.hpp"
#include "model/chat_format.hpp"
#include "model/generation_config.hpp"
#include "model/grammar.hpp"
#include "model/text_stream.hpp"
#include "model/tokenizer.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

struct Prompt {
  std::vector<TokenId> tokens;
  std::optional<model::Tokenizer> tokenizer;  ///< absent: a checkpoint without one
};

Result<Prompt> make_prompt(const Values& values) {
  Prompt prompt;
  if (values.count("tokens") + values.count("prompt") + values.count("chat") != 1) {
    return Error{Code::kInvalidArgument, "give exactly one of --prompt, --chat and --tokens"};
  }
  auto tokenizer = model::Tokenizer::load(values["model"].as<std::string>());
  if (values.count("tokens") != 0) {
    prompt.tokens = TRY(parse_tokens(values["tokens"].as<std::string>()));
    // Token ids need no tokenizer; a checkpoint that has none gives no text.
    if (tokenizer.ok()) {
      prompt.tokenizer = std::move(*tokenizer);
    } else if (tokenizer.error().code != Code::kNotFound) {
      return std::move(tokenizer).error();
    }
    return prompt;
  }
  if (!tokenizer.ok()) return std::move(tokenizer).error();
  prompt.tokenizer = std::move(*tokenizer);
  if (values.count("prompt") != 0) {
    prompt.tokens = TRY(
        prompt.tokenizer->encode(values["prompt"].as<std::string>(), {.add_special_tokens = true}));
    return prompt;
  }
  const model::ChatFormat format = TRY(model::ChatFormat::detect(*prompt.tokenizer));
  const model::ChatMessage message{.content = values["chat"].as<std::string>()};
  prompt.tokens = TRY(format.encode(*prompt.tokenizer, {&message, 1}));
  return prompt;
}

/// What the options say, and the model's defaults for the rest.
model::SamplingParams sampling_of(const Values& values, const model::SamplingParams& defaults) {
  model::SamplingParams sampling = defaults;
  const auto read = [&](const char* name, auto& out) {
    if (values.count(name) != 0) out = values[name].as<std::decay_t<decltype(out)>>();
  };
  read("temperature", sampling.temperature);
  read("top-p", sampling.top_p);
  read("top-k", sampling.top_k);
  read("min-p", sampling.min_p);
  read("seed", sampling.seed);
  return sampling;
}

/// The grammar that the answer has to follow, checked; null without one.
Result<std::shared_ptr<const model::GrammarSpec>> grammar_of(const Values& values) {
  using Kind = model::GrammarSpec::Kind;
  if (values.count("json-schema") + values.count("regex") + values.count("choice") > 1) {
    return Error{Code::kInvalidArgument, "give one of --json-schema, --regex and --choice"};
  }
  model::GrammarSpec spec;
  if (values.count("json-schema") != 0) {
    const auto path = values["json-schema"].as<std::string>();
    std::ifstream file(path);
    std::ostringstream text;
    if (!(text << file.rdbuf())) return Error{Code::kNotFound, "cannot read " + path};
    spec = {.kind = Kind::kJsonSchema, .text = text.str()};
  } else if (values.count("regex") != 0) {
    spec = {.kind = Kind::kRegex, .text = values["regex"].as<std::string>()};
  } else if (values.count("choice") != 0) {
    spec.kind = Kind::kChoice;
    std::istringstream list(values["choice"].as<std::string>());
    for (std::string choice; std::getline(list, choice, ',');) spec.choices.push_back(choice);
  } else {
    return std::shared_ptr<const model::GrammarSpec>();
  }
  if (values.count("ignore-eos") != 0) {
    return Error{Code::kInvalidArgument, "--ignore-eos with a grammar: nothing could follow"};
  }
  TRY(model::compile_grammar(spec));
  return std::make_shared<const model::GrammarSpec>(std::move(spec));
}

Result<int> generate(const Values& values) {
  const Prompt prompt = TRY(make_prompt(values));
  const auto grammar = TRY(grammar_of(values));
  scheduler::RequestSpec spec{.prompt = prompt.tokens,
                              .max_tokens = values["max-tokens"].as<uint32_t>()};
  const auto local =
      TRY(load_local_model(values, grammar != nullptr, prompt.tokens.size() + spec.max_tokens));
  const model::GenerationConfig defaults =
      TRY(model::load_generation_config(values["model"].as<std::string>(), local->config()));
  spec.sampling = sampling_of(values, defaults.sampling);
  spec.sampling.grammar = grammar;
  if (values.count("ignore-eos") == 0) spec.stop_token_ids = defaults.eos_token_ids;
  const bool json = values.count("json") != 0;

  std::optional<model::TextStream> stream;
  if (prompt.tokenizer) stream = TRY(model::TextStream::create(*prompt.tokenizer));
  std::vector<TokenId> tokens;
  std::string text;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  Clock::time_point first = start;
  TRY(local->generate(spec, [&](const model::SampledToken& token) {
    if (tokens.empty()) first = Clock::now();
    tokens.push_back(token.token);
    if (stream) {
      emit(stream->push(token.token));
    } else if (!json) {
      std::printf("%s%d", tokens.size() > 1 ? "," : "", token.token);
      std::fflush(stdout);
    }
    return true;
  }));
  if (stream) emit(stream->flush());
  const std::chrono::duration<double, std::milli> ttft = first - start;
  const std::chrono::duration<double, std::milli> decode = Clock::now() - first;
  if (json) {
    std::printf("{\"tokens\":%s,\"text\":%s}\n", json_array(tokens).c_str(),
                prompt.tokenizer ? json_string(text).c_str() : "null");
  } else {
    std::printf("\n");
  }
  if (values.count("stats") != 0) {
    std::fprintf(stderr, "%zu prompt tokens, %zu tokens; TTFT %.2f ms, TPOT %.3f ms; %s\n",
                 prompt.tokens.size(), tokens.size(), ttft.count(),
                 tokens.size() > 1 ? decode.count() / static_cast<double>(tokens.size() - 1) : 0.0,
                 local->target());
  }
  return kSuccess;
}

}  // namespace

int run_generate(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe generate --model DIR (--prompt TEXT | --chat TEXT | --tokens IDS)",
      .text =
          "Generates with a model in this process. --prompt continues a text, --chat "
          "asks in the\nmodel's chat format, --tokens continues token ids.\n\n"
          "  troupe generate --model models/demo --chat 'What is 12 + 30?' "
          "--temperature 0\n"
          "  troupe generate --model models/demo --chat 'What is 12 + 30?' --regex '[0-9]{1,3}'"};
  add_local_options(line.options);
  add_device_option(line.options);
  add_cuda_graphs_option(line.options);
  line.options.add_options()("prompt,p", po::value<std::string>(), "text to continue")(
      "chat,c", po::value<std::string>(), "a user's message")("tokens", po::value<std::string>(),
                                                              "token ids to continue: 1,2,3")(
      "max-tokens,n", po::value<uint32_t>()->default_value(128), "most tokens to generate")(
      "temperature", po::value<float>(), "0: greedy; default: generation_config.json's, or 1")(
      "top-p", po::value<float>(), "nucleus, (0, 1]; default: the model's, or 1")(
      "top-k", po::value<int32_t>(), "0: off; default: the model's, or 0")(
      "min-p", po::value<float>(), "[0, 1]; default: the model's, or 0")(
      "seed", po::value<uint64_t>()->default_value(0), "of sampling")(
      "ignore-eos", "go on after the model's end token")(
      "json-schema", po::value<std::string>(), "file: answer with JSON that this schema accepts")(
      "regex", po::value<std::string>(), "answer with a text that this matches as a whole")(
      "choice", po::value<std::string>(), "answer with one of these: yes,no")(
      "json", "print {\"tokens\":[...],\"text\":...} at the end")("stats",
                                                                  "print times to standard error");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = generate(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
