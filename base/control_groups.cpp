#include "base/control_groups.hpp"

#include <algorithm>
#include <fstream>
#include <string>

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

}  // namespace troupe
