#pragma once

// Whether something fits into memory, asked before it is begun. What does not fit is noticed by
// nobody else in time: the kernel promises memory that it does not have, and ends a process when
// it is written to.

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/control_groups.hpp"
#include "base/result.hpp"

namespace troupe {

/// Bytes that this process can still take for itself: MemAvailable, for which pages of files can be
/// dropped, or what its control groups leave it, if that is less. Groups that cannot be read limit
/// nothing.
/// @errors kUnavailable if the kernel does not tell
Result<uint64_t> available_memory(const std::filesystem::path& meminfo = "/proc/meminfo",
                                  const Result<GroupLimits>& groups = control_group_limits());

/// Refuses what cannot fit. Where it is not known what is available, nothing is refused.
/// @param what "8 threads need": the beginning of the message
/// @param remedy "fewer threads need less": its end
/// @errors kResourceExhausted, naming both sizes
Result<void> check_memory_room(const std::string& what, uint64_t needed,
                               const Result<uint64_t>& available, const std::string& remedy);

}  // namespace troupe
