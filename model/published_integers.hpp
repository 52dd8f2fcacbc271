#pragma once

// Integer weights as others publish them, brought into the order of panels (base/panels.hpp). Pure.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "base/tensor_view.hpp"
#include "model/config.hpp"

namespace troupe::model {

/// One matrix [out, in] as a format stores it, every shape checked. Words are 32 bits of eight
/// integers, the first in the lowest.
///
///   kCompressedInt8  weight I8 [out, in], scales [out, 1]
///   kCompressedInt4  weight words [out, in / 8] plus 8, scales [out, groups]
///   kGptq            weight words [in / 8, out], zeros words [groups, out / 8], scales [groups,
///   out];
///                    `gptq` stores zeros less one, `gptq_v2` as they are
///   kAwq             weight words [in, out / 8], zeros words [groups, out / 8], scales
///                    [groups, out]; the eight of a word in the order 0, 2, 4, 6, 1, 3, 5, 7
struct PublishedMatrix {
  PublishedFormat format;
  Bytes weight;
  Bytes scales;
  DType scale_dtype = DType::kF32;
  Bytes zeros;
  size_t out = 0;    ///< a multiple of 16
  size_t in = 0;     ///< a multiple of 32
  size_t group = 0;  ///< elements that share a scale, a multiple of 32
};

/// The same in panels.
struct PanelMatrix {
  std::vector<std::byte> data;
  std::vector<float> scales;   ///< exact
  std::vector<uint8_t> zeros;  ///< empty if all are 8, or there are none

  /// Refers to the vectors.
  [[nodiscard]] WeightView view(const PublishedMatrix& from) const;
};

/// Cost: a few ns per element.
PanelMatrix to_panels(const PublishedMatrix& from);

/// Row-major float32 of all elements.
std::vector<float> to_floats(const PublishedMatrix& from);

}  // namespace troupe::model
