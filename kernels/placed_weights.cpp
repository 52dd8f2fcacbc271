#include "kernels/placed_weights.hpp"

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
    constexpr size_t kBlock = WeightView::kScaleBlock;
    const size_t num_scales =
        (weights.out + kBlock - 1) / kBlock * ((weights.in + kBlock - 1) / kBlock);
    placed.scales = TRY(copy(weights.scales, num_scales * sizeof(float)));
  }
  if (!weights.empty() && is_integer(weights.dtype)) {
    const GroupScales& groups = weights.group_scales;
    const size_t num_scales = weights.out * weights.num_groups();
    placed.group_scales.data = TRY(copy(groups.data, num_scales * size_of(groups.dtype)));
    placed.group_scales.zeros = TRY(copy(groups.zeros, num_scales));
  }
  return placed;
}

Result<const float*> PlacedWeights::place(std::span<const float> values) {
  return copy(values.data(), values.size_bytes());
}

}  // namespace troupe::kernels
