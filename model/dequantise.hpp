#pragma once

// Stored numbers to float32, exactly (every F16, BF16 and E4M3 value is a float32).

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.hpp"
#include "base/tensor_view.hpp"

namespace troupe::model {

/// values[i] = the i-th number of `bytes`, which may be unaligned.
/// REQUIRES: bytes.size() == values.size() * size_of(dtype); no integers.
void to_float32(Bytes bytes, DType dtype, std::span<float> values);

/// Multiplies rows of `in` values, of which the first is row `first` of its matrix, by the scales
/// of their 128x128 blocks, as WeightView defines them.
void apply_block_scales(std::span<float> values, size_t first, size_t in, const float* scales);

}  // namespace troupe::model
