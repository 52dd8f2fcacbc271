#pragma once

// Where the elements of integer weights lie: in panels of 16 rows, and within a panel four
// neighbouring elements of each row after those of the one before. So a vector of 16 x 4 bytes
// holds what 16 sums take from four activations, on every CPU, and a file that is mapped can be
// computed with as it is. `model/` writes and `kernels/` read this order; shapes as safetensors:
//
//   I8  [out / 16, in / 4, 16, 4]       element (o, i) at [o / 16, i / 4, o % 16, i % 4]
//   U8  [out / 16, in / 32, 4, 16, 4]   two kI4 in a byte: of the 32 elements of a block, the first
//                                       16 in the low halves, the others in the high halves
//
// kI8 are signed; kI4 are 0 to 15 before their zero is subtracted.

#include <cstddef>
#include <cstdint>

namespace troupe {

inline constexpr size_t kPanelRows = 16;
/// Elements of a row that multiply together; in is a multiple of it.
inline constexpr size_t kPanelBlock = 32;
inline constexpr size_t kPanelQuad = 4;
/// What kI4 without zeros subtract.
inline constexpr int kMiddleOfI4 = 8;
/// The largest zero of kI4 that backends on devices compute with; CPUs take any.
inline constexpr uint8_t kMaxZeroOfI4 = 128;

/// Whether a matrix can be stored in panels.
constexpr bool fits_panels(size_t out, size_t in) {
  return out % kPanelRows == 0 && in % kPanelBlock == 0;
}

/// Index of the byte of element (o, i) of a matrix of kI8 with rows of `in` elements.
constexpr size_t panel_byte_of_i8(size_t in, size_t o, size_t i) {
  return (o / kPanelRows * in + i / kPanelQuad * kPanelQuad) * kPanelRows +
         o % kPanelRows * kPanelQuad + i % kPanelQuad;
}

/// The same of kI4; the element is in the high half of the byte if in_high_half(i).
constexpr size_t panel_byte_of_i4(size_t in, size_t o, size_t i) {
  const size_t within = i % (kPanelBlock / 2);
  return (o / kPanelRows * in + i / kPanelBlock * kPanelBlock) * (kPanelRows / 2) +
         within / kPanelQuad * kPanelQuad * kPanelRows + o % kPanelRows * kPanelQuad +
         within % kPanelQuad;
}

constexpr bool in_high_half(size_t i) { return i % kPanelBlock >= kPanelBlock / 2; }

/// Index of the scale of row `o` and group `g`, of `num_groups` in a row.
constexpr size_t panel_scale(size_t num_groups, size_t o, size_t g) {
  return (o / kPanelRows * num_groups + g) * kPanelRows + o % kPanelRows;
}

}  // namespace troupe
