#pragma once

// Stored weight elements to float32. Every conversion is exact; FP8 with scales rounds once, in the
// multiplication by the block's scale.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/tensor_view.hpp"

namespace troupe::kernels {

inline float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16U); }

/// IEEE binary16: 1 sign, 5 exponent (bias 15), 10 mantissa bits.
inline float from_f16(uint16_t bits) {
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
inline float from_f8e4m3(uint8_t bits) {
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

/// Element (o, i) of a weight matrix as float32.
inline float weight_at(const WeightView& w, size_t o, size_t i) {
  const size_t at = o * w.in + i;
  switch (w.dtype) {
    case DType::kF32: return internal::load<float>(w.data, at);
    case DType::kF16: return from_f16(internal::load<uint16_t>(w.data, at));
    case DType::kBF16: return from_bf16(internal::load<uint16_t>(w.data, at));
    case DType::kF8E4M3: {
      const float value = from_f8e4m3(internal::load<uint8_t>(w.data, at));
      if (w.scales == nullptr) return value;
      const size_t blocks_in = (w.in + WeightView::kScaleBlock - 1) / WeightView::kScaleBlock;
      return value *
             w.scales[(o / WeightView::kScaleBlock) * blocks_in + i / WeightView::kScaleBlock];
    }
  }
  return 0;
}

/// Row `o` of a weight matrix as float32 into out[0, w.in).
inline void weight_row(const WeightView& w, size_t o, float* out) {
  for (size_t i = 0; i < w.in; ++i) out[i] = weight_at(w, o, i);
}

}  // namespace troupe::kernels
