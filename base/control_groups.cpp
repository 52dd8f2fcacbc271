#include "base/control_groups.hpp"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

namespace troupe {
namespace {

namespace fs = std::filesystem;

/// The process's line of version 2 is "0::/a/b". @returns "a/b"; "" if it is in the root's group
Result<std::string> group_of(const fs::path& self) {
  std::ifstream in(self);
  if (!in) return Error{Code::kUnavailable, "cannot read " + self.string()};
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("0::/")) return line.substr(4);
  }
  return std::string();
}

/// Bytes in use that the kernel cannot take back: memory.current without the pages of files.
uint64_t memory_taken(const fs::path& group) {
  uint64_t current = 0;
  if (!(std::ifstream(group / "memory.current") >> current)) return 0;
  uint64_t cached = 0;
  std::ifstream stat(group / "memory.stat");
  uint64_t bytes = 0;
  for (std::string name; stat >> name >> bytes;) {
    if (name == "inactive_file" || name == "active_file") cached += bytes;
  }
  return current - std::min(current, cached);
}

/// Lowers the limits to those of one group. Each file holds "max" where there is no limit, and is
/// missing where nobody limits that resource.
void apply(const fs::path& group, GroupLimits& limits) {
  double quota = 0, period = 0;  // microseconds
  if (std::ifstream(group / "cpu.max") >> quota >> period && period > 0) {
    const double cpus = quota / period;
    limits.cpus = limits.cpus == 0 ? cpus : std::min(limits.cpus, cpus);
  }
  uint64_t bytes = 0;
  if (std::ifstream(group / "memory.max") >> bytes) {
    limits.memory_bytes = std::min(limits.memory_bytes, bytes);
    limits.memory_left = std::min(limits.memory_left, bytes - std::min(bytes, memory_taken(group)));
  }
}

}  // namespace

Result<GroupLimits> control_group_limits(const fs::path& root, const fs::path& self) {
  std::error_code error;
  if (!fs::exists(root / "cgroup.controllers", error)) {
    return Error{Code::kUnsupported, "no control groups of version 2 at " + root.string()};
  }
  GroupLimits limits;
  fs::path group = root;
  apply(group, limits);
  const std::string path = TRY(group_of(self));
  for (const fs::path& part : fs::path(path)) {
    group /= part;
    apply(group, limits);
  }
  return limits;
}

Result<uint32_t> num_allowed_cpus() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return Error{Code::kUnavailable, std::string("sched_getaffinity: ") + std::strerror(errno)};
  }
  return static_cast<uint32_t>(CPU_COUNT(&allowed));
}

uint32_t num_threads_at_once(uint32_t num_allowed_cpus, double quota) {
  const double all = std::max(num_allowed_cpus, 1U);
  return static_cast<uint32_t>(quota > 0 ? std::min(all, std::ceil(quota)) : all);
}

uint32_t num_threads_at_once() {
  const auto allowed = num_allowed_cpus();
  const auto limits = control_group_limits();
  return num_threads_at_once(allowed.ok() ? *allowed : std::thread::hardware_concurrency(),
                             limits.ok() ? limits->cpus : 0);
}

}  // namespace troupe
