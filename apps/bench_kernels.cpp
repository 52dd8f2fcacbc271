// troupe bench kernels: the speed of each operation at a model's shapes.

#include <algorithm>
#include <optional>

#include "actors/placed_weights.hpp"
#include "apps/bench_results.hpp"
#include "apps/command.hpp"
#include "apps/device_option.hpp"
#include "apps/gpu_backend.hpp"
#include "apps/kernel_times.hpp"
#include "apps/machine_rates.hpp"
#include "apps/model_shapes.hpp"
#include "apps/threads_option.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

/// "avx3-vnni, avx2, scalar"
std::string kernel_names() {
  std::string names;
  for (const kernels::KernelSet* set : kernels::cpu_kernels()) {
    names += (names.empty() ? "" : ", ") + std::string(set->target);
  }
  return names;
}

Result<const kernels::KernelSet*> read_kernels(const Values& values) {
  if (values.count("target") == 0) return kernels::cpu_kernels().front();
  const std::string target = values["target"].as<std::string>();
  for (const kernels::KernelSet* set : kernels::cpu_kernels()) {
    if (set->target == target) return set;
  }
  return Error{Code::kInvalidArgument,
               "--target: no \"" + target + "\" on this CPU, which runs " + kernel_names()};
}

Result<int> bench_kernels(const Values& values) {
  const std::string shape = values["shape"].as<std::string>();
  const model::ModelConfig config =
      TRY(model::parse_config(boost::json::serialize(TRY(shape_config(shape)))));
  const auto rows = TRY(number_list(values, "rows", 1, 8192));
  const uint32_t context = TRY(number_value(values, "context", 1, 1U << 20U));
  const auto limit_s = values["time"].as<double>();
  if (!(limit_s >= 0 && limit_s <= 3600)) {
    return Error{Code::kInvalidArgument, "--time must be between 0 and 3600"};
  }
  const kernels::KernelSet* kernels = TRY(read_kernels(values));
  const ResultTarget target = TRY(read_result_target(values));
  const Device device = TRY(read_device(values));
  const bool on_device = device.has_gpus();
  if (on_device) TRY(actors::check_devices(config, device.gpus.size()));
  std::vector<KernelCase> cases = kernel_cases(config, {.rows = rows,
                                                        .context = context,
                                                        .routed = values.count("routed") > 0,
                                                        .on_device = on_device,
                                                        .num_ranks = device.gpus.size()});
  const std::string example = cases.front().name();
  const std::string filter = values["filter"].as<std::string>();
  std::erase_if(cases,
                [&](const KernelCase& c) { return c.name().find(filter) == std::string::npos; });
  if (cases.empty()) {
    return Error{Code::kInvalidArgument,
                 "no case has \"" + filter + "\" in its name, such as \"" + example + "\""};
  }
  if (on_device && values.count("target") > 0) {
    return Error{Code::kInvalidArgument, "--target chooses kernels of the CPU, not of --device"};
  }
  kernels::ThreadPool pool(TRY(read_threads(values)));
  const bool gathers = std::ranges::any_of(cases, &KernelCase::on_all_ranks);
  kernels::Backend backend = TRY(gathers ? open_joined_gpus(device) : open_device(values));
  if (backend.collective == nullptr) std::erase_if(cases, &KernelCase::on_all_ranks);
  if (cases.empty()) {
    return Error{Code::kUnsupported, "this troupe was built without NCCL, which gathers"};
  }
  if (!on_device) {
    backend = {.memory = kernels::make_host_memory(),
               .ops = kernels::make_cpu_ops(&pool, *kernels)};
  }
  const auto machine =
      on_device ? make_device_machine(backend) : make_cpu_machine(pool, *backend.ops, *kernels);
  TRY(write_results(target, TRY(measure_kernels(cases, backend, *machine, shape, limit_s))));
  return kSuccess;
}

}  // namespace

int run_bench_kernels(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe bench kernels [OPTIONS]",
      .text =
          "Measures each operation of the forward pass at a model's shapes: products by type of\n"
          "weights, FFNs of routed, shared and dense experts, both forms of attention, norms, "
          "gate\n"
          "and sums, copies of rows and KV blocks; on a GPU also copies to and from the host,\n"
          "choosing tokens, and what GPUs that share attention gather: with --device cuda:0,1 all\n"
          "of them, else one alone. Other operations run on the first.\n\n"
          "  troupe bench kernels --shape v3 --threads 1 --rows 1,16\n"
          "  troupe bench kernels --shape v3 --device cuda:0 --rows 1,32,128,4096 --context 4096 "
          "--routed\n"
          "  troupe bench kernels --filter 'gemm head' -o csv --output head.csv\n\n"
          "us is the median of a call, beside it the 10th and 90th percentile. GB/s counts what a\n"
          "call must read at least: weights and KV, which come from memory in each call. "
          "Operations\n"
          "on rows alone count what they read and write, in the caches. bandwidth and peak are "
          "the\n"
          "parts of the time that these would take at the rates of this machine, products that of\n"
          "the multiply-adds at the rate of Troupe's own products in the caches; all measured\n"
          "before and after with the same threads. A GPU is compared with copies within its\n"
          "memory and with products of BF16 matrices on its registers. docs/benchmarking.md\n"
          "explains the columns."};
  line.options.add_options()("shape", po::value<std::string>()->default_value("v2-lite"),
                             shape_names().c_str());
  add_threads_option(line.options, "compute threads of the CPU");
  add_device_option(line.options);
  line.options.add_options()("rows", po::value<std::string>()->default_value("1,16,512"),
                             "rows of activations; a list. For `experts`, of each")(
      "routed",
      "FFNs of a whole layer's experts, too, of which rows choose at random: in BF16 22 GB of "
      "memory with V3")("context", po::value<uint32_t>()->default_value(2048),
                        "positions that attention sees, at least as many as rows")(
      "filter", po::value<std::string>()->default_value(""),
      "only cases with this text in their name: operation, case, weights, rows")(
      "target", po::value<std::string>(),
      ("version of the CPU's kernels, by default the first: " + kernel_names()).c_str())(
      "time", po::value<double>()->default_value(0.3),
      "seconds for each case; three calls at least");
  add_result_options(line.options);
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = bench_kernels(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
