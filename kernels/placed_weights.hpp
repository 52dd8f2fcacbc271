#pragma once

// Weights where a backend computes: those given if that is the host's memory, otherwise copies.

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/tensor_view.hpp"
#include "kernels/array.hpp"
#include "kernels/memory.hpp"

namespace troupe::kernels {

/// Owns its copies. In the host's memory it has none, so what was placed must outlive their use.
class PlacedWeights {
 public:
  /// @param memory outlives the object
  explicit PlacedWeights(Memory& memory) : memory_(memory) {}

  /// The same matrix with data, scales and zeros here, copies aligned to 256 bytes; an empty one
  /// stays empty. @errors kResourceExhausted
  Result<WeightView> place(const WeightView& weights);
  /// @returns nullptr if there are none @errors kResourceExhausted
  Result<const float*> place(std::span<const float> values);

 private:
  template <class T>
  Result<const T*> copy(const T* from, size_t bytes);

  Memory& memory_;
  std::vector<OwnedMemory> copies_;
};

}  // namespace troupe::kernels
