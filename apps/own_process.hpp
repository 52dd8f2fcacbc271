#pragma once

// What Linux says of this process.

#include <cstdint>
#include <string>

namespace troupe::apps {

/// What to execute to run this program again: what $TROUPE_EXECUTABLE names, as where a program is
/// started through a loader that came with it (tools/pack); else this process's own file.
const char* own_executable();

/// Seconds since the kernel started it, to 10 ms.
double process_age_s();

/// "VmRSS" (resident) or "VmHWM" (the most that was) of /proc/self/status, in bytes; 0 if unknown.
uint64_t process_memory(const std::string& name);

/// Bytes that it had to wait for a disk for; what lay in the page cache is not counted.
uint64_t read_from_disk();

}  // namespace troupe::apps
