#pragma once

// On which CPUs the threads of a process compute. Pure: what the machine has and what other
// processes took comes in, a choice comes out; kernels/cpu_claims.hpp asks the machine and takes
// them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace troupe::kernels {

/// One CPU as the kernel counts them: a core, or one of the threads of a core.
struct Cpu {
  uint32_t id = 0;
  uint32_t core = 0;    ///< the lowest id of those that share its core
  uint32_t node = 0;    ///< of memory (NUMA)
  bool is_free = true;  ///< no other process has claimed it
};

/// Chooses a CPU for each thread among the free ones: on as few nodes of memory as possible, and a
/// core for each thread rather than few nodes. Of several nodes with room that with the most free
/// cores, so that processes spread over the memories; then the lowest ids.
/// @param cpus that this process may use, by rising id
/// @returns one id per thread, or none if fewer are free
std::vector<uint32_t> choose_cpus(std::span<const Cpu> cpus, size_t num_threads);

}  // namespace troupe::kernels
