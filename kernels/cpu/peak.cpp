#include <cmath>

#include "kernels/cpu/scalar.hpp"

namespace troupe::kernels::scalar {
namespace {

constexpr size_t kSums = 8;
constexpr size_t kAdditions = 1024;  // to each sum in a round

/// One after the other, and none before: what follows knows nothing about `value`.
template <class T>
void hide(T& value) {
  asm volatile("" : "+m"(value));
}

/// Sums of 1 * 1.
template <class T, class MultiplyAdd>
uint64_t peak(size_t rounds, const MultiplyAdd& multiply_add) {
  uint64_t total = 0;
  for (size_t round = 0; round < rounds; ++round) {
    T one = 1;
    T sums[kSums] = {};
    for (size_t i = 0; i < kAdditions; ++i) {
      hide(one);
      for (T& sum : sums) sum = multiply_add(one, sum);
    }
    for (const T sum : sums) total += static_cast<uint64_t>(sum);
  }
  return total;
}

}  // namespace

uint64_t float_peak(size_t rounds) {
  return peak<float>(rounds, [](float one, float sum) { return std::fma(one, one, sum); });
}

uint64_t integer_peak(size_t rounds) {
  return peak<int32_t>(rounds, [](int32_t one, int32_t sum) { return sum + one * one; });
}

}  // namespace troupe::kernels::scalar
