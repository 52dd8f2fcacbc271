#pragma once

// Stored weights to BF16 pairs for the tensor cores, each without rounding: BF16 as they are, FP8
// E4M3 without their block scales, integers without their group scales. Scales multiply sums
// instead (gemm.cuh).
//
// Of a block of 32 elements of a row, thread t of four has eight, as four pairs. kInterleaved says
// which: elements 8t .. 8t + 7, or, as integer panels have them (base/panels.hpp), 4t .. 4t + 3 and
// 16 + 4t .. 16 + 4t + 3. Activations are stored in the same order, so that both are 16 bytes.

#include "base/bfloat16.hpp"
#include "base/panels.hpp"
#include "base/tensor_view.hpp"
#include "kernels/cuda/simt.cuh"

namespace troupe::kernels::cuda {

inline constexpr unsigned kBlock = 32;   ///< elements that two mma multiply
inline constexpr unsigned kSlice = 128;  ///< elements whose sum is added to others

/// A weight matrix in device memory. Where rows are multiples of 8 elements, they are loaded 8 at a
/// time and begin at a multiple of so many.
struct Weights {
  const void* data = nullptr;
  size_t out = 0;
  size_t in = 0;
  const float* block_scales = nullptr;  ///< kF8E4M3, or nullptr
  const void* group_scales = nullptr;   ///< kI8, kI4
  size_t group_scale_bytes = 0;         ///< of one: 4 for float32, 2 for BF16
  const uint8_t* zeros = nullptr;       ///< kI4, or nullptr: 8
  size_t group = 0;
  size_t num_groups = 0;
  const uint32_t* columns = nullptr;  ///< kI8, kI4: as WeightView::columns
};

/// What the elements [k, k + 8) of row `o` are; beyond the row: zeros. REQUIRES: o < out.
template <class T>
SIMT_DEVICE simt::Words<2 * sizeof(T)> eight_elements(const Weights& w, size_t o, size_t k) {
  const T* row = static_cast<const T*>(w.data) + o * w.in;
  simt::Words<2 * sizeof(T)> words{};
  if (w.in % 8 == 0) {
    if (k < w.in) words = simt::load<2 * sizeof(T)>(row + k);
    return words;
  }
  T elements[8] = {};
  for (unsigned i = 0; i < 8; ++i) {
    if (k + i < w.in) elements[i] = row[k + i];
  }
  memcpy(&words, elements, sizeof(words));
  return words;
}

/// Bytes 0 and 1 of a word in the low halves of 16 bits each.
SIMT_DEVICE uint32_t spread_bytes(uint32_t word) { return (word & 0xffU) | (word & 0xff00U) << 8U; }

struct Bf16Weights {
  static constexpr DType kDType = DType::kBF16;
  static constexpr bool kInterleaved = false;
  static constexpr bool kScaled = false;
  static constexpr bool kIsBf16 = true;  ///< may be copied instead of decoded
  using Raw = simt::Words<4>;

  SIMT_DEVICE static Raw load(const Weights& w, size_t o, size_t k, unsigned t) {
    return eight_elements<uint16_t>(w, o, k + 8 * t);
  }
  SIMT_DEVICE static simt::Words<4> decode(const Weights&, size_t, size_t, const Raw& raw) {
    return raw;
  }
  SIMT_DEVICE static float scale(const Weights&, size_t, size_t) { return 1.0F; }
};

/// E4M3 as the top of a BF16 number whose exponent is too small by 120.
struct F8Weights {
  static constexpr DType kDType = DType::kF8E4M3;
  static constexpr bool kInterleaved = false;
  static constexpr bool kScaled = true;
  static constexpr bool kIsBf16 = false;
  using Raw = simt::Words<2>;

  SIMT_DEVICE static Raw load(const Weights& w, size_t o, size_t k, unsigned t) {
    return eight_elements<uint8_t>(w, o, k + 8 * t);
  }
  SIMT_DEVICE static simt::Words<4> decode(const Weights&, size_t, size_t, const Raw& raw) {
    simt::Words<4> out;
    SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) {
      const uint32_t bytes = spread_bytes(raw.w[i / 2] >> (16 * (i % 2)));
      constexpr uint32_t kTwoTo120 = 0x7b807b80U;
      constexpr uint32_t kMinusZero = 0x80008000U;
      out.w[i] = simt::fma_bf16x2((bytes & 0x00800080U) << 8U | (bytes & 0x007f007fU) << 4U,
                                  kTwoTo120, kMinusZero);
      if ((bytes & 0x7fU) == 0x7fU) out.w[i] |= 0x7fffU;  // NaN
      if ((bytes & 0x7f0000U) == 0x7f0000U) out.w[i] |= 0x7fff0000U;
    }
    return out;
  }
  SIMT_DEVICE static float scale(const Weights& w, size_t o, size_t k) {
    constexpr size_t kSide = WeightView::kScaleBlock;
    if (w.block_scales == nullptr) return 1.0F;
    return w.block_scales[o / kSide * WeightView::num_scale_blocks(w.in) + k / kSide];
  }
};

SIMT_DEVICE float scale_of_group(const Weights& w, size_t o, size_t k) {
  const size_t at = panel_scale(w.num_groups, o, k / w.group);
  return w.group_scale_bytes == sizeof(uint16_t)
             ? from_bf16(static_cast<const uint16_t*>(w.group_scales)[at])
             : static_cast<const float*>(w.group_scales)[at];
}

inline constexpr uint32_t kOnes = 0x3f803f80U;  ///< 1 and 1

struct I8Weights {
  static constexpr DType kDType = DType::kI8;
  static constexpr bool kInterleaved = true;
  static constexpr bool kScaled = true;
  static constexpr bool kIsBf16 = false;
  using Raw = simt::Words<2>;

  SIMT_DEVICE static Raw load(const Weights& w, size_t o, size_t k, unsigned t) {
    if (k >= w.in) return {};
    const auto* bytes = static_cast<const uint8_t*>(w.data);
    const size_t quad = k + t * kPanelQuad;
    return {simt::load<1>(bytes + panel_byte_of_i8(w.in, o, quad)).w[0],
            simt::load<1>(bytes + panel_byte_of_i8(w.in, o, quad + kPanelBlock / 2)).w[0]};
  }
  SIMT_DEVICE static simt::Words<4> decode(const Weights&, size_t, size_t, const Raw& raw) {
    simt::Words<4> out;
    SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) {
      // 128 + the low seven bits, less 128, or 256 if the sign is set.
      const uint32_t bytes = spread_bytes(raw.w[i / 2] >> (16 * (i % 2)));
      out.w[i] = simt::fma_bf16x2(0x43004300U | (bytes & 0x007f007fU), kOnes,
                                  0xc300c300U | (bytes & 0x00800080U));
    }
    return out;
  }
  SIMT_DEVICE static float scale(const Weights& w, size_t o, size_t k) {
    return scale_of_group(w, o, k);
  }
};

/// Zeros are at most kMaxZeroOfI4: -(128 + zero) is a BF16 number.
struct I4Weights {
  static constexpr DType kDType = DType::kI4;
  static constexpr bool kInterleaved = true;
  static constexpr bool kScaled = true;
  static constexpr bool kIsBf16 = false;
  using Raw = simt::Words<1>;

  SIMT_DEVICE static Raw load(const Weights& w, size_t o, size_t k, unsigned t) {
    if (k >= w.in) return {};
    const auto* bytes = static_cast<const uint8_t*>(w.data);
    return simt::load<1>(bytes + panel_byte_of_i4(w.in, o, k + t * kPanelQuad));
  }
  SIMT_DEVICE static simt::Words<4> decode(const Weights& w, size_t o, size_t k, const Raw& raw) {
    uint32_t zero = kMiddleOfI4;
    if (w.zeros != nullptr && k < w.in) {
      zero = w.zeros[panel_scale(w.num_groups, o, k / w.group)];
    }
    const uint32_t minus = 0xc3000000U + (zero << 16U);  // -(128 + zero), above its rounded bits
    const uint32_t minus_both = minus | minus >> 16U;
    simt::Words<4> out;
    SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) {
      const uint32_t halves = raw.w[0] >> (4 * (i / 2)) & 0x0f0f0f0fU;
      out.w[i] =
          simt::fma_bf16x2(0x43004300U | spread_bytes(halves >> (16 * (i % 2))), kOnes, minus_both);
    }
    return out;
  }
  SIMT_DEVICE static float scale(const Weights& w, size_t o, size_t k) {
    return scale_of_group(w, o, k);
  }
};

}  // namespace troupe::kernels::cuda
