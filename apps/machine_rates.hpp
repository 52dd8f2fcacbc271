#pragma once

// What this machine can do at best, measured now with these threads or on this device: what results
// are a fraction of.

#include <boost/json.hpp>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/thread_pool.hpp"

namespace troupe::apps {

/// Multiply-adds per second.
struct MultiplyAddRates {
  double floats = 0;
  double integers = 0;  ///< of products with integer weights

  /// The part of the time that so many would take at best.
  [[nodiscard]] double fraction(double num_floats, double num_integers, double seconds) const {
    return (num_floats / floats + num_integers / integers) / seconds;
  }
};

struct MachineRates {
  /// Of memory beyond the caches, the best of several passes: a CPU reads, as in STREAM; a device
  /// copies, and what it reads and what it writes both count.
  double bytes_per_s = 0;
  /// Of nothing but multiply-adds on registers: what the instructions of the target could do. On a
  /// device those of BF16 matrices, by which it multiplies integer weights, too.
  MultiplyAddRates peak;
  /// Of Troupe's own fastest product whose operands stay in the caches; of CPUs only.
  std::optional<MultiplyAddRates> products;

  /// The part of the time that so many bytes would take at best.
  [[nodiscard]] double bandwidth_fraction(double bytes, double seconds) const {
    return bytes / bytes_per_s / seconds;
  }
};

/// The higher of each rate: what disturbs a machine makes it slower, never faster.
MachineRates best_of(const MachineRates& a, const MachineRates& b);

/// What computes, and how results name it.
class Machine {
 public:
  virtual ~Machine() = default;

  /// Takes about a second. @errors those of a device
  [[nodiscard]] virtual Result<MachineRates> measure() = 0;
  /// For the results of programs: names and rates.
  virtual void describe(const MachineRates& rates, boost::json::object& values) const = 0;
  /// The same as a line for people.
  [[nodiscard]] virtual std::string note(const MachineRates& rates) const = 0;
};

/// @param pool, ops outlive the result @param kernels the version that `ops` runs
std::unique_ptr<Machine> make_cpu_machine(
    kernels::ThreadPool& pool, kernels::Ops& ops,
    const kernels::KernelSet& kernels = *kernels::cpu_kernels().front());
/// @param backend of a device; outlives the result
std::unique_ptr<Machine> make_device_machine(kernels::Backend& backend);

}  // namespace troupe::apps
