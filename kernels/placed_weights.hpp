#pragma once

// Weights where a backend computes: those given if that is the host's memory, otherwise copies.

#include <cstddef>
#include <cstdint>
#include <map>
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

  /// The same matrix with data, scales, zeros and order of columns here, copies aligned to 256
  /// bytes; an empty one stays empty. Matrices that share an order share its copy.
  /// REQUIRES: orders of columns stay where they are as long as others are placed
  /// @errors kResourceExhausted; kUnsupported for zeros above kMaxZeroOfI4 that would leave the
  /// host
  Result<WeightView> place(const WeightView& weights);
  /// @returns nullptr if there are none @errors kResourceExhausted
  Result<const float*> place(std::span<const float> values);

 private:
  template <class T>
  Result<const T*> copy(const T* from, size_t bytes);
  Result<const uint32_t*> place_columns(const WeightView& weights);

  Memory& memory_;
  std::shared_ptr<const void> source_;
  std::vector<OwnedMemory> copies_;
  std::map<const uint32_t*, const uint32_t*> columns_;  ///< from where they were to here
};

}  // namespace troupe::kernels
