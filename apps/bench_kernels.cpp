// troupe bench kernels: the speed of each operation at a model's shapes.

#include <algorithm>
#include <chrono>

#include "apps/bench_results.hpp"
#include "apps/command.hpp"
#include "apps/kernel_cases.hpp"
#include "apps/machine_rates.hpp"
#include "apps/model_shapes.hpp"
#include "apps/threads_option.hpp"
#include "apps/version.hpp"
#include "kernels/backend.hpp"
#include "loadgen/statistics.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

using Clock = std::chrono::steady_clock;

/// Seconds of a call, sample by sample; a sample of short calls is the mean of some.
loadgen::Distribution times_of(const std::function<void()>& call, double limit_s) {
  constexpr double kShortest = 20e-6;  // of a sample, many times what reading the clock costs
  constexpr size_t kFewest = 3, kMost = 10'000;
  auto before = Clock::now();
  call();  // does not count
  const double first = seconds_since(before);
  const auto calls = static_cast<size_t>(std::max(1.0, kShortest / std::max(first, 1e-9)));
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < kFewest || (times.size() < kMost && seconds_since(start) < limit_s)) {
    before = Clock::now();
    for (size_t i = 0; i < calls; ++i) call();
    times.push_back(seconds_since(before) / static_cast<double>(calls));
  }
  return loadgen::Distribution(std::move(times));
}

std::string percent(double fraction) {
  return fraction == 0 ? "" : formatted("%.0f %%", 100 * fraction);
}

loadgen::ResultTable::Row row_of(const KernelCase& c, const loadgen::Distribution& times,
                                 const MachineRates& rates) {
  const double median = times.percentile(50);
  const auto bytes = static_cast<double>(c.work.bytes);
  const auto floats = static_cast<double>(c.work.float_multiply_adds);
  const auto integers = static_cast<double>(c.work.integer_multiply_adds);
  const double read = rates.bandwidth_fraction(bytes, median);
  const double peak = rates.peak.fraction(floats, integers, median);
  const double products = rates.products.fraction(floats, integers, median);
  loadgen::ResultTable::Row row;
  row.values = {{"op", c.op},
                {"case", c.what},
                {"dtype", c.dtype},
                {"rows", c.rows},
                {"context", c.context},
                {"samples", times.count()},
                {"median_us", median * 1e6},
                {"min_us", times.min() * 1e6},
                {"p10_us", times.percentile(10) * 1e6},
                {"p90_us", times.percentile(90) * 1e6},
                {"bytes", c.work.bytes},
                {"float_multiply_adds", c.work.float_multiply_adds},
                {"integer_multiply_adds", c.work.integer_multiply_adds},
                {"bytes_per_s", bytes / median},
                {"multiply_adds_per_s", (floats + integers) / median},
                {"bandwidth_fraction", read},
                {"peak_fraction", peak},
                {"product_fraction", products}};
  row.cells = {c.op,
               c.what,
               c.dtype,
               std::to_string(c.rows),
               c.context == 0 ? "" : std::to_string(c.context),
               formatted("%.1f", median * 1e6),
               formatted("%.1f-%.1f", times.percentile(10) * 1e6, times.percentile(90) * 1e6),
               formatted("%.2f", bytes / median * 1e-9),
               floats + integers == 0 ? "" : formatted("%.2f", (floats + integers) / median * 1e-9),
               percent(read),
               percent(peak),
               percent(products)};
  return row;
}

loadgen::ResultTable measure(const std::string& shape, const std::vector<KernelCase>& cases,
                             const kernels::KernelSet& kernels, uint32_t num_threads,
                             double limit_s) {
  kernels::ThreadPool pool(num_threads);
  const auto ops = kernels::make_cpu_ops(&pool, kernels);
  MeasuringLine line;
  line.show("measuring the machine");
  const MachineRates before = measure_machine(pool, kernels);
  const std::string date = utc_now();
  ColdMemory memory;
  std::vector<loadgen::Distribution> times;
  for (const KernelCase& c : cases) {
    line.show(c.name());
    times.push_back(times_of(c.prepare(*ops, memory), limit_s));
  }
  line.show("measuring the machine again");
  const MachineRates rates = best_of(before, measure_machine(pool, kernels));
  loadgen::ResultTable table;
  table.titles = {"operation", "case", "weights", "rows",      "context", "us",
                  "p10-p90",   "GB/s", "GMAC/s",  "bandwidth", "peak",    "products"};
  table.notes = {machine_note(rates, num_threads, ops->target())};
  for (size_t i = 0; i < cases.size(); ++i) {
    loadgen::ResultTable::Row row = row_of(cases[i], times[i], rates);
    row.values["shape"] = shape;
    row.values["troupe_version"] = kVersion;
    row.values["test_time"] = date;
    describe_machine(rates, num_threads, ops->target(), row.values);
    table.rows.push_back(std::move(row));
  }
  return table;
}

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
  const uint32_t num_threads = TRY(read_threads(values));
  const auto limit_s = values["time"].as<double>();
  if (!(limit_s >= 0 && limit_s <= 3600)) {
    return Error{Code::kInvalidArgument, "--time must be between 0 and 3600"};
  }
  const kernels::KernelSet* kernels = TRY(read_kernels(values));
  const ResultTarget target = TRY(read_result_target(values));
  std::vector<KernelCase> cases = kernel_cases(config, rows, context);
  const std::string example = cases.front().name();
  const std::string filter = values["filter"].as<std::string>();
  std::erase_if(cases,
                [&](const KernelCase& c) { return c.name().find(filter) == std::string::npos; });
  if (cases.empty()) {
    return Error{Code::kInvalidArgument,
                 "no case has \"" + filter + "\" in its name, such as \"" + example + "\""};
  }
  TRY(write_results(target, measure(shape, cases, *kernels, num_threads, limit_s)));
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
          "and sums.\n\n"
          "  troupe bench kernels --shape v3 --threads 1 --rows 1,16\n"
          "  troupe bench kernels --filter 'gemm head' -o csv --output head.csv\n\n"
          "us is the median of a call, beside it the 10th and 90th percentile. GB/s counts what a\n"
          "call must read at least: weights and KV, which come from memory in each call. "
          "Operations\n"
          "on rows alone count what they read and write, in the caches. bandwidth and peak are "
          "the\n"
          "parts of the time that these would take at the rates of this machine, products that of\n"
          "the multiply-adds at the rate of Troupe's own products in the caches; all measured\n"
          "before and after with the same threads. docs/benchmarking.md explains the columns."};
  line.options.add_options()("shape", po::value<std::string>()->default_value("v2-lite"),
                             shape_names().c_str());
  add_threads_option(line.options, "compute threads");
  line.options.add_options()("rows", po::value<std::string>()->default_value("1,16,512"),
                             "rows of activations; a list. For the routed experts, of each")(
      "context", po::value<uint32_t>()->default_value(2048),
      "positions that attention sees, at least as many as rows")(
      "filter", po::value<std::string>()->default_value(""),
      "only cases with this text in their name: operation, case, weights, rows")(
      "target", po::value<std::string>(),
      ("version of the kernels, by default the first: " + kernel_names()).c_str())(
      "time", po::value<double>()->default_value(0.3),
      "seconds for each case; three calls at least");
  add_result_options(line.options);
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto done = bench_kernels(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
