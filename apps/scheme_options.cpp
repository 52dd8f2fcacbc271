#include "apps/scheme_options.hpp"

#include "apps/progress_bar.hpp"
#include "apps/signals.hpp"
#include "apps/threads_option.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

constexpr uint32_t kMaxFileMib = 1U << 20U;

/// All that may follow --scheme.
std::string names_for_all(KeepScheme keep) {
  return model::scheme_names() +
         (keep == KeepScheme::kKnown ? ", " + std::string(model::kKeepScheme) : "");
}

Result<model::Scheme> scheme_of(const std::string& option, const std::string& name,
                                const std::string& known = model::scheme_names()) {
  if (const auto scheme = model::parse_scheme(name)) return *scheme;
  return Error{Code::kInvalidArgument,
               option + " must be one of " + known + ", not '" + name + "'"};
}

}  // namespace

void add_scheme_options(Options& options, KeepScheme keep) {
  options.add_options()("scheme,s", po::value<std::string>()->required(),
                        ("of all matrices: " + names_for_all(keep)).c_str())(
      "experts", po::value<std::string>(), "scheme of the routed experts instead")(
      "rest", po::value<std::string>(), "scheme of all but the routed experts instead")(
      "file-mib", po::value<uint32_t>()->default_value(4096),
      "size of a file at most, unless one tensor is larger; an interrupted run goes on after the "
      "last complete file");
  add_threads_option(options, "compute threads; the result does not depend on it");
}

Result<boost::json::object> read_scheme_options(const Values& values, KeepScheme keep,
                                                model::SavePlan& plan) {
  plan.num_threads = TRY(read_threads(values));
  const auto file_mib = values["file-mib"].as<uint32_t>();
  if (file_mib < 1 || file_mib > kMaxFileMib) {
    return Error{Code::kInvalidArgument,
                 "--file-mib must be between 1 and " + std::to_string(kMaxFileMib)};
  }
  plan.shard_bytes = uint64_t{file_mib} << 20U;
  const auto all = values["scheme"].as<std::string>();
  plan.keep = keep == KeepScheme::kKnown && all == model::kKeepScheme;
  if (plan.keep) {
    if (values.count("experts") + values.count("rest") > 0) {
      return Error{Code::kInvalidArgument, "--scheme keep is for all matrices"};
    }
    return boost::json::object{
        {"quant_method", "troupe"}, {"version", 1}, {"experts", all}, {"rest", all}};
  }
  TRY(scheme_of("--scheme", all, names_for_all(keep)));
  const auto name_of = [&](const char* option) {
    return values.count(option) != 0 ? values[option].as<std::string>() : all;
  };
  const std::string experts = name_of("experts"), rest = name_of("rest");
  plan.experts = TRY(scheme_of("--experts", experts));
  plan.rest = TRY(scheme_of("--rest", rest));
  if (plan.experts.in_panels() || plan.rest.in_panels()) {
    return boost::json::object{
        {"quant_method", "troupe"}, {"version", 1}, {"experts", experts}, {"rest", rest}};
  }
  if (plan.experts == plan.rest && plan.rest.dtype == DType::kBF16) return boost::json::object();
  return boost::json::object{{"quant_method", "fp8"},
                             {"fmt", "e4m3"},
                             {"activation_scheme", "dynamic"},
                             {"weight_block_size", {128, 128}}};
}

Result<model::SaveSummary> save_with_bar(const std::string& what, const model::ModelConfig& config,
                                         const model::TensorSource& source, model::SavePlan plan) {
  end_when_interrupted(
      "\ntroupe: interrupted; the same command goes on after the last complete file\n");
  ProgressBar bar(what);
  plan.progress = [&](uint64_t done, uint64_t total) { bar.show(done, total); };
  const auto summary = model::save_checkpoint(config, source, plan);
  bar.finish();
  return summary;
}

}  // namespace troupe::apps
