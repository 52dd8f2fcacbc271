#include "kernels/control_groups.hpp"

#include <algorithm>
#include <fstream>
#include <string>

namespace troupe::kernels {
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

}  // namespace troupe::kernels
