#pragma once

// Rule 5 of the arithmetic contract (kernels/ops.hpp): the scales of activations in 8 bits.

#include <bit>
#include <cstdint>
#include <limits>

namespace troupe::kernels {

/// What 32 activations are multiplied with to become 8 bits, and what gives them back.
struct BlockScale {
  float to_8_bits = 0;
  float scale = 0;
};

/// @param max_bits the largest of the magnitudes' bits: a NaN is larger than infinity.
inline BlockScale block_scale(uint32_t max_bits) {
  constexpr uint32_t kInfinity = 0x7f800000U;
  constexpr float kLargest = 127.0F;
  if (max_bits >= kInfinity) return {0, std::numeric_limits<float>::quiet_NaN()};
  const float max = std::bit_cast<float>(max_bits);
  const float to_8_bits = kLargest / max;
  // A magnitude so small that its inverse is infinite counts as 0.
  if (!(to_8_bits <= std::numeric_limits<float>::max())) return {};
  return {to_8_bits, max / kLargest};
}

}  // namespace troupe::kernels
