// The inner loop of every product: a tile of dot products in registers, over rows of weights that
// are converted to float32 as they are loaded.

#if defined(TROUPE_KERNELS_SIMD_DOT_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_DOT_INL
#undef TROUPE_KERNELS_SIMD_DOT_INL
#else
#define TROUPE_KERNELS_SIMD_DOT_INL
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/convert.hpp"
#include "kernels/simd/lanes-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

// A row of weights: load(k) gives kLanes elements from k on, at(k) one. No alignment is assumed.

struct F32Row {
  const float* data;
  HWY_INLINE V load(size_t k) const { return hn::LoadU(kFloats, data + k); }
  HWY_INLINE float at(size_t k) const { return internal::load<float>(data, k); }
};

struct Bf16Row {
  const uint16_t* data;
  HWY_INLINE V load(size_t k) const {
    const hn::Rebind<uint16_t, Floats> narrow;
    const hn::RebindToUnsigned<Floats> wide;
    const auto bits = hn::PromoteTo(wide, hn::LoadU(narrow, data + k));
    return hn::BitCast(kFloats, hn::ShiftLeft<16>(bits));
  }
  HWY_INLINE float at(size_t k) const { return from_bf16(internal::load<uint16_t>(data, k)); }
};

struct F16Row {
  const hwy::float16_t* data;
  HWY_INLINE V load(size_t k) const {
    const hn::Rebind<hwy::float16_t, Floats> narrow;
    return hn::PromoteTo(kFloats, hn::LoadU(narrow, data + k));
  }
  HWY_INLINE float at(size_t k) const { return from_f16(internal::load<uint16_t>(data, k)); }
};

/// E4M3 without scales; see from_f8e4m3.
struct F8Row {
  const uint8_t* data;
  HWY_INLINE V load(size_t k) const {
    const auto bits = bits_of(k);
    // All ones is a NaN, and stays one whatever is or-ed to it.
    const auto all_set = hn::Set(kBits, 0x07f00000);
    const auto nan = hn::VecFromMask(kBits, hn::Eq(hn::And(bits, all_set), all_set));
    return hn::Or(value_of(bits), hn::BitCast(kFloats, nan));
  }
  HWY_INLINE float at(size_t k) const { return from_f8e4m3(data[k]); }

  /// So many vectors are searched for a NaN together; there hardly ever is one.
  static constexpr size_t kTogether = 4;
  HWY_INLINE void load(size_t k, V (&out)[kTogether]) const {
    const hn::Repartition<uint8_t, Floats> bytes;
    const auto magnitude = hn::Set(bytes, uint8_t{0x7f});
    const auto nan = hn::Eq(hn::And(hn::LoadU(bytes, data + k), magnitude), magnitude);
    if (HWY_UNLIKELY(!hn::AllFalse(bytes, nan))) {
      for (size_t i = 0; i < kTogether; ++i) out[i] = load(k + i * kLanes);
    } else {
      for (size_t i = 0; i < kTogether; ++i) out[i] = value_of(bits_of(k + i * kLanes));
    }
  }

 private:
  using Bits = hn::RebindToSigned<Floats>;
  static constexpr Bits kBits{};
  /// Sign, exponent and mantissa where float32 has them, the exponent too small by 120.
  HWY_INLINE hn::Vec<Bits> bits_of(size_t k) const {
    const hn::Rebind<int8_t, Floats> narrow;
    // Extending the sign puts it where float32 has it; the mask drops its copies between.
    const auto* at = reinterpret_cast<const int8_t*>(data) + k;
    const auto extended = hn::ShiftLeft<20>(hn::PromoteTo(kBits, hn::LoadU(narrow, at)));
    return hn::And(extended, hn::Set(kBits, static_cast<int32_t>(0x87f00000U)));
  }
  static HWY_INLINE V value_of(hn::Vec<Bits> bits) {
    return hn::Mul(hn::BitCast(kFloats, bits), hn::Set(kFloats, 0x1p120F));
  }
};

/// E4M3 with scales, one for kScaleBlock elements.
struct F8ScaledRow {
  const uint8_t* data;
  const float* scales;
  HWY_INLINE V load(size_t k) const {
    return hn::Mul(F8Row{data}.load(k), hn::Set(kFloats, scale(k)));
  }
  HWY_INLINE float at(size_t k) const { return from_f8e4m3(data[k]) * scale(k); }

  static constexpr size_t kTogether = F8Row::kTogether;
  static_assert(WeightView::kScaleBlock % (kTogether * kLanes) == 0);
  /// REQUIRES: k is a multiple of kTogether * kLanes: then the elements have one scale.
  HWY_INLINE void load(size_t k, V (&out)[kTogether]) const {
    F8Row{data}.load(k, out);
    const V scale_lanes = hn::Set(kFloats, scale(k));
    for (V& lanes : out) lanes = hn::Mul(lanes, scale_lanes);
  }

 private:
  HWY_INLINE float scale(size_t k) const { return scales[k / WeightView::kScaleBlock]; }
};

/// Rows that also give kTogether vectors by one load(k, out), at less cost than one by one.
template <class Row>
concept GivesVectorsTogether = requires {
  Row::kTogether;
};

/// Up to so many rows the weights are used from registers: memory is the limit.
constexpr size_t kMaxFewRows = 4;

// Register tiles of few rows: kRows * kOutputs * kVecs accumulators, enough independent sums to
// hide the latency of the addition, and few enough for 16 registers (AVX2) or 32 (the others).
constexpr size_t kFewTileRows = kVecs == 1 ? 4 : 2;
template <size_t kRows>
constexpr size_t kFewTileOutputs = kVecs == 1   ? (kRows <= 2 ? 8 : 4)
                                   : kVecs == 2 ? (kRows == 1 ? 4 : 3)
                                                : (kRows == 1 ? 4 : 2);

/// out[r][o] = x[r] . w[o], each by rule 1.
/// @param ahead elements from here to the weights of the next tile, which are fetched meanwhile
template <size_t kRows, size_t kOutputs, class Row>
HWY_INLINE void dot_tile(const float* const (&x)[kRows], const Row (&w)[kOutputs], size_t n,
                         size_t ahead, float (&out)[kRows][kOutputs]) {
  V sums[kRows][kOutputs][kVecs];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t o = 0; o < kOutputs; ++o) {
      for (size_t v = 0; v < kVecs; ++v) sums[r][o][v] = hn::Zero(kFloats);
    }
  }
  const size_t whole = n - n % kNumPartialSums;
  size_t k = 0;
  if constexpr (GivesVectorsTogether<Row>) {
    constexpr size_t kTogether = Row::kTogether;
    for (; k + kTogether * kLanes <= whole; k += kTogether * kLanes) {
      for (size_t o = 0; o < kOutputs; ++o) {
        V w_lanes[kTogether];
        w[o].load(k, w_lanes);
        __builtin_prefetch(w[o].data + k + ahead);
        for (size_t i = 0; i < kTogether; ++i) {
          for (size_t r = 0; r < kRows; ++r) {
            const V x_lanes = hn::LoadU(kFloats, x[r] + k + i * kLanes);
            V& sum = sums[r][o][i % kVecs];
            sum = hn::MulAdd(x_lanes, w_lanes[i], sum);
          }
        }
      }
    }
  }
  for (; k < whole; k += kNumPartialSums) {
    for (size_t v = 0; v < kVecs; ++v) {
      V x_lanes[kRows];
      for (size_t r = 0; r < kRows; ++r) x_lanes[r] = hn::LoadU(kFloats, x[r] + k + v * kLanes);
      for (size_t o = 0; o < kOutputs; ++o) {
        const V w_lanes = w[o].load(k + v * kLanes);
        if (v == 0) __builtin_prefetch(w[o].data + k + ahead);
        for (size_t r = 0; r < kRows; ++r) {
          sums[r][o][v] = hn::MulAdd(x_lanes[r], w_lanes, sums[r][o][v]);
        }
      }
    }
  }
  if constexpr (kVecs == 1 && kRows * kOutputs == 16) {
    if (whole == n) {
      alignas(64) PartialSums all[16];
      for (size_t i = 0; i < 16; ++i) {
        hn::StoreU(sums[i / kOutputs][i % kOutputs][0], kFloats, all[i].data());
      }
      return add_16_trees(all, &out[0][0]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t o = 0; o < kOutputs; ++o) {
      if (whole == n) {
        out[r][o] = add_tree(sums[r][o]);
        continue;
      }
      // The last elements go to the lanes they belong to; the other lanes stay untouched (adding a
      // zero could change the sign of theirs).
      PartialSums lanes;
      for (size_t v = 0; v < kVecs; ++v) {
        hn::StoreU(sums[r][o][v], kFloats, lanes.data() + v * kLanes);
      }
      for (size_t i = whole; i < n; ++i) {
        lanes[i - whole] = std::fma(x[r][i], w[o].at(i), lanes[i - whole]);
      }
      out[r][o] = kernels::add_tree(lanes);
    }
  }
}

/// Rows of weights in memory, `stride` elements apart.
template <class Row>
struct RowsOf {
  decltype(Row::data) data;
  size_t stride;
  HWY_INLINE Row row(size_t o) const { return {data + o * stride}; }
  /// From row `o` and element `k` of each on.
  HWY_INLINE RowsOf from(size_t o, size_t k) const { return {data + o * stride + k, stride}; }
};

/// The same of E4M3 with scales: the rows `first_output` and following of a matrix.
template <>
struct RowsOf<F8ScaledRow> {
  const uint8_t* data;
  size_t stride;
  const float* scales;  ///< of the matrix
  size_t scales_per_row;
  size_t first_output;
  HWY_INLINE F8ScaledRow row(size_t o) const {
    return {data + o * stride,
            scales + (first_output + o) / WeightView::kScaleBlock * scales_per_row};
  }
};

/// Tiles of kRows x kOutputs along the outputs from o on. @returns the first output left over.
template <size_t kRows, size_t kOutputs, class Row>
HWY_INLINE size_t dot_tiles(const float* x, size_t x_stride, const RowsOf<Row>& w, size_t o,
                            size_t outputs, size_t n, float* out, size_t out_stride) {
  const float* x_rows[kRows];
  for (size_t i = 0; i < kRows; ++i) x_rows[i] = x + i * x_stride;
  for (; o + kOutputs <= outputs; o += kOutputs) {
    Row w_rows[kOutputs];
    for (size_t j = 0; j < kOutputs; ++j) w_rows[j] = w.row(o + j);
    float tile[kRows][kOutputs];
    dot_tile(x_rows, w_rows, n, kOutputs * w.stride, tile);
    for (size_t i = 0; i < kRows; ++i) {
      for (size_t j = 0; j < kOutputs; ++j) out[i * out_stride + o + j] = tile[i][j];
    }
  }
  return o;
}

template <size_t kRows, class Row>
HWY_INLINE void dot_rows(const float* x, size_t x_stride, size_t rows, const RowsOf<Row>& w,
                         size_t outputs, size_t n, float* out, size_t out_stride) {
  if constexpr (kRows > 0) {
    if (rows < kRows) return dot_rows<kRows - 1>(x, x_stride, rows, w, outputs, n, out, out_stride);
    const size_t o =
        dot_tiles<kRows, kFewTileOutputs<kRows>>(x, x_stride, w, 0, outputs, n, out, out_stride);
    dot_tiles<kRows, 1>(x, x_stride, w, o, outputs, n, out, out_stride);
  }
}

/// out[r][o] = x[r] . w[o], each by rule 1, for few rows and all outputs, over which each
/// kFewTileRows of the rows pass. Not inlined: one copy per type of row keeps the code, and the
/// time to compile it, small.
template <class Row>
HWY_NOINLINE void dot_few(const float* x, size_t x_stride, size_t rows, const RowsOf<Row>& w,
                          size_t outputs, size_t n, float* out, size_t out_stride) {
  for (size_t r = 0; r < rows; r += kFewTileRows) {
    dot_rows<kFewTileRows>(x + r * x_stride, x_stride, std::min(kFewTileRows, rows - r), w, outputs,
                           n, out + r * out_stride, out_stride);
  }
}

// Many rows. A row of x and one of w are longer than what a tile of them may take of the
// first-level cache, so the reduction is cut, too: blocks of kBlockRows rows of x and kBlockOutputs
// of w go over kBlockLength elements at a time, and the partial sums wait in memory between. That
// changes no bit: each partial sum gets the same products in the same order.

constexpr size_t kTileRows = 4;
constexpr size_t kTileOutputs = kVecs == 2 ? 3 : 4;  // 12 or 16 accumulators
constexpr size_t kBlockRows = 12;
constexpr size_t kBlockOutputs = kVecs == 2 ? 12 : 16;
constexpr size_t kBlockLength = 256;
static_assert(kBlockRows % kTileRows == 0 && kBlockOutputs % kTileOutputs == 0 &&
              kBlockLength % kNumPartialSums == 0);

/// sums[r * kBlockOutputs + o] += x[r] . w[o] over n elements, a multiple of kNumPartialSums.
template <size_t kRows, size_t kOutputs, class Row>
HWY_INLINE void add_products(const float* HWY_RESTRICT x, size_t x_stride, const RowsOf<Row>& w,
                             size_t n, PartialSums* HWY_RESTRICT sums) {
  for (size_t v = 0; v < kVecs; ++v) {
    V lanes[kRows][kOutputs];
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t o = 0; o < kOutputs; ++o) {
        lanes[r][o] = hn::LoadU(kFloats, sums[r * kBlockOutputs + o].data() + v * kLanes);
      }
    }
    for (size_t k = v * kLanes; k < n; k += kNumPartialSums) {
      V w_lanes[kOutputs];
      for (size_t o = 0; o < kOutputs; ++o) w_lanes[o] = w.row(o).load(k);
      for (size_t r = 0; r < kRows; ++r) {
        const V x_lanes = hn::LoadU(kFloats, x + r * x_stride + k);
        for (size_t o = 0; o < kOutputs; ++o) {
          lanes[r][o] = hn::MulAdd(x_lanes, w_lanes[o], lanes[r][o]);
        }
      }
    }
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t o = 0; o < kOutputs; ++o) {
        hn::StoreU(lanes[r][o], kFloats, sums[r * kBlockOutputs + o].data() + v * kLanes);
      }
    }
  }
}

template <size_t kRows, class Row>
HWY_INLINE void add_products_of_rows(const float* x, size_t x_stride, const RowsOf<Row>& w,
                                     size_t outputs, size_t n, PartialSums* sums) {
  size_t o = 0;
  for (; o + kTileOutputs <= outputs; o += kTileOutputs) {
    add_products<kRows, kTileOutputs>(x, x_stride, w.from(o, 0), n, sums + o);
  }
  for (; o < outputs; ++o) {
    add_products<kRows, 1>(x, x_stride, w.from(o, 0), n, sums + o);
  }
}

/// At most kBlockRows rows and kBlockOutputs outputs.
template <class Row>
HWY_NOINLINE void dot_block(const float* x, size_t x_stride, size_t rows, const RowsOf<Row>& w,
                            size_t outputs, size_t n, float* out, size_t out_stride) {
  alignas(64) PartialSums sums[kBlockRows * kBlockOutputs];
  static_assert(kBlockRows * kBlockOutputs % 16 == 0);
  for (PartialSums& lanes : sums) lanes.fill(0.0F);
  const size_t whole = n - n % kNumPartialSums;
  for (size_t k = 0; k < whole; k += kBlockLength) {
    const size_t length = std::min(kBlockLength, whole - k);
    for (size_t r = 0; r < rows; r += kTileRows) {
      const float* x_r = x + r * x_stride + k;
      PartialSums* sums_r = sums + r * kBlockOutputs;
      const RowsOf<Row> w_k = w.from(0, k);
      switch (std::min(kTileRows, rows - r)) {
        case 1: add_products_of_rows<1>(x_r, x_stride, w_k, outputs, length, sums_r); break;
        case 2: add_products_of_rows<2>(x_r, x_stride, w_k, outputs, length, sums_r); break;
        case 3: add_products_of_rows<3>(x_r, x_stride, w_k, outputs, length, sums_r); break;
        default: add_products_of_rows<4>(x_r, x_stride, w_k, outputs, length, sums_r);
      }
    }
  }
  float results[kBlockRows * kBlockOutputs];
  for (size_t r = 0; r < rows; ++r) {
    for (size_t o = 0; o < outputs; ++o) {
      PartialSums& lanes = sums[r * kBlockOutputs + o];
      for (size_t k = whole; k < n; ++k) {
        lanes[k - whole] = std::fma(x[r * x_stride + k], w.row(o).at(k), lanes[k - whole]);
      }
    }
  }
  for (size_t i = 0; i < rows * kBlockOutputs; i += 16) add_16_trees(sums + i, results + i);
  for (size_t r = 0; r < rows; ++r) {
    std::copy_n(results + r * kBlockOutputs, outputs, out + r * out_stride);
  }
}

/// out[r][o] = x[r] . w[o], each by rule 1, for all rows and outputs.
template <class Row>
HWY_NOINLINE void dot_all(const float* x, size_t x_stride, size_t rows, const RowsOf<Row>& w,
                          size_t outputs, size_t n, float* out, size_t out_stride) {
  if (rows <= kMaxFewRows) return dot_few(x, x_stride, rows, w, outputs, n, out, out_stride);
  for (size_t r = 0; r < rows; r += kBlockRows) {
    for (size_t o = 0; o < outputs; o += kBlockOutputs) {
      dot_block(x + r * x_stride, x_stride, std::min(kBlockRows, rows - r), w.from(o, 0),
                std::min(kBlockOutputs, outputs - o), n, out + r * out_stride + o, out_stride);
    }
  }
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
