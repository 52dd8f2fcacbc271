#include "kernels/placed_weights.hpp"

#include <algorithm>
#include <string>

#include "base/panels.hpp"

namespace troupe::kernels {

template <class T>
Result<const T*> PlacedWeights::copy(const T* from, size_t bytes) {
  if (from == nullptr || bytes == 0) return static_cast<const T*>(nullptr);
  if (memory_.is_host()) return from;
  copies_.push_back(TRY(allocate(memory_, bytes)));
  memory_.copy_in(copies_.back().get(), from, bytes);
  return static_cast<const T*>(copies_.back().get());
}

Result<WeightView> PlacedWeights::place(const WeightView& weights) {
  WeightView placed = weights;
  placed.data = TRY(copy(weights.data, weights.size_bytes()));
  if (weights.scales != nullptr) {
    placed.scales = TRY(copy(weights.scales, weights.num_block_scales() * sizeof(float)));
  }
  if (!weights.empty() && is_integer(weights.dtype)) {
    placed.columns = TRY(place_columns(weights));
    const GroupScales& groups = weights.group_scales;
    const size_t num_scales = weights.out * weights.num_groups();
    placed.group_scales.data = TRY(copy(groups.data, num_scales * size_of(groups.dtype)));
    if (groups.zeros != nullptr && !memory_.is_host()) {
      const uint8_t largest = *std::max_element(groups.zeros, groups.zeros + num_scales);
      if (largest > kMaxZeroOfI4) {
        return Error{Code::kUnsupported, "an INT4 matrix [" + std::to_string(weights.out) + ", " +
                                             std::to_string(weights.in) + "] subtracts a zero of " +
                                             std::to_string(largest) +
                                             "; devices compute with zeros up to " +
                                             std::to_string(kMaxZeroOfI4) + ", CPUs with any"};
      }
    }
    placed.group_scales.zeros = TRY(copy(groups.zeros, num_scales));
  }
  return placed;
}

Result<const uint32_t*> PlacedWeights::place_columns(const WeightView& weights) {
  const auto placed = columns_.find(weights.columns);
  if (placed != columns_.end()) return placed->second;
  return columns_[weights.columns] = TRY(copy(weights.columns, weights.in * sizeof(uint32_t)));
}

Result<const float*> PlacedWeights::place(std::span<const float> values) {
  return copy(values.data(), values.size_bytes());
}

}  // namespace troupe::kernels
