// Operations on one row at a time: norm, activation, residual, combine.

#if defined(TROUPE_KERNELS_SIMD_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_ROWS_INL
#undef TROUPE_KERNELS_SIMD_ROWS_INL
#else
#define TROUPE_KERNELS_SIMD_ROWS_INL
#endif

#include <cmath>

#include "kernels/kernel_set.hpp"
#include "kernels/simd/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

void rms_norm(const RmsNormParams& p, Range rows) {
  const size_t n = p.x.cols;
  for (size_t r = rows.first; r < rows.last; ++r) {
    const float* x = p.x.row(r);
    float* out = p.out.row(r);
    float squares[1][1];
    dot_tile<1, 1, F32Row>({x}, {F32Row{x}}, n, 0, squares);
    const float scale = 1.0F / std::sqrt(squares[0][0] / static_cast<float>(n) + p.eps);
    const V scale_lanes = hn::Set(kFloats, scale);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const V scaled = hn::Mul(hn::LoadU(kFloats, x + i), scale_lanes);
      hn::StoreU(hn::Mul(hn::LoadU(kFloats, p.weight + i), scaled), kFloats, out + i);
    }
    for (; i < n; ++i) out[i] = p.weight[i] * (x[i] * scale);
  }
}

void silu_mul(const SiluMulParams& p, Range rows) {
  const V one = hn::Set(kFloats, 1.0F);
  for (size_t r = rows.first; r < rows.last; ++r) {
    const float* gate = p.gate.row(r);
    const float* up = p.up.row(r);
    float* out = p.out.row(r);
    size_t i = 0;
    for (; i + kLanes <= p.gate.cols; i += kLanes) {
      const V g = hn::LoadU(kFloats, gate + i);
      const V silu = hn::Div(g, hn::Add(one, exp_lanes(hn::Neg(g))));
      hn::StoreU(hn::Mul(silu, hn::LoadU(kFloats, up + i)), kFloats, out + i);
    }
    for (; i < p.gate.cols; ++i) out[i] = gate[i] / (1.0F + exp_f32(-gate[i])) * up[i];
  }
}

void add(const AddParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    float* x = p.x.row(r);
    const float* y = p.y.row(r);
    size_t i = 0;
    for (; i + kLanes <= p.x.cols; i += kLanes) {
      hn::StoreU(hn::Add(hn::LoadU(kFloats, x + i), hn::LoadU(kFloats, y + i)), kFloats, x + i);
    }
    for (; i < p.x.cols; ++i) x[i] += y[i];
  }
}

void combine(const CombineParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    const float* const* expert_row = p.expert_rows + r * p.topk;
    const float* weight = p.topk_weight + r * p.topk;
    const float* shared = p.shared.data == nullptr ? nullptr : p.shared.row(r);
    float* residual = p.residual.row(r);
    size_t i = 0;
    for (; i + kLanes <= p.residual.cols; i += kLanes) {
      V sum = hn::Zero(kFloats);
      for (size_t s = 0; s < p.topk; ++s) {
        const V expert = hn::LoadU(kFloats, expert_row[s] + i);
        sum = hn::MulAdd(hn::Set(kFloats, weight[s]), expert, sum);
      }
      if (shared != nullptr) sum = hn::Add(sum, hn::LoadU(kFloats, shared + i));
      hn::StoreU(hn::Add(hn::LoadU(kFloats, residual + i), sum), kFloats, residual + i);
    }
    for (; i < p.residual.cols; ++i) {
      float sum = 0;
      for (size_t s = 0; s < p.topk; ++s) {
        sum = std::fma(weight[s], expert_row[s][i], sum);
      }
      if (shared != nullptr) sum += shared[i];
      residual[i] += sum;
    }
  }
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
