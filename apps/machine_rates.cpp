#include "apps/machine_rates.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>
#include <vector>

#include "apps/bench_results.hpp"
#include "apps/operands.hpp"
#include "kernels/array.hpp"

namespace troupe::apps {
namespace {

using Clock = std::chrono::steady_clock;

/// The shortest of as many calls as fit into the time, five at least; in seconds.
double best_time(double limit_s, const std::function<void()>& call) {
  const auto start = Clock::now();
  double best = 1e9;
  for (int i = 0; i < 5 || seconds_since(start) < limit_s; ++i) {
    const auto before = Clock::now();
    call();
    best = std::min(best, seconds_since(before));
  }
  return best;
}

uint64_t sum_of(const uint64_t* words, size_t count) {
  constexpr size_t kLanes = 16;  // independent sums, so that additions do not wait for each other
  uint64_t sums[kLanes] = {};
  for (size_t i = 0; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (const uint64_t lane : sums) sum += lane;
  return sum;
}

double read_rate(kernels::ThreadPool& pool) {
  constexpr size_t kPartWords = (size_t{1} << 20U) / sizeof(uint64_t);
  const size_t num_parts = bytes_beyond_caches() / sizeof(uint64_t) / kPartWords;
  const std::vector<uint64_t> words(num_parts * kPartWords, 1);
  std::vector<uint64_t> sums(num_parts);
  const double time = best_time(0.5, [&] {
    pool.parallel_for(
        num_parts, [&](size_t i) { sums[i] = sum_of(words.data() + i * kPartWords, kPartWords); });
  });
  CHECK_EQ(sums[0], kPartWords);  // and so nobody leaves the reading out
  return static_cast<double>(words.size() * sizeof(uint64_t)) / time;
}

/// Of a loop of kernels/kernel_set.hpp in all threads at once.
double peak_rate(kernels::ThreadPool& pool, uint64_t (*loop)(size_t rounds)) {
  constexpr double kPartTime = 100e-6;  // many times what waking a thread takes, in several parts
  constexpr size_t kPartsPerThread = 16;
  const auto start = Clock::now();
  loop(16);
  const auto rounds = static_cast<size_t>(16 * kPartTime / seconds_since(start)) + 1;
  std::vector<uint64_t> counts(kPartsPerThread * pool.num_threads());
  const double time = best_time(
      0.05, [&] { pool.parallel_for(counts.size(), [&](size_t i) { counts[i] = loop(rounds); }); });
  return static_cast<double>(std::reduce(counts.begin(), counts.end())) / time;
}

/// The best product of a few shapes whose operands fit into a core's second-level cache.
double product_rate(kernels::Ops& ops, size_t num_threads, std::initializer_list<DType> dtypes) {
  struct Shape {
    size_t rows, out, in;
  };
  double best = 0;
  for (const DType dtype : dtypes) {
    for (const Shape s : {Shape{24, 192, 512}, Shape{96, 96, 512}, Shape{48, 384, 1024}}) {
      const size_t out = s.out * num_threads;
      const std::vector<std::byte> bytes(out * s.in * bits_of(dtype) / 8, std::byte{0x31});
      const std::vector<float> scales(out, 0.01F);
      WeightView w{.data = bytes.data(), .dtype = dtype, .out = out, .in = s.in};
      if (is_integer(dtype)) w.group_scales = {.data = scales.data(), .group = s.in};
      const std::vector<float> x(s.rows * s.in, 0.5F);
      std::vector<float> y(s.rows * out);
      const double time = best_time(0.05, [&] {
        ops.gemm({.x = {x.data(), s.rows, s.in}, .w = w, .y = {y.data(), s.rows, out}});
      });
      best = std::max(best, static_cast<double>(s.rows * out * s.in) / time);
    }
  }
  return best;
}

class CpuMachine final : public Machine {
 public:
  CpuMachine(kernels::ThreadPool& pool, kernels::Ops& ops, const kernels::KernelSet& kernels)
      : pool_(pool), ops_(ops), kernels_(kernels) {}

  Result<MachineRates> measure() override {
    const size_t threads = pool_.num_threads();
    return MachineRates{.bytes_per_s = read_rate(pool_),
                        .peak = {.floats = peak_rate(pool_, kernels_.float_peak),
                                 .integers = peak_rate(pool_, kernels_.integer_peak)},
                        .products = MultiplyAddRates{
                            .floats = product_rate(ops_, threads, {DType::kF32, DType::kBF16}),
                            .integers = product_rate(ops_, threads, {DType::kI8, DType::kI4})}};
  }

  void describe(const MachineRates& rates, boost::json::object& values) const override {
    values["cpu_info"] = cpu_name();
    values["n_threads"] = pool_.num_threads();
    values["target"] = ops_.target();
    values["machine_read_bytes_per_s"] = rates.bytes_per_s;
    values["machine_peak_float_multiply_adds_per_s"] = rates.peak.floats;
    values["machine_peak_integer_multiply_adds_per_s"] = rates.peak.integers;
    values["machine_product_float_multiply_adds_per_s"] = rates.products->floats;
    values["machine_product_integer_multiply_adds_per_s"] = rates.products->integers;
  }

  std::string note(const MachineRates& rates) const override {
    return formatted(
        "Machine: %s, %zu threads, %s; reads %.1f GB/s. Multiply-adds: at most %.1f G/s in float32 "
        "and %.1f G/s of integers, Troupe's own products in the caches %.1f and %.1f G/s.",
        cpu_name().c_str(), pool_.num_threads(), ops_.target(), rates.bytes_per_s * 1e-9,
        rates.peak.floats * 1e-9, rates.peak.integers * 1e-9, rates.products->floats * 1e-9,
        rates.products->integers * 1e-9);
  }

 private:
  kernels::ThreadPool& pool_;
  kernels::Ops& ops_;
  const kernels::KernelSet& kernels_;
};

/// Of copies within the device's memory, 256 MiB each.
Result<double> copy_rate(kernels::Memory& memory) {
  constexpr size_t kBytes = size_t{256} << 20U;
  constexpr int kCopies = 4;  // many times what waiting for the device takes
  const kernels::OwnedMemory from = TRY(kernels::allocate(memory, kBytes));
  const kernels::OwnedMemory to = TRY(kernels::allocate(memory, kBytes));
  const double time = best_time(0.2, [&] {
    for (int i = 0; i < kCopies; ++i) memory.copy(to.get(), from.get(), kBytes);
    static_cast<void>(memory.finish());  // an error stays for the next one
  });
  TRY(memory.finish());
  return 2.0 * kCopies * static_cast<double>(kBytes) / time;
}

/// Of the device's products of matrices on registers.
Result<double> matrix_rate(const kernels::MatrixPeakRun& run) {
  constexpr unsigned kFirst = 4, kMost = 1U << 19U;
  constexpr double kTime = 20e-3;  // of a run, many times what starting it and its result take
  unsigned rounds = kFirst;
  double best = 0;
  TRY(run(rounds));  // the first one is slower
  const auto start = Clock::now();
  for (int i = 0; i < 5 || seconds_since(start) < 0.2; ++i) {
    const auto before = Clock::now();
    const auto count = static_cast<double>(TRY(run(rounds)));
    const double time = seconds_since(before);
    best = std::max(best, count / time);
    if (time < kTime / 2) rounds = std::min(2 * rounds, kMost);
  }
  return best;
}

class DeviceMachine final : public Machine {
 public:
  explicit DeviceMachine(kernels::Backend& backend) : backend_(backend) {}

  Result<MachineRates> measure() override {
    const double bytes_per_s = TRY(copy_rate(*backend_.memory));
    const double peak = TRY(matrix_rate(backend_.matrix_peak));
    return MachineRates{.bytes_per_s = bytes_per_s, .peak = {.floats = peak, .integers = peak}};
  }

  void describe(const MachineRates& rates, boost::json::object& values) const override {
    values["cpu_info"] = cpu_name();
    values["gpu_info"] = backend_.device;
    values["target"] = backend_.ops->target();
    values["machine_copy_bytes_per_s"] = rates.bytes_per_s;
    values["machine_peak_bf16_multiply_adds_per_s"] = rates.peak.floats;
  }

  std::string note(const MachineRates& rates) const override {
    return formatted(
        "Device: %s, %s; copies within its memory read and write %.1f GB/s together, products of "
        "BF16 matrices on registers (mma) make %.1f TFLOP/s.",
        backend_.device.c_str(), backend_.ops->target(), rates.bytes_per_s * 1e-9,
        2 * rates.peak.floats * 1e-12);
  }

 private:
  kernels::Backend& backend_;
};

}  // namespace

MachineRates best_of(const MachineRates& a, const MachineRates& b) {
  const auto higher = [](const MultiplyAddRates& x, const MultiplyAddRates& y) {
    return MultiplyAddRates{.floats = std::max(x.floats, y.floats),
                            .integers = std::max(x.integers, y.integers)};
  };
  MachineRates best{.bytes_per_s = std::max(a.bytes_per_s, b.bytes_per_s),
                    .peak = higher(a.peak, b.peak)};
  if (a.products && b.products) best.products = higher(*a.products, *b.products);
  return best;
}

std::unique_ptr<Machine> make_cpu_machine(kernels::ThreadPool& pool, kernels::Ops& ops,
                                          const kernels::KernelSet& kernels) {
  return std::make_unique<CpuMachine>(pool, ops, kernels);
}

std::unique_ptr<Machine> make_device_machine(kernels::Backend& backend) {
  return std::make_unique<DeviceMachine>(backend);
}

}  // namespace troupe::apps
