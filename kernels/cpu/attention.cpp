#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/cpu/convert.hpp"
#include "kernels/cpu/exp.hpp"
#include "kernels/cpu/scalar.hpp"
#include "kernels/cpu/sum16.hpp"

namespace troupe::kernels::scalar {
namespace {

/// Position t of what a row sees: kv_rank elements of the latent, then rope_dim of the rotated key;
/// where it lies, or as float32 in `scratch`, [kv_rank + rope_dim].
template <class Params>
const float* kv_of(const Params& p, const AttentionRow& row, size_t t, std::span<float> scratch) {
  const WeightView block{.data = row.blocks[t / p.block_tokens],
                         .dtype = p.kv_dtype,
                         .out = p.block_tokens,
                         .in = scratch.size()};
  if (p.kv_dtype == DType::kF32) {
    return static_cast<const float*>(block.data) + t % p.block_tokens * scratch.size();
  }
  weight_row(block, t % p.block_tokens, scratch.data());
  return scratch.data();
}

size_t longest_context(std::span<const AttentionRow> rows, Range range) {
  size_t longest = 0;
  for (size_t r = range.first; r < range.last; ++r) {
    longest = std::max<size_t>(longest, rows[r].context_len);
  }
  return longest;
}

/// Turns scores into exp(score - maximum), in place. @returns their sum by rule 2.
float softmax_numerators(std::span<float> scores) {
  float maximum = -std::numeric_limits<float>::infinity();
  for (const float s : scores) maximum = s > maximum ? s : maximum;
  PartialSums sums{};
  for (size_t t = 0; t < scores.size(); ++t) {
    scores[t] = exp_f32(scores[t] - maximum);
    sums[t % kNumPartialSums] += scores[t];
  }
  return add_tree(sums);
}

}  // namespace

void store_kv(const StoreKvParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    const float* x = p.x.row(r);
    if (p.kv_dtype == DType::kF32) {
      std::copy_n(x, p.x.cols, static_cast<float*>(p.out[r]));
    } else {
      std::transform(x, x + p.x.cols, static_cast<uint16_t*>(p.out[r]), to_bf16);
    }
  }
}

void mla_absorbed(const MlaAbsorbedParams& p, Range rows, Range heads) {
  std::vector<float> buffer(longest_context(p.rows, rows));
  std::vector<float> scratch(p.kv_rank + p.rope_dim);
  for (size_t r = rows.first; r < rows.last; ++r) {
    const AttentionRow& row = p.rows[r];
    for (size_t h = heads.first; h < heads.last; ++h) {
      const float* q_latent = p.q_latent.row(r) + h * p.kv_rank;
      const float* q_rope = p.q_rope.row(r) + h * p.rope_dim;
      const std::span<float> scores(buffer.data(), row.context_len);
      for (size_t t = 0; t < scores.size(); ++t) {
        const float* latent = kv_of(p, row, t, scratch);
        const float* k_rope = latent + p.kv_rank;
        scores[t] = (dot(q_latent, latent, p.kv_rank) + dot(q_rope, k_rope, p.rope_dim)) * p.scale;
      }
      const float sum = softmax_numerators(scores);
      float* out = p.out.row(r) + h * p.kv_rank;
      std::fill_n(out, p.kv_rank, 0.0F);
      for (size_t t = 0; t < scores.size(); ++t) {
        const float* latent = kv_of(p, row, t, scratch);
        for (size_t i = 0; i < p.kv_rank; ++i) out[i] = std::fma(scores[t], latent[i], out[i]);
      }
      for (size_t i = 0; i < p.kv_rank; ++i) out[i] /= sum;
    }
  }
}

void mla_expanded(const MlaExpandedParams& p, Range rows, Range heads) {
  const size_t qk_dim = p.nope_dim + p.rope_dim;
  const size_t kv_dim = p.nope_dim + p.v_dim;
  const size_t longest = longest_context(p.rows, rows);
  std::vector<float> buffer(longest);
  std::vector<float> expanded(longest * kv_dim);
  std::vector<float> scratch(p.kv_rank + p.rope_dim);
  for (size_t h = heads.first; h < heads.last; ++h) {
    const float* kv_b = p.kv_b + h * kv_dim * p.kv_rank;
    // [positions, kv_dim]: k_nope and v of this head. Rows over the same blocks share them; what is
    // made for a position does not depend on the row that asks for it.
    size_t num_expanded = 0;
    for (size_t r = rows.first; r < rows.last; ++r) {
      const AttentionRow& row = p.rows[r];
      if (r > rows.first && row.blocks.data() != p.rows[r - 1].blocks.data()) num_expanded = 0;
      for (; num_expanded < row.context_len; ++num_expanded) {
        const float* latent = kv_of(p, row, num_expanded, scratch);
        for (size_t o = 0; o < kv_dim; ++o) {
          expanded[num_expanded * kv_dim + o] = dot(kv_b + o * p.kv_rank, latent, p.kv_rank);
        }
      }
      const float* q = p.q.row(r) + h * qk_dim;
      const std::span<float> scores(buffer.data(), row.context_len);
      for (size_t t = 0; t < scores.size(); ++t) {
        const float* k_rope = kv_of(p, row, t, scratch) + p.kv_rank;
        scores[t] = (dot(q, expanded.data() + t * kv_dim, p.nope_dim) +
                     dot(q + p.nope_dim, k_rope, p.rope_dim)) *
                    p.scale;
      }
      const float sum = softmax_numerators(scores);
      float* out = p.out.row(r) + h * p.v_dim;
      for (size_t i = 0; i < p.v_dim; ++i) {
        float weighted = 0;
        for (size_t t = 0; t < scores.size(); ++t) {
          weighted = std::fma(scores[t], expanded[t * kv_dim + p.nope_dim + i], weighted);
        }
        out[i] = weighted / sum;
      }
    }
  }
}

}  // namespace troupe::kernels::scalar
