// Attention of the CUDA backend: against textbook attention in double over the rounded numbers, at
// lengths around tiles and splits, and a row's bits alone, in a chunk and in a batch.

#include <algorithm>
#include <cmath>

#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

/// Weights are rounded to BF16: 8 bits, in a mean of values whose size is at most 1.
constexpr double kTolerance = 1.0 / 256;

struct Shape {
  std::string name;
  size_t heads, rank, rope, block_tokens;
  DType kv;
};

void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.name; }

class CudaAttention : public Cuda, public testing::WithParamInterface<Shape> {
 protected:
  [[nodiscard]] size_t width() const { return GetParam().rank + GetParam().rope; }

  /// Blocks on the device of the positions of one request, [context, width()] on the host.
  std::vector<const void*> blocks_of(const std::vector<float>& kv) {
    const size_t per_block = GetParam().block_tokens * width();
    std::vector<float> padded = kv;  // what is not written yet must not matter
    padded.resize((kv.size() + per_block - 1) / per_block * per_block, NAN);
    std::vector<const void*> blocks;
    for (size_t at = 0; at < padded.size(); at += per_block) {
      if (GetParam().kv == DType::kF32) {
        blocks.push_back(put(&padded[at], per_block));
        continue;
      }
      std::vector<uint16_t> narrow;
      for (size_t i = 0; i < per_block; ++i) narrow.push_back(to_bf16(padded[at + i]));
      blocks.push_back(put(narrow));
    }
    return blocks;
  }

  std::vector<float> attend(const std::vector<AttentionRow>& rows, const std::vector<float>& latent,
                            const std::vector<float>& rope, float scale) {
    const Shape& s = GetParam();
    const size_t n = rows.size();
    float* out = room<float>(n * s.heads * s.rank);
    ops().mla_absorbed({.q_latent = {put(latent), n, s.heads * s.rank},
                        .q_rope = {put(rope), n, s.heads * s.rope},
                        .rows = rows,
                        .kv_dtype = s.kv,
                        .block_tokens = s.block_tokens,
                        .num_heads = s.heads,
                        .kv_rank = s.rank,
                        .rope_dim = s.rope,
                        .scale = scale,
                        .out = {out, n, s.heads * s.rank}});
    return get(out, n * s.heads * s.rank);
  }

  /// One head's attention, [rank].
  [[nodiscard]] std::vector<double> textbook(const float* latent, const float* rope,
                                             const std::vector<float>& kv, size_t context,
                                             double scale) const {
    const Shape& s = GetParam();
    std::vector<double> scores;
    for (size_t t = 0; t < context; ++t) {
      double score = 0;
      for (size_t i = 0; i < width(); ++i) {
        const float q = i < s.rank ? latent[i] : rope[i - s.rank];
        score += static_cast<double>(as_bf16(q)) * as_bf16(kv[t * width() + i]);
      }
      scores.push_back(score * scale);
    }
    const double maximum = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    std::vector<double> out(s.rank);
    for (size_t t = 0; t < context; ++t) {
      const double p = std::exp(scores[t] - maximum);
      sum += p;
      for (size_t i = 0; i < s.rank; ++i) out[i] += p * as_bf16(kv[t * width() + i]);
    }
    for (double& v : out) v /= sum;
    return out;
  }
};

TEST_P(CudaAttention, IsTextbookAttentionAtEveryLengthOfTilesAndSplits) {
  Draws draws(731);
  const Shape& s = GetParam();
  const std::vector<float> kv = draws.values(1060 * width());
  const std::vector<const void*> blocks = blocks_of(kv);
  std::vector<AttentionRow> rows;
  for (const uint32_t context : {1, 2, 31, 32, 33, 64, 511, 512, 513, 545, 1024, 1059}) {
    const size_t num_blocks = (context + s.block_tokens - 1) / s.block_tokens;
    rows.push_back({.blocks = {blocks.data(), num_blocks}, .context_len = context});
  }
  // Some queries look at few positions, some at many.
  std::vector<float> latent = draws.values(rows.size() * s.heads * s.rank);
  for (size_t i = 0; i < latent.size(); ++i) latent[i] *= i / s.rank % 2 == 0 ? 3 : 0.3F;
  const std::vector<float> rope = draws.values(rows.size() * s.heads * s.rope);
  const std::vector<float> out = attend(rows, latent, rope, 0.4F);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t h = 0; h < s.heads; h += 3) {
      const size_t at = r * s.heads + h;
      const std::vector<double> want =
          textbook(&latent[at * s.rank], &rope[at * s.rope], kv, rows[r].context_len, 0.4F);
      for (size_t i = 0; i < s.rank; ++i) {
        ASSERT_NEAR(out[at * s.rank + i], want[i], kTolerance)
            << "context " << rows[r].context_len << " head " << h << " element " << i;
      }
    }
  }
}

TEST_P(CudaAttention, SeesTheLastPositionAndNotTheNext) {
  // The score of position t is t, so most of the weight is on the last position; latents hold t,
  // too.
  const Shape& s = GetParam();
  std::vector<float> kv(1100 * width());
  for (size_t t = 0; t < 1100; ++t) {
    kv[t * width()] = static_cast<float>(t / 64);  // exact in BF16
    kv[t * width() + 1] = static_cast<float>(t % 64);
  }
  const std::vector<const void*> blocks = blocks_of(kv);
  std::vector<AttentionRow> rows;
  for (const uint32_t context : {1, 5, 32, 33, 48, 512, 513, 530, 1024, 1025, 1100}) {
    rows.push_back({.blocks = blocks, .context_len = context});
  }
  std::vector<float> latent(rows.size() * s.heads * s.rank);
  for (size_t at = 0; at < latent.size(); at += s.rank) {
    latent[at] = 64;
    latent[at + 1] = 1;
  }
  const std::vector<float> rope(rows.size() * s.heads * s.rope);
  const std::vector<float> out = attend(rows, latent, rope, 1);
  for (size_t at = 0; at < rows.size() * s.heads; ++at) {
    const std::vector<double> want =
        textbook(&latent[at * s.rank], &rope[at * s.rope], kv, rows[at / s.heads].context_len, 1);
    const double got = 64.0 * out[at * s.rank] + out[at * s.rank + 1];
    ASSERT_NEAR(got, 64 * want[0] + want[1], 0.05) << rows[at / s.heads].context_len;
  }
}

TEST_P(CudaAttention, GivesARowTheSameBitsAloneInAChunkAndInABatch) {
  Draws draws(732);
  const Shape& s = GetParam();
  const std::vector<const void*> first = blocks_of(draws.values(700 * width()));
  const std::vector<const void*> second = blocks_of(draws.values(40 * width()));
  std::vector<AttentionRow> rows;
  for (uint32_t i = 0; i < 7; ++i) rows.push_back({.blocks = first, .context_len = 508 + i});
  rows.push_back({.blocks = second, .context_len = 40});
  rows.push_back({.blocks = second, .context_len = 3});
  rows.push_back({.blocks = first, .context_len = 700});
  const size_t per_latent = s.heads * s.rank;
  const size_t per_rope = s.heads * s.rope;
  const std::vector<float> latent = draws.values(rows.size() * per_latent);
  const std::vector<float> rope = draws.values(rows.size() * per_rope);
  const std::vector<float> all = attend(rows, latent, rope, 0.3F);
  for (const auto [from, count] :
       std::vector<std::array<size_t, 2>>{{0, 1}, {4, 1}, {6, 1}, {8, 1}, {9, 1}, {2, 3}, {5, 4}}) {
    const auto part = [&](const std::vector<float>& of, size_t per_row) {
      const auto at = of.begin() + static_cast<std::ptrdiff_t>(from * per_row);
      return std::vector<float>(at, at + static_cast<std::ptrdiff_t>(count * per_row));
    };
    const auto at = rows.begin() + static_cast<std::ptrdiff_t>(from);
    const std::vector<float> some = attend({at, at + static_cast<std::ptrdiff_t>(count)},
                                           part(latent, per_latent), part(rope, per_rope), 0.3F);
    ASSERT_EQ(bit_difference(part(all, per_latent), some), "") << count << " rows from " << from;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaAttention,
                         testing::Values(Shape{"V2Lite", 16, 512, 64, 16, DType::kBF16},
                                         Shape{"V2LiteF32", 16, 512, 64, 64, DType::kF32},
                                         Shape{"OddSizes", 5, 36, 6, 10, DType::kF32},
                                         Shape{"OddSizesBF16", 5, 36, 6, 10, DType::kBF16},
                                         Shape{"ManyHeads", 70, 64, 16, 32, DType::kBF16}),
                         [](const auto& info) { return info.param.name; });

/// Rows of one request, no two alike.
class CudaAttentionRows : public Cuda {
 protected:
  static constexpr size_t kHeads = 4, kRank = 32, kRope = 8, kNope = 12, kVDim = 20;
  static constexpr size_t kBlockTokens = 64, kBlocks = 18;

  struct Operands {
    Draws draws{733};
    std::vector<const void*> blocks;
    std::vector<AttentionRow> rows;
  };
  Operands operands(const std::vector<uint32_t>& contexts) {
    Operands o;
    for (size_t b = 0; b < kBlocks; ++b) {
      o.blocks.push_back(put(o.draws.values(kBlockTokens * (kRank + kRope))));
    }
    for (const uint32_t context : contexts) {
      o.rows.push_back({.blocks = o.blocks, .context_len = context});
    }
    return o;
  }

  std::vector<float> absorbed(const std::vector<uint32_t>& contexts) {
    Operands o = operands(contexts);
    const size_t n = contexts.size();
    float* out = room<float>(n * kHeads * kRank);
    ops().mla_absorbed({.q_latent = {put(o.draws.values(n * kHeads * kRank)), n, kHeads * kRank},
                        .q_rope = {put(o.draws.values(n * kHeads * kRope)), n, kHeads * kRope},
                        .rows = o.rows,
                        .block_tokens = kBlockTokens,
                        .num_heads = kHeads,
                        .kv_rank = kRank,
                        .rope_dim = kRope,
                        .scale = 0.5F,
                        .out = {out, n, kHeads * kRank}});
    return get(out, n * kHeads * kRank);
  }

  std::vector<float> expanded(const std::vector<uint32_t>& contexts) {
    Operands o = operands(contexts);
    const size_t n = contexts.size();
    const size_t q_cols = kHeads * (kNope + kRope);
    float* out = room<float>(n * kHeads * kVDim);
    ops().mla_expanded({.q = {put(o.draws.values(n * q_cols)), n, q_cols},
                        .kv_b = put(o.draws.values(kHeads * (kNope + kVDim) * kRank)),
                        .rows = o.rows,
                        .block_tokens = kBlockTokens,
                        .num_heads = kHeads,
                        .kv_rank = kRank,
                        .nope_dim = kNope,
                        .rope_dim = kRope,
                        .v_dim = kVDim,
                        .scale = 0.5F,
                        .out = {out, n, kHeads * kVDim}});
    return get(out, n * kHeads * kVDim);
  }
};

TEST_F(CudaAttentionRows, AreCutIntoRangesThatFitTheWorkspace) {
  struct Case {
    std::vector<uint32_t> contexts;
    size_t workspace_bytes;  ///< too few for all rows together, or an error would be kept
  };
  std::vector<uint32_t> chunk;  // each row in one split
  for (uint32_t i = 0; i < 60; ++i) chunk.push_back(20 + i);
  std::vector<uint32_t> long_chunk;  // in the emulator a block goes through both splits of its rows
  for (uint32_t i = 0; i < 40; ++i) long_chunk.push_back(500 + i);
  const std::vector<uint32_t> few = {1100, 1099, 513, 512, 1, 700, 1100};  // in parts
  for (const Case& c : {Case{chunk, size_t{24} << 10U}, Case{long_chunk, size_t{16} << 10U},
                        Case{few, size_t{8} << 10U}}) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    const std::vector<float> whole_absorbed = absorbed(c.contexts);
    const std::vector<float> whole_expanded = expanded(c.contexts);
    ASSERT_NO_FATAL_FAILURE(start({.workspace_bytes = c.workspace_bytes}));
    SCOPED_TRACE(c.contexts.size());
    expect_same_numbers(whole_absorbed, absorbed(c.contexts));
    expect_same_numbers(whole_expanded, expanded(c.contexts));
  }
}

TEST_F(CudaAttentionRows, ExpandedAttentionIsNearTheSpecification) {
  Draws draws(734);
  const size_t heads = 3, rank = 40, rope = 8, nope = 24, v_dim = 20, block_tokens = 16;
  const KvCache cache(90, block_tokens, rank + rope, draws);
  std::vector<const void*> blocks;
  for (const void* block : cache.blocks) {
    blocks.push_back(put(static_cast<const float*>(block), block_tokens * (rank + rope)));
  }
  std::vector<AttentionRow> on_host;
  std::vector<AttentionRow> on_device;
  for (const uint32_t context : {1, 17, 90}) {
    on_host.push_back(cache.row(context));
    on_device.push_back({.blocks = blocks, .context_len = context});
  }
  const std::vector<float> q = draws.values(3 * heads * (nope + rope));
  const std::vector<float> kv_b = draws.values(heads * (nope + v_dim) * rank);
  std::vector<float> want(3 * heads * v_dim);
  MlaExpandedParams p{.q = {q.data(), 3, heads * (nope + rope)},
                      .kv_b = kv_b.data(),
                      .rows = on_host,
                      .block_tokens = block_tokens,
                      .num_heads = heads,
                      .kv_rank = rank,
                      .nope_dim = nope,
                      .rope_dim = rope,
                      .v_dim = v_dim,
                      .scale = 0.3F,
                      .out = {want.data(), 3, heads * v_dim}};
  scalar().mla_expanded(p);
  p.q.data = put(q);
  p.kv_b = put(kv_b);
  p.rows = on_device;
  p.out.data = room<float>(want.size());
  ops().mla_expanded(p);
  const std::vector<float> got = get(p.out.data, want.size());
  double size = 0;
  for (const float v : want) size = std::max(size, std::abs(static_cast<double>(v)));
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 0.02 * size) << i;
}

}  // namespace
}  // namespace troupe::kernels
