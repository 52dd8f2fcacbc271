#pragma once

// How much CPU time and memory the kernel grants this process: by control groups (version 2), as
// containers and systemd limit it, and by the CPUs that it may use.

#include <cstdint>
#include <filesystem>

#include "base/result.hpp"

namespace troupe {

/// The tightest limits of a control group and those above it.
struct GroupLimits {
  double cpus = 0;                     ///< CPU time per time by cpu.max; 0: unlimited
  uint64_t memory_bytes = UINT64_MAX;  ///< by memory.max; UINT64_MAX: unlimited
  /// Of it, what nobody in the group has taken; cached files count as free.
  uint64_t memory_left = UINT64_MAX;
};

/// Of this process. In a container its group's path may lead outside what is mounted there; then
/// those of the groups that can be seen.
/// @param root where control groups are mounted
/// @param self "/proc/self/cgroup"
/// @errors kUnsupported where there is no version 2; kUnavailable if `self` cannot be read
Result<GroupLimits> control_group_limits(const std::filesystem::path& root = "/sys/fs/cgroup",
                                         const std::filesystem::path& self = "/proc/self/cgroup");

/// CPUs that the calling thread, and threads that it starts, may use. @errors kUnavailable
Result<uint32_t> num_allowed_cpus();

/// So many threads can compute at once: a CPU for each, and time for each by the quota, which a
/// thread more would use up before its period ends. At least 1.
/// @param quota GroupLimits::cpus
uint32_t num_threads_at_once(uint32_t num_allowed_cpus, double quota);

/// The same of this process. A limit that cannot be read is none.
uint32_t num_threads_at_once();

}  // namespace troupe
