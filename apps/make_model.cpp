// troupe make-model: a checkpoint of a real shape with random weights, to measure with.

#include <boost/json.hpp>
#include <cstdio>

#include "apps/command.hpp"
#include "apps/model_shapes.hpp"
#include "apps/scheme_options.hpp"
#include "apps/version.hpp"
#include "model/checkpoint_writer.hpp"
#include "model/random_weights.hpp"
#include "model/tokenizer.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace json = boost::json;
namespace {

/// A tokenizer's files, if all of its tokens are in the model's vocabulary.
Result<std::vector<std::string>> tokenizer_files(const std::string& directory,
                                                 const model::ModelConfig& config) {
  const auto tokenizer = TRY(model::Tokenizer::load(directory));
  if (tokenizer.vocab_size() > config.vocab_size) {
    return Error{Code::kInvalidArgument, "--tokenizer: " + directory + " has " +
                                             std::to_string(tokenizer.vocab_size()) +
                                             " tokens, but the shape's vocabulary only " +
                                             std::to_string(config.vocab_size)};
  }
  return std::vector<std::string>{directory + "/tokenizer.json",
                                  directory + "/tokenizer_config.json"};
}

Result<int> make_model(const Values& values) {
  model::SavePlan plan;
  plan.directory = values["directory"].as<std::string>();
  const json::object quantization = TRY(read_scheme_options(values, KeepScheme::kUnknown, plan));
  plan.verify = false;  // random numbers can be drawn again
  const auto shape = values["shape"].as<std::string>();
  const auto seed = values["seed"].as<uint64_t>();
  json::object config = TRY(shape_config(shape, values["layers"].as<uint32_t>()));
  if (!quantization.empty()) config["quantization_config"] = quantization;
  plan.config_json = json::serialize(config) + "\n";
  plan.identity = std::string("troupe ") + kVersion + " make-model, seed " + std::to_string(seed);
  const model::ModelConfig parsed = TRY(model::parse_config(plan.config_json));
  if (const auto tokenizer = values["tokenizer"].as<std::string>(); !tokenizer.empty()) {
    plan.copied_files = TRY(tokenizer_files(tokenizer, parsed));
  }
  const model::RandomWeights source(
      seed, static_cast<float>(config["initializer_range"].to_number<double>()));
  const auto summary = TRY(save_with_bar("writing " + shape, parsed, source, plan));
  std::printf("%s: %s with random weights, %.2f GiB in %llu files\n", plan.directory.c_str(),
              shape.c_str(), static_cast<double>(summary.bytes) / 0x1p30,
              static_cast<unsigned long long>(summary.num_files));
  return kSuccess;
}

}  // namespace

int run_make_model(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe make-model DIR --shape SHAPE --scheme SCHEME",
      .text =
          "Writes a checkpoint of a real model's shape with random weights, to measure speed\n"
          "with. Without a tokenizer it cannot be served, and generate needs --tokens.\n\n"
          "  troupe make-model /data/lite --shape v2-lite --scheme int4-g32 --rest int8\n"
          "  troupe make-model /data/lite3 --shape v2-lite --layers 3 --scheme bf16 --tokenizer "
          "models/demo",
      .positional = {"directory"}};
  line.options.add_options()("directory", po::value<std::string>()->required(),
                             "new directory for it")("shape", po::value<std::string>()->required(),
                                                     shape_names().c_str())(
      "layers", po::value<uint32_t>()->default_value(0), "number of layers; 0: the shape's own")(
      "seed", po::value<uint64_t>()->default_value(0), "of the weights")(
      "tokenizer", po::value<std::string>()->default_value(""),
      "checkpoint directory whose tokenizer it gets");
  add_scheme_options(line.options, KeepScheme::kUnknown);
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = make_model(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
