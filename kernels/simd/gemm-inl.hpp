// Products with stored weights, and embedding.
//
// Few rows (decode): the weights are read once and converted in registers, so that memory is the
// limit. Many rows (prefill): all rows pass over a part of the weights while that stays in the
// second-level cache, converted into a scratch area before, or again in registers by each. All give
// the same bits, since conversion is exact (FP8 with scales: rounded once, the same way).

#if defined(TROUPE_KERNELS_SIMD_GEMM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_GEMM_INL
#undef TROUPE_KERNELS_SIMD_GEMM_INL
#else
#define TROUPE_KERNELS_SIMD_GEMM_INL
#endif

#include <algorithm>
#include <memory>

#include "kernels/kernel_set.hpp"
#include "kernels/simd/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

/// Floats of weights that stay in the second-level cache while all rows pass over them.
constexpr size_t kCachedFloats = 48U << 10U;

/// Outputs whose weights do.
size_t cached_outputs(size_t in) {
  return std::max<size_t>(1, kCachedFloats / std::max<size_t>(1, in) / kBlockOutputs) *
         kBlockOutputs;
}

/// Elements between converted rows: such that rows lie in different sets of the first-level cache,
/// whose sets repeat every 4 KiB.
size_t scratch_stride(size_t in) {
  constexpr size_t kLine = 16, kSets = 64, kShift = 5;
  const size_t lines = (in + kLine - 1) / kLine;
  return (lines + (kSets + kShift - lines % kSets) % kSets) * kLine;
}

template <class Row>
RowsOf<Row> rows_of(const WeightView& w, size_t first_output) {
  using Pointer = decltype(Row::data);
  return {static_cast<Pointer>(w.data) + first_output * w.in, w.in};
}

/// out[first, last) = row[first, last) * scale.
template <class Row>
HWY_INLINE void convert(const Row& row, size_t first, size_t last, float scale, float* out) {
  const V scale_lanes = hn::Set(kFloats, scale);
  size_t i = first;
  for (; i + kLanes <= last; i += kLanes) {
    hn::StoreU(hn::Mul(row.load(i), scale_lanes), kFloats, out + i);
  }
  for (; i < last; ++i) out[i] = row.at(i) * scale;
}

/// Row `o` of floating-point weights as float32, as weight_row() does it. (x * 1 is x.)
void convert_row(const WeightView& w, size_t o, float* out) {
  switch (w.dtype) {
    case DType::kF32: return convert(rows_of<F32Row>(w, o).row(0), 0, w.in, 1.0F, out);
    case DType::kF16: return convert(rows_of<F16Row>(w, o).row(0), 0, w.in, 1.0F, out);
    case DType::kBF16: return convert(rows_of<Bf16Row>(w, o).row(0), 0, w.in, 1.0F, out);
    case DType::kF8E4M3: break;
    case DType::kI8:
    case DType::kI4: CHECK(false);
  }
  const F8Row row = rows_of<F8Row>(w, o).row(0);
  if (w.scales == nullptr) return convert(row, 0, w.in, 1.0F, out);
  constexpr size_t kBlock = WeightView::kScaleBlock;
  const float* scales = w.scales + o / kBlock * WeightView::num_scale_blocks(w.in);
  for (size_t first = 0; first < w.in; first += kBlock) {
    convert(row, first, std::min(first + kBlock, w.in), scales[first / kBlock], out);
  }
}

void add_bias(const GemmParams& p, Range outputs) {
  if (p.bias == nullptr) return;
  for (size_t r = 0; r < p.x.rows; ++r) {
    for (size_t o = outputs.first; o < outputs.last; ++o) p.y.row(r)[o] += p.bias[o];
  }
}

template <class Row>
void product(const GemmParams& p, const RowsOf<Row>& w, Range outputs) {
  dot_all(p.x.row(0), p.x.stride, p.x.rows, w, outputs.size(), p.w.in, p.y.row(0) + outputs.first,
          p.y.stride);
}

/// From the weights as they are stored. Many rows pass over a part of the outputs at a time;
/// cutting the outputs of a few rows costs more than the second pass over them (1.2 instead of 1.05
/// ms for four rows on AVX2).
template <class Row>
void gemm_directly(const GemmParams& p, Range outputs) {
  const size_t at_once = p.x.rows <= kMaxFewRows ? outputs.size() : cached_outputs(p.w.in);
  for (size_t first = outputs.first; first < outputs.last; first += at_once) {
    product(p, rows_of<Row>(p.w, first), {first, std::min(outputs.last, first + at_once)});
  }
}

void gemm_converting_first(const GemmParams& p, Range outputs) {
  const size_t in = p.w.in, stride = scratch_stride(in);
  const size_t at_once = std::min(outputs.size(), cached_outputs(in));
  const auto scratch = std::make_unique_for_overwrite<float[]>(at_once * stride);
  for (size_t first = outputs.first; first < outputs.last; first += at_once) {
    const Range part{first, std::min(outputs.last, first + at_once)};
    for (size_t o = 0; o < part.size(); ++o) {
      convert_row(p.w, first + o, scratch.get() + o * stride);
    }
    product(p, RowsOf<F32Row>{scratch.get(), stride}, part);
  }
}

/// So many rows use E4M3 from where it is stored, kFewTileRows after the other, each time decoded.
/// With AVX-512 8 rows take 0.42 instead of 0.67 ms, 16 rows 0.84 instead of 0.93. Not measured
/// with others.
constexpr size_t kMaxDirectF8Rows = kVecs == 1 ? 16 : kMaxFewRows;

void gemm_f8_directly(const GemmParams& p, Range outputs) {
  const size_t in = p.w.in;
  const auto product_with = [&](const auto& w) HWY_ATTR {
    dot_few(p.x.row(0), p.x.stride, p.x.rows, w, outputs.size(), in, p.y.row(0) + outputs.first,
            p.y.stride);
  };
  const RowsOf<F8Row> rows = rows_of<F8Row>(p.w, outputs.first);
  if (p.w.scales == nullptr) return product_with(rows);
  product_with(RowsOf<F8ScaledRow>{.data = rows.data,
                                   .stride = in,
                                   .scales = p.w.scales,
                                   .scales_per_row = WeightView::num_scale_blocks(in),
                                   .first_output = outputs.first});
}

/// So many rows use BF16 and F16 from where they are stored. With AVX2 converting again for each
/// tile costs less than writing the floats (16 rows: 1.8 instead of 2.0 ms), until so many rows
/// share what was written (512 rows: 51 to 53 instead of 49 to 51). Not measured with other
/// lengths.
constexpr size_t kMaxDirectRows = kVecs == 2 ? 64 : kMaxFewRows;

void gemm(const GemmParams& p, Range outputs) {
  if (p.x.rows == 0) return;
  const bool directly = p.x.rows <= kMaxDirectRows;
  if (p.w.dtype == DType::kF32) {
    gemm_directly<F32Row>(p, outputs);
  } else if (p.w.dtype == DType::kBF16 && directly) {
    gemm_directly<Bf16Row>(p, outputs);
  } else if (p.w.dtype == DType::kF16 && directly) {
    gemm_directly<F16Row>(p, outputs);
  } else if (p.w.dtype == DType::kF8E4M3 && p.x.rows <= kMaxDirectF8Rows) {
    gemm_f8_directly(p, outputs);
  } else {
    gemm_converting_first(p, outputs);
  }
  add_bias(p, outputs);
}

void embed(const EmbedParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    convert_row(p.table, static_cast<size_t>(p.tokens[r]), p.out.row(r));
  }
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
