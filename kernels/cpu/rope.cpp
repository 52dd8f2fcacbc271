#include <cmath>
#include <vector>

#include "kernels/cpu/scalar.hpp"
#include "kernels/cpu/sin_cos.hpp"

namespace troupe::kernels::scalar {

// Both products of a rotation are rounded, then added: no fused multiply-add, so that the rotation
// treats the two elements of a pair alike.
void rope(const RopeParams& p, Range rows) {
  const size_t num_pairs = p.dim / 2;
  std::vector<float> cos(num_pairs);
  std::vector<float> sin(num_pairs);
  for (size_t r = rows.first; r < rows.last; ++r) {
    for (size_t i = 0; i < num_pairs; ++i) {
      const float angle = static_cast<float>(p.positions[r]) * p.inv_freq[i];
      const SinCos exact = sin_cos(angle);
      cos[i] = static_cast<float>(exact.cos) * p.magnitude;
      sin[i] = static_cast<float>(exact.sin) * p.magnitude;
    }
    for (size_t h = 0; h < p.num_heads; ++h) {
      float* x = p.x.row(r) + (h + 1) * p.head_dim - p.dim;
      for (size_t i = 0; i < num_pairs; ++i) {
        const float a = x[2 * i];
        const float b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = a * sin[i] + b * cos[i];
      }
    }
  }
}

}  // namespace troupe::kernels::scalar
