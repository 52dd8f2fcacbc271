#pragma once

// Stored weight elements to float32. Every conversion is exact; FP8 with scales and integers round
// once, in the multiplication by their scale.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/bfloat16.hpp"
#include "base/panels.hpp"
#include "base/tensor_view.hpp"
#include "kernels/on_device.hpp"

namespace troupe::kernels {

/// IEEE binary16: 1 sign, 5 exponent (bias 15), 10 mantissa bits.
TROUPE_ON_DEVICE inline float from_f16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000U) << 16U;
  const uint32_t magnitude = bits & 0x7fffU;
  // The magnitude's bits 13 higher are a float32 whose exponent is too small by 127 - 15.
  const uint32_t wide =
      magnitude < 0x7c00U
          ? std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude << 13U) * 0x1p112F)
          : (magnitude << 13U) | 0x7f800000U;
  return std::bit_cast<float>(sign | wide);
}

/// E4M3 (the "fn" kind): 1 sign, 4 exponent (bias 7), 3 mantissa bits; largest 448, no infinity,
/// NaN where all seven low bits are set.
TROUPE_ON_DEVICE inline float from_f8e4m3(uint8_t bits) {
  const uint32_t sign = (bits & 0x80U) << 24U;
  const uint32_t magnitude = bits & 0x7fU;
  if (magnitude == 0x7fU) return std::numeric_limits<float>::quiet_NaN();
  const float value = std::bit_cast<float>(magnitude << 20U) * 0x1p120F;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

namespace internal {
template <class T>
T load(const void* data, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + i * sizeof(T), sizeof(T));
  return value;
}
}  // namespace internal

/// The integer that stands at (o, i), its zero not subtracted. REQUIRES: is_integer(w.dtype).
inline int stored_integer(const WeightView& w, size_t o, size_t i) {
  const auto* bytes = static_cast<const uint8_t*>(w.data);
  if (w.dtype == DType::kI8) return static_cast<int8_t>(bytes[panel_byte_of_i8(w.in, o, i)]);
  const uint8_t both = bytes[panel_byte_of_i4(w.in, o, i)];
  return in_high_half(i) ? both >> 4U : both & 0xfU;
}

inline float group_scale(const WeightView& w, size_t o, size_t g) {
  const size_t at = panel_scale(w.num_groups(), o, g);
  return w.group_scales.dtype == DType::kBF16
             ? from_bf16(internal::load<uint16_t>(w.group_scales.data, at))
             : internal::load<float>(w.group_scales.data, at);
}

inline int group_zero(const WeightView& w, size_t o, size_t g) {
  if (w.dtype == DType::kI8) return 0;
  const uint8_t* zeros = w.group_scales.zeros;
  return zeros == nullptr ? kMiddleOfI4 : zeros[panel_scale(w.num_groups(), o, g)];
}

/// Element (o, i) of a weight matrix as float32; of integers the i-th in the order of their
/// columns.
inline float weight_at(const WeightView& w, size_t o, size_t i) {
  const size_t at = o * w.in + i;
  switch (w.dtype) {
    case DType::kF32: return internal::load<float>(w.data, at);
    case DType::kF16: return from_f16(internal::load<uint16_t>(w.data, at));
    case DType::kBF16: return from_bf16(internal::load<uint16_t>(w.data, at));
    case DType::kF8E4M3: {
      const float value = from_f8e4m3(internal::load<uint8_t>(w.data, at));
      if (w.scales == nullptr) return value;
      return value * w.scales[o / WeightView::kScaleBlock * WeightView::num_scale_blocks(w.in) +
                              i / WeightView::kScaleBlock];
    }
    case DType::kI8:
    case DType::kI4: {
      const size_t g = i / w.group_scales.group;
      return static_cast<float>(stored_integer(w, o, i) - group_zero(w, o, g)) *
             group_scale(w, o, g);
    }
  }
  return 0;
}

/// Row `o` of a weight matrix as float32 into out[0, w.in).
inline void weight_row(const WeightView& w, size_t o, float* out) {
  for (size_t i = 0; i < w.in; ++i) out[i] = weight_at(w, o, i);
}

}  // namespace troupe::kernels
