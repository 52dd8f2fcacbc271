#pragma once

// Weights where a backend computes: those given if that is the host's memory, otherwise copies.

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/tensor_view.hpp"
#include "kernels/array.hpp"
#include "kernels/memory.hpp"

namespace troupe::kernels {

/// Owns its copies. In the host's memory it has none.
class PlacedWeights {
 public:
  /// @param memory outlives the object
  /// @param source what keeps the given ones in the host's memory; kept if they stay there
  explicit PlacedWeights(Memory& memory, std::shared_ptr<const void> source = nullptr)
      : memory_(memory), source_(memory.is_host() ? std::move(source) : nullptr) {}

  /// The same matrix with data, scales and zeros here, copies aligned to 256 bytes; an empty one
  /// stays empty. @errors kResourceExhausted; kUnsupported for zeros above kMaxZeroOfI4 and for an
  /// order of columns that would have to leave the host
  Result<WeightView> place(const WeightView& weights);
  /// @returns nullptr if there are none @errors kResourceExhausted
  Result<const float*> place(std::span<const float> values);

 private:
  template <class T>
  Result<const T*> copy(const T* from, size_t bytes);

  Memory& memory_;
  std::shared_ptr<const void> source_;
  std::vector<OwnedMemory> copies_;
};

}  // namespace troupe::kernels
