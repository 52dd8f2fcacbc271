// Operations on one row at a time: norm, activation, residual, combine.

#include <cmath>

#include "kernels/cpu/exp.hpp"
#include "kernels/cpu/scalar.hpp"
#include "kernels/cpu/sum16.hpp"

namespace troupe::kernels::scalar {

void rms_norm(const RmsNormParams& p, Range rows) {
  const size_t n = p.x.cols;
  for (size_t r = rows.first; r < rows.last; ++r) {
    const float* x = p.x.row(r);
    const float mean = dot(x, x, n) / static_cast<float>(n);
    const float scale = 1.0F / std::sqrt(mean + p.eps);
    for (size_t i = 0; i < n; ++i) p.out.row(r)[i] = p.weight[i] * (x[i] * scale);
  }
}

void silu_mul(const SiluMulParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    for (size_t i = 0; i < p.gate.cols; ++i) {
      const float g = p.gate.row(r)[i];
      p.out.row(r)[i] = g / (1.0F + exp_f32(-g)) * p.up.row(r)[i];
    }
  }
}

void add(const AddParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    for (size_t i = 0; i < p.x.cols; ++i) p.x.row(r)[i] += p.y.row(r)[i];
  }
}

void combine(const CombineParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    const float* const* expert_row = p.expert_rows + r * p.topk;
    const float* weight = p.topk_weight + r * p.topk;
    for (size_t i = 0; i < p.residual.cols; ++i) {
      float sum = 0;
      for (size_t s = 0; s < p.topk; ++s) {
        sum = std::fma(weight[s], expert_row[s][i], sum);
      }
      if (p.shared.data != nullptr) sum += p.shared.row(r)[i];
      p.residual.row(r)[i] += sum;
    }
  }
}

}  // namespace troupe::kernels::scalar
