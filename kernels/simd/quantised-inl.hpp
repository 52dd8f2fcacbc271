// Products of 8-bit activations with integer weights in panels (rule 5 of kernels/ops.hpp). Sums of
// integers are exact in any order, so each CPU adds as suits it; lanes are outputs, so that nothing
// is added across lanes and the panels of the weights are read once, front to back.

#if defined(TROUPE_KERNELS_SIMD_QUANTISED_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_QUANTISED_INL
#undef TROUPE_KERNELS_SIMD_QUANTISED_INL
#else
#define TROUPE_KERNELS_SIMD_QUANTISED_INL
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/quantised.hpp"
#include "kernels/cpu/scalar.hpp"
#include "kernels/kernel_set.hpp"

#if HWY_ARCH_X86
#include <immintrin.h>

namespace troupe::kernels::N_AVX2 {  // which CPUs with AVX-512 use, too
void quantise(const QuantiseParams& p, Range rows);
void quantised_gemm(const QuantisedGemmParams& p, Range outputs);
}  // namespace troupe::kernels::N_AVX2
#endif

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

// Loops over a tile: unrolled early, or GCC keeps the tile in memory.
#undef TROUPE_UNROLL
#define TROUPE_UNROLL _Pragma("GCC unroll 8")

#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2

/// Reads T at bytes that may be unaligned.
template <class T>
HWY_INLINE T load_bits(const void* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

HWY_INLINE int32_t sum_lanes(__m256i v) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

HWY_INLINE uint32_t max_lanes(__m256i v) {
  const __m128i four = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xb1))));
}

void quantise(const QuantiseParams& p, Range rows) {
  const QuantisedRows& out = p.out;
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (size_t r = rows.first; r < rows.last; ++r) {
    for (size_t first = 0; first < p.x.cols; first += kPanelBlock) {
      const float* x = p.x.row(r) + first;
      __m256 values[4];
      __m256i max = _mm256_setzero_si256();
      for (size_t v = 0; v < 4; ++v) {
        values[v] = _mm256_loadu_ps(x + 8 * v);
        max = _mm256_max_epu32(max, _mm256_and_si256(_mm256_castps_si256(values[v]), magnitude));
      }
      const BlockScale scale = block_scale(max_lanes(max));
      const __m256 to_8_bits = _mm256_set1_ps(scale.to_8_bits);
      __m256i integers[4];
      for (size_t v = 0; v < 4; ++v) {
        integers[v] = scale.to_8_bits == 0
                          ? _mm256_setzero_si256()
                          : _mm256_cvtps_epi32(_mm256_mul_ps(values[v], to_8_bits));
      }
      const size_t at = r * out.cols + p.first_col + first;
      // Packing works in halves of 16 bytes, so that their quarters come out in the wrong order.
      const __m256i low =
          _mm256_permute4x64_epi64(_mm256_packs_epi32(integers[0], integers[1]), 0xd8);
      const __m256i high =
          _mm256_permute4x64_epi64(_mm256_packs_epi32(integers[2], integers[3]), 0xd8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.values + at),
                          _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8));
      out.scales[at / kPanelBlock] = scale.scale;
      out.sums[at / kPanelBlock] = sum_lanes(_mm256_add_epi32(
          _mm256_add_epi32(integers[0], integers[1]), _mm256_add_epi32(integers[2], integers[3])));
    }
  }
}

/// Adds where it stands: GCC would put off the sums of a tile, and its products wait in memory.
HWY_INLINE void add_16(__m256i& sum, __m256i products) {
  sum = _mm256_add_epi16(sum, products);
  asm("" : "+x"(sum));
}
HWY_INLINE void add_32(__m256i& sum, __m256i products) {
  sum = _mm256_add_epi32(sum, products);
  asm("" : "+x"(sum));
}

/// Outputs of a panel that are the lanes of one vector.
constexpr size_t kHalfRows = 8;
constexpr size_t kHalves = kPanelRows / kHalfRows;

/// Scales of eight outputs from scale `at` on.
template <DType kScale>
HWY_INLINE __m256 load_scales(const void* scales, size_t at) {
  if constexpr (kScale == DType::kBF16) {
    const auto* bits = static_cast<const uint16_t*>(scales) + at;
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bits));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
  } else {
    return _mm256_loadu_ps(static_cast<const float*>(scales) + at);
  }
}

/// kRows rows of activations over one product's weights.
template <size_t kRows>
struct ActivationRows {
  const int8_t* values[kRows];
  const float* scales[kRows];
  const int32_t* sums[kRows];
};

/// The integer sums of one block of kI4, no zero subtracted. A weight is at most 15 and an
/// activation 127: eight pairs of their products fit into 16 bits.
struct I4Weights {
  static constexpr size_t kBytesPerBlock = kPanelBlock / 2 * kPanelRows;

  template <size_t kRows>
  HWY_INLINE static void sum_block(const uint8_t* weights, const ActivationRows<kRows>& x, size_t k,
                                   __m256i (&sums)[kRows][kHalves]) {
    const __m256i low_half = _mm256_set1_epi8(15);
    TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
      TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) sums[r][h] = _mm256_setzero_si256();
    }
    for (size_t c = 0; c < 4; ++c) {
      __m256i low[kHalves], high[kHalves];
      TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) {
        const __m256i both = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(weights + c * kPanelRows * kPanelQuad + h * 32));
        low[h] = _mm256_and_si256(both, low_half);
        high[h] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
      }
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        const int8_t* at = x.values[r] + k + c * kPanelQuad;
        const __m256i x_low = _mm256_set1_epi32(load_bits<int32_t>(at));
        const __m256i x_high = _mm256_set1_epi32(load_bits<int32_t>(at + kPanelBlock / 2));
        TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) {
          add_16(sums[r][h], _mm256_maddubs_epi16(low[h], x_low));
          add_16(sums[r][h], _mm256_maddubs_epi16(high[h], x_high));
        }
      }
    }
    const __m256i ones = _mm256_set1_epi16(1);
    TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
      TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) sums[r][h] =
          _mm256_madd_epi16(sums[r][h], ones);
    }
  }
};

/// The same of kI8. Bytes multiply as unsigned and signed ones: the sign of the weight moves to the
/// activation. 128 * 127 and its neighbour fit into 16 bits, two such pairs do not.
struct I8Weights {
  static constexpr size_t kBytesPerBlock = kPanelBlock * kPanelRows;

  template <size_t kRows>
  HWY_INLINE static void sum_block(const uint8_t* weights, const ActivationRows<kRows>& x, size_t k,
                                   __m256i (&sums)[kRows][kHalves]) {
    const __m256i ones = _mm256_set1_epi16(1);
    TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
      TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) sums[r][h] = _mm256_setzero_si256();
    }
    for (size_t q = 0; q < kPanelBlock / kPanelQuad; ++q) {
      __m256i w[kHalves], magnitude[kHalves];
      TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) {
        w[h] = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(weights + q * kPanelRows * kPanelQuad + h * 32));
        magnitude[h] = _mm256_abs_epi8(w[h]);
      }
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        const __m256i x_quad =
            _mm256_set1_epi32(load_bits<int32_t>(x.values[r] + k + q * kPanelQuad));
        TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) {
          const __m256i pairs = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(x_quad, w[h]));
          add_32(sums[r][h], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
  }
};

/// y[r][h] of the outputs of one panel.
/// @param scale_at index of the scale of the panel's first group and first output
template <class Weights, DType kScale, bool kZeros, size_t kRows>
HWY_INLINE void panel_products(const uint8_t* panel, const WeightView& w, size_t scale_at,
                               const ActivationRows<kRows>& x, __m256 (&y)[kRows][kHalves]) {
  TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
    TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) y[r][h] = _mm256_setzero_ps();
  }
  const size_t group = std::min(w.group_scales.group, w.in);
  for (size_t first = 0; first < w.in; first += group, scale_at += kPanelRows) {
    const size_t last = std::min(first + group, w.in);
    [[maybe_unused]] __m256i zeros[kHalves];
    if constexpr (kZeros) {
      TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) {
        zeros[h] = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
            reinterpret_cast<const __m128i*>(w.group_scales.zeros + scale_at + h * kHalfRows)));
      }
    }
    __m256 t[kRows][kHalves];
    TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
      TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) t[r][h] = _mm256_setzero_ps();
    }
    for (size_t k = first; k < last; k += kPanelBlock) {
      __m256i sums[kRows][kHalves];
      Weights::sum_block(panel + k / kPanelBlock * Weights::kBytesPerBlock, x, k, sums);
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        const __m256 scale = _mm256_set1_ps(x.scales[r][k / kPanelBlock]);
        const __m256i x_sum = _mm256_set1_epi32(x.sums[r][k / kPanelBlock]);
        TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) {
          if constexpr (kZeros) {
            sums[r][h] = _mm256_sub_epi32(sums[r][h], _mm256_mullo_epi32(x_sum, zeros[h]));
          } else if constexpr (std::is_same_v<Weights, I4Weights>) {
            static_assert(kMiddleOfI4 == 1 << 3);
            sums[r][h] = _mm256_sub_epi32(sums[r][h], _mm256_slli_epi32(x_sum, 3));
          }
          t[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][h]), scale, t[r][h]);
        }
      }
    }
    TROUPE_UNROLL for (size_t h = 0; h < kHalves; ++h) {
      const __m256 scale = load_scales<kScale>(w.group_scales.data, scale_at + h * kHalfRows);
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) y[r][h] =
          _mm256_fmadd_ps(t[r][h], scale, y[r][h]);
    }
  }
}

template <class Weights, DType kScale, bool kZeros, size_t kRows>
HWY_NOINLINE void rows_by_panels(const QuantisedGemmParams& p, size_t first_row, Range outputs) {
  ActivationRows<kRows> x;
  for (size_t r = 0; r < kRows; ++r) {
    const size_t at = (first_row + r) * p.x.cols;
    x.values[r] = p.x.values + at;
    x.scales[r] = p.x.scales + at / kPanelBlock;
    x.sums[r] = p.x.sums + at / kPanelBlock;
  }
  const size_t panel_bytes = p.w.in / kPanelBlock * Weights::kBytesPerBlock;
  for (size_t o = outputs.first; o < outputs.last; o += kPanelRows) {
    const auto* panel = static_cast<const uint8_t*>(p.w.data) + o / kPanelRows * panel_bytes;
    const size_t scale_at = panel_scale(p.w.num_groups(), o, 0);
    __m256 y[kRows][kHalves];
    panel_products<Weights, kScale, kZeros>(panel, p.w, scale_at, x, y);
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t h = 0; h < kHalves; ++h) {
        const size_t at = o + h * kHalfRows;
        if (p.bias != nullptr) y[r][h] = _mm256_add_ps(y[r][h], _mm256_loadu_ps(p.bias + at));
        _mm256_storeu_ps(p.y.row(first_row + r) + at, y[r][h]);
      }
    }
  }
}

constexpr size_t kQuantisedTileRows = 4;

template <class Weights, DType kScale, bool kZeros>
void quantised_rows(const QuantisedGemmParams& p, Range outputs) {
  for (size_t r = 0; r < p.x.rows; r += kQuantisedTileRows) {
    switch (std::min(kQuantisedTileRows, p.x.rows - r)) {
      case 1: rows_by_panels<Weights, kScale, kZeros, 1>(p, r, outputs); break;
      case 2: rows_by_panels<Weights, kScale, kZeros, 2>(p, r, outputs); break;
      case 3: rows_by_panels<Weights, kScale, kZeros, 3>(p, r, outputs); break;
      default: rows_by_panels<Weights, kScale, kZeros, 4>(p, r, outputs);
    }
  }
}

template <DType kScale>
void quantised_gemm_with(const QuantisedGemmParams& p, Range outputs) {
  if (p.w.dtype == DType::kI8) return quantised_rows<I8Weights, kScale, false>(p, outputs);
  if (p.w.group_scales.zeros != nullptr) return quantised_rows<I4Weights, kScale, true>(p, outputs);
  quantised_rows<I4Weights, kScale, false>(p, outputs);
}

void quantised_gemm(const QuantisedGemmParams& p, Range outputs) {
  if (p.w.group_scales.dtype == DType::kBF16) {
    quantised_gemm_with<DType::kBF16>(p, outputs);
  } else {
    quantised_gemm_with<DType::kF32>(p, outputs);
  }
}

#elif HWY_ARCH_X86 && (HWY_TARGETS & HWY_AVX2)  // not if AVX-512 is what the compiler assumes

using N_AVX2::quantise;
using N_AVX2::quantised_gemm;

#else

void quantise(const QuantiseParams& p, Range rows) { scalar::quantise(p, rows); }
void quantised_gemm(const QuantisedGemmParams& p, Range outputs) {
  scalar::quantised_gemm(p, outputs);
}

#endif

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
