#include "apps/kernel_times.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "apps/bench_results.hpp"
#include "apps/version.hpp"
#include "loadgen/statistics.hpp"

namespace troupe::apps {
namespace {

using Clock = std::chrono::steady_clock;

/// Of a sample of several calls: many times what reading the clock costs, and for a device what
/// starting to compute and waiting for it cost.
constexpr double kShortestOfCpu = 20e-6, kShortestOfDevice = 2e-3;

/// The devices of a backend, each with its operands and a thread.
class Devices {
 public:
  /// @param backend outlives the object @param cold_bytes for the first, which all cases run on
  static Result<std::unique_ptr<Devices>> make(const kernels::Backend& backend, size_t cold_bytes) {
    std::unique_ptr<Devices> devices(new Devices(backend));
    for (size_t k = 0; k < backend.num_devices(); ++k) {
      devices->operands_.push_back(
          TRY(Operands::make(backend.of_rank(k), k == 0 ? cold_bytes : 1)));
    }
    return devices;
  }

  /// @errors kResourceExhausted: it has no room
  Result<void> prepare(const KernelCase& c) {
    calls_.clear();
    for (const auto& operands : operands_) operands->clear();
    for (size_t k = 0; k < (c.on_all_ranks ? operands_.size() : 1); ++k) {
      calls_.push_back(c.prepare(*operands_[k]));
      TRY(operands_[k]->check());
    }
    return {};
  }

  /// Seconds for so many calls on each device that the case runs on, at the same time. One of
  /// several that fails ends the process, for the others may wait for it forever.
  /// @errors those of a single device
  Result<double> sample(size_t count) {
    const auto run = [&](size_t k) {
      for (size_t i = 0; i < count; ++i) calls_[k]();
    };
    const auto before = Clock::now();
    if (calls_.size() == 1) {
      run(0);  // in this thread: operations of the CPU have their own
      TRY(operands_[0]->memory().finish());
    } else {
      threads_.parallel_for(calls_.size(), [&](size_t k) {
        run(k);
        kernels::finish_or_end(operands_[k]->memory());
      });
    }
    return seconds_since(before);
  }

  [[nodiscard]] double shortest_sample() const {
    return operands_[0]->memory().is_host() ? kShortestOfCpu : kShortestOfDevice;
  }

 private:
  explicit Devices(const kernels::Backend& backend) : threads_(backend.num_devices()) {}

  std::vector<std::unique_ptr<Operands>> operands_;
  std::vector<std::function<void()>> calls_;
  kernels::ThreadPool threads_;
};

/// Seconds of a call, sample by sample; a sample of short calls is the mean of some. A device is
/// waited for at the end of each sample, so its calls follow each other as in a step.
Result<loadgen::Distribution> times_of(Devices& devices, double limit_s) {
  constexpr size_t kFewest = 3, kMost = 10'000;
  const auto sample = [&](size_t calls) { return devices.sample(calls); };
  TRY(sample(1));  // what only the first call costs
  size_t calls = 1;
  while (TRY(sample(calls)) < devices.shortest_sample()) calls *= 2;
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < kFewest || (times.size() < kMost && seconds_since(start) < limit_s)) {
    times.push_back(TRY(sample(calls)) / static_cast<double>(calls));
  }
  return loadgen::Distribution(std::move(times));
}

loadgen::ResultTable::Row row_of(const KernelCase& c, const loadgen::Distribution& times,
                                 const MachineRates& rates) {
  const double median = times.percentile(50);
  const auto bytes = static_cast<double>(c.work.bytes);
  const auto floats = static_cast<double>(c.work.float_multiply_adds);
  const auto integers = static_cast<double>(c.work.integer_multiply_adds);
  const double per_s = (floats + integers) / median;
  const double read = rates.bandwidth_fraction(bytes, median);
  const double peak = rates.peak.fraction(floats, integers, median);
  const auto only_if = [](double number, const std::string& text) {
    return number == 0 ? std::string() : text;
  };
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
                {"multiply_adds_per_s", per_s},
                {"flop_per_s", 2 * per_s},
                {"bandwidth_fraction", read},
                {"peak_fraction", peak}};
  row.cells = {c.op,
               c.what,
               c.dtype,
               std::to_string(c.rows),
               c.context == 0 ? "" : std::to_string(c.context),
               formatted("%.1f", median * 1e6),
               formatted("%.1f-%.1f", times.percentile(10) * 1e6, times.percentile(90) * 1e6),
               formatted("%.2f", bytes / median * 1e-9)};
  if (rates.products) {
    const double products = rates.products->fraction(floats, integers, median);
    row.values["product_fraction"] = products;
    row.cells.insert(row.cells.end(),
                     {only_if(per_s, formatted("%.2f", per_s * 1e-9)), percent(read),
                      only_if(peak, percent(peak)), only_if(products, percent(products))});
  } else {
    row.cells.insert(row.cells.end(), {only_if(per_s, formatted("%.3f", 2 * per_s * 1e-12)),
                                       percent(read), only_if(peak, percent(peak))});
  }
  return row;
}

Result<loadgen::Distribution> measure_case(const KernelCase& c, Devices& devices, double limit_s) {
  TRY(devices.prepare(c));
  return times_of(devices, limit_s);
}

}  // namespace

Result<loadgen::ResultTable> measure_kernels(std::span<const KernelCase> cases,
                                             kernels::Backend& backend, Machine& machine,
                                             const std::string& shape, double limit_s) {
  MeasuringLine line;
  line.show("measuring the machine");
  const MachineRates before = TRY(machine.measure());
  const std::string date = utc_now();
  size_t cold_bytes = 1;  // for operations on rows alone
  for (const KernelCase& c : cases) {
    if (c.cold_bytes > 0) cold_bytes = std::max({cold_bytes, bytes_beyond_caches(), c.cold_bytes});
  }
  std::vector<loadgen::Distribution> times;
  {
    const auto devices = TRY(Devices::make(backend, cold_bytes));
    for (const KernelCase& c : cases) {
      line.show(c.name());
      Result<loadgen::Distribution> measured = measure_case(c, *devices, limit_s);
      if (!measured.ok()) return std::move(measured).error().with_context(c.name());
      times.push_back(std::move(*measured));
    }
  }
  line.show("measuring the machine again");
  const MachineRates rates = best_of(before, TRY(machine.measure()));
  loadgen::ResultTable table;
  table.titles = {"operation", "case", "weights", "rows", "context", "us", "p10-p90", "GB/s"};
  if (rates.products) {
    table.titles.insert(table.titles.end(), {"GMAC/s", "bandwidth", "peak", "products"});
  } else {
    table.titles.insert(table.titles.end(), {"TFLOP/s", "bandwidth", "peak"});
  }
  table.notes = {machine.note(rates)};
  for (size_t i = 0; i < cases.size(); ++i) {
    loadgen::ResultTable::Row row = row_of(cases[i], times[i], rates);
    row.values["shape"] = shape;
    row.values["troupe_version"] = kVersion;
    row.values["test_time"] = date;
    machine.describe(rates, row.values);
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace troupe::apps
