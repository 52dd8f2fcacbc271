#include "model/softmax.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "base/check.hpp"

// The same operations, hence the same bits, of as many weights at once as the CPU can. Not with
// ThreadSanitizer, which is not there yet when the loader chooses.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define TROUPE_AS_WIDE_AS_THE_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TROUPE_AS_WIDE_AS_THE_CPU
#endif

namespace troupe::model {
namespace {

constexpr size_t kBlock = 64;

/// Of one block; behind the last logit nothing.
inline std::array<double, kBlock> weights_of(const Softmax& softmax, size_t block) {
  std::array<double, kBlock> weights{};
  const auto rest = softmax.logits.subspan(block * kBlock);
  if (rest.size() >= kBlock) {
    for (size_t i = 0; i < kBlock; ++i) weights[i] = softmax.weight(rest[i]);
  } else {
    for (size_t i = 0; i < rest.size(); ++i) weights[i] = softmax.weight(rest[i]);
  }
  return weights;
}

/// The sum of the weights by rising index, and what it is after each block. The sum is one addition
/// after the other; meanwhile the CPU is already at the exponentials of the next block.
TROUPE_AS_WIDE_AS_THE_CPU
std::vector<double> sums_of(const Softmax& softmax) {
  std::vector<double> sums((softmax.logits.size() + kBlock - 1) / kBlock);
  double sum = 0;
  for (size_t block = 0; block < sums.size(); ++block) {
    for (const double weight : weights_of(softmax, block)) sum += weight;
    sums[block] = sum;
  }
  return sums;
}

TROUPE_AS_WIDE_AS_THE_CPU
void weigh(const Softmax& softmax, std::span<double> out) {
  for (size_t first = 0; first < out.size(); first += kBlock) {
    const auto weights = weights_of(softmax, first / kBlock);
    const size_t count = std::min(kBlock, out.size() - first);
    std::copy_n(weights.begin(), count, out.begin() + static_cast<ptrdiff_t>(first));
  }
}

}  // namespace

double log_of(double x) {
  constexpr double kLn2 = 0.6931471805599453;
  const auto exponent = static_cast<int64_t>(std::bit_cast<uint64_t>(x) >> 52) - 1023;
  double y = static_cast<double>(exponent) * kLn2;
  for (int i = 0; i < 4; ++i) {
    const double ratio = x * exp_of(-y);
    y += 2.0 * (ratio - 1.0) / (ratio + 1.0);
  }
  return y;
}

std::vector<double> Softmax::weights() const {
  std::vector<double> out(logits.size());
  weigh(*this, out);
  return out;
}

double Softmax::total() const { return sums_of(*this).back(); }

size_t Softmax::draw(double uniform) const {
  const std::vector<double> sums = sums_of(*this);
  const double target = uniform * sums.back();
  const auto block = static_cast<size_t>(std::ranges::upper_bound(sums, target) - sums.begin());
  CHECK_LT(block, sums.size());  // uniform is below 1, and so is its product with any total
  double sum = block == 0 ? 0 : sums[block - 1];
  const auto weights = weights_of(*this, block);
  size_t i = 0;
  while ((sum += weights[i]) <= target) ++i;
  return block * kBlock + i;
}

}  // namespace troupe::model
