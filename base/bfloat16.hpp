#pragma once

// BF16: the upper half of a float32.

#include <bit>
#include <cstdint>

namespace troupe {

/// Exact.
constexpr float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16U); }

/// The nearest BF16, ties to even; infinity from half a step beyond the largest on. A NaN stays one
/// and becomes quiet.
constexpr uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>(bits >> 16U | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + (bits >> 16U & 1U)) >> 16U);
}

}  // namespace troupe
