#pragma once

// How the processes of one machine agree on CPUs without one that decides: each CPU has a file, and
// who holds the lock of it (flock) has the CPU. The kernel lets go of locks when a process ends,
// however it ends. The files lie where all users may make some, and are never removed. Processes
// that do not see the same directory, such as containers each with a /dev/shm of its own, do not
// see each other's claims; give those disjoint sets of CPUs.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace troupe::kernels {

class FileLock;

struct CpuClaimsOptions {
  std::filesystem::path system = "/sys/devices/system";  ///< cpu/ and node/
  std::filesystem::path directory = "/dev/shm";
  /// Threads of all processes that are known to share the CPUs, those included that are busy but
  /// not pinned. If there are fewer CPUs nobody claims any: a pinned thread cannot step aside.
  size_t num_threads_together = 0;
};

/// CPUs that this process has claimed, until it ends or this object does.
class CpuClaims {
 public:
  /// Chooses (cpu_choice.hpp) among the CPUs that the calling thread may use and nobody has
  /// claimed. The calling thread, and those that it starts, run from now on at the nodes of memory
  /// where the chosen CPUs are, so that what they are the first to touch lies there; if those are
  /// several, its pages take turns among them (MPOL_INTERLEAVE, where the kernel lets us), for all
  /// threads read it. Threads that it started before run where they did.
  /// @param num_threads >= 1
  /// @errors kResourceExhausted: fewer are free, or too few for all; kUnavailable: the directory or
  /// the kernel refuses,
  ///         or others have been choosing for a second. Then nothing is claimed.
  static Result<std::unique_ptr<CpuClaims>> claim(size_t num_threads,
                                                  const CpuClaimsOptions& options = {});
  ~CpuClaims();
  CpuClaims(const CpuClaims&) = delete;
  CpuClaims& operator=(const CpuClaims&) = delete;

  /// One for each thread.
  [[nodiscard]] const std::vector<uint32_t>& cpus() const { return cpus_; }

 private:
  CpuClaims();
  std::vector<uint32_t> cpus_;
  std::vector<std::unique_ptr<FileLock>> locks_;  ///< of cpus_
};

/// From now on the calling thread runs on these alone, and so do threads that it starts.
/// @errors kUnavailable: the kernel refuses
Result<void> run_this_thread_on(std::span<const uint32_t> cpus);

/// "0-3,8": for people, whatever the order.
std::string cpu_list(std::vector<uint32_t> cpus);

}  // namespace troupe::kernels
