#pragma once

// Nothing but products of matrices on registers: the most that `mma`, by which all kernels here
// multiply, does on a device. sm_90 has wgmma, too, which does more and which nothing here uses.

#include "kernels/cuda/simt.cuh"

namespace troupe::kernels::cuda {

/// Adds 1 * 1 until every sum of every thread is 16 * `rounds`. A warp has eight sums of matrices
/// at once, so that no product waits for the one before it; a multiprocessor of an A100 needs 8
/// cycles for a product of each of its quarters. Limit: tensor cores.
struct MatrixPeak {
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocksPerSm = 2;
  static constexpr unsigned kSums = 8;
  static constexpr unsigned kWarps = kThreads / simt::kWarp;
  /// Sums are whole numbers that float32 holds.
  static constexpr unsigned kMaxRounds = 1U << 19U;
  [[nodiscard]] size_t shared_bytes() const { return 0; }

  unsigned rounds;  ///< at most kMaxRounds
  float* counts;    ///< [blocks, kWarps] multiply-adds that a warp did, by its sums

  SIMT_DEVICE void operator()() const {
    const uint32_t ones = simt::to_bf16x2(1, 1);
    float c[kSums][4];
    // Another first value each: a compiler makes equal sums once.
    SIMT_UNROLL for (unsigned s = 0; s < kSums; ++s) {
      SIMT_UNROLL for (unsigned e = 0; e < 4; ++e) c[s][e] = static_cast<float>(s);
    }
    for (unsigned r = 0; r < rounds; ++r) {
      SIMT_UNROLL for (unsigned s = 0; s < kSums; ++s) {
        simt::mma(c[s], ones, ones, ones, ones, ones, ones);
      }
    }
    float sum = 0;
    SIMT_UNROLL for (unsigned s = 0; s < kSums; ++s) {
      SIMT_UNROLL for (unsigned e = 0; e < 4; ++e) sum += c[s][e] - static_cast<float>(s);
    }
    sum = simt::warp_sum(sum);
    if (simt::lane() == 0) counts[simt::block_x() * kWarps + simt::warp()] = sum;
  }
};

}  // namespace troupe::kernels::cuda
