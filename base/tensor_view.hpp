#pragma once

// Views of tensors: a pointer and a shape; they own nothing and are passed by value. `model/` makes
// WeightViews over mapped files, `kernels/` computes with them; neither includes the other.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "base/check.hpp"
#include "base/panels.hpp"

namespace troupe {

/// Element types of stored weights. Integers lie in panels (base/panels.hpp), two kI4 in a byte.
enum class DType : uint8_t { kF32, kF16, kBF16, kF8E4M3, kI8, kI4 };

constexpr size_t bits_of(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 32;
    case DType::kF16:
    case DType::kBF16: return 16;
    case DType::kF8E4M3:
    case DType::kI8: return 8;
    case DType::kI4: return 4;
  }
  return 0;
}

/// Bytes of one element. REQUIRES: not kI4.
constexpr size_t size_of(DType dtype) { return bits_of(dtype) / 8; }

/// Integers that a scale turns into numbers.
constexpr bool is_integer(DType dtype) { return dtype == DType::kI8 || dtype == DType::kI4; }

constexpr std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "F32";
    case DType::kF16: return "F16";
    case DType::kBF16: return "BF16";
    case DType::kF8E4M3: return "F8_E4M3";
    case DType::kI8: return "I8";
    case DType::kI4: return "I4";
  }
  return "unknown";
}

/// Rows of float32 activations, [rows, cols], row r at data + r * stride (in elements).
template <class T>
struct RowsView {
  T* data = nullptr;
  size_t rows = 0;
  size_t cols = 0;
  size_t stride = 0;

  RowsView() = default;
  RowsView(T* data_in, size_t rows_in, size_t cols_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(cols_in) {}
  RowsView(T* data_in, size_t rows_in, size_t cols_in, size_t stride_in)
      : data(data_in), rows(rows_in), cols(cols_in), stride(stride_in) {}
  template <class U>
  requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
      RowsView(RowsView<U> other)  // NOLINT: a view of const rows from a view of mutable ones
      : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  T* row(size_t r) const { return data + r * stride; }
  RowsView slice(size_t first, size_t count) const {
    CHECK_LE(first + count, rows);
    return RowsView(data + first * stride, count, cols, stride);
  }
  /// Whether they are the same rows in memory.
  friend bool operator==(const RowsView&, const RowsView&) = default;
};

using ConstRows = RowsView<const float>;
using Rows = RowsView<float>;

/// The scales of integer weights: one for each `group` elements of a row, the last group of a row
/// perhaps shorter.
struct GroupScales {
  /// [out / 16, num_groups, 16] by panel, group and row within the panel.
  const void* data = nullptr;
  DType dtype = DType::kF32;  ///< or kBF16
  size_t group = 0;           ///< a multiple of 32; >= in: one scale for a row
  /// The same shape; what is subtracted from a stored kI4. nullptr: 8 from all. kI8 has none.
  const uint8_t* zeros = nullptr;
};

/// A weight matrix [out, in] in its stored element type.
///
/// Floating-point: row-major and contiguous. With dtype kF8E4M3 and scales != nullptr, the value of
/// element (o, i) is float(data[o, i]) * scales[(o / 128) * ceil(in / 128) + i / 128], rounded once
/// to float32. The data may be unaligned (safetensors promises nothing), so kernels load
/// accordingly.
///
/// Integers: panels of 16 rows (base/panels.hpp); out is a multiple of 16, in of 32. Element (o, i)
/// stands for (stored - zero) * scale. It multiplies input columns[i] if there is an order of
/// columns, else input i.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  size_t out = 0;
  size_t in = 0;
  const float* scales = nullptr;  ///< kF8E4M3: [ceil(out/128), ceil(in/128)] or nullptr
  GroupScales group_scales = {};  ///< kI8, kI4
  /// kI8, kI4: [in], each below `in` and all different; or nullptr.
  const uint32_t* columns = nullptr;

  static constexpr size_t kScaleBlock = 128;
  [[nodiscard]] bool empty() const { return data == nullptr; }
  [[nodiscard]] size_t size_bytes() const { return out * in * bits_of(dtype) / 8; }
  /// Scales of a row, or of a column, of `size` elements of kF8E4M3.
  static constexpr size_t num_scale_blocks(size_t size) {
    return (size + kScaleBlock - 1) / kScaleBlock;
  }
  /// Elements of `scales`, unless that is nullptr.
  [[nodiscard]] size_t num_block_scales() const {
    return num_scale_blocks(out) * num_scale_blocks(in);
  }
  /// Scales of a row of integers.
  [[nodiscard]] size_t num_groups() const {
    return (in + group_scales.group - 1) / group_scales.group;
  }
  /// Rows that stay together: outputs() begins at a multiple.
  [[nodiscard]] size_t outputs_together() const {
    return is_integer(dtype) ? kPanelRows : scales != nullptr ? kScaleBlock : 1;
  }
  /// Rows [first, first + count) only. REQUIRES: first is a multiple of outputs_together(), count
  /// of 16 for integers.
  [[nodiscard]] WeightView outputs(size_t first, size_t count) const {
    CHECK_LE(first + count, out);
    WeightView part = *this;
    part.out = count;
    part.data = static_cast<const std::byte*>(data) + first * in * bits_of(dtype) / 8;
    if (scales != nullptr) {
      part.scales += first / kScaleBlock * num_scale_blocks(in);
    }
    if (is_integer(dtype)) {
      const size_t skipped = first * num_groups();
      part.group_scales.data =
          static_cast<const std::byte*>(group_scales.data) + skipped * size_of(group_scales.dtype);
      if (group_scales.zeros != nullptr) part.group_scales.zeros += skipped;
    }
    return part;
  }
};

}  // namespace troupe
