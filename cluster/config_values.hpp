#pragma once

// The notations of the configuration: durations ("200ms"), sizes ("8MiB") and ranges ("0-7" or
// "3"). Reading is strict: all of the text, no sign, no blank, no overflow.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/time.hpp"

namespace troupe::cluster {

/// A whole number and one of ns us ms s m h.
std::optional<Duration> parse_duration(std::string_view text);
/// A whole number and one of B KiB MiB GiB; in bytes.
std::optional<uint64_t> parse_size(std::string_view text);
/// First and last, inclusive; the first is not above the last.
std::optional<std::pair<uint32_t, uint32_t>> parse_range(std::string_view text);

/// The shortest notation that reads back as the same value.
std::string duration_text(Duration duration);
std::string size_text(uint64_t bytes);
std::string range_text(uint32_t first, uint32_t last);
/// In double quotes, with escapes. REQUIRES: no control characters.
std::string quoted_text(std::string_view text);

}  // namespace troupe::cluster
