#pragma once

// Operations on one row at a time: embedding, norm, rotation, activation, residual, combine. All
// but the norm give the specification's bits (kernels/ops.hpp). Each is limited by memory: it reads
// its operands and writes its result once. A block takes one row or 256 columns of it, and holds at
// most 40 registers a thread, so eight blocks fill an SM of an A100.

#include <cmath>

#include "base/bfloat16.hpp"
#include "base/ids.hpp"
#include "kernels/cpu/convert.hpp"
#include "kernels/cpu/exp.hpp"
#include "kernels/cpu/sin_cos.hpp"
#include "kernels/cuda/simt.cuh"

namespace troupe::kernels::cuda {

inline constexpr unsigned kRowThreads = 256;

/// Rows in device memory, row r at data + r * stride.
template <class T>
struct Matrix {
  T* data = nullptr;
  size_t stride = 0;
  SIMT_DEVICE T* row(size_t r) const { return data + r * stride; }
};

/// Blocks for all of [rows, cols], each thread one element.
inline simt::Grid grid_of_elements(size_t rows, size_t cols) {
  return {static_cast<unsigned>(rows),
          static_cast<unsigned>((cols + kRowThreads - 1) / kRowThreads)};
}

/// One thread per element; calls at(row, column) within [.., cols).
struct ElementKernel {
  static constexpr unsigned kThreads = kRowThreads;
  static constexpr unsigned kBlocksPerSm = 1;
  [[nodiscard]] size_t shared_bytes() const { return 0; }
  SIMT_DEVICE static size_t row() { return simt::block_x(); }
  SIMT_DEVICE static size_t column() { return simt::block_y() * size_t{kThreads} + simt::thread(); }
};

struct Embed : ElementKernel {
  const void* table;  ///< [vocab, cols], floating-point
  DType dtype;
  const float* scales;  ///< as WeightView::scales
  const TokenId* tokens;
  Matrix<float> out;
  size_t cols;

  SIMT_DEVICE void operator()() const {
    const size_t i = column();
    if (i >= cols) return;
    const auto token = static_cast<size_t>(tokens[row()]);
    out.row(row())[i] = element(token * cols + i, token, i);
  }
  SIMT_DEVICE float element(size_t at, size_t token, size_t i) const {
    switch (dtype) {
      case DType::kF32: return static_cast<const float*>(table)[at];
      case DType::kF16: return from_f16(static_cast<const uint16_t*>(table)[at]);
      case DType::kBF16: return from_bf16(static_cast<const uint16_t*>(table)[at]);
      case DType::kF8E4M3: {
        const float value = from_f8e4m3(static_cast<const uint8_t*>(table)[at]);
        constexpr size_t kBlock = WeightView::kScaleBlock;
        if (scales == nullptr) return value;
        return value * scales[token / kBlock * WeightView::num_scale_blocks(cols) + i / kBlock];
      }
      case DType::kI8:
      case DType::kI4: break;
    }
    return 0;
  }
};

struct SiluMul : ElementKernel {
  Matrix<const float> gate;
  Matrix<const float> up;
  Matrix<float> out;
  size_t cols;

  SIMT_DEVICE void operator()() const {
    const size_t i = column();
    if (i >= cols) return;
    const float g = gate.row(row())[i];
    out.row(row())[i] = g / (1.0F + exp_f32(-g)) * up.row(row())[i];
  }
};

struct Add : ElementKernel {
  Matrix<float> x;
  Matrix<const float> y;
  size_t cols;

  SIMT_DEVICE void operator()() const {
    const size_t i = column();
    if (i < cols) x.row(row())[i] += y.row(row())[i];
  }
};

struct Combine : ElementKernel {
  const float* const* expert_rows;  ///< [rows, topk], each [cols]
  const float* topk_weight;         ///< [rows, topk]
  size_t topk;
  Matrix<const float> shared;  ///< data == nullptr: none
  Matrix<float> residual;
  size_t cols;

  SIMT_DEVICE void operator()() const {
    const size_t i = column();
    if (i >= cols) return;
    float sum = 0;
    for (size_t s = 0; s < topk; ++s) {
      const size_t slot = row() * topk + s;
      sum = std::fma(topk_weight[slot], expert_rows[slot][i], sum);
    }
    if (shared.data != nullptr) sum += shared.row(row())[i];
    residual.row(row())[i] += sum;
  }
};

/// Rows to where they are wanted, as float32 or BF16.
struct MoveRows : ElementKernel {
  const float* const* from;  ///< [rows], each [cols]
  void* const* to;           ///< [rows], each [cols]
  bool as_bf16;
  size_t cols;

  SIMT_DEVICE void operator()() const {
    const size_t i = column();
    if (i >= cols) return;
    const float value = from[row()][i];
    if (as_bf16) {
      static_cast<simt::Bf16*>(to[row()])[i].bits = to_bf16(value);
    } else {
      static_cast<float*>(to[row()])[i] = value;
    }
  }
};

struct CopyRows : ElementKernel {
  Matrix<const float> from;
  Matrix<float> to;
  size_t cols;

  SIMT_DEVICE void operator()() const {
    const size_t i = column();
    if (i < cols) to.row(row())[i] = from.row(row())[i];
  }
};

/// One block per row. The sum of squares: thread t adds elements t, t + 256, ... by fused
/// multiply-adds, then the lanes of a warp add in a tree, then the warps in ascending order.
struct RmsNorm {
  static constexpr unsigned kThreads = kRowThreads;
  static constexpr unsigned kBlocksPerSm = 1;
  static constexpr unsigned kWarps = kThreads / simt::kWarp;
  [[nodiscard]] size_t shared_bytes() const { return kWarps * sizeof(float); }

  Matrix<const float> x;
  const float* weight;
  float eps;
  Matrix<float> out;  ///< may be x
  size_t cols;

  SIMT_DEVICE void operator()() const {
    simt::SharedMemory memory;
    const simt::Shared<float> sums = memory.take<float>(kWarps);
    const float* from = x.row(simt::block_x());
    float* to = out.row(simt::block_x());
    float squares = 0;
    for (size_t i = simt::thread(); i < cols; i += kThreads) {
      squares = std::fma(from[i], from[i], squares);
    }
    squares = simt::warp_sum(squares);
    if (simt::lane() == 0) sums[simt::warp()] = squares;
    simt::block_barrier();
    float sum = 0;
    for (unsigned w = 0; w < kWarps; ++w) sum += sums[w];
    const float scale = 1.0F / std::sqrt(sum / static_cast<float>(cols) + eps);
    for (size_t i = simt::thread(); i < cols; i += kThreads) to[i] = weight[i] * (from[i] * scale);
  }
};

/// One block per row; the angles are computed once for all heads.
struct Rope {
  static constexpr unsigned kThreads = kRowThreads;
  static constexpr unsigned kBlocksPerSm = 1;
  [[nodiscard]] size_t shared_bytes() const {
    return 2 * ((pairs() * sizeof(float) + 15) / 16 * 16);
  }

  Matrix<float> x;
  size_t num_heads;
  size_t head_dim;
  size_t dim;
  const uint32_t* positions;  ///< [rows]
  const float* inv_freq;      ///< [dim / 2]
  float magnitude;

  SIMT_DEVICE void operator()() const {
    const auto num_pairs = static_cast<unsigned>(dim / 2);
    simt::SharedMemory memory;
    const simt::Shared<float> cos = memory.take<float>(num_pairs);
    const simt::Shared<float> sin = memory.take<float>(num_pairs);
    const auto position = static_cast<float>(positions[simt::block_x()]);
    for (unsigned i = simt::thread(); i < num_pairs; i += kThreads) {
      const SinCos exact = sin_cos(position * inv_freq[i]);
      cos[i] = static_cast<float>(exact.cos) * magnitude;
      sin[i] = static_cast<float>(exact.sin) * magnitude;
    }
    simt::block_barrier();
    for (size_t at = simt::thread(); at < num_heads * num_pairs; at += kThreads) {
      const size_t head = at / num_pairs;
      const auto i = static_cast<unsigned>(at % num_pairs);
      float* pair = x.row(simt::block_x()) + (head + 1) * head_dim - dim + size_t{2} * i;
      const float a = pair[0];
      const float b = pair[1];
      pair[0] = a * cos[i] - b * sin[i];
      pair[1] = a * sin[i] + b * cos[i];
    }
  }

 private:
  [[nodiscard]] size_t pairs() const { return dim / 2; }
};

}  // namespace troupe::kernels::cuda
