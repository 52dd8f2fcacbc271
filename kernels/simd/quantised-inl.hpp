// Products of 8-bit activations with integer weights in panels (rule 5 of kernels/ops.hpp). Sums of
// integers are exact in any order, so each CPU adds as suits it; lanes are outputs, so that nothing
// is added across lanes and the panels of the weights are read front to back. A version says how
// products are added (`Sums`); all else is written once.

#if defined(TROUPE_KERNELS_SIMD_QUANTISED_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_QUANTISED_INL
#undef TROUPE_KERNELS_SIMD_QUANTISED_INL
#else
#define TROUPE_KERNELS_SIMD_QUANTISED_INL
#endif

#include <algorithm>
#include <cstring>

#include "kernels/cpu/quantised.hpp"
#include "kernels/cpu/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/simd/lanes-inl.hpp"

#if HWY_ARCH_X86
#include <immintrin.h>

namespace troupe::kernels::N_AVX2 {  // which CPUs with AVX-512 use, too
void quantise(const QuantiseParams& p, Range rows);
void quantised_gemm(const QuantisedGemmParams& p, Range outputs);
}  // namespace troupe::kernels::N_AVX2
#endif

// Whether this target multiplies in tiles, and so has a version for CPUs that add four products at
// once, too: by VNNI or by NEON's dot products. Not if AVX-512 is what the compiler assumes: then
// there is no AVX2 for CPUs without VNNI.
#undef TROUPE_TILES
#undef TROUPE_AVX512_VNNI
#if HWY_ARCH_X86 && (HWY_TARGETS & HWY_AVX2)
#define TROUPE_TILES 1
#define TROUPE_AVX512_VNNI (HWY_TARGET != HWY_AVX2)
#else
#define TROUPE_TILES (HWY_TARGET == HWY_NEON)
#define TROUPE_AVX512_VNNI 0
#endif

#if TROUPE_AVX512_VNNI
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace troupe::kernels::HWY_NAMESPACE {

#if TROUPE_TILES

// Loops over a tile: unrolled early, or GCC keeps the tile in memory.
#undef TROUPE_UNROLL
#define TROUPE_UNROLL _Pragma("GCC unroll 8")

using Ints = hn::RebindToSigned<Floats>;
using I = hn::Vec<Ints>;
constexpr Ints kInts;

/// The bytes that one vector of sums takes from a quad: four of each of its outputs.
using Bytes = hn::Repartition<uint8_t, Ints>;
using B = hn::Vec<Bytes>;
constexpr Bytes kBytes;
/// Sums are kept raw: an implicit constructor, which has no target, may not call that of a vector
/// of NEON.
using RawI = decltype(I::raw);
constexpr size_t kVecBytes = kLanes * kPanelQuad;

/// kRows rows of activations over one product's weights.
template <size_t kRows>
struct ActivationRows {
  const int8_t* values[kRows];
  const float* scales[kRows];
  const int32_t* sums[kRows];
};

/// Reads T at bytes that may be unaligned.
template <class T>
HWY_INLINE T load_bits(const void* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

/// Four activations, the same for each output.
HWY_INLINE B load_quad(const int8_t* at) {
  return hn::BitCast(kBytes, hn::Set(kInts, load_bits<int32_t>(at)));
}

/// Where vector `v` of a tile begins in something of which a panel has `per_panel` bytes or
/// elements and a vector `per_vec`.
constexpr size_t at_vec(size_t v, size_t per_panel, size_t per_vec) {
  return v / kVecs * per_panel + v % kVecs * per_vec;
}

// Each version has a tile of rows and panels, and of I4 and I8 how a tile's products are summed:
// begin() takes what the sum starts from, add() what a vector's outputs take from a quad. A weight
// is kAdded larger, as add() sees it, than what it stands for.

#if HWY_TARGET == HWY_AVX2

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

/// By `vpmaddubsw`, which adds pairs of products of unsigned and signed bytes in 16 bits.
struct PairSums {
  static constexpr size_t kTileRows = 4;
  static constexpr size_t kTilePanels = 1;

  /// A weight is at most 15 and an activation 127: eight pairs of their products fit into 16 bits.
  struct I4 {
    static constexpr int32_t kAdded = kMiddleOfI4;
    I start;
    __m256i pairs;
    HWY_INLINE void begin(I value) {
      start = value;
      pairs = _mm256_setzero_si256();
    }
    HWY_INLINE void add(B w, B x) { add_16(pairs, _mm256_maddubs_epi16(w.raw, x.raw)); }
    HWY_INLINE I sum() const {
      return hn::Add(start, I{_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))});
    }
  };

  /// The sign of the weight moves to the activation. 128 * 127 and its neighbour fit into 16 bits,
  /// two such pairs do not.
  struct I8 {
    static constexpr int32_t kAdded = 0;
    I total;
    HWY_INLINE void begin(I value) { total = value; }
    HWY_INLINE void add(B w, B x) {
      const __m256i pairs =
          _mm256_maddubs_epi16(_mm256_abs_epi8(w.raw), _mm256_sign_epi8(x.raw, w.raw));
      add_32(total.raw, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    HWY_INLINE I sum() const { return total; }
  };
};
using PlainSums = PairSums;

/// AVX-VNNI, in assembly: the intrinsic would have to be in functions of its own instruction set,
/// and so all that is inlined into them.
HWY_INLINE void add_quads(RawI& sum, B w, B x) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w.raw), "x"(x.raw));
}

#elif HWY_TARGET == HWY_NEON

void quantise(const QuantiseParams& p, Range rows) { scalar::quantise(p, rows); }

struct NeonSums {
  static constexpr size_t kTileRows = 2;
  static constexpr size_t kTilePanels = 1;

  /// A weight is at most 15 and an activation 127: eight of their products fit into 16 bits.
  struct I4 {
    static constexpr int32_t kAdded = kMiddleOfI4;
    int32x4_t start;
    int16x8_t first, second;  // of two outputs each
    HWY_INLINE void begin(I value) {
      start = value.raw;
      first = second = vdupq_n_s16(0);
    }
    HWY_INLINE void add(B w, B x) {
      const int8x16_t w8 = vreinterpretq_s8_u8(w.raw), x8 = vreinterpretq_s8_u8(x.raw);
      first = vmlal_s8(first, vget_low_s8(w8), vget_low_s8(x8));
      second = vmlal_high_s8(second, w8, x8);
    }
    HWY_INLINE I sum() const {
      return I(vaddq_s32(start, vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(second))));
    }
  };

  struct I8 {
    static constexpr int32_t kAdded = 0;
    int32x4_t start;
    int32x4_t first, second;  // of two outputs each
    HWY_INLINE void begin(I value) {
      start = value.raw;
      first = second = vdupq_n_s32(0);
    }
    HWY_INLINE void add(B w, B x) {
      const int8x16_t w8 = vreinterpretq_s8_u8(w.raw), x8 = vreinterpretq_s8_u8(x.raw);
      first = vpadalq_s16(first, vmull_s8(vget_low_s8(w8), vget_low_s8(x8)));
      second = vpadalq_s16(second, vmull_high_s8(w8, x8));
    }
    HWY_INLINE I sum() const { return I(vaddq_s32(start, vpaddq_s32(first, second))); }
  };
};
using PlainSums = NeonSums;

/// In assembly for the reason of AVX-VNNI; the assembler has to be told that it may. Volatile keeps
/// the order: GCC would load far ahead, and vectors wait in memory (INT8 takes 1.6 times as many
/// instructions).
HWY_INLINE void add_quads(RawI& sum, B w, B x) {
  asm volatile(".arch armv8.2-a+crypto+dotprod\n\tsdot %0.4s, %1.16b, %2.16b"
               : "+w"(sum)
               : "w"(w.raw), "w"(x.raw));
}

#else

using N_AVX2::quantise;

HWY_INLINE void add_quads(RawI& sum, B w, B x) { sum = _mm512_dpbusd_epi32(sum, w.raw, x.raw); }

#endif

/// By an instruction that adds four products of bytes (add_quads): VNNI's `vpdpbusd`, of unsigned
/// weights and signed activations, or NEON's `sdot`, of signed ones.
struct QuadSums {
  // AVX-512: activations are fetched once for both panels. AVX2 has half as many registers;
  // of NEON more rows take no fewer instructions each.
  static constexpr size_t kTileRows = TROUPE_AVX512_VNNI ? 6 : 4;
  static constexpr size_t kTilePanels = TROUPE_AVX512_VNNI ? 2 : 1;

  struct I4 {
    static constexpr int32_t kAdded = kMiddleOfI4;
    RawI total;
    HWY_INLINE void begin(I value) { total = value.raw; }
    HWY_INLINE void add(B w, B x) { add_quads(total, w, x); }
    HWY_INLINE I sum() const { return I{total}; }
  };

  struct I8 {
    static constexpr bool kSigned = HWY_TARGET == HWY_NEON;
    static constexpr int32_t kAdded = kSigned ? 0 : 128;  // makes a signed byte an unsigned one
    RawI total;
    HWY_INLINE void begin(I value) { total = value.raw; }
    HWY_INLINE void add(B w, B x) {
      add_quads(total, kSigned ? w : hn::Xor(w, hn::Set(kBytes, 128)), x);
    }
    HWY_INLINE I sum() const { return I{total}; }
  };
};

/// A block of weights: its bytes in a panel, and how its products are added.
template <class S, bool kGroupsOf32 = false>
struct I4Weights {
  using Sums = S;
  using Sum = typename Sums::I4;
  /// Groups of one block: known at compile time, their sums need not wait in memory.
  static constexpr bool kIn32 = kGroupsOf32;
  static constexpr size_t kBytesPerBlock = kPanelBlock / 2 * kPanelRows;

  template <size_t kRows, size_t kTileVecs>
  HWY_INLINE static void add_block(const uint8_t* block, size_t panel_bytes,
                                   const ActivationRows<kRows>& x, size_t k,
                                   Sum (&sums)[kRows][kTileVecs]) {
    const B low_half = hn::Set(kBytes, 15);
    for (size_t c = 0; c < 4; ++c) {  // unrolled, AVX2 has too few registers: 5 % slower
      B low[kTileVecs], high[kTileVecs];
      TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) {
        const B both = hn::LoadU(
            kBytes, block + c * kPanelRows * kPanelQuad + at_vec(v, panel_bytes, kVecBytes));
        low[v] = hn::And(both, low_half);
        high[v] = hn::ShiftRight<4>(both);
      }
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        const int8_t* at = x.values[r] + k + c * kPanelQuad;
        const B x_low = load_quad(at), x_high = load_quad(at + kPanelBlock / 2);
        TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) {
          sums[r][v].add(low[v], x_low);
          sums[r][v].add(high[v], x_high);
        }
      }
    }
  }
};

template <class S>
struct I8Weights {
  using Sums = S;
  using Sum = typename Sums::I8;
  static constexpr bool kIn32 = false;
  static constexpr size_t kBytesPerBlock = kPanelBlock * kPanelRows;

  template <size_t kRows, size_t kTileVecs>
  HWY_INLINE static void add_block(const uint8_t* block, size_t panel_bytes,
                                   const ActivationRows<kRows>& x, size_t k,
                                   Sum (&sums)[kRows][kTileVecs]) {
    TROUPE_UNROLL for (size_t q = 0; q < kPanelBlock / kPanelQuad; ++q) {
      B w[kTileVecs];
      TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) {
        w[v] = hn::LoadU(kBytes,
                         block + q * kPanelRows * kPanelQuad + at_vec(v, panel_bytes, kVecBytes));
      }
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        const B x_quad = load_quad(x.values[r] + k + q * kPanelQuad);
        TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) sums[r][v].add(w[v], x_quad);
      }
    }
  }
};

/// Scales of the outputs of one vector from scale `at` on.
template <DType kScale>
HWY_INLINE V load_scales(const void* scales, size_t at) {
  if constexpr (kScale == DType::kBF16) {
    const hn::Rebind<uint16_t, Floats> narrow;
    const hn::RebindToUnsigned<Floats> wide;
    const auto bits = hn::LoadU(narrow, static_cast<const uint16_t*>(scales) + at);
    return hn::BitCast(kFloats, hn::ShiftLeft<16>(hn::PromoteTo(wide, bits)));
  } else {
    return hn::LoadU(kFloats, static_cast<const float*>(scales) + at);
  }
}

constexpr size_t kLineBytes = 64;

/// Weights to fetch while others are multiplied: some with every block.
struct Ahead {
  const uint8_t* data;  ///< into the first cache
  const uint8_t* end;   ///< nothing from here on
  size_t bytes_per_block;
  size_t further = 0;  ///< so many bytes behind them as many into the second cache; 0: none
};

HWY_INLINE void fetch(const Ahead& ahead, size_t block) {
  const uint8_t* at = ahead.data + block * ahead.bytes_per_block;
  if (at >= ahead.end) return;
  for (size_t i = 0; i < ahead.bytes_per_block; i += kLineBytes) __builtin_prefetch(at + i, 0, 3);
  if (ahead.further == 0 || at + ahead.further >= ahead.end) return;
  for (size_t i = 0; i < ahead.bytes_per_block; i += kLineBytes) {
    __builtin_prefetch(at + ahead.further + i, 0, 2);
  }
}

/// y[r][v] of the outputs of a tile's panels.
/// @param scale_at index of the scale of the first panel's first group and first output
template <class Weights, DType kScale, bool kZeros, size_t kRows, size_t kTileVecs>
HWY_INLINE void tile_products(const uint8_t* panels, const WeightView& w, size_t scale_at,
                              const ActivationRows<kRows>& x, const Ahead& ahead,
                              V (&y)[kRows][kTileVecs]) {
  TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
    TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) y[r][v] = hn::Zero(kFloats);
  }
  const size_t panel_bytes = w.in / kPanelBlock * Weights::kBytesPerBlock;
  const size_t panel_scales = w.num_groups() * kPanelRows;
  const size_t group = Weights::kIn32 ? kPanelBlock : std::min(w.group_scales.group, w.in);
  for (size_t first = 0; first < w.in; first += group, scale_at += kPanelRows) {
    const size_t last = Weights::kIn32 ? first + group : std::min(first + group, w.in);
    [[maybe_unused]] I zeros[kTileVecs];
    if constexpr (kZeros) {
      const hn::Rebind<uint8_t, Floats> bytes;
      TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) {
        const size_t at = scale_at + at_vec(v, panel_scales, kLanes);
        zeros[v] = hn::PromoteTo(kInts, hn::LoadU(bytes, w.group_scales.zeros + at));
      }
    }
    V t[kRows][kTileVecs];
    TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
      TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) t[r][v] = hn::Zero(kFloats);
    }
    for (size_t k = first; k < last; k += kPanelBlock) {
      fetch(ahead, k / kPanelBlock);
      typename Weights::Sum sums[kRows][kTileVecs];  // from what the zeros take away
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        const int32_t x_sum = x.sums[r][k / kPanelBlock];
        TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) {
          if constexpr (kZeros) {
            sums[r][v].begin(hn::Mul(hn::Set(kInts, -x_sum), zeros[v]));
          } else {
            sums[r][v].begin(hn::Set(kInts, -Weights::Sum::kAdded * x_sum));
          }
        }
      }
      Weights::add_block(panels + k / kPanelBlock * Weights::kBytesPerBlock, panel_bytes, x, k,
                         sums);
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        const V scale = hn::Set(kFloats, x.scales[r][k / kPanelBlock]);
        TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) {
          t[r][v] = hn::MulAdd(hn::ConvertTo(kFloats, sums[r][v].sum()), scale, t[r][v]);
        }
      }
    }
    TROUPE_UNROLL for (size_t v = 0; v < kTileVecs; ++v) {
      const size_t at = scale_at + at_vec(v, panel_scales, kLanes);
      const V scale = load_scales<kScale>(w.group_scales.data, at);
      TROUPE_UNROLL for (size_t r = 0; r < kRows; ++r) {
        y[r][v] = hn::MulAdd(t[r][v], scale, y[r][v]);
      }
    }
  }
}

/// Outputs [output, output + 16 * kPanels) of kRows rows.
template <class Weights, DType kScale, bool kZeros, size_t kRows, size_t kPanels>
HWY_NOINLINE void tile(const QuantisedGemmParams& p, size_t first_row, size_t output,
                       const Ahead& ahead) {
  ActivationRows<kRows> x;
  for (size_t r = 0; r < kRows; ++r) {
    const size_t row = first_row + r;
    const size_t at = (p.x_rows == nullptr ? row : p.x_rows[row]) * p.x.cols;
    x.values[r] = p.x.values + at;
    x.scales[r] = p.x.scales + at / kPanelBlock;
    x.sums[r] = p.x.sums + at / kPanelBlock;
  }
  const auto* panels = static_cast<const uint8_t*>(p.w.data) +
                       output * (p.w.in / kPanelBlock) * (Weights::kBytesPerBlock / kPanelRows);
  V y[kRows][kPanels * kVecs];
  tile_products<Weights, kScale, kZeros>(panels, p.w, panel_scale(p.w.num_groups(), output, 0), x,
                                         ahead, y);
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kPanels * kVecs; ++v) {
      const size_t at = output + v * kLanes;
      if (p.bias != nullptr) y[r][v] = hn::Add(y[r][v], hn::LoadU(kFloats, p.bias + at));
      hn::StoreU(y[r][v], kFloats, p.y.row(first_row + r) + at);
    }
  }
}

/// A tile of num_rows, 1 to kMostRows.
template <class Weights, DType kScale, bool kZeros, size_t kMostRows, size_t kPanels>
void tile_of(const QuantisedGemmParams& p, size_t first_row, size_t num_rows, size_t output,
             const Ahead& ahead) {
  if constexpr (kMostRows > 1) {
    if (num_rows < kMostRows) {
      return tile_of<Weights, kScale, kZeros, kMostRows - 1, kPanels>(p, first_row, num_rows,
                                                                      output, ahead);
    }
  }
  tile<Weights, kScale, kZeros, kMostRows, kPanels>(p, first_row, output, ahead);
}

/// How far ahead one tile of rows has weights fetched. One row of 4 bits on one core of Zen 5: 34
/// to 38 GB/s instead of the 17 that the CPU makes of it by itself. Intel's cores wait for few
/// lines at a time in the first cache and for more in the second: bench/results/cpu.md.
constexpr size_t kBytesAhead = size_t{12} << 10U;
constexpr size_t kBytesFurther = size_t{12} << 10U;

/// All rows of kPanels panels. One tile of rows has weights fetched that follow at a distance;
/// several keep theirs in the first cache and share in fetching the panels that come next.
template <class Weights, DType kScale, bool kZeros, size_t kPanels>
void panels_over_rows(const QuantisedGemmParams& p, Range rows, size_t output) {
  const size_t num_blocks = p.w.in / kPanelBlock;
  const size_t panel_bytes = num_blocks * Weights::kBytesPerBlock;
  const auto panel_at = [&](size_t o) {
    return static_cast<const uint8_t*>(p.w.data) + o / kPanelRows * panel_bytes;
  };
  const uint8_t* next = panel_at(output) + kPanels * panel_bytes;
  const uint8_t* end = panel_at(p.w.out);
  constexpr size_t kTileRows = Weights::Sums::kTileRows;
  size_t tiles = (rows.size() + kTileRows - 1) / kTileRows;
  const size_t share = (kPanels * Weights::kBytesPerBlock + tiles - 1) / tiles;
  Ahead ahead{.data = tiles == 1 ? panel_at(output) + kBytesAhead : next,
              .end = tiles == 1 ? end : std::min(end, next + kPanels * panel_bytes),
              .bytes_per_block = (share + kLineBytes - 1) / kLineBytes * kLineBytes,
              .further = tiles == 1 ? kBytesFurther : 0};
  // As many tiles as it takes, of sizes as equal as can be.
  for (size_t r = rows.first; r < rows.last; --tiles) {
    const size_t num_rows = (rows.last - r + tiles - 1) / tiles;
    tile_of<Weights, kScale, kZeros, kTileRows, kPanels>(p, r, num_rows, output, ahead);
    r += num_rows;
    ahead.data += num_blocks * ahead.bytes_per_block;
  }
}

/// Activations that stay in the second cache while weights pass by.
constexpr size_t kActivationBytes = size_t{1} << 18U;

template <class Weights, DType kScale, bool kZeros>
void quantised_rows(const QuantisedGemmParams& p, Range outputs) {
  constexpr size_t kTileRows = Weights::Sums::kTileRows;
  constexpr size_t kTilePanels = Weights::Sums::kTilePanels;
  const size_t together = std::max<size_t>(1, kActivationBytes / p.w.in / kTileRows) * kTileRows;
  for (size_t r = 0; r < p.y.rows; r += together) {
    const Range rows{r, std::min(r + together, p.y.rows)};
    const bool one_tile = rows.size() <= kTileRows;
    size_t o = outputs.first;
    for (; !one_tile && o + kTilePanels * kPanelRows <= outputs.last;
         o += kTilePanels * kPanelRows) {
      panels_over_rows<Weights, kScale, kZeros, kTilePanels>(p, rows, o);
    }
    for (; o < outputs.last; o += kPanelRows)
      panels_over_rows<Weights, kScale, kZeros, 1>(p, rows, o);
  }
}

template <class Sums, DType kScale>
void gemm_with_scales(const QuantisedGemmParams& p, Range outputs) {
  if (p.w.dtype == DType::kI8) return quantised_rows<I8Weights<Sums>, kScale, false>(p, outputs);
  if (p.w.group_scales.zeros != nullptr) {
    return quantised_rows<I4Weights<Sums>, kScale, true>(p, outputs);
  }
  if (p.w.group_scales.group == kPanelBlock) {
    return quantised_rows<I4Weights<Sums, true>, kScale, false>(p, outputs);
  }
  quantised_rows<I4Weights<Sums>, kScale, false>(p, outputs);
}

template <class Sums>
void tiled_gemm(const QuantisedGemmParams& p, Range outputs) {
  if (p.w.group_scales.dtype == DType::kBF16) {
    gemm_with_scales<Sums, DType::kBF16>(p, outputs);
  } else {
    gemm_with_scales<Sums, DType::kF32>(p, outputs);
  }
}

#if TROUPE_AVX512_VNNI
using N_AVX2::quantised_gemm;  // without VNNI
#else
void quantised_gemm(const QuantisedGemmParams& p, Range outputs) {
  tiled_gemm<PlainSums>(p, outputs);
}
#endif

#else

void quantise(const QuantiseParams& p, Range rows) { scalar::quantise(p, rows); }
void quantised_gemm(const QuantisedGemmParams& p, Range outputs) {
  scalar::quantised_gemm(p, outputs);
}

#endif

}  // namespace troupe::kernels::HWY_NAMESPACE
#if TROUPE_AVX512_VNNI
HWY_POP_ATTRIBUTES
#else
HWY_AFTER_NAMESPACE();
#endif

#endif
