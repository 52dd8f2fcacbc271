#include "model/random_weights.hpp"

#include <xxhash.h>

#include <algorithm>

#include "base/random.hpp"

namespace troupe::model {
namespace {

constexpr uint64_t kPerDraw = 4;  // words of a Philox draw
/// Standard deviation of the sum of four bytes, sqrt(4 * (256^2 - 1) / 12).
constexpr float kDeviation = 147.8F;

float sum_of_bytes(uint32_t word) {
  const uint32_t pairs = (word & 0x00ff00ffU) + (word >> 8 & 0x00ff00ffU);
  return static_cast<float>(static_cast<int32_t>((pairs & 0xffffU) + (pairs >> 16)) - 510);
}

}  // namespace

DType RandomWeights::kept_type(const std::string& name) const {
  return name.ends_with("correction_bias") ? DType::kF32 : DType::kBF16;
}

Result<void> RandomWeights::read(const std::string& name, uint64_t in, uint64_t first,
                                 uint64_t count, float* values) const {
  const uint64_t begin = first * in, end = begin + count * in;
  if (name.ends_with("norm.weight") || name.ends_with("bias")) {
    std::fill(values, values + (end - begin), name.ends_with("bias") ? 0.0F : 1.0F);
    return {};
  }
  const uint64_t stream = XXH3_64bits(name.data(), name.size());
  const float factor = deviation_ / kDeviation;
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed_),
                                       static_cast<uint32_t>(seed_ >> 32)};
  for (uint64_t draw = begin / kPerDraw; draw * kPerDraw < end; ++draw) {
    const auto words =
        philox4x32({static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32),
                    static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                   key);
    const uint64_t at = draw * kPerDraw;
    for (uint64_t i = std::max(at, begin); i < std::min(at + kPerDraw, end); ++i) {
      values[i - begin] = sum_of_bytes(words[i - at]) * factor;
    }
  }
  return {};
}

}  // namespace troupe::model
