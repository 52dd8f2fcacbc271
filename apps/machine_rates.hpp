#pragma once

// What this machine can do at best, measured now with these threads: what results are a fraction
// of.

#include <boost/json.hpp>
#include <cstddef>
#include <string>

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
  /// Of memory beyond the caches, as in STREAM the best of several passes.
  double read_bytes_per_s = 0;
  /// Of nothing but multiply-adds on registers: what the instructions of the target could do.
  MultiplyAddRates peak;
  /// Of Troupe's own fastest product whose operands stay in the caches.
  MultiplyAddRates products;

  /// The part of the time that reading so many bytes would take at best.
  [[nodiscard]] double bandwidth_fraction(double bytes, double seconds) const {
    return bytes / read_bytes_per_s / seconds;
  }
};

/// The higher of each rate: what disturbs a machine makes it slower, never faster.
MachineRates best_of(const MachineRates& a, const MachineRates& b);

/// With one version of the kernels. Takes about a second.
MachineRates measure_machine(kernels::ThreadPool& pool,
                             const kernels::KernelSet& kernels = *kernels::cpu_kernels().front());

/// So much memory does not stay in the caches: four times the last-level cache, 256 MiB at least.
size_t bytes_beyond_caches();

/// For the results of programs: processor, threads, instruction set and rates.
void describe_machine(const MachineRates& rates, size_t num_threads, const char* target,
                      boost::json::object& values);

/// The same as a line for people.
std::string machine_note(const MachineRates& rates, size_t num_threads, const char* target);

}  // namespace troupe::apps
