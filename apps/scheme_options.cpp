#include "apps/scheme_options.hpp"

#include "apps/threads_option.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

Result<model::Scheme> scheme_of(const std::string& option, const std::string& name) {
  if (const auto scheme = model::parse_scheme(name)) return *scheme;
  return Error{Code::kInvalidArgument,
               option + " must be one of " + model::scheme_names() + ", not '" + name + "'"};
}

}  // namespace

void add_scheme_options(Options& options) {
  options.add_options()("scheme,s", po::value<std::string>()->required(),
                        ("of all matrices: " + model::scheme_names()).c_str())(
      "experts", po::value<std::string>(), "scheme of the routed experts instead")(
      "rest", po::value<std::string>(), "scheme of all but the routed experts instead");
  add_threads_option(options, "compute threads; the result does not depend on it");
}

Result<boost::json::object> read_scheme_options(const Values& values, model::SavePlan& plan) {
  plan.num_threads = TRY(read_threads(values));
  const auto all = values["scheme"].as<std::string>();
  plan.keep = all == model::kKeepScheme;
  if (plan.keep) {
    if (values.count("experts") + values.count("rest") > 0) {
      return Error{Code::kInvalidArgument, "--scheme keep is for all matrices"};
    }
    return boost::json::object{
        {"quant_method", "troupe"}, {"version", 1}, {"experts", all}, {"rest", all}};
  }
  TRY(scheme_of("--scheme", all));
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

}  // namespace troupe::apps
