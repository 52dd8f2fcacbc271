#pragma once

// Reading what the kernel tells in /proc and /sys: short files, made anew at each look.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe {

/// Without its end. @errors kUnavailable, naming the file and the cause, also if it is empty
Result<std::string> first_line(const std::filesystem::path& file);

/// What stands behind "name:" in the first line that begins so, without blanks around it:
/// "16314228 kB" of "MemTotal:       16314228 kB".
/// @errors kUnavailable, naming the file and what was not found
Result<std::string> line_of(const std::filesystem::path& file, std::string_view name);

/// A line_of() that counts in "kB", by which the kernel means 1,024 bytes: in bytes.
/// @errors as line_of(), also for a line of another form
Result<uint64_t> bytes_of(const std::filesystem::path& file, std::string_view name);

}  // namespace troupe
