// troupe quantize: writes a checkpoint anew in fewer bits.

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>

#include "apps/command.hpp"
#include "apps/scheme_options.hpp"
#include "apps/version.hpp"
#include "model/checkpoint_source.hpp"
#include "model/json.hpp"
#include "model/mapped_file.hpp"
#include "model/weights.hpp"

namespace troupe::apps {
namespace fs = std::filesystem;
namespace po = boost::program_options;
namespace json = boost::json;
namespace {

/// Every small file that belongs to the model: tokenizer, chat template, generation defaults,
/// licence, examples. Not its weights or configuration, which are made anew, and not what is
/// hidden.
Result<std::vector<std::string>> companions_of(const std::string& directory) {
  constexpr uint64_t kMaxBytes = uint64_t{64} << 20;
  std::vector<std::string> files;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(directory, failed)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    const bool text = extension == ".json" || extension == ".jsonl" || extension == ".jinja" ||
                      extension == ".txt" || extension == ".md" || extension == ".model" ||
                      name.starts_with("LICENSE");
    std::error_code ignored;
    if (!text || name.starts_with(".") || name == "config.json" || name.ends_with(".index.json") ||
        !entry.is_regular_file(ignored) || entry.file_size(ignored) > kMaxBytes) {
      continue;
    }
    files.push_back(entry.path().string());
  }
  if (failed) return Error{Code::kInternal, "cannot read " + directory + ": " + failed.message()};
  std::sort(files.begin(), files.end());
  return files;
}

Result<int> quantize(const Values& values) {
  model::SavePlan plan;
  plan.directory = values["destination"].as<std::string>();
  const json::object quantization = TRY(read_scheme_options(values, KeepScheme::kKnown, plan));
  const auto from = values["source"].as<std::string>();
  const auto checkpoint = TRY(model::Checkpoint::open(from));
  const auto source = TRY(model::CheckpointSource::open(checkpoint, plan.keep));
  // Read again after it was checked: it may be another file by now.
  const json::value document =
      TRY(model::parse_json(TRY(model::read_text_file(from + "/config.json", 1 << 20))));
  if (!document.is_object()) {
    return Error{Code::kCorrupt, from + "/config.json is not a JSON object"};
  }
  json::object config = document.get_object();
  config.erase("quantization_config");
  if (!quantization.empty()) config["quantization_config"] = quantization;
  plan.config_json = json::serialize(config) + "\n";
  plan.identity = std::string("troupe ") + kVersion + " quantize, source " +
                  std::to_string(checkpoint.digest());
  plan.copied_files = TRY(companions_of(from));
  plan.verify = values.count("no-verify") == 0;
  const auto summary = TRY(save_with_bar("quantizing", checkpoint.config(), *source, plan));
  uint64_t before = 0;
  for (const auto& [dtype, bytes] : checkpoint.summary().bytes_by_dtype) before += bytes;
  std::printf("%s: %.3f GiB in %llu files, was %.3f GiB%s\n", plan.directory.c_str(),
              static_cast<double>(summary.bytes) / 0x1p30,
              static_cast<unsigned long long>(summary.num_files),
              static_cast<double>(before) / 0x1p30, plan.verify ? "; verified" : "");
  if (summary.files_kept > 0) {
    std::printf("%llu files were complete from an interrupted run\n",
                static_cast<unsigned long long>(summary.files_kept));
  }
  if (summary.matrices_kept > 0) {
    std::printf("%llu matrices are not multiples of 16 x 32 and were kept in floating point\n",
                static_cast<unsigned long long>(summary.matrices_kept));
  }
  return kSuccess;
}

}  // namespace

int run_quantize(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe quantize SOURCE DESTINATION --scheme SCHEME",
      .text =
          "Writes a checkpoint (F32, F16, BF16 or FP8) anew in fewer bits, as "
          "docs/quantisation.md\n"
          "describes. Interrupted, the same command goes on; the new directory can be loaded when\n"
          "it is complete. --scheme keep packs the integers of a checkpoint of "
          "compressed-tensors,\n"
          "GPTQ or AWQ, which is otherwise done each time that it is loaded.\n\n"
          "  troupe quantize models/demo /tmp/demo-int8 --scheme int8\n"
          "  troupe quantize models/demo /tmp/demo-int4 --scheme int8 --experts int4-g32\n"
          "  troupe quantize /data/lite-awq /data/lite-packed --scheme keep",
      .positional = {"source", "destination"}};
  line.options.add_options()("source", po::value<std::string>()->required(),
                             "checkpoint directory")(
      "destination", po::value<std::string>()->required(), "new directory")(
      "no-verify", "do not read the written files again");
  add_scheme_options(line.options, KeepScheme::kKnown);
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = quantize(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
