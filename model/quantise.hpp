#pragma once

// From rows of float32 to weights in fewer bits: the schemes and their arithmetic, pure. What it
// writes is what base/panels.hpp defines and kernels/ multiply with; docs/quantisation.md explains.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/panels.hpp"
#include "base/tensor_view.hpp"

namespace troupe::model {

/// How a matrix is stored.
///
/// kI8 is symmetric: the scale is the largest magnitude of its group / 127, rounded up to BF16, so
/// nothing is clipped. kI4 takes, of a few candidates, the scale (and zero) with the least squared
/// error over its group; a symmetric scale may be negative, so that the value -8 serves the larger
/// of the two ends.
///
/// kF8E4M3 has a scale in float32 for each block of 128 x 128, as WeightView defines it: the
/// largest magnitude of the block / 448, so that nothing is clipped.
struct Scheme {
  DType dtype = DType::kBF16;  ///< kBF16, kF8E4M3, kI8 or kI4
  size_t group = 0;            ///< elements of a row that share a scale; 0: the whole row
  bool zeros = false;          ///< kI4: asymmetric

  [[nodiscard]] bool in_panels() const { return is_integer(dtype); }
  /// Scales of a row of `in` elements.
  [[nodiscard]] size_t num_groups(size_t in) const {
    return group == 0 ? 1 : (in + group - 1) / group;
  }
  friend bool operator==(const Scheme&, const Scheme&) = default;
};

/// The name for integers as the source had them, of any scheme.
inline constexpr std::string_view kKeepScheme = "keep";

/// "bf16", "fp8", "int8", "int8-g128", "int4-g32", "int4-g32-asym", "int4-g128" or
/// "int4-g128-asym".
std::optional<Scheme> parse_scheme(std::string_view name);
/// All of them, for messages and help: "bf16, int8, ...".
const std::string& scheme_names();

/// Where the 16 rows of one panel go.
struct PanelOut {
  uint8_t* data = nullptr;     ///< kI8: in * 16 bytes, kI4: in * 8
  uint16_t* scales = nullptr;  ///< BF16, [num_groups, 16]
  uint8_t* zeros = nullptr;    ///< [num_groups, 16] if scheme.zeros
};

/// Quantises 16 rows of `in` floats, one after the other. REQUIRES: in % 32 == 0,
/// scheme.in_panels().
/// @returns false if a value is not finite; what was written means nothing then.
/// Cost: about 10 ns per element for kI4, a tenth of that for kI8.
[[nodiscard]] bool quantise_panel(const float* rows, size_t in, const Scheme& scheme,
                                  const PanelOut& out);

/// Rounds the rows of a row of blocks to kF8E4M3, to the nearest (ties to even).
/// REQUIRES: count <= WeightView::kScaleBlock.
/// @param data [count, in]  @param scales [num_scale_blocks(in)]
/// @returns false if a value is not finite; what was written means nothing then.
/// Cost: about 2 ns per element.
[[nodiscard]] bool quantise_f8(const float* rows, size_t count, size_t in, uint8_t* data,
                               float* scales);

}  // namespace troupe::model
