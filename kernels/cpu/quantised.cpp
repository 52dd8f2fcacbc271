#include "kernels/cpu/quantised.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/convert.hpp"
#include "kernels/cpu/scalar.hpp"

namespace troupe::kernels::scalar {

void quantise(const QuantiseParams& p, Range rows) {
  const QuantisedRows& out = p.out;
  for (size_t r = rows.first; r < rows.last; ++r) {
    for (size_t first = 0; first < p.x.cols; first += kPanelBlock) {
      const float* x = p.x.row(r) + first;
      uint32_t max_bits = 0;
      for (size_t i = 0; i < kPanelBlock; ++i) {
        max_bits = std::max(max_bits, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffU);
      }
      const BlockScale scale = block_scale(max_bits);
      const size_t at = r * out.cols + p.first_col + first;
      int32_t sum = 0;
      for (size_t i = 0; i < kPanelBlock; ++i) {
        const auto value =
            scale.to_8_bits == 0 ? 0 : static_cast<int32_t>(std::nearbyint(x[i] * scale.to_8_bits));
        out.values[at + i] = static_cast<int8_t>(value);
        sum += value;
      }
      out.scales[at / kPanelBlock] = scale.scale;
      out.sums[at / kPanelBlock] = sum;
    }
  }
}

void quantised_gemm(const QuantisedGemmParams& p, Range outputs) {
  const WeightView& w = p.w;
  const size_t group = std::min(w.group_scales.group, w.in);
  for (size_t r = 0; r < p.y.rows; ++r) {
    const size_t x_row = p.x_rows == nullptr ? r : p.x_rows[r];
    const int8_t* x = p.x.values + x_row * w.in;
    const float* scales = p.x.scales + x_row * p.x.blocks();
    for (size_t o = outputs.first; o < outputs.last; ++o) {
      float y = 0;
      for (size_t first = 0; first < w.in; first += group) {
        const size_t g = first / group;
        const int zero = group_zero(w, o, g);
        float t = 0;
        for (size_t k = first; k < std::min(first + group, w.in); k += kPanelBlock) {
          int32_t sum = 0;
          for (size_t i = k; i < k + kPanelBlock; ++i)
            sum += x[i] * (stored_integer(w, o, i) - zero);
          t = std::fma(static_cast<float>(sum), scales[k / kPanelBlock], t);
        }
        y = std::fma(t, group_scale(w, o, g), y);
      }
      p.y.row(r)[o] = p.bias == nullptr ? y : y + p.bias[o];
    }
  }
}

}  // namespace troupe::kernels::scalar
