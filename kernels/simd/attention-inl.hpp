// Attention in both forms, as two passes over the visible positions: all scores, then the weighted
// sum. One pass with a running maximum would rescale, and so round, depending on where it is cut.
//
// A "query" below is one head of one row. Queries over the same keys go through them together, so
// that each key is fetched once for several of them.

#if defined(TROUPE_KERNELS_SIMD_ATTENTION_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_ATTENTION_INL
#undef TROUPE_KERNELS_SIMD_ATTENTION_INL
#else
#define TROUPE_KERNELS_SIMD_ATTENTION_INL
#endif

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/simd/gemm-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

/// scores[0, n) become exp(score - maximum). @returns their sum by rule 2.
float softmax_numerators(float* scores, size_t n) {
  float maximum = -std::numeric_limits<float>::infinity();
  for (size_t t = 0; t < n; ++t) maximum = scores[t] > maximum ? scores[t] : maximum;
  const V maximum_lanes = hn::Set(kFloats, maximum);
  V sums[kVecs];
  for (size_t v = 0; v < kVecs; ++v) sums[v] = hn::Zero(kFloats);
  const size_t whole = n - n % kNumPartialSums;
  for (size_t t = 0; t < whole; t += kNumPartialSums) {
    for (size_t v = 0; v < kVecs; ++v) {
      float* at = scores + t + v * kLanes;
      const V p = exp_lanes(hn::Sub(hn::LoadU(kFloats, at), maximum_lanes));
      hn::StoreU(p, kFloats, at);
      sums[v] = hn::Add(sums[v], p);
    }
  }
  PartialSums lanes;
  for (size_t v = 0; v < kVecs; ++v) hn::StoreU(sums[v], kFloats, lanes.data() + v * kLanes);
  for (size_t t = whole; t < n; ++t) {
    scores[t] = exp_f32(scores[t] - maximum);
    lanes[t - whole] += scores[t];
  }
  return kernels::add_tree(lanes);
}

/// The dot products over the part of the keys without position and over the rotated part, which
/// both make a score.
struct Scoring {
  const float* q;       ///< [queries, n] with q_stride
  const float* q_rope;  ///< [queries, rope_dim] with q_rope_stride
  size_t q_stride, q_rope_stride, queries;
  size_t n, rope_dim;
  float scale;
};

/// scores[q][t] = (q . keys[t] + q_rope . keys_rope[t]) * scale for some positions.
/// @param rope_scores scratch, [queries, positions]
void score_block(const Scoring& s, const RowsOf<F32Row>& keys, const RowsOf<F32Row>& keys_rope,
                 size_t positions, float* rope_scores, float* scores, size_t scores_stride) {
  dot_all(s.q, s.q_stride, s.queries, keys, positions, s.n, scores, scores_stride);
  dot_all(s.q_rope, s.q_rope_stride, s.queries, keys_rope, positions, s.rope_dim, rope_scores,
          positions);
  for (size_t q = 0; q < s.queries; ++q) {
    for (size_t t = 0; t < positions; ++t) {
      float& score = scores[q * scores_stride + t];
      score = (score + rope_scores[q * positions + t]) * s.scale;
    }
  }
}

constexpr size_t kTileQueries = 4;
/// Vectors of columns that a tile of weighted sums holds for each of its queries.
constexpr size_t kTileColumns = kVecs == 2 ? 2 : 4;

/// out[q][c] += weights[q][t] * values[t][c] for t ascending, one fused multiply-add each; queries
/// and columns of one tile.
template <size_t kQueries, size_t kColumns>
HWY_INLINE void weigh_tile(const float* weights, size_t weights_stride, const float* values,
                           size_t values_stride, size_t positions, float* out, size_t out_stride) {
  V sums[kQueries][kColumns];
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t c = 0; c < kColumns; ++c) {
      sums[q][c] = hn::LoadU(kFloats, out + q * out_stride + c * kLanes);
    }
  }
  for (size_t t = 0; t < positions; ++t) {
    V value[kColumns];
    for (size_t c = 0; c < kColumns; ++c) {
      value[c] = hn::LoadU(kFloats, values + t * values_stride + c * kLanes);
    }
    for (size_t q = 0; q < kQueries; ++q) {
      const V weight = hn::Set(kFloats, weights[q * weights_stride + t]);
      for (size_t c = 0; c < kColumns; ++c) sums[q][c] = hn::MulAdd(weight, value[c], sums[q][c]);
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t c = 0; c < kColumns; ++c) {
      hn::StoreU(sums[q][c], kFloats, out + q * out_stride + c * kLanes);
    }
  }
}

template <size_t kQueries>
HWY_INLINE void weigh_columns(const float* weights, size_t weights_stride, const float* values,
                              size_t values_stride, size_t positions, float* out, size_t out_stride,
                              size_t columns) {
  size_t c = 0;
  for (; c + kTileColumns * kLanes <= columns; c += kTileColumns * kLanes) {
    weigh_tile<kQueries, kTileColumns>(weights, weights_stride, values + c, values_stride,
                                       positions, out + c, out_stride);
  }
  for (; c + kLanes <= columns; c += kLanes) {
    weigh_tile<kQueries, 1>(weights, weights_stride, values + c, values_stride, positions, out + c,
                            out_stride);
  }
  for (; c < columns; ++c) {
    for (size_t q = 0; q < kQueries; ++q) {
      float& sum = out[q * out_stride + c];
      for (size_t t = 0; t < positions; ++t) {
        sum = std::fma(weights[q * weights_stride + t], values[t * values_stride + c], sum);
      }
    }
  }
}

/// The same for any number of queries.
void weigh(const float* weights, size_t weights_stride, size_t queries, const float* values,
           size_t values_stride, size_t positions, float* out, size_t out_stride, size_t columns) {
  size_t q = 0;
  for (; q + kTileQueries <= queries; q += kTileQueries) {
    weigh_columns<kTileQueries>(weights + q * weights_stride, weights_stride, values, values_stride,
                                positions, out + q * out_stride, out_stride, columns);
  }
  for (; q < queries; ++q) {
    weigh_columns<1>(weights + q * weights_stride, weights_stride, values, values_stride, positions,
                     out + q * out_stride, out_stride, columns);
  }
}

void divide(float* x, size_t n, float by) {
  const V by_lanes = hn::Set(kFloats, by);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Div(hn::LoadU(kFloats, x + i), by_lanes), kFloats, x + i);
  }
  for (; i < n; ++i) x[i] /= by;
}

/// Cached rows as float32: from where they lie, or converted, some positions at a time, for all
/// queries that go through them.
class CachedRows {
 public:
  /// @param params of either form
  template <class Params>
  explicit CachedRows(const Params& params)
      : dtype_(params.kv_dtype),
        block_tokens_(params.block_tokens),
        width_(params.kv_rank + params.rope_dim),
        most_(dtype_ == DType::kF32 ? block_tokens_ : std::min(block_tokens_, kMostConverted)) {
    if (dtype_ != DType::kF32) {
      converted_ = std::make_unique_for_overwrite<float[]>(most_ * width_);
    }
  }

  /// The most positions of a part.
  [[nodiscard]] size_t most() const { return most_; }

  /// Calls part(first position, those columns of its row and the following ones) over some
  /// positions.
  template <class Part>
  HWY_INLINE void in_parts(const AttentionRow& row, Range positions, Range columns,
                           const Part& part) const {
    for (size_t t = positions.first; t < positions.last;) {
      const size_t count = std::min({block_tokens_ - t % block_tokens_, positions.last - t, most_});
      if (dtype_ == DType::kF32) {
        part(t, ConstRows(stored<float>(row, t) + columns.first, count, columns.size(), width_));
      } else {
        const uint16_t* here = stored<uint16_t>(row, t) + columns.first;
        const bool last = t + count == positions.last;
        const uint16_t* next = last ? here : stored<uint16_t>(row, t + count) + columns.first;
        part(t, converted(here, next, count, columns.size()));
      }
      t += count;
    }
  }

 private:
  static constexpr size_t kMostConverted = 16;  ///< 8 take a tenth longer: tiles are cut

  /// The row of position t; those of its block that follow lie behind it.
  template <class T>
  const T* stored(const AttentionRow& row, size_t t) const {
    return static_cast<const T*>(row.blocks[t / block_tokens_]) + t % block_tokens_ * width_;
  }

  /// [count, columns] of the rows.
  /// @param next rows of the next part, which are fetched meanwhile
  ConstRows converted(const uint16_t* rows, const uint16_t* next, size_t count,
                      size_t columns) const {
    for (size_t t = 0; t < count; ++t) {
      const Bf16Row row{rows + t * width_};
      float* out = converted_.get() + t * columns;
      size_t i = 0;
      for (; i + kLanes <= columns; i += kLanes) {
        __builtin_prefetch(next + t * width_ + i, 0, 2);
        hn::StoreU(row.load(i), kFloats, out + i);
      }
      for (; i < columns; ++i) out[i] = row.at(i);
    }
    return {converted_.get(), count, columns};
  }

  DType dtype_;
  size_t block_tokens_, width_, most_;
  std::unique_ptr<float[]> converted_;  ///< scratch, [most_, columns]
};

size_t longest_context(std::span<const AttentionRow> rows, Range range) {
  size_t longest = 0;
  for (size_t r = range.first; r < range.last; ++r) {
    longest = std::max<size_t>(longest, rows[r].context_len);
  }
  return longest;
}

/// Some heads of mla_absorbed for rows over the same blocks.
class AbsorbedHeads {
 public:
  /// @param max_rows, longest the most rows and the largest context_len that will be asked for.
  AbsorbedHeads(const MlaAbsorbedParams& p, Range heads, size_t max_rows, size_t longest)
      : p_(p),
        heads_(heads),
        longest_(longest),
        cache_(p),
        scores_(std::make_unique_for_overwrite<float[]>(heads.size() * max_rows * longest)),
        rope_scores_(std::make_unique_for_overwrite<float[]>(std::max(max_rows, heads.size()) *
                                                             cache_.most())) {}

  void attend(Range rows) {
    size_t sees_most = rows.first, common = longest_;
    for (size_t r = rows.first; r < rows.last; ++r) {
      if (p_.rows[r].context_len > p_.rows[sees_most].context_len) sees_most = r;
      common = std::min<size_t>(common, p_.rows[r].context_len);
    }
    // Positions that a row does not see are scored with the others and not used.
    const AttentionRow& longest = p_.rows[sees_most];
    cache_.in_parts(longest, {0, longest.context_len}, {0, p_.kv_rank + p_.rope_dim},
                    [&](size_t t, const ConstRows& kv) HWY_ATTR {
                      over_queries(rows, rows, [&](const Queries& q) HWY_ATTR { score(q, t, kv); });
                    });
    for (size_t r = rows.first; r < rows.last; ++r) {
      std::fill_n(out(r, heads_.first), heads_.size() * p_.kv_rank, 0.0F);
    }
    std::vector<float> sums;
    for (size_t h = heads_.first; h < heads_.last; ++h) {
      for (size_t r = rows.first; r < rows.last; ++r) {
        sums.push_back(softmax_numerators(scores(rows, r, h), p_.rows[r].context_len));
      }
    }
    // Values of positions that all rows see, then what each of them sees beyond.
    const auto weigh_positions = [&](Range some, size_t first, size_t last) HWY_ATTR {
      cache_.in_parts(p_.rows[some.first], {first, last}, {0, p_.kv_rank},
                      [&](size_t t, const ConstRows& latent) HWY_ATTR {
                        over_queries(rows, some, [&](const Queries& q) HWY_ATTR {
                          weigh(q.scores + t, q.scores_stride, q.count, latent.data, latent.stride,
                                latent.rows, q.out, q.out_stride, p_.kv_rank);
                        });
                      });
    };
    weigh_positions(rows, 0, common);
    for (size_t r = rows.first; r < rows.last; ++r) {
      weigh_positions({r, r + 1}, common, p_.rows[r].context_len);
    }
    auto sum = sums.begin();
    for (size_t h = heads_.first; h < heads_.last; ++h) {
      for (size_t r = rows.first; r < rows.last; ++r) divide(out(r, h), p_.kv_rank, *sum++);
    }
  }

 private:
  /// Queries at equal distances in memory: one head of several rows, or a few heads of one.
  struct Queries {
    const float *latent, *rope;
    size_t latent_stride, rope_stride, count;
    float* scores;
    float* out;
    size_t scores_stride, out_stride;
  };

  [[nodiscard]] float* out(size_t r, size_t h) const { return p_.out.row(r) + h * p_.kv_rank; }
  /// Of one of `rows`, the rows of this call of attend().
  [[nodiscard]] float* scores(Range rows, size_t r, size_t h) const {
    return scores_.get() + ((h - heads_.first) * rows.size() + r - rows.first) * longest_;
  }

  /// Calls part(queries) for the queries of `some` of the rows.
  template <class Part>
  HWY_INLINE void over_queries(Range rows, Range some, const Part& part) const {
    const bool by_row = some.size() == 1;
    const size_t step = by_row ? kTileQueries : 1;
    for (size_t i = 0; i < heads_.size(); i += step) {
      const size_t r = some.first, h = heads_.first + i;
      part(Queries{
          .latent = p_.q_latent.row(r) + h * p_.kv_rank,
          .rope = p_.q_rope.row(r) + h * p_.rope_dim,
          .latent_stride = by_row ? p_.kv_rank : p_.q_latent.stride,
          .rope_stride = by_row ? p_.rope_dim : p_.q_rope.stride,
          .count = by_row ? std::min(step, heads_.size() - i) : some.size(),
          .scores = scores(rows, r, h),
          .out = out(r, h),
          .scores_stride = by_row ? rows.size() * longest_ : longest_,
          .out_stride = by_row ? p_.kv_rank : p_.out.stride,
      });
    }
  }

  /// Of positions t and following, whose rows are kv.
  HWY_INLINE void score(const Queries& q, size_t t, const ConstRows& kv) const {
    score_block({.q = q.latent,
                 .q_rope = q.rope,
                 .q_stride = q.latent_stride,
                 .q_rope_stride = q.rope_stride,
                 .queries = q.count,
                 .n = p_.kv_rank,
                 .rope_dim = p_.rope_dim,
                 .scale = p_.scale},
                {kv.data, kv.stride}, {kv.data + p_.kv_rank, kv.stride}, kv.rows,
                rope_scores_.get(), q.scores + t, q.scores_stride);
  }

  const MlaAbsorbedParams& p_;
  Range heads_;
  size_t longest_;
  CachedRows cache_;
  std::unique_ptr<float[]> scores_;       ///< [heads, rows of attend(), longest]
  std::unique_ptr<float[]> rope_scores_;  ///< scratch, [queries, positions of a part]
};

void mla_absorbed(const MlaAbsorbedParams& p, Range rows, Range heads) {
  AbsorbedHeads some(p, heads, std::min(rows.size(), kRowsTogether), longest_context(p.rows, rows));
  for (size_t r = rows.first; r < rows.last;) {
    const size_t last = end_of_shared_blocks(p.rows, r, std::min(rows.last, r + kRowsTogether));
    some.attend({r, last});
    r = last;
  }
}

/// One head of mla_expanded for rows over the same blocks, and that head's keys and values.
class ExpandedHead {
 public:
  /// @param longest the largest context_len that will be asked for.
  ExpandedHead(const MlaExpandedParams& p, size_t head, size_t longest)
      : p_(p),
        head_(head),
        longest_(longest),
        cache_(p),
        kv_(std::make_unique_for_overwrite<float[]>(longest * kv_dim())),
        scores_(std::make_unique_for_overwrite<float[]>(kRowsTogether * longest)),
        rope_scores_(std::make_unique_for_overwrite<float[]>(kRowsTogether * cache_.most())) {}

  /// Forgets the keys and values: the next rows are over other blocks.
  void reset() { made_ = 0; }

  void attend(Range rows) {
    size_t common = longest_;
    for (size_t r = rows.first; r < rows.last; ++r) {
      expand(p_.rows[r]);
      common = std::min<size_t>(common, p_.rows[r].context_len);
    }
    // Positions that all rows see, then what each of them sees beyond.
    score(rows, 0, common);
    for (size_t r = rows.first; r < rows.last; ++r) {
      score({r, r + 1}, common, p_.rows[r].context_len, r - rows.first);
    }
    float sums[kRowsTogether];
    for (size_t r = rows.first; r < rows.last; ++r) {
      sums[r - rows.first] =
          softmax_numerators(scores_.get() + (r - rows.first) * longest_, p_.rows[r].context_len);
      std::fill_n(out(r), p_.v_dim, 0.0F);
    }
    const float* values = kv_.get() + p_.nope_dim;
    weigh(scores_.get(), longest_, rows.size(), values, kv_dim(), common, out(rows.first),
          p_.out.stride, p_.v_dim);
    for (size_t r = rows.first; r < rows.last; ++r) {
      weigh(scores_.get() + (r - rows.first) * longest_ + common, longest_, 1,
            values + common * kv_dim(), kv_dim(), p_.rows[r].context_len - common, out(r),
            p_.out.stride, p_.v_dim);
      divide(out(r), p_.v_dim, sums[r - rows.first]);
    }
  }

 private:
  [[nodiscard]] size_t kv_dim() const { return p_.nope_dim + p_.v_dim; }
  [[nodiscard]] float* out(size_t r) const { return p_.out.row(r) + head_ * p_.v_dim; }

  /// Makes keys and values of the row's positions that are not there yet.
  void expand(const AttentionRow& row) {
    const WeightView kv_b{
        .data = p_.kv_b + head_ * kv_dim() * p_.kv_rank, .out = kv_dim(), .in = p_.kv_rank};
    if (made_ >= row.context_len) return;
    cache_.in_parts(
        row, {made_, row.context_len}, {0, p_.kv_rank},
        [&](size_t t, const ConstRows& latent) HWY_ATTR {
          gemm({.x = latent, .w = kv_b, .y = Rows(kv_.get() + t * kv_dim(), latent.rows, kv_dim())},
               {0, kv_dim()});
        });
    made_ = row.context_len;
  }

  /// Scores of the positions [first, last), the first row's into scores row `at`.
  void score(Range rows, size_t first, size_t last, size_t at = 0) {
    const float* q = p_.q.row(rows.first) + head_ * (p_.nope_dim + p_.rope_dim);
    const Scoring scoring{.q = q,
                          .q_rope = q + p_.nope_dim,
                          .q_stride = p_.q.stride,
                          .q_rope_stride = p_.q.stride,
                          .queries = rows.size(),
                          .n = p_.nope_dim,
                          .rope_dim = p_.rope_dim,
                          .scale = p_.scale};
    cache_.in_parts(p_.rows[rows.first], {first, last}, {p_.kv_rank, p_.kv_rank + p_.rope_dim},
                    [&](size_t t, const ConstRows& keys_rope) HWY_ATTR {
                      score_block(scoring, {kv_.get() + t * kv_dim(), kv_dim()},
                                  {keys_rope.data, keys_rope.stride}, keys_rope.rows,
                                  rope_scores_.get(), scores_.get() + at * longest_ + t, longest_);
                    });
  }

  const MlaExpandedParams& p_;
  size_t head_;
  size_t longest_;
  CachedRows cache_;
  size_t made_ = 0;                       ///< positions whose keys and values are in kv_
  std::unique_ptr<float[]> kv_;           ///< [longest, nope_dim + v_dim]
  std::unique_ptr<float[]> scores_;       ///< [kRowsTogether, longest]
  std::unique_ptr<float[]> rope_scores_;  ///< scratch, [kRowsTogether, positions of a part]
};

void mla_expanded(const MlaExpandedParams& p, Range rows, Range heads) {
  const size_t longest = longest_context(p.rows, rows);
  for (size_t h = heads.first; h < heads.last; ++h) {
    ExpandedHead head(p, h, longest);
    for (size_t r = rows.first; r < rows.last;) {
      const auto* blocks = p.rows[r].blocks.data();
      if (r > rows.first && blocks != p.rows[r - 1].blocks.data()) head.reset();
      const size_t last = end_of_shared_blocks(p.rows, r, std::min(rows.last, r + kRowsTogether));
      head.attend({r, last});
      r = last;
    }
  }
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
