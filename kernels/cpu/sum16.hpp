#pragma once

// Rule 1 of the arithmetic contract (kernels/ops.hpp): 16 partial sums and their tree.

#include <array>
#include <cmath>
#include <cstddef>

namespace troupe::kernels {

inline constexpr size_t kNumPartialSums = 16;

using PartialSums = std::array<float, kNumPartialSums>;

/// Lane i + lane (i + 8), then (i + 4), (i + 2), (i + 1).
inline float add_tree(PartialSums sums) {
  for (size_t half = kNumPartialSums / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

/// sum_k a[k] * b[k] by rule 1.
inline float dot(const float* a, const float* b, size_t n) {
  PartialSums sums{};
  for (size_t k = 0; k < n; ++k) {
    float& sum = sums[k % kNumPartialSums];
    sum = std::fma(a[k], b[k], sum);
  }
  return add_tree(sums);
}

}  // namespace troupe::kernels
