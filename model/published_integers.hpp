#pragma once

// Integer weights as others publish them, brought into the order of panels (base/panels.hpp). Pure.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "base/tensor_view.hpp"
#include "model/config.hpp"

namespace troupe::model {

/// One matrix [out, in] as a format stores it, every shape checked. Words are 32 bits of n unsigned
/// integers, four of 8 bits or eight of 4, the first in the lowest. Without zeros, the middle (128
/// or 8) stands for 0.
///
///   kCompressedInt8    weight I8 [out, in], scales [out, groups]
///   kCompressedPacked  weight words [out, in / n], scales [out, groups]; zeros words
///                      [out / n, groups] if there are any
///   kGptq              weight words [in / n, out], zeros words [groups, out / n], scales
///                      [groups, out]; `gptq` stores zeros less one, `gptq_v2` as they are
///   kAwq               4 bits: weight words [in, out / n], zeros words [groups, out / n], scales
///                      [groups, out]; the eight of a word in the order 0, 2, 4, 6, 1, 3, 5, 7
///
/// Columns of a group need not be neighbours where a `g_idx` gives each its group (GPTQ's
/// act-order). Panels have them sorted by group then, and products gather their inputs
/// (WeightView::columns).
///
/// Sources: compressed-tensors' pack_quantized and naive_quantized compressors; AutoGPTQ's
/// qlinear_cuda_old; AutoAWQ's packing of WQLinear_GEMM.
struct PublishedMatrix {
  PublishedFormat format;
  DType dtype = DType::kI4;  ///< or kI8
  Bytes weight;
  Bytes scales;
  DType scale_dtype = DType::kF32;
  Bytes zeros;
  size_t out = 0;    ///< a multiple of 16
  size_t in = 0;     ///< a multiple of 32
  size_t group = 0;  ///< elements that share a scale, a multiple of 32
  /// columns_by_group(), which outlive this; empty: in their own order
  std::span<const uint32_t> columns;
};

/// The columns of a matrix sorted by their groups, those of a group as they come.
/// @param groups I32 [in], in any order of bytes' alignment
/// @returns [in], or nothing if that is their own order
/// @errors kCorrupt if there is no such group, or a group has not as many columns as all have (the
///         last perhaps fewer)
Result<std::vector<uint32_t>> columns_by_group(Bytes groups, size_t in, size_t group);

/// Where the 16 rows of one panel go.
struct PanelPart {
  std::byte* data = nullptr;
  float* scales = nullptr;   ///< [groups, 16], exact
  uint8_t* zeros = nullptr;  ///< [groups, 16] of kI4
};

/// @errors kUnsupported if 8-bit integers have zeros other than 128, which panels do not hold
Result<void> to_panel(const PublishedMatrix& from, size_t panel, const PanelPart& to);

/// The same in panels.
struct PanelMatrix {
  std::vector<std::byte> data;
  std::vector<float> scales;   ///< exact
  std::vector<uint8_t> zeros;  ///< empty if all are 8, or there are none

  /// Refers to the vectors, and to from.columns.
  [[nodiscard]] WeightView view(const PublishedMatrix& from) const;
};

/// @errors as to_panel()
/// Cost: a fraction of a ns per element, that of AWQ one, shared by the threads; columns in another
/// order double it.
Result<PanelMatrix> to_panels(const PublishedMatrix& from, size_t num_threads = 1);

/// Row-major float32 of the elements of panels [first, first + count), in their own order.
std::vector<float> to_floats(const PublishedMatrix& from, size_t first, size_t count);

}  // namespace troupe::model
