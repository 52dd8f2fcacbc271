#pragma once

// Sizes for people, in three or more digits; cluster/config_values.hpp has the exact notation.

#include <cstdint>
#include <string>

namespace troupe {

/// Bytes in the largest of B, KiB, MiB, GiB and TiB that leaves 1 or more: "512 B", "1.50 GiB".
std::string rounded_size(uint64_t bytes);

}  // namespace troupe
