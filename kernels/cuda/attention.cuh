#pragma once

// MLA in absorbed form over paged latent KV, for decode and, row by row, for prefill. The context
// is cut into splits of 512 positions whatever the batch. Either a block makes the part of one
// split and MergeSplits adds them, or, where there is enough to do, a block goes through all splits
// of its rows and adds as it goes, to the same bits. Those of a (row, head) depend on its query and
// context alone:
//
//   Queries and KV are rounded to BF16. A score accumulates in float32 over the latent, then the
//   rotated part, in blocks of 32 elements in ascending order (multiply_block), and is multiplied
//   by `scale`. Positions go in tiles of 32. Of each tile, m becomes m', the larger of m and its
//   scores; f = exp(m - m'); p = exp(score - m') in BF16; l becomes l * f + (the sum of the first
//   16 p + that of the others); the output, times f, accumulates p times the latent by two mma.
//   Splits add in ascending order: with M' the larger of M and a split's m, the output and l so
//   far, times exp(M - M'), plus the split's, times exp(m - M'), by fused multiply-adds; the result
//   is their quotient.
//
// A position that a row does not see weighs 0, so it must be finite if it shares blocks with rows
// that see it.

#include <cmath>
#include <limits>

#include "kernels/cpu/exp.hpp"
#include "kernels/cuda/gemm.cuh"

namespace troupe::kernels::cuda {

inline constexpr unsigned kSplit = 512;
/// Largest sizes; smaller ones are padded.
inline constexpr unsigned kMaxRank = 512;
inline constexpr unsigned kMaxRope = 64;

/// What one row sees.
struct VisibleKv {
  size_t first_block;  ///< in the list of all rows' blocks
  uint32_t context_len;
  uint32_t
      first_part;  ///< in parts: of its first split, the others follow; its only one if `whole`
  bool whole;      ///< one block goes through all its splits
};

/// Queries of rows over the same blocks, and what of their splits a block does.
struct QueryTile {
  uint32_t first_query;  ///< row * num_heads + head
  uint32_t num_queries;  ///< 1 .. 64, consecutive
  uint32_t first;        ///< position; a multiple of a split
  uint32_t end;          ///< at most the largest context_len of their rows
};

/// Parts of splits, by part and head; or sums of them.
struct Parts {
  float* out;      ///< [parts, num_heads, rank], not divided
  float* maximum;  ///< [parts, num_heads]
  float* sum;      ///< [parts, num_heads]
};

/// The sum of some splits of one (row, head) without its output.
struct SplitSum {
  float maximum = 0;
  float sum = 0;
  /// What the output so far and that of the split added last are multiplied by.
  float old_factor = 0;
  float new_factor = 1;

  /// @param first whether nothing was added before
  SIMT_DEVICE void add(float split_maximum, float split_sum, bool first) {
    const float larger = first ? split_maximum : std::fmax(maximum, split_maximum);
    old_factor = first ? 0.0F : exp_f32(maximum - larger);
    new_factor = exp_f32(split_maximum - larger);
    sum = std::fma(split_sum, new_factor, sum * old_factor);
    maximum = larger;
  }
  /// The output with the split that was added last. @param so_far anything finite at the first
  SIMT_DEVICE float output(float so_far, float of_split) const {
    return std::fma(of_split, new_factor, so_far * old_factor);
  }
};

/// One block per tile of 64 queries and split, or all their splits, so that heads (and rows of a
/// chunk) share what is read of KV. Warp w has 16 queries, w % 4, and one half, w / 4, of a tile's
/// positions for the scores, of the latent's columns for the output. Shared memory: 150 KB, KV in
/// two stages. Registers: up to 255, 128 of them the output. So one block per SM of an A100. Limit:
/// 121 operations per byte of BF16 KV that a block reads. The 128 heads of V3 read it twice, once
/// from the L2 cache, which makes 242 per byte of memory, above the ridge of an A100 (156): tensor
/// cores, to whose pace shared memory delivers two thirds of the operands. The 16 of V2-Lite fill a
/// quarter of a tile: memory.
/// @tparam Kv float, or Bf16, which is copied asynchronously
template <class Kv>
struct AttendSplit {
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocksPerSm = 1;
  static constexpr unsigned kQueries = 64;
  static constexpr unsigned kTokens = 32;  // of a tile
  static constexpr unsigned kChunk = 8;    // elements of 16 bytes
  static constexpr unsigned kWidth = kMaxRank + kMaxRope;
  static constexpr unsigned kChunks = kWidth / kChunk;
  static constexpr unsigned kLatentChunks = kMaxRank / kChunk;
  static constexpr unsigned kWeightStride = kTokens + 8;  // no bank conflicts
  static constexpr unsigned kColumns = kMaxRank / 2 / 8;  // mma tiles of a warp's output
  [[nodiscard]] size_t shared_bytes() const {
    return sizeof(simt::Bf16) * ((kQueries + 2 * kTokens) * kWidth + kQueries * kWeightStride) +
           sizeof(float) * 4 * kQueries;
  }

  Matrix<const float> q_latent;  ///< [rows, num_heads * rank]
  Matrix<const float> q_rope;    ///< [rows, num_heads * rope]
  const VisibleKv* rows;
  const void* const* blocks;  ///< each [block_tokens, rank + rope]
  const QueryTile* tiles;     ///< by block_x
  unsigned num_heads;
  unsigned rank;
  unsigned rope;
  unsigned block_tokens;
  float scale;
  Parts parts;
  Matrix<float> out;  ///< [rows, num_heads * rank], of rows that are `whole`

  SIMT_DEVICE void operator()() const {
    const QueryTile tile = tiles[simt::block_x()];
    simt::SharedMemory memory;
    const auto queries = memory.take<simt::Bf16>(kQueries * kWidth);
    const auto kv = memory.take<simt::Bf16>(2 * kTokens * kWidth);
    const auto weights = memory.take<simt::Bf16>(kQueries * kWeightStride);
    const auto maxima = memory.take<float>(2 * kQueries);  // by half
    const auto sums = memory.take<float>(2 * kQueries);

    load_queries(tile, queries);
    fetch(tile, tile.first, 0, kv);
    State state;
    SIMT_UNROLL for (unsigned h = 0; h < 2; ++h) state.context[h] = context_of(tile, query(h));
    for (unsigned token = tile.first, stage = 0; token < tile.end; token += kTokens, stage ^= 1U) {
      simt::wait_copies<0>();
      simt::block_barrier();  // this tile is there, and no warp reads the other stage
      fetch(tile, token + kTokens, stage ^ 1U, kv);
      float scores[2][4] = {};
      score(queries, kv, stage, scores);
      update(token, scores, maxima, sums, weights, state);
      simt::block_barrier();  // weights are there
      SIMT_UNROLL for (unsigned h = 0; h < 2; ++h) {
        const float both = sums[query(h)] + sums[kQueries + query(h)];
        state.sum[h] = state.sum[h] * state.factor[h] + both;
      }
      add_values(weights, kv, stage, state);
      if ((token + kTokens) % kSplit == 0 || token + kTokens >= tile.end) {
        end_split(tile, token / kSplit, state);
      }
    }
    simt::wait_copies<0>();
  }

 private:
  struct State {  // of queries g and g + 8 of the warp's 16
    float maximum[2] = {-kInfinity, -kInfinity};
    float sum[2] = {};
    float factor[2] = {};
    unsigned context[2] = {};
    SplitSum total[2] = {};  // of the splits before, where one block goes through all
    float out[kColumns][4] = {};
  };
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  SIMT_DEVICE static unsigned query(unsigned h) {
    return simt::warp() % 4 * 16 + simt::lane() / 4 + 8 * h;
  }
  SIMT_DEVICE static unsigned half() { return simt::warp() / 4; }

  /// Positions that query `i` of the tile sees; none if there is no such query.
  SIMT_DEVICE unsigned context_of(const QueryTile& tile, unsigned i) const {
    return i < tile.num_queries ? rows[(tile.first_query + i) / num_heads].context_len : 0;
  }

  /// Where chunk `c` of a row lies: the rows that eight lanes read together are spread over all
  /// banks, both for neighbouring chunks of two rows and for one chunk of eight.
  SIMT_DEVICE static unsigned chunk_at(unsigned row, unsigned c) {
    return (row * kChunks + (c ^ ((row & 1U) << 2U | (row >> 1U & 3U)))) * kChunk;
  }

  /// Chunk `c` of the padded row whose two parts lie at `latent` and `rotated`, as BF16.
  template <class T>
  SIMT_DEVICE simt::Words<4> padded_chunk(const T* latent, const T* rotated, unsigned c) const {
    const bool in_latent = c < kLatentChunks;
    const T* from = in_latent ? latent : rotated;
    const unsigned size = in_latent ? rank : rope;
    const unsigned at = (in_latent ? c : c - kLatentChunks) * kChunk;
    float v[kChunk];
    SIMT_UNROLL for (unsigned i = 0; i < kChunk; ++i) {
      v[i] = at + i < size ? to_float(from[at + i]) : 0.0F;
    }
    return {simt::to_bf16x2(v[0], v[1]), simt::to_bf16x2(v[2], v[3]), simt::to_bf16x2(v[4], v[5]),
            simt::to_bf16x2(v[6], v[7])};
  }
  SIMT_DEVICE static float to_float(float v) { return v; }
  SIMT_DEVICE static float to_float(simt::Bf16 v) { return from_bf16(v.bits); }

  SIMT_DEVICE void load_queries(const QueryTile& tile,
                                const simt::Shared<simt::Bf16>& queries) const {
    for (unsigned i = simt::thread(); i < kQueries * kChunks; i += kThreads) {
      const unsigned q = i / kChunks;
      const unsigned c = i % kChunks;
      simt::Words<4> chunk{};
      if (q < tile.num_queries) {
        const unsigned row = (tile.first_query + q) / num_heads;
        const unsigned head = (tile.first_query + q) % num_heads;
        chunk = padded_chunk(q_latent.row(row) + size_t{head} * rank,
                             q_rope.row(row) + size_t{head} * rope, c);
      }
      simt::store(queries.span(chunk_at(q, c), kChunk), chunk);
    }
  }

  /// Brings positions [token, token + 32) into a stage; zeros from the tile's end on.
  SIMT_DEVICE void fetch(const QueryTile& tile, unsigned token, unsigned stage,
                         const simt::Shared<simt::Bf16>& kv) const {
    const void* const* in_order = blocks + rows[tile.first_query / num_heads].first_block;
    const bool copies =
        sizeof(Kv) == sizeof(simt::Bf16) && rank % kChunk == 0 && rope % kChunk == 0;
    for (unsigned i = simt::thread(); i < kTokens * kChunks; i += kThreads) {
      const unsigned t = token + i / kChunks;
      const unsigned c = i % kChunks;
      simt::Bf16* to = kv.span(chunk_at(stage * kTokens + i / kChunks, c), kChunk);
      const Kv* row = nullptr;
      if (t < tile.end) {
        row = static_cast<const Kv*>(in_order[t / block_tokens]) +
              size_t{t % block_tokens} * (rank + rope);
      }
      if (copies) {
        const bool in_latent = c < kLatentChunks;
        const unsigned at = (in_latent ? c : c - kLatentChunks) * kChunk;
        const bool wanted = t < tile.end && at < (in_latent ? rank : rope);
        simt::copy_async(to, wanted ? row + (in_latent ? 0 : rank) + at : row, wanted);
      } else {
        simt::Words<4> chunk{};
        if (t < tile.end) chunk = padded_chunk(row, row + rank, c);
        simt::store(to, chunk);
      }
    }
    simt::end_copies();
  }

  /// scores [16 queries, 16 positions] of the warp, as two mma tiles.
  SIMT_DEVICE void score(const simt::Shared<simt::Bf16>& queries,
                         const simt::Shared<simt::Bf16>& kv, unsigned stage,
                         float (&scores)[2][4]) const {
    const unsigned g = simt::lane() / 4;
    const unsigned t = simt::lane() % 4;
    const unsigned position = stage * kTokens + half() * 16 + g;
    SIMT_UNROLL for (unsigned b = 0; b < kWidth / kBlock; ++b) {
      const bool in_latent = b < kMaxRank / kBlock;
      if (in_latent ? b * kBlock >= rank : b * kBlock - kMaxRank >= rope) continue;
      const unsigned c = b * (kBlock / kChunk) + t;
      const auto top = simt::load<4>(queries.span(chunk_at(query(0), c), kChunk));
      const auto bottom = simt::load<4>(queries.span(chunk_at(query(1), c), kChunk));
      SIMT_UNROLL for (unsigned n = 0; n < 2; ++n) {
        const auto keys = simt::load<4>(kv.span(chunk_at(position + 8 * n, c), kChunk));
        multiply_block(scores[n], top, bottom, keys);
      }
    }
  }

  /// Weights of the tile's positions into shared memory, and their sums by half; new maxima.
  SIMT_DEVICE void update(unsigned token, const float (&scores)[2][4],
                          const simt::Shared<float>& maxima, const simt::Shared<float>& sums,
                          const simt::Shared<simt::Bf16>& weights, State& state) const {
    const unsigned column = half() * 16 + simt::lane() % 4 * 2;  // and + 1, + 8, + 9
    float seen[2][4];                                            // by query and column
    SIMT_UNROLL for (unsigned h = 0; h < 2; ++h) {
      float maximum = -kInfinity;
      SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) {
        const unsigned position = token + column + i / 2 * 8 + i % 2;
        seen[h][i] =
            position < state.context[h] ? scores[i / 2][2 * h + i % 2] * scale : -kInfinity;
        maximum = std::fmax(maximum, seen[h][i]);
      }
      maximum = std::fmax(maximum, simt::shuffle_xor(maximum, 1));
      maximum = std::fmax(maximum, simt::shuffle_xor(maximum, 2));
      maxima[half() * kQueries + query(h)] = maximum;  // four lanes write the same
    }
    simt::block_barrier();
    SIMT_UNROLL for (unsigned h = 0; h < 2; ++h) {
      const float old = state.maximum[h];
      const float maximum =
          std::fmax(old, std::fmax(maxima[query(h)], maxima[kQueries + query(h)]));
      const float zero = maximum == -kInfinity ? 0.0F : maximum;  // nothing seen yet
      float p[4];
      SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) p[i] = exp_f32(seen[h][i] - zero);
      float sum = 0;  // of what is multiplied
      SIMT_UNROLL for (unsigned i = 0; i < 2; ++i) {
        const uint32_t pair = simt::to_bf16x2(p[2 * i], p[2 * i + 1]);
        simt::store(weights.span(query(h) * kWeightStride + column + 8 * i, 2),
                    simt::Words<1>{pair});
        sum +=
            from_bf16(static_cast<uint16_t>(pair)) + from_bf16(static_cast<uint16_t>(pair >> 16U));
      }
      sum += simt::shuffle_xor(sum, 1);
      sum += simt::shuffle_xor(sum, 2);
      sums[half() * kQueries + query(h)] = sum;
      state.factor[h] = exp_f32(old - zero);
      state.maximum[h] = maximum;
    }
  }

  /// out = out * factor + weights [16, 32] times the latent [32, half of the columns].
  SIMT_DEVICE void add_values(const simt::Shared<simt::Bf16>& weights,
                              const simt::Shared<simt::Bf16>& kv, unsigned stage,
                              State& state) const {
    const unsigned t = simt::lane() % 4;
    uint32_t a[2][4];  // of positions 0 to 15 and 16 to 31
    SIMT_UNROLL for (unsigned s = 0; s < 2; ++s) {
      SIMT_UNROLL for (unsigned i = 0; i < 4; ++i) {
        const unsigned column = 16 * s + i / 2 * 8 + 2 * t;
        a[s][i] = simt::load<1>(weights.span(query(i % 2) * kWeightStride + column, 2)).w[0];
      }
    }
    SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
      const unsigned c = half() * kColumns + n;
      if (c * kChunk >= rank) continue;
      float(&out)[4] = state.out[n];
      SIMT_UNROLL for (unsigned e = 0; e < 4; ++e) out[e] *= state.factor[e / 2];
      const auto values =
          simt::load_transposed(kv.span(chunk_at(stage * kTokens + simt::lane(), c), kChunk));
      simt::mma(out, a[0][0], a[0][1], a[0][2], a[0][3], values.w[0], values.w[1]);
      simt::mma(out, a[1][0], a[1][1], a[1][2], a[1][3], values.w[2], values.w[3]);
    }
  }

  /// The split's part to memory, or added to those before; then the state is as at the beginning.
  SIMT_DEVICE void end_split(const QueryTile& tile, unsigned split, State& state) const {
    SIMT_UNROLL for (unsigned h = 0; h < 2; ++h) {
      if (state.context[h] > split * kSplit) {  // else it sees nothing of this split
        const unsigned q = tile.first_query + query(h);
        const VisibleKv& row = rows[q / num_heads];
        if (row.whole) {
          add_part(row, q, split, h, state);
        } else {
          write_part(size_t{row.first_part + split} * num_heads + q % num_heads, h, state);
        }
      }
      state.maximum[h] = -kInfinity;
      state.sum[h] = 0;
    }
    SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
      SIMT_UNROLL for (unsigned e = 0; e < 4; ++e) state.out[n][e] = 0;
    }
  }

  SIMT_DEVICE static unsigned column_of(unsigned n) {
    return (half() * kColumns + n) * 8 + simt::lane() % 4 * 2;
  }

  SIMT_DEVICE void write_part(size_t at, unsigned h, const State& state) const {
    if (half() == 0 && simt::lane() % 4 == 0) {
      parts.maximum[at] = state.maximum[h];
      parts.sum[at] = state.sum[h];
    }
    SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
      SIMT_UNROLL for (unsigned e = 0; e < 2; ++e) {
        const unsigned c = column_of(n) + e;
        if (c < rank) parts.out[at * rank + c] = state.out[n][2 * h + e];
      }
    }
  }

  /// Every thread adds to elements of its own, which stay in the L2 cache.
  SIMT_DEVICE void add_part(const VisibleKv& row, unsigned q, unsigned split, unsigned h,
                            State& state) const {
    SplitSum& total = state.total[h];
    total.add(state.maximum[h], state.sum[h], split == 0);
    const size_t head = q % num_heads;
    const bool last = (split + 1) * kSplit >= row.context_len;
    float* so_far = parts.out + (size_t{row.first_part} * num_heads + head) * rank;
    float* result = out.row(q / num_heads) + head * rank;
    SIMT_UNROLL for (unsigned n = 0; n < kColumns; ++n) {
      SIMT_UNROLL for (unsigned e = 0; e < 2; ++e) {
        const unsigned c = column_of(n) + e;
        if (c >= rank) continue;
        const float before = split == 0 ? 0.0F : so_far[c];
        const float sum = total.output(before, state.out[n][2 * h + e]);
        if (last) {
          result[c] = sum / total.sum;
        } else {
          so_far[c] = sum;
        }
      }
    }
  }
};

/// out[r, h] of the parts of its splits, in ascending order: one block per row and head, of rows
/// that are not `whole`. Limit: memory, rank * 4 bytes of each part.
struct MergeSplits {
  static constexpr unsigned kThreads = 128;
  static constexpr unsigned kBlocksPerSm = 1;
  [[nodiscard]] size_t shared_bytes() const { return 0; }

  const VisibleKv* rows;
  Parts parts;
  unsigned num_heads;
  unsigned rank;
  Matrix<float> out;  ///< [rows, num_heads * rank]

  SIMT_DEVICE void operator()() const {
    const VisibleKv& row = rows[simt::block_x()];
    const unsigned head = simt::block_y();
    if (row.whole) return;
    const unsigned num_splits = (row.context_len + kSplit - 1) / kSplit;
    for (unsigned c = simt::thread(); c < rank; c += kThreads) {
      SplitSum total;
      float value = 0;
      for (unsigned s = 0; s < num_splits; ++s) {
        const size_t at = size_t{row.first_part + s} * num_heads + head;
        total.add(parts.maximum[at], parts.sum[at], s == 0);
        value = total.output(value, parts.out[at * rank + c]);
      }
      out.row(simt::block_x())[size_t{head} * rank + c] = value / total.sum;
    }
  }
};

/// The query of the expanded form in absorbed form, in float32: latent[r, h, c] = sum_i q[r, h, i]
/// * kv_b[h, i, c], in ascending i by fused multiply-adds; rope[r, h] = the rest of q[r, h].
struct AbsorbQuery : ElementKernel {
  Matrix<const float> q;  ///< [rows, num_heads * (nope + rope)]
  const float* kv_b;      ///< [num_heads, nope + v_dim, rank]
  unsigned nope;
  unsigned rope;
  unsigned v_dim;
  unsigned rank;
  unsigned num_heads;
  Matrix<float> latent;   ///< [rows, num_heads * rank]
  Matrix<float> rotated;  ///< [rows, num_heads * rope]

  SIMT_DEVICE void operator()() const {
    const unsigned width = rank + rope;
    if (column() >= size_t{num_heads} * width) return;
    const size_t head = column() / width;
    const auto c = static_cast<unsigned>(column() % width);
    const float* from = q.row(row()) + head * (nope + rope);
    if (c >= rank) {
      rotated.row(row())[head * rope + c - rank] = from[nope + c - rank];
      return;
    }
    float sum = 0;
    for (unsigned i = 0; i < nope; ++i) {
      sum = std::fma(from[i], kv_b[(head * (nope + v_dim) + i) * rank + c], sum);
    }
    latent.row(row())[head * rank + c] = sum;
  }
};

}  // namespace troupe::kernels::cuda
