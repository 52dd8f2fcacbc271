#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/cpu/exp.hpp"
#include "kernels/cpu/scalar.hpp"
#include "kernels/cpu/sum16.hpp"

namespace troupe::kernels::scalar {
namespace {

/// The cached row of position `t`: kv_rank elements of the latent, then rope_dim of the rotated
/// key.
const float* kv_row(const AttentionRow& row, size_t t, size_t block_tokens, size_t width) {
  return row.blocks[t / block_tokens] + (t % block_tokens) * width;
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

void mla_absorbed(const MlaAbsorbedParams& p, Range rows, Range heads) {
  const size_t width = p.kv_rank + p.rope_dim;
  std::vector<float> buffer(longest_context(p.rows, rows));
  for (size_t r = rows.first; r < rows.last; ++r) {
    const AttentionRow& row = p.rows[r];
    for (size_t h = heads.first; h < heads.last; ++h) {
      const float* q_latent = p.q_latent.row(r) + h * p.kv_rank;
      const float* q_rope = p.q_rope.row(r) + h * p.rope_dim;
      const std::span<float> scores(buffer.data(), row.context_len);
      for (size_t t = 0; t < scores.size(); ++t) {
        const float* kv = kv_row(row, t, p.block_tokens, width);
        scores[t] =
            (dot(q_latent, kv, p.kv_rank) + dot(q_rope, kv + p.kv_rank, p.rope_dim)) * p.scale;
      }
      const float sum = softmax_numerators(scores);
      float* out = p.out.row(r) + h * p.kv_rank;
      for (size_t i = 0; i < p.kv_rank; ++i) {
        float weighted = 0;
        for (size_t t = 0; t < scores.size(); ++t) {
          weighted = std::fma(scores[t], kv_row(row, t, p.block_tokens, width)[i], weighted);
        }
        out[i] = weighted / sum;
      }
    }
  }
}

void mla_expanded(const MlaExpandedParams& p, Range rows, Range heads) {
  const size_t width = p.kv_rank + p.rope_dim;
  const size_t qk_dim = p.nope_dim + p.rope_dim;
  const size_t kv_dim = p.nope_dim + p.v_dim;
  const size_t longest = longest_context(p.rows, rows);
  std::vector<float> buffer(longest);
  std::vector<float> expanded(longest * kv_dim);
  for (size_t h = heads.first; h < heads.last; ++h) {
    const float* kv_b = p.kv_b + h * kv_dim * p.kv_rank;
    // [positions, kv_dim]: k_nope and v of this head. Rows over the same blocks share them; what is
    // made for a position does not depend on the row that asks for it.
    size_t num_expanded = 0;
    for (size_t r = rows.first; r < rows.last; ++r) {
      const AttentionRow& row = p.rows[r];
      if (r > rows.first && row.blocks.data() != p.rows[r - 1].blocks.data()) num_expanded = 0;
      for (; num_expanded < row.context_len; ++num_expanded) {
        const float* latent = kv_row(row, num_expanded, p.block_tokens, width);
        for (size_t o = 0; o < kv_dim; ++o) {
          expanded[num_expanded * kv_dim + o] = dot(kv_b + o * p.kv_rank, latent, p.kv_rank);
        }
      }
      const float* q = p.q.row(r) + h * qk_dim;
      const std::span<float> scores(buffer.data(), row.context_len);
      for (size_t t = 0; t < scores.size(); ++t) {
        const float* k_rope = kv_row(row, t, p.block_tokens, width) + p.kv_rank;
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
