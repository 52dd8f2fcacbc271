#include "base/memory_room.hpp"

#include <algorithm>

#include "base/kernel_file.hpp"
#include "base/rounded_size.hpp"

namespace troupe {

Result<uint64_t> available_memory(const std::filesystem::path& meminfo,
                                  const Result<GroupLimits>& groups) {
  const uint64_t available = TRY(bytes_of(meminfo, "MemAvailable"));
  return groups.ok() ? std::min(available, groups->memory_left) : available;
}

Result<void> check_memory_room(const std::string& what, uint64_t needed,
                               const Result<uint64_t>& available, const std::string& remedy) {
  if (!available.ok() || needed <= *available) return {};
  return Error{Code::kResourceExhausted, what + " " + rounded_size(needed) + " of memory, and " +
                                             rounded_size(*available) + " are available; " +
                                             remedy};
}

}  // namespace troupe
