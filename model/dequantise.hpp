#pragma once

// Stored numbers to float32, exactly (every F16, BF16 and E4M3 value is a float32).

#include <cstddef>
#include <span>

#include "base/bytes.hpp"
#include "base/tensor_view.hpp"

namespace troupe::model {

/// values[i] = the i-th number of `bytes`, which may be unaligned.
/// REQUIRES: bytes.size() == values.size() * size_of(dtype); no integers.
void to_float32(Bytes bytes, DType dtype, std::span<float> values);

/// Multiplies element (o, i) of [out, in] by its 128x128 block's scale, as WeightView defines it.
void apply_block_scales(std::span<float> values, size_t out, size_t in,
                        std::span<const float> scales);

}  // namespace troupe::model
