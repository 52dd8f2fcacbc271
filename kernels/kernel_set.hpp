#pragma once

// What a CPU version has to provide: one function per operation that computes a part of it in the
// calling thread. CpuOps checks shapes, cuts operations into parts and spreads them over threads.

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/panels.hpp"
#include "kernels/ops.hpp"

namespace troupe::kernels {

/// The half-open range of rows, outputs or heads that one call computes.
struct Range {
  size_t first = 0;
  size_t last = 0;
  [[nodiscard]] size_t size() const { return last - first; }
};

/// Activations rounded to 8 bits by rule 5: 32 elements share a scale.
struct QuantisedRows {
  int8_t* values = nullptr;  ///< [rows, cols]
  float* scales = nullptr;   ///< [rows, cols / 32]
  int32_t* sums = nullptr;   ///< [rows, cols / 32] of the values
  size_t rows = 0;
  size_t cols = 0;
  [[nodiscard]] size_t blocks() const { return cols / kPanelBlock; }
};

/// Columns [first_col, first_col + x.cols) of out = x. REQUIRES: both are multiples of 32.
struct QuantiseParams {
  ConstRows x;
  QuantisedRows out;
  size_t first_col = 0;
};

/// As GemmParams, with integer weights.
struct QuantisedGemmParams {
  QuantisedRows x;
  const uint32_t* x_rows = nullptr;  ///< as FfnParams::x_rows
  WeightView w;
  const float* bias = nullptr;
  Rows y;
};

/// Rows over the same blocks that attention may take through keys and values together.
inline constexpr size_t kRowsTogether = 12;

/// The end of the neighbouring rows from `first` on that are over the same blocks, at most `limit`.
inline size_t end_of_shared_blocks(std::span<const AttentionRow> rows, size_t first, size_t limit) {
  size_t last = first + 1;
  while (last < limit && rows[last].blocks.data() == rows[first].blocks.data()) ++last;
  return last;
}

struct KernelSet {
  const char* target;
  void (*embed)(const EmbedParams&, Range rows);
  /// Floating-point weights.
  void (*gemm)(const GemmParams&, Range outputs);
  void (*quantise)(const QuantiseParams&, Range rows);
  /// REQUIRES: outputs begin and end at multiples of 16.
  void (*quantised_gemm)(const QuantisedGemmParams&, Range outputs);
  void (*rms_norm)(const RmsNormParams&, Range rows);
  void (*rope)(const RopeParams&, Range rows);
  void (*silu_mul)(const SiluMulParams&, Range rows);
  void (*add)(const AddParams&, Range rows);
  void (*topk_gate)(const TopkGateParams&, Range rows);
  void (*store_kv)(const StoreKvParams&, Range rows);
  void (*mla_absorbed)(const MlaAbsorbedParams&, Range rows, Range heads);
  void (*mla_expanded)(const MlaExpandedParams&, Range rows, Range heads);
  void (*combine)(const CombineParams&, Range rows);
  /// The arithmetic peak: nothing but multiply-adds, `rounds` times some thousands, on registers
  /// alone; of floats, and of bytes as products with integer weights have them. Each adds 1, so
  /// that nobody can leave them out.
  /// @returns the sum, which is how many there were
  uint64_t (*float_peak)(size_t rounds);
  uint64_t (*integer_peak)(size_t rounds);
};

/// The specification, kernels/cpu/.
const KernelSet& scalar_kernels();

/// All versions that this CPU runs, the best one first and the specification last; nothing else
/// where the CPU has no fused multiply-add, since an emulated one is slower than a plain loop over
/// std::fma.
std::span<const KernelSet* const> cpu_kernels();

}  // namespace troupe::kernels
