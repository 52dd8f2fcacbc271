#pragma once

// Views of tensors: a pointer and a shape; they own nothing and are passed by value. `model/` makes
// WeightViews over mapped files, `kernels/` computes with them; neither includes the other.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "base/check.hpp"

namespace troupe {

/// Element types of stored weights.
enum class DType : uint8_t { kF32, kF16, kBF16, kF8E4M3 };

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 4;
    case DType::kF16:
    case DType::kBF16: return 2;
    case DType::kF8E4M3: return 1;
  }
  return 0;
}

constexpr std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "F32";
    case DType::kF16: return "F16";
    case DType::kBF16: return "BF16";
    case DType::kF8E4M3: return "F8_E4M3";
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
};

using ConstRows = RowsView<const float>;
using Rows = RowsView<float>;

/// A weight matrix [out, in], row-major and contiguous, in its stored element type.
///
/// With dtype kF8E4M3 and scales != nullptr, the value of element (o, i) is
/// float(data[o, i]) * scales[(o / 128) * ceil(in / 128) + i / 128], rounded once to float32.
/// The data may be unaligned (safetensors promises nothing), so kernels load accordingly.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  size_t out = 0;
  size_t in = 0;
  const float* scales = nullptr;  ///< [ceil(out/128), ceil(in/128)] or nullptr

  static constexpr size_t kScaleBlock = 128;
  [[nodiscard]] bool empty() const { return data == nullptr; }
  [[nodiscard]] size_t size_bytes() const { return out * in * size_of(dtype); }
};

}  // namespace troupe
