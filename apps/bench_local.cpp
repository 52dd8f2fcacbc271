// troupe bench local: a model in this process, in llama-bench's terms.

#include <algorithm>
#include <utility>

#include "apps/bench_results.hpp"
#include "apps/command.hpp"
#include "apps/device_option.hpp"
#include "apps/local_options.hpp"
#include "apps/model_times.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

constexpr uint32_t kMaxTokens = 1U << 22U;
constexpr uint32_t kMaxSequences = 4096;

Result<ModelTimesOptions> read_options(const Values& values) {
  ModelTimesOptions options;
  options.model = TRY(read_local_options(values));
  const auto pin_threads = values["pin-threads"].as<std::string>();
  if (pin_threads != "auto" && pin_threads != "off") {
    return Error{Code::kInvalidArgument,
                 "--pin-threads must be auto or off, not '" + pin_threads + "'"};
  }
  options.pin_threads = pin_threads == "auto";
  const auto prompts = TRY(number_list(values, "n-prompt", 0, kMaxTokens));
  const auto generated = TRY(number_list(values, "n-gen", 0, kMaxTokens));
  const auto depths = TRY(number_list(values, "n-depth", 0, kMaxTokens));
  const auto batches = TRY(number_list(values, "batch", 1, kMaxSequences));
  options.repetitions = TRY(number_value(values, "repetitions", 1, 1000));
  options.model.chunk_tokens = TRY(number_value(values, "ubatch", 1, kMaxTokens));
  options.seed = values["seed"].as<uint64_t>();
  options.cold_start = values.count("cold-start") != 0;
  options.cold_prompt = std::max(1U, prompts.front());
  for (const uint32_t depth : depths) {
    for (const uint32_t n : prompts) {
      if (n > 0) options.tests.push_back({.depth = depth, .num_prompt = n});
    }
    for (const uint32_t n : generated) {
      for (const uint32_t batch : batches) {
        if (n == 0) continue;
        options.tests.push_back({.depth = depth, .num_generated = n, .num_sequences = batch});
      }
    }
  }
  if (options.tests.empty() && !options.cold_start) {
    return Error{Code::kInvalidArgument, "nothing to measure: -p and -n are 0"};
  }
  options.model.max_context = options.cold_start ? options.cold_prompt : 1;
  for (const ModelTest& test : options.tests) {
    options.model.max_context =
        std::max(options.model.max_context, test.depth + test.tokens_per_sequence());
    options.model.num_sequences = std::max(options.model.num_sequences, test.num_sequences);
  }
  return options;
}

Result<int> bench_local(const Values& values) {
  const ModelTimesOptions options = TRY(read_options(values));
  const ResultTarget target = TRY(read_result_target(values));
  kernels::Backend backend = TRY(open_device(values));
  TRY(write_results(
      target, TRY(measure_model(values["model"].as<std::string>(), options, std::move(backend)))));
  return kSuccess;
}

}  // namespace

int run_bench_local(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe bench local --model DIR [OPTIONS]",
      .text =
          "Measures a model in this process, without server and cluster, in llama-bench's terms:\n"
          "pp512 computes a prompt of 512 tokens, tg128 decodes 128 tokens one after the other,\n"
          "tg128 b16 the same for 16 sequences together, @ d4096 behind 4096 positions in the KV\n"
          "cache. Options with a comma list make all combinations; -p 0 or -n 0 leaves prompts or\n"
          "decoding out.\n\n"
          "  troupe bench local --model models/demo\n"
          "  troupe bench local --model DIR -p 512 -n 128 -d 0,4096 -b 1,16 -o json\n"
          "  troupe bench local --model DIR --device cuda:0 --kv-dtype bf16 -b 1,32\n"
          "  troupe bench local --model DIR --cold-start -p 512 -n 0\n\n"
          "t/s counts the tokens of all sequences: mean and standard deviation of the repetitions\n"
          "after one that does not count, and their median. Tokens are random, logits are\n"
          "computed, nothing is sampled. All weights are read once before.\n\n"
          "MB/step is what a step must read at least (weights once, of the routed experts those\n"
          "chosen, and the KV), M/token the millions of multiply-adds of a token. bandwidth and\n"
          "peak are the parts of the time that these would take at the rates of this machine,\n"
          "products that of the multiply-adds at the rate of Troupe's own products in the caches;\n"
          "all measured before and after with the same threads. A GPU is compared with copies\n"
          "within its memory and with products of BF16 matrices on its registers.\n"
          "docs/benchmarking.md explains the columns and the names in JSON and CSV."};
  add_local_options(line.options);
  add_device_option(line.options);
  add_cuda_graphs_option(line.options);
  const auto list = [](const char* value) {
    return po::value<std::string>()->default_value(value);
  };
  line.options.add_options()("n-prompt,p", list("512"), "tokens of a prompt; a list: 128,512")(
      "n-gen,n", list("128"), "tokens to decode in each sequence; a list")(
      "n-depth,d", list("0"), "positions in the KV cache before; a list")(
      "batch,b", list("1"), "sequences that decode together; a list")(
      "repetitions,r", po::value<uint32_t>()->default_value(5),
      "of each test, after one that does not count")(
      "ubatch", po::value<uint32_t>()->default_value(512), "most tokens of a prompt in one step")(
      "pin-threads", po::value<std::string>()->default_value("off"),
      "auto: to a CPU each that no other process of Troupe has claimed, if enough are free")(
      "seed", po::value<uint64_t>()->default_value(0), "of the tokens")(
      "cold-start",
      "first measure the time from opening the checkpoint, and from the start of the process, to "
      "the first token after a prompt (the first of -p, 1 token for 0), and the memory then");
  add_result_options(line.options);
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = bench_local(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
