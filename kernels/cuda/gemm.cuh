#pragma once

// Products of rows and weights, y = x w^T (+ bias), many at once, by one rule that makes a row's
// bits independent of the kernel, the tile and the other rows:
//
//   x is rounded to BF16, and put into the order of the weights' columns if they have one. The
//   row's elements are cut into slices of 128. Of a slice, blocks of 32 elements are multiplied in
//   ascending order, each by two mma.m16n8k16 in the order that weights.cuh gives, accumulating in
//   float32 from 0. Where weights have scales, the sum of each stretch with one scale (128
//   elements, or 32 for groups that are no multiple of 128) is added to the slice's by one fused
//   multiply-add. Slices add in ascending order from 0; the bias is last.
//
// Two shapes: StreamGemm for few rows, TileGemm for many. F32 and F16 weights (the gate) are not
// rounded: FloatGemm follows rule 1 of kernels/ops.hpp bit for bit, without tensor cores.

#include <cmath>

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/weights.cuh"

namespace troupe::kernels::cuda {

/// One product.
struct Product {
  Matrix<const float> x;             ///< [any, in]
  const uint32_t* x_rows = nullptr;  ///< [rows] as FfnParams::x_rows
  Matrix<simt::Bf16> rounded{};      ///< [rows, in rounded up to slices]: x for the tensor cores
  size_t rows = 0;
  Weights w{};
  const float* bias = nullptr;  ///< [out] or nullptr
  Matrix<float> y{};            ///< [rows, out]

  [[nodiscard]] SIMT_DEVICE const float* x_row(size_t r) const {
    return x.row(x_rows == nullptr ? r : x_rows[r]);
  }
};

/// Which rows of which product a block takes.
struct RowTile {
  uint32_t product = 0;
  uint32_t first_row = 0;
};

inline constexpr unsigned kRoundRows = 16;  ///< of a tile of RoundRows

/// x to BF16, ties to even, in the order that its weights want; zeros up to the end of the slice.
/// Limit: memory, 6 bytes an element; with an order of columns, the caches that elements from
/// anywhere in a row are read through.
template <bool kInterleaved>
struct RoundRows {
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocksPerSm = 1;
  [[nodiscard]] size_t shared_bytes() const { return 0; }

  const Product* products;
  const RowTile* tiles;  ///< by block_x; block_y: 1,024 columns

  SIMT_DEVICE void operator()() const {
    const RowTile tile = tiles[simt::block_x()];
    const Product& p = products[tile.product];
    // A thread has four columns, and writes them together.
    const size_t to = (simt::block_y() * size_t{kThreads} + simt::thread()) * 4;
    if (to >= p.rounded.stride) return;
    size_t from = to;
    if constexpr (kInterleaved) {  // quads 0 4 1 5 2 6 3 7 of a block
      const size_t quad = to % kBlock / 4;
      from = to / kBlock * kBlock + (quad / 2 + quad % 2 * 4) * 4;
    }
    size_t at[4];
    SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) at[i] = element(p.w, from + i);
    const size_t last = p.rows - tile.first_row < kRoundRows ? p.rows : tile.first_row + kRoundRows;
    for (size_t r = tile.first_row; r < last; ++r) {
      const float* x = p.x_row(r);
      float v[4];
      SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) v[i] = at[i] < p.w.in ? x[at[i]] : 0.0F;
      simt::store(p.rounded.row(r) + to,
                  simt::Words<2>{simt::to_bf16x2(v[0], v[1]), simt::to_bf16x2(v[2], v[3])});
    }
  }

 private:
  /// Which element of a row of x is the one that column `k` of the weights multiplies.
  SIMT_DEVICE static size_t element(const Weights& w, size_t k) {
    if constexpr (kInterleaved) {
      if (w.columns != nullptr && k < w.in) return w.columns[k];
    }
    return k;
  }
};

/// c [16, 8] += 32 elements: rows g and g + 8 of the activations, column g of the weights.
SIMT_DEVICE void multiply_block(float (&c)[4], const simt::Words<4>& top,
                                const simt::Words<4>& bottom, const simt::Words<4>& b) {
  simt::mma(c, top.w[0], bottom.w[0], top.w[1], bottom.w[1], b.w[0], b.w[1]);
  simt::mma(c, top.w[2], bottom.w[2], top.w[3], bottom.w[3], b.w[2], b.w[3]);
}

/// Elements with one scale, of a slice.
SIMT_DEVICE unsigned scale_step(const Weights& w) {
  return w.group_scales == nullptr || w.group % kSlice == 0 ? kSlice : kBlock;
}

/// c += sum * scale of outputs o, o + 1 at element k; sum = 0.
template <class W>
SIMT_DEVICE void add_scaled(const Weights& w, size_t o, size_t k, float (&sum)[4], float (&c)[4]) {
  SIMT_UNROLL for (unsigned i = 0; i < 2; ++i) {
    const float scale = o + i < w.out && k < w.in ? W::scale(w, o + i, k) : 0.0F;
    c[i] = std::fma(sum[i], scale, c[i]);
    c[i + 2] = std::fma(sum[i + 2], scale, c[i + 2]);
    sum[i] = 0;
    sum[i + 2] = 0;
  }
}

/// Few rows: weights go from memory to registers, once per 16 rows. A block makes [16, 32] of y;
/// its eight warps take a slice each, and the sums of eight slices meet in shared memory in order.
/// Shared memory: 20 KB. Registers: at most 128, so two blocks per SM (A100: 64 KB of weights in
/// flight). Limit: memory, the bytes of the weights.
template <class W>
struct StreamGemm {
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocksPerSm = 2;
  static constexpr unsigned kRows = 16;
  static constexpr unsigned kOutputs = 32;
  static constexpr unsigned kWarps = kThreads / simt::kWarp;
  static constexpr unsigned kColumns = kOutputs / 8;     // mma tiles of 8 outputs
  static constexpr unsigned kBlocks = kSlice / kBlock;   // of a slice
  static constexpr unsigned kSumStride = kOutputs + 8;   // spreads rows over banks
  static constexpr unsigned kSums = kRows * kSumStride;  // of a warp
  static constexpr unsigned kPerThread = kRows * kOutputs / kThreads;
  [[nodiscard]] size_t shared_bytes() const { return kWarps * kSums * sizeof(float); }

  const Product* products;
  const RowTile* tiles;  ///< by block_x, first rows multiples of 16; block_y: 32 outputs

  SIMT_DEVICE void operator()() const {
    const RowTile tile = tiles[simt::block_x()];
    const Product& p = products[tile.product];
    const unsigned first_output = simt::block_y() * kOutputs;
    if (first_output >= p.w.out) return;
    simt::SharedMemory memory;
    const simt::Shared<float> sums = memory.take<float>(kWarps * kSums);
    const auto num_slices = static_cast<unsigned>((p.w.in + kSlice - 1) / kSlice);

    float total[kPerThread] = {};
    typename W::Raw raw[kColumns][kBlocks];
    load_slice(p, first_output, simt::warp(), num_slices, raw);
    for (unsigned first = 0; first < num_slices; first += kWarps) {
      const unsigned slice = first + simt::warp();
      float c[kColumns][4] = {};
      if (slice < num_slices) multiply_slice(p, tile.first_row, first_output, slice, raw, c);
      put_sums(sums, c);
      load_slice(p, first_output, slice + kWarps, num_slices, raw);  // while the sums meet
      simt::block_barrier();
      for (unsigned w = 0; w < kWarps && first + w < num_slices; ++w) {
        SIMT_UNROLL for (unsigned i = 0; i < kPerThread; ++i) {
          total[i] += sums[w * kSums + row_of(i) * kSumStride + output_of(i)];
        }
      }
      simt::block_barrier();
    }
    SIMT_UNROLL for (unsigned i = 0; i < kPerThread; ++i) {
      const unsigned r = tile.first_row + row_of(i);
      const unsigned o = first_output + output_of(i);
      if (r < p.rows && o < p.w.out) {
        p.y.row(r)[o] = p.bias == nullptr ? total[i] : total[i] + p.bias[o];
      }
    }
  }

 private:
  // Of the block's [16, 32] elements a thread ends up with these.
  SIMT_DEVICE static unsigned row_of(unsigned i) {
    return (simt::thread() + i * kThreads) / kOutputs;
  }
  SIMT_DEVICE static unsigned output_of(unsigned i) {
    return (simt::thread() + i * kThreads) % kOutputs;
  }

  SIMT_DEVICE static void load_slice(const Product& p, unsigned first_output, unsigned slice,
                                     unsigned num_slices,
                                     typename W::Raw (&raw)[kColumns][kBlocks]) {
    if (slice >= num_slices) return;
    const unsigned g = simt::lane() / 4;
    const unsigned t = simt::lane() % 4;
    SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
      const unsigned o = first_output + 8 * n + g;
      SIMT_UNROLL for (unsigned b = 0; b < kBlocks; ++b) {
        if (o < p.w.out) {
          raw[n][b] = W::load(p.w, o, slice * size_t{kSlice} + b * kBlock, t);
        } else {
          raw[n][b] = {};
        }
      }
    }
  }

  SIMT_DEVICE static void multiply_slice(const Product& p, unsigned first_row,
                                         unsigned first_output, unsigned slice,
                                         const typename W::Raw (&raw)[kColumns][kBlocks],
                                         float (&c)[kColumns][4]) {
    const unsigned g = simt::lane() / 4;
    const unsigned t = simt::lane() % 4;
    const unsigned step = scale_step(p.w);
    float sum[kColumns][4] = {};
    SIMT_UNROLL for (unsigned b = 0; b < kBlocks; ++b) {
      const size_t k = slice * size_t{kSlice} + b * kBlock;
      simt::Words<4> top{};
      simt::Words<4> bottom{};
      if (first_row + g < p.rows) top = simt::load<4>(p.rounded.row(first_row + g) + k + 8 * t);
      if (first_row + g + 8 < p.rows) {
        bottom = simt::load<4>(p.rounded.row(first_row + g + 8) + k + 8 * t);
      }
      SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
        const unsigned o = first_output + 8 * n;
        simt::Words<4> weights{};
        if (o + g < p.w.out) weights = W::decode(p.w, o + g, k, raw[n][b]);
        multiply_block(sum[n], top, bottom, weights);
        if (W::kScaled && (b + 1) * kBlock % step == 0) {
          add_scaled<W>(p.w, o + 2 * t, k + kBlock - step, sum[n], c[n]);
        }
      }
    }
    if constexpr (!W::kScaled) {
      SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
        SIMT_UNROLL for (unsigned e = 0; e < 4; ++e) c[n][e] = sum[n][e];
      }
    }
  }

  SIMT_DEVICE static void put_sums(const simt::Shared<float>& sums, const float (&c)[kColumns][4]) {
    const unsigned g = simt::lane() / 4;
    const unsigned t = simt::lane() % 4;
    SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
      SIMT_UNROLL for (unsigned h = 0; h < 2; ++h) {
        float* at = sums.span(simt::warp() * kSums + (g + 8 * h) * kSumStride + 8 * n + 2 * t, 2);
        at[0] = c[n][2 * h];
        at[1] = c[n][2 * h + 1];
      }
    }
  }
};

/// Many rows: a block makes [128, 128] of y, or [128, 64] where weights have scales; both operands
/// go through shared memory in blocks of 32 elements, three of them in flight. A warp makes [64,
/// 32] of 12 loads and 32 mma a block, or [32, 32] of 8 and 16. Shared memory: 48 KB (36 KB).
/// Registers: up to 255 (64 sums and 64 totals, or 32 of each and of the slice), so one block per
/// SM of an A100 and eight warps to hide latency. Limit: tensor cores.
template <class W>
struct TileGemm {
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocksPerSm = 1;
  static constexpr unsigned kRows = 128;
  static constexpr unsigned kOutputs = W::kScaled ? 64 : 128;
  static constexpr unsigned kWarpOutputs = 32;
  static constexpr unsigned kWarpsAcross = kOutputs / kWarpOutputs;
  static constexpr unsigned kWarpRows = kRows * kWarpsAcross / (kThreads / simt::kWarp);
  static constexpr unsigned kRowTiles = kWarpRows / 16;
  static constexpr unsigned kColumns = kWarpOutputs / 8;
  static constexpr unsigned kStages = 3;
  static constexpr unsigned kChunk = 8;  // elements of 16 bytes
  static constexpr unsigned kChunks = kBlock / kChunk;
  static constexpr unsigned kRowCopies = kRows * kChunks / kThreads;        // of a thread
  static constexpr unsigned kOutputCopies = kOutputs * kChunks / kThreads;  // of a thread
  [[nodiscard]] size_t shared_bytes() const {
    return size_t{kStages} * (kRows + kOutputs) * kBlock * sizeof(simt::Bf16);
  }

  const Product* products;
  const RowTile* tiles;  ///< by block_x, first rows multiples of 128; block_y: outputs

  SIMT_DEVICE void operator()() const {
    const RowTile tile = tiles[simt::block_x()];
    const Product& p = products[tile.product];
    const size_t first_output = simt::block_y() * size_t{kOutputs};
    if (first_output >= p.w.out) return;
    simt::SharedMemory memory;
    const auto rows = memory.take<simt::Bf16>(kStages * kRows * kBlock);
    const auto weights = memory.take<simt::Bf16>(kStages * kOutputs * kBlock);
    const auto num_blocks =
        static_cast<unsigned>((p.w.in + kSlice - 1) / kSlice * (kSlice / kBlock));
    // Copies arrive by themselves; what has to be decoded waits in registers for a stage.
    const bool copies = W::kIsBf16 && p.w.in % kChunk == 0;
    typename W::Raw raw[kOutputCopies];
    SIMT_UNROLL for (unsigned b = 0; b < kStages - 1; ++b) {
      fetch(p, tile.first_row, first_output, b, copies, rows, weights, raw);
      place(p, first_output, b, copies, weights, raw);
    }

    Sums sums{};
    Sums slice{};
    Sums total{};
    const unsigned step = scale_step(p.w);
    for (unsigned b = 0; b < num_blocks; ++b) {
      simt::wait_copies<kStages - 2>();
      simt::block_barrier();  // block b is there, and no warp is at block b - 1 any more
      fetch(p, tile.first_row, first_output, b + kStages - 1, copies, rows, weights, raw);
      multiply(b % kStages, rows, weights, sums);
      if ((b + 1) * kBlock % step == 0) {
        end_stretch(p, first_output, (b + 1) * size_t{kBlock} - step, sums, slice);
      }
      if ((b + 1) * kBlock % kSlice == 0) end_slice(sums, slice, total);
      place(p, first_output, b + kStages - 1, copies, weights, raw);
    }
    simt::wait_copies<0>();
    write(p, tile.first_row, first_output, total);
  }

 private:
  struct Sums {
    float c[kRowTiles][kColumns][4];
  };

  SIMT_DEVICE static unsigned warp_row() { return simt::warp() / kWarpsAcross * kWarpRows; }
  SIMT_DEVICE static unsigned warp_output() { return simt::warp() % kWarpsAcross * kWarpOutputs; }

  /// Starts to bring block `b` of both operands; beyond the last one: zeros.
  SIMT_DEVICE static void fetch(const Product& p, size_t first_row, size_t first_output, unsigned b,
                                bool copies, const simt::Shared<simt::Bf16>& rows,
                                const simt::Shared<simt::Bf16>& weights,
                                typename W::Raw (&raw)[kOutputCopies]) {
    const size_t k = size_t{b} * kBlock;
    const unsigned stage = b % kStages;
    SIMT_UNROLL for (unsigned i = 0; i < kRowCopies; ++i) {
      const unsigned at = simt::thread() + i * kThreads;
      const size_t r = first_row + at / kChunks;
      const bool wanted = r < p.rows && k < p.rounded.stride;
      const simt::Bf16* from = p.rounded.data;
      if (wanted) from = p.rounded.row(r) + k + at % kChunks * kChunk;
      simt::copy_async(rows.span((stage * kRows * kChunks + at) * kChunk, kChunk), from, wanted);
    }
    SIMT_UNROLL for (unsigned i = 0; i < kOutputCopies; ++i) {
      const unsigned at = simt::thread() + i * kThreads;
      const size_t o = first_output + at / kChunks;
      const unsigned t = at % kChunks;
      if (copies) {
        const bool wanted = o < p.w.out && k + t * kChunk < p.w.in;
        const auto* from = static_cast<const simt::Bf16*>(p.w.data);
        if (wanted) from += o * p.w.in + k + t * kChunk;
        simt::copy_async(weights.span((stage * kOutputs * kChunks + at) * kChunk, kChunk), from,
                         wanted);
      } else {
        raw[i] = o < p.w.out ? W::load(p.w, o, k, t) : typename W::Raw{};
      }
    }
    simt::end_copies();
  }

  /// Decodes what fetch() left in registers into its stage.
  SIMT_DEVICE static void place(const Product& p, size_t first_output, unsigned b, bool copies,
                                const simt::Shared<simt::Bf16>& weights,
                                const typename W::Raw (&raw)[kOutputCopies]) {
    if (copies) return;
    SIMT_UNROLL for (unsigned i = 0; i < kOutputCopies; ++i) {
      const unsigned at = simt::thread() + i * kThreads;
      const size_t o = first_output + at / kChunks;
      simt::Words<4> decoded{};
      if (o < p.w.out) decoded = W::decode(p.w, o, size_t{b} * kBlock, raw[i]);
      simt::store(weights.span((b % kStages * kOutputs * kChunks + at) * kChunk, kChunk), decoded);
    }
  }

  SIMT_DEVICE static simt::Words<4> load_chunk(const simt::Shared<simt::Bf16>& from, unsigned row) {
    return simt::load<4>(from.span((row * kChunks + simt::lane() % 4) * kChunk, kChunk));
  }

  SIMT_DEVICE static void multiply(unsigned stage, const simt::Shared<simt::Bf16>& rows,
                                   const simt::Shared<simt::Bf16>& weights, Sums& sums) {
    const unsigned g = simt::lane() / 4;
    simt::Words<4> b[kColumns];
    SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
      b[n] = load_chunk(weights, stage * kOutputs + warp_output() + 8 * n + g);
    }
    SIMT_UNROLL for (unsigned m = 0; m < kRowTiles; ++m) {
      const unsigned row = stage * kRows + warp_row() + 16 * m + g;
      const simt::Words<4> top = load_chunk(rows, row);
      const simt::Words<4> bottom = load_chunk(rows, row + 8);
      SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
        multiply_block(sums.c[m][n], top, bottom, b[n]);
      }
    }
  }

  SIMT_DEVICE static void end_stretch(const Product& p, size_t first_output, size_t k, Sums& sums,
                                      Sums& slice) {
    if constexpr (W::kScaled) {
      SIMT_UNROLL for (unsigned m = 0; m < kRowTiles; ++m) {
        SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
          const size_t o = first_output + warp_output() + 8 * n + 2 * (simt::lane() % 4);
          add_scaled<W>(p.w, o, k, sums.c[m][n], slice.c[m][n]);
        }
      }
    }
  }

  SIMT_DEVICE static void end_slice(Sums& sums, Sums& slice, Sums& total) {
    Sums& done = W::kScaled ? slice : sums;
    SIMT_UNROLL for (unsigned m = 0; m < kRowTiles; ++m) {
      SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
        SIMT_UNROLL for (unsigned e = 0; e < 4; ++e) {
          total.c[m][n][e] += done.c[m][n][e];
          done.c[m][n][e] = 0;
        }
      }
    }
  }

  SIMT_DEVICE static void write(const Product& p, size_t first_row, size_t first_output,
                                const Sums& total) {
    SIMT_UNROLL for (unsigned m = 0; m < kRowTiles; ++m) {
      SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
        SIMT_UNROLL for (unsigned e = 0; e < 4; ++e) {
          const size_t r = first_row + warp_row() + 16 * m + simt::lane() / 4 + e / 2 * 8;
          const size_t o = first_output + warp_output() + 8 * n + simt::lane() % 4 * 2 + e % 2;
          if (r >= p.rows || o >= p.w.out) continue;
          const float y = total.c[m][n][e];
          p.y.row(r)[o] = p.bias == nullptr ? y : y + p.bias[o];
        }
      }
    }
  }
};

/// Products in float32: 16 lanes make an output, each one of the 16 partial sums of rule 1, of
/// eight rows; a block makes [8, 16] of y. Limit: the L1 cache, nine loads for eight multiply-adds
/// a lane.
template <class T>
struct FloatGemm {
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocksPerSm = 1;
  static constexpr unsigned kRows = 8;
  static constexpr unsigned kLanes = 16;
  static constexpr unsigned kOutputs = kThreads / kLanes;
  [[nodiscard]] size_t shared_bytes() const { return 0; }

  const Product* products;
  const RowTile* tiles;  ///< by block_x, first rows multiples of 8; block_y: 16 outputs

  SIMT_DEVICE void operator()() const {
    const RowTile tile = tiles[simt::block_x()];
    const Product& p = products[tile.product];
    const size_t first_output = simt::block_y() * size_t{kOutputs};
    if (first_output >= p.w.out) return;
    const size_t o = first_output + simt::thread() / kLanes;
    const size_t last_row = p.rows - 1;
    const auto* w = static_cast<const T*>(p.w.data) + (o < p.w.out ? o : first_output) * p.w.in;
    float sums[kRows] = {};
    for (size_t k = simt::thread() % kLanes; k < p.w.in; k += kLanes) {
      const float weight = value_of(w[k]);
      SIMT_UNROLL for (unsigned i = 0; i < kRows; ++i) {
        const size_t r = tile.first_row + i;
        sums[i] = std::fma(p.x_row(r < last_row ? r : last_row)[k], weight, sums[i]);
      }
    }
    SIMT_UNROLL for (unsigned i = 0; i < kRows; ++i) {
      float sum = sums[i];
      for (unsigned mask = kLanes / 2; mask > 0; mask /= 2) sum += simt::shuffle_xor(sum, mask);
      const size_t r = tile.first_row + i;
      if (simt::thread() % kLanes == 0 && r < p.rows && o < p.w.out) {
        p.y.row(r)[o] = p.bias == nullptr ? sum : sum + p.bias[o];
      }
    }
  }

 private:
  SIMT_DEVICE static float value_of(float v) { return v; }
  SIMT_DEVICE static float value_of(uint16_t v) { return from_f16(v); }
};

}  // namespace troupe::kernels::cuda
