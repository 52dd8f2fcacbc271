// The promise of the product, operation by operation: every version gives the bits of the
// specification, and a row gives the same bits alone and in a batch.

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <array>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <sstream>

#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

constexpr size_t kDims[] = {1, 3, 7, 15, 16, 17, 36, 72, 100, 127, 128, 129, 255, 257, 300, 576};
constexpr size_t kRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64, 65};

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  ((out << parts << ' '), ...);
  return out.str();
}

TEST(SameBits, TheTestsCoverTheVersionsOfThisCpu) {
  std::set<std::string> targets;
  for (const auto& v : versions().all()) targets.insert(v.ops->target());
  EXPECT_TRUE(targets.contains(make_cpu_ops(nullptr)->target()));
  EXPECT_TRUE(targets.contains("scalar"));
#if defined(__x86_64__)
  // As the kernel of the system names what the CPU has.
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpuinfo, line) && !line.starts_with("flags")) continue;
  std::istringstream words(line);
  const std::set<std::string> flags{std::istream_iterator<std::string>(words), {}};
  const bool has_avx2 = flags.contains("avx2") && flags.contains("fma");
  EXPECT_EQ(targets.contains("avx2"), has_avx2);
  EXPECT_EQ(targets.contains("avx2-vnni"), has_avx2 && flags.contains("avx_vnni"));
  EXPECT_EQ(targets.contains("avx3-vnni"),
            targets.contains("avx3") && flags.contains("avx512_vnni"));
#elif defined(__aarch64__)
  // As a register of the CPU says, where the kernel of the system shows it.
  if ((getauxval(AT_HWCAP) & HWCAP_CPUID) != 0) {
    uint64_t features = 0;
    asm("mrs %0, ID_AA64ISAR0_EL1" : "=r"(features));
    const bool has_aes = (features >> 4U & 15U) != 0;  // which Highway's NEON takes for granted
    EXPECT_EQ(targets.contains("neon"), has_aes);
    EXPECT_EQ(targets.contains("neon-dotprod"), has_aes && (features >> 44U & 15U) != 0);
  }
#endif
  EXPECT_STREQ(make_scalar_ops()->target(), "scalar");
  EXPECT_STREQ(make_scalar_ops()->arithmetic_class(), make_cpu_ops(nullptr)->arithmetic_class());
}

class GemmBits : public testing::TestWithParam<DType> {};

TEST_P(GemmBits, AgreeForEveryShape) {
  Draws draws(1);
  for (const size_t in : kDims) {
    for (const size_t out : {1, 3, 16, 17, 129}) {
      const StoredWeight w(GetParam(), out, in, draws);
      const std::vector<float> bias = draws.values(out);
      for (const size_t rows : kRows) {
        const std::vector<float> x = draws.values(rows * (in + 3));
        expect_same_bits(text("gemm", rows, in, out), [&](Ops& ops) {
          std::vector<float> y(rows * (out + 2), 7.0F);  // the gaps between rows stay untouched
          ops.gemm({.x = {x.data(), rows, in, in + 3},
                    .w = w.view,
                    .bias = rows % 2 == 0 ? bias.data() : nullptr,
                    .y = {y.data(), rows, out, out + 2}});
          return y;
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(GemmBits, AgreeWhereAProductIsSplitAcrossThreads) {
  Draws draws(2);
  for (const size_t rows : {1, 5, 70}) {
    const StoredWeight w(GetParam(), 700, 1040, draws);
    const std::vector<float> x = draws.values(rows * w.view.in);
    expect_same_bits(text("gemm", rows), [&](Ops& ops) {
      std::vector<float> y(rows * w.view.out);
      ops.gemm({.x = {x.data(), rows, w.view.in}, .w = w.view, .y = {y.data(), rows, w.view.out}});
      return y;
    });
  }
}

TEST_P(GemmBits, OfARowDoNotDependOnItsBatch) {
  Draws draws(3);
  for (const size_t in : {16, 72, 129, 576}) {
    const StoredWeight w(GetParam(), 131, in, draws);
    constexpr size_t kBatch = 65;  // more than are converted in registers
    const std::vector<float> x = draws.values(kBatch * in);
    for (const auto& v : versions().all()) {
      std::vector<float> together(kBatch * w.view.out);
      v.ops->gemm(
          {.x = {x.data(), kBatch, in}, .w = w.view, .y = {together.data(), kBatch, w.view.out}});
      for (const size_t size : {1, 2, 3, 5, 17}) {
        std::vector<float> apart(kBatch * w.view.out);
        for (size_t r = 0; r < kBatch; r += size) {
          const size_t rows = std::min(size, kBatch - r);
          v.ops->gemm({.x = {x.data() + r * in, rows, in},
                       .w = w.view,
                       .y = {apart.data() + r * w.view.out, rows, w.view.out}});
        }
        ASSERT_EQ(bit_difference(together, apart), "") << v.name << " in batches of " << size;
      }
    }
  }
}

TEST_P(GemmBits, OfAnOutputDoNotDependOnTheOthers) {
  // As when the rows of a weight are spread over shards.
  Draws draws(4);
  const StoredWeight w(GetParam(), 384, 300, draws);
  const std::vector<float> x = draws.values(6 * 300);
  const auto run = [&](Ops& ops, size_t outputs_per_call) {
    std::vector<float> y(6 * 384);
    for (size_t o = 0; o < 384; o += outputs_per_call) {
      ops.gemm({.x = {x.data(), 6, 300},
                .w = w.view.outputs(o, outputs_per_call),
                .y = {y.data() + o, 6, outputs_per_call, 384}});
    }
    return y;
  };
  for (const auto& v : versions().all()) {
    ASSERT_EQ(bit_difference(run(*v.ops, 384), run(*v.ops, 128)), "") << v.name;
  }
}

TEST_P(GemmBits, AgreeForEmbeddings) {
  Draws draws(5);
  for (const size_t hidden : kDims) {
    const StoredWeight table(GetParam(), 300, hidden, draws);
    const std::vector<TokenId> tokens = {299, 0, 128, 127, 5, 5, 255};
    expect_same_bits(text("embed", hidden), [&](Ops& ops) {
      std::vector<float> out(tokens.size() * hidden);
      ops.embed(
          {.table = table.view, .tokens = tokens, .out = {out.data(), tokens.size(), hidden}});
      return out;
    });
  }
}

TEST_P(GemmBits, AgreeForGroupedFfns) {
  Draws draws(6);
  for (const auto& dims : {std::pair<size_t, size_t>{36, 17}, {129, 100}, {256, 384}}) {
    const size_t hidden = dims.first;
    const size_t inner = dims.second;
    std::vector<StoredWeight> weights;
    std::vector<std::vector<float>> x;
    for (const size_t rows : {1, 4, 0, 17, 2}) {
      weights.emplace_back(GetParam(), inner, hidden, draws);
      weights.emplace_back(GetParam(), inner, hidden, draws);
      weights.emplace_back(GetParam(), hidden, inner, draws);
      x.push_back(draws.values(rows * hidden));
    }
    // The same rows in another order, which each expert finds by their numbers.
    std::vector<float> shuffled;
    std::vector<std::vector<uint32_t>> x_rows(x.size());
    for (size_t e = x.size(); e-- > 0;) {
      for (size_t r = 0; r < x[e].size() / hidden; ++r) {
        x_rows[e].push_back(static_cast<uint32_t>(shuffled.size() / hidden + r));
      }
      shuffled.insert(shuffled.end(), x[e].begin(), x[e].end());
    }
    const auto run = [&](Ops& ops, bool by_number) {
      std::vector<std::vector<float>> y;
      std::vector<FfnParams> experts;
      for (const auto& rows : x) y.emplace_back(rows.size());
      for (size_t e = 0; e < x.size(); ++e) {
        const size_t rows = x[e].size() / hidden;
        experts.push_back({.x = {x[e].data(), rows, hidden},
                           .gate = weights[3 * e].view,
                           .up = weights[3 * e + 1].view,
                           .down = weights[3 * e + 2].view,
                           .y = {y[e].data(), rows, hidden}});
        if (!by_number || rows == 0) continue;
        experts[e].x = {shuffled.data(), shuffled.size() / hidden, hidden};
        experts[e].x_rows = x_rows[e].data();
      }
      ops.grouped_ffn(experts);
      std::vector<float> all;
      for (const auto& part : y) all.insert(all.end(), part.begin(), part.end());
      return all;
    };
    const std::string what = text("ffn", hidden, inner);
    expect_same_bits(what, [&](Ops& ops) { return run(ops, false); });
    expect_same_bits(what + " by number", [&](Ops& ops) { return run(ops, true); });
    ASSERT_EQ(bit_difference(run(scalar(), false), run(scalar(), true)), "");
  }
}

INSTANTIATE_TEST_SUITE_P(AllDTypes, GemmBits, testing::ValuesIn(all_dtypes()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(SameBits, AgreeForFp8WithoutScalesAndWithNan) {
  Draws draws(7);
  constexpr size_t kIn = 200, kOut = 33, kMostRows = 6;
  const std::vector<float> x = draws.values(kMostRows * kIn);
  for (const bool with_scales : {false, true}) {
    for (const bool with_nan : {false, true}) {
      StoredWeight w(DType::kF8E4M3, kOut, kIn, draws, with_scales);
      if (with_nan) {
        // Of both signs; the last where elements are no longer taken together.
        w.bytes[1 + 2 * kIn + 70] = std::byte{0x7f};
        w.bytes[1 + 20 * kIn + 5] = std::byte{0xff};
        w.bytes[1 + 32 * kIn + 199] = std::byte{0x7f};
      }
      for (size_t rows = 1; rows <= kMostRows; ++rows) {
        expect_same_bits(text("gemm", rows, with_scales, with_nan), [&](Ops& ops) {
          std::vector<float> y(rows * kOut);
          ops.gemm({.x = {x.data(), rows, kIn}, .w = w.view, .y = {y.data(), rows, kOut}});
          for (size_t o = 0; o < kOut; ++o) {
            EXPECT_EQ(std::isnan(y[o]), with_nan && (o == 2 || o == 20 || o == 32)) << o;
          }
          return y;
        });
      }
    }
  }
}

TEST(SameBits, AgreeForZerosOfBothSignsSubnormalsInfinitiesAndNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> special = {0.0F,   -0.0F,     1e-40F, -1e-40F, 1e-30F, -1e-30F, 1e30F,
                                      -1e30F, kInfinity, -1.0F,  2.0F,    1e38F,  -3e38F};
  Draws draws(8);
  for (const auto& [rows, n] : {std::pair<size_t, size_t>(4, 16),
                                {4, 17},
                                {4, 40},
                                {4, 64},
                                {7, 16},
                                {7, 17},
                                {7, 40},
                                {7, 300}}) {
    for (const bool with_nan : {false, true}) {
      std::vector<float> a(rows * n);
      std::vector<float> b(5 * n);
      // Some rows hold only signed zeros and numbers whose products vanish: sums of -0.
      for (size_t i = 0; i < a.size(); ++i) a[i] = special[draws.below(i < 2 * n ? 6 : 13)];
      for (size_t i = 0; i < b.size(); ++i) b[i] = special[draws.below(i < 2 * n ? 6 : 13)];
      // And of one pair each product is a little below zero: all partial sums are -0, and so has to
      // be what comes of them, also where the last ones get nothing more.
      std::fill_n(a.begin(), n, 1e-30F);
      std::fill_n(b.begin(), n, -1e-30F);
      if (with_nan) a[3 * n + 1] = std::numeric_limits<float>::quiet_NaN();
      const WeightView w{.data = b.data(), .dtype = DType::kF32, .out = 5, .in = n};
      expect_same_bits(text("special", rows, n), [&, rows = rows, n = n](Ops& ops) {
        std::vector<float> y(5 * rows + 8 * n);
        ops.gemm({.x = {a.data(), rows, n}, .w = w, .y = {y.data(), rows, 5}});
        float* more = &y[5 * rows];
        ops.silu_mul({.gate = {a.data(), 4, n}, .up = {b.data(), 4, n}, .out = {more, 4, n}});
        ops.rms_norm(
            {.x = {a.data(), 4, n}, .weight = b.data(), .eps = 1e-6F, .out = {more + 4 * n, 4, n}});
        return y;
      });
    }
  }
}

TEST(SameBits, AgreeForOperationsOnRows) {
  Draws draws(9);
  for (const size_t n : kDims) {
    for (const size_t rows : {1, 3, 17, 700}) {
      if (rows == 700 && n != 129) continue;  // enough to be split across threads
      const size_t stride = n + 1;
      const std::vector<float> a = draws.values(rows * stride);
      std::vector<float> b = draws.values(rows * stride);
      for (size_t i = 0; i < b.size(); i += 5) b[i] *= 200.0F;  // beyond the ends of exp's range
      const std::vector<float> weight = draws.values(n);
      expect_same_bits(text("rows", rows, n), [&](Ops& ops) {
        std::vector<float> norm = a;
        std::vector<float> silu = b;
        std::vector<float> sum = a;
        const Rows norm_rows(norm.data(), rows, n, stride);
        const Rows silu_rows(silu.data(), rows, n, stride);
        ops.rms_norm({.x = norm_rows, .weight = weight.data(), .eps = 1e-6F, .out = norm_rows});
        ops.silu_mul({.gate = silu_rows, .up = {a.data(), rows, n, stride}, .out = silu_rows});
        ops.add({.x = {sum.data(), rows, n, stride}, .y = {b.data(), rows, n, stride}});
        norm.insert(norm.end(), silu.begin(), silu.end());
        norm.insert(norm.end(), sum.begin(), sum.end());
        return norm;
      });
    }
  }
}

TEST(SameBits, AgreeForRope) {
  Draws draws(10);
  for (const size_t rows : {1, 5, 33}) {
    const size_t heads = 3;
    const size_t head_dim = 40;
    const std::vector<float> x = draws.values(rows * heads * head_dim);
    std::vector<uint32_t> positions;
    for (size_t r = 0; r < rows; ++r) positions.push_back(draws.below(163840));
    const std::vector<float> inv_freq = {1.0F, 0.37F, 0.011F, 1e-4F};
    expect_same_bits(text("rope", rows), [&](Ops& ops) {
      std::vector<float> out = x;
      ops.rope({.x = {out.data(), rows, heads * head_dim},
                .num_heads = heads,
                .head_dim = head_dim,
                .dim = 8,
                .positions = positions,
                .inv_freq = inv_freq,
                .magnitude = 1.1F});
      return out;
    });
  }
}

TEST(SameBits, AgreeForCombine) {
  Draws draws(11);
  for (const size_t hidden : kDims) {
    for (const bool with_shared : {false, true}) {
      constexpr size_t kNumRows = 5;
      constexpr size_t kTopk = 6;
      const std::vector<float> expert_rows = draws.values(19 * hidden);
      const std::vector<float> shared = draws.values(kNumRows * hidden);
      const std::vector<float> residual = draws.values(kNumRows * hidden);
      const std::vector<float> weights = draws.values(kNumRows * kTopk);
      std::vector<const float*> slots(kNumRows * kTopk);
      for (const float*& s : slots) s = expert_rows.data() + draws.below(19) * hidden;
      expect_same_bits(text("combine", hidden), [&](Ops& ops) {
        std::vector<float> out = residual;
        ops.combine({.expert_rows = slots.data(),
                     .topk_weight = weights.data(),
                     .topk = kTopk,
                     .shared = {with_shared ? shared.data() : nullptr, kNumRows, hidden},
                     .residual = {out.data(), kNumRows, hidden}});
        return out;
      });
    }
  }
}

TEST(SameBits, AgreeForTheGate) {
  Draws draws(12);
  constexpr size_t kNumRows = 300;
  const std::vector<float> logits = draws.values(kNumRows * 64);
  const std::vector<float> bias = draws.values(64);
  for (const GateMethod method :
       {GateMethod::kGreedy, GateMethod::kGroupLimitedGreedy, GateMethod::kNoauxTc}) {
    expect_same_bits("gate", [&](Ops& ops) {
      std::vector<ExpertIdx> idx(kNumRows * 6);
      std::vector<float> weight(kNumRows * 6);
      ops.topk_gate({.logits = {logits.data(), kNumRows, 64},
                     .bias = method == GateMethod::kNoauxTc ? bias.data() : nullptr,
                     .method = method,
                     .num_groups = 8,
                     .topk_groups = 3,
                     .topk = 6,
                     .normalize = true,
                     .scale = 2.5F,
                     .topk_idx = idx.data(),
                     .topk_weight = weight.data()});
      weight.insert(weight.end(), idx.begin(), idx.end());
      return weight;
    });
  }
}

struct AttentionShape {
  size_t heads, kv_rank, rope_dim, nope_dim, v_dim, block_tokens;
};

constexpr AttentionShape kAttentionShapes[] = {
    {1, 16, 8, 16, 16, 4}, {2, 36, 8, 24, 17, 5},       {3, 32, 16, 32, 33, 16},
    {5, 72, 6, 7, 15, 1},  {16, 128, 64, 128, 128, 16}, {8, 100, 0, 17, 40, 64},
};

std::string text_of(const AttentionShape& s) {
  return text("attention", s.heads, s.kv_rank, s.rope_dim, s.nope_dim, s.v_dim, s.block_tokens);
}

/// Three requests in one call: a chunk of prefill, one row of decode, and a chunk from the start.
struct AttentionCase {
  AttentionShape shape;
  std::vector<KvCache> caches;
  std::vector<AttentionRow> rows;
  std::vector<float> q_latent, q_rope, q, kv_b;

  AttentionCase(const AttentionShape& s, Draws& draws, StoredKv stored = StoredKv::kF32)
      : shape(s) {
    const size_t width = s.kv_rank + s.rope_dim;
    for (const size_t positions : {61, 130, 20}) {
      caches.emplace_back(positions, s.block_tokens, width, draws, stored);
    }
    for (size_t t = 42; t <= 61; ++t) rows.push_back(caches[0].row(t));
    rows.push_back(caches[1].row(130));
    for (size_t t = 1; t <= 20; ++t) rows.push_back(caches[2].row(t));
    q_latent = draws.values(rows.size() * s.heads * s.kv_rank);
    q_rope = draws.values(rows.size() * s.heads * s.rope_dim);
    q = draws.values(rows.size() * s.heads * (s.nope_dim + s.rope_dim));
    kv_b = draws.values(s.heads * (s.nope_dim + s.v_dim) * s.kv_rank);
  }

  std::vector<float> absorbed(Ops& ops, size_t first, size_t count) const {
    const size_t latent = shape.heads * shape.kv_rank;
    const size_t rope = shape.heads * shape.rope_dim;
    std::vector<float> out(count * latent);
    ops.mla_absorbed(
        {.q_latent = ConstRows(q_latent.data(), rows.size(), latent).slice(first, count),
         .q_rope = ConstRows(q_rope.data(), rows.size(), rope).slice(first, count),
         .rows = std::span(rows).subspan(first, count),
         .kv_dtype = caches[0].dtype,
         .block_tokens = shape.block_tokens,
         .num_heads = shape.heads,
         .kv_rank = shape.kv_rank,
         .rope_dim = shape.rope_dim,
         .scale = 0.7F,
         .out = {out.data(), count, latent}});
    return out;
  }

  std::vector<float> expanded(Ops& ops, size_t first, size_t count) const {
    const size_t qk = shape.heads * (shape.nope_dim + shape.rope_dim);
    const size_t v = shape.heads * shape.v_dim;
    std::vector<float> out(count * v);
    ops.mla_expanded({.q = ConstRows(q.data(), rows.size(), qk).slice(first, count),
                      .kv_b = kv_b.data(),
                      .rows = std::span(rows).subspan(first, count),
                      .kv_dtype = caches[0].dtype,
                      .block_tokens = shape.block_tokens,
                      .num_heads = shape.heads,
                      .kv_rank = shape.kv_rank,
                      .nope_dim = shape.nope_dim,
                      .rope_dim = shape.rope_dim,
                      .v_dim = shape.v_dim,
                      .scale = 0.7F,
                      .out = {out.data(), count, v}});
    return out;
  }
};

class SameBitsOfAttention : public testing::TestWithParam<StoredKv> {};

TEST_P(SameBitsOfAttention, AgreeInBothForms) {
  Draws draws(13);
  for (const AttentionShape& shape : kAttentionShapes) {
    const AttentionCase c(shape, draws, GetParam());
    expect_same_bits("absorbed " + text_of(shape),
                     [&](Ops& ops) { return c.absorbed(ops, 0, c.rows.size()); });
    expect_same_bits("expanded " + text_of(shape),
                     [&](Ops& ops) { return c.expanded(ops, 0, c.rows.size()); });
    if (HasFatalFailure()) return;
  }
}

TEST(SameBits, OfAttentionAreThoseOfTheFloatsThatKvInBf16StandsFor) {
  for (const AttentionShape& shape : kAttentionShapes) {
    Draws draws(17), same_draws(17);
    const AttentionCase c(shape, draws, StoredKv::kBF16);
    const AttentionCase floats(shape, same_draws, StoredKv::kRounded);
    const size_t n = c.rows.size();
    ASSERT_EQ(bit_difference(floats.absorbed(scalar(), 0, n), c.absorbed(scalar(), 0, n)), "");
    ASSERT_EQ(bit_difference(floats.expanded(scalar(), 0, n), c.expanded(scalar(), 0, n)), "");
  }
}

TEST(SameBits, AgreeForStoredKv) {
  Draws draws(18);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const size_t cols : {1, 24, 37, 576}) {
    constexpr size_t kNumRows = 100;  // more than one part of 576 columns
    std::vector<float> x = draws.values(kNumRows * cols);
    const auto special =
        std::to_array<float>({-0.0F, 0x1p-140F, 0x1.01p0F, 0x1.03p0F, 0x1.ffp127F, kInfinity,
                              -kInfinity, NAN, std::bit_cast<float>(0x7f800001U)});
    for (size_t i = 0; i < special.size(); ++i) x[i * x.size() / special.size()] = special[i];
    std::vector<uint16_t> want;
    for (const float value : x) want.push_back(to_bf16(value));
    for (const auto& v : versions().all()) {
      std::vector<uint16_t> halves(x.size());
      std::vector<float> floats(x.size());
      std::vector<void*> to_halves, to_floats;  // the last row first
      for (size_t r = kNumRows; r-- > 0;) {
        to_halves.push_back(&halves[r * cols]);
        to_floats.push_back(&floats[r * cols]);
      }
      std::vector<float> reversed;
      for (size_t r = kNumRows; r-- > 0;) {
        reversed.insert(reversed.end(), &x[r * cols], &x[r * cols] + cols);
      }
      const ConstRows rows(reversed.data(), kNumRows, cols);
      v.ops->store_kv({.x = rows, .kv_dtype = DType::kBF16, .out = to_halves});
      v.ops->store_kv({.x = rows, .kv_dtype = DType::kF32, .out = to_floats});
      ASSERT_EQ(halves, want) << v.name;
      ASSERT_EQ(std::memcmp(floats.data(), x.data(), x.size() * sizeof(float)), 0) << v.name;
    }
  }
}

TEST_P(SameBitsOfAttention, OfARowDoNotDependOnItsBatch) {
  Draws draws(14);
  for (const AttentionShape& shape : kAttentionShapes) {
    const AttentionCase c(shape, draws, GetParam());
    const auto in_batches_of = [&](size_t size, const auto& attend) {
      std::vector<float> all;
      for (size_t r = 0; r < c.rows.size(); r += size) {
        const std::vector<float> part = attend(r, std::min(size, c.rows.size() - r));
        all.insert(all.end(), part.begin(), part.end());
      }
      return all;
    };
    for (const auto& v : versions().all()) {
      if (v.pool != nullptr) continue;  // threads are covered above
      const auto absorbed = [&](size_t r, size_t n) { return c.absorbed(*v.ops, r, n); };
      const auto expanded = [&](size_t r, size_t n) { return c.expanded(*v.ops, r, n); };
      const std::vector<float> together_absorbed = in_batches_of(1000, absorbed);
      const std::vector<float> together_expanded = in_batches_of(1000, expanded);
      for (const size_t size : {1, 3, 16}) {
        ASSERT_EQ(bit_difference(together_absorbed, in_batches_of(size, absorbed)), "")
            << v.name << " " << text_of(shape);
        ASSERT_EQ(bit_difference(together_expanded, in_batches_of(size, expanded)), "")
            << v.name << " " << text_of(shape);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kv, SameBitsOfAttention, testing::Values(StoredKv::kF32, StoredKv::kBF16),
                         [](const auto& info) {
                           return info.param == StoredKv::kF32 ? "F32" : "BF16";
                         });

TEST(SameBits, OfAttentionDoNotDependOnTheSizeOfTheBlocks) {
  Draws draws(15);
  constexpr size_t kWidth = 40;
  constexpr size_t kPositions = 77;
  const std::vector<float> flat = draws.values(96 * kWidth);
  std::vector<uint16_t> halves;
  for (const float value : flat) halves.push_back(to_bf16(value));
  const std::vector<float> q = draws.values(2 * kWidth);
  const auto attend = [&](Ops& ops, DType kv_dtype, size_t block_tokens) {
    std::vector<const void*> blocks;
    for (size_t t = 0; t < 96; t += block_tokens) {
      const size_t at = t * kWidth;
      blocks.push_back(kv_dtype == DType::kF32 ? static_cast<const void*>(&flat[at]) : &halves[at]);
    }
    const AttentionRow row{.blocks = blocks, .context_len = kPositions};
    std::vector<float> out(2 * 32);
    ops.mla_absorbed({.q_latent = {q.data(), 1, 64},
                      .q_rope = {q.data() + 64, 1, 16},
                      .rows = {&row, 1},
                      .kv_dtype = kv_dtype,
                      .block_tokens = block_tokens,
                      .num_heads = 2,
                      .kv_rank = 32,
                      .rope_dim = 8,
                      .scale = 1.0F,
                      .out = {out.data(), 1, 64}});
    return out;
  };
  for (const auto& v : versions().all()) {
    for (const DType kv_dtype : {DType::kF32, DType::kBF16}) {
      const std::vector<float> first = attend(*v.ops, kv_dtype, 1);
      for (const size_t block_tokens : {3, 16, 32, 96}) {
        ASSERT_EQ(bit_difference(first, attend(*v.ops, kv_dtype, block_tokens)), "")
            << v.name << " blocks of " << block_tokens;
      }
    }
  }
}

TEST(SameBits, AgreeForManyProductsAtOnce) {
  Draws draws(16);
  const StoredWeight a(DType::kBF16, 600, 512, draws);
  const StoredWeight b(DType::kF8E4M3, 17, 512, draws);
  const StoredWeight c(DType::kF32, 300, 129, draws);
  const std::vector<float> x = draws.values(9 * 512);
  expect_same_bits("gemm_many", [&](Ops& ops) {
    std::vector<float> y(9 * 917);
    float* at = y.data();
    std::vector<GemmParams> products;
    for (const StoredWeight* w : {&a, &b, &c}) {
      products.push_back(
          {.x = {x.data(), 9, w->view.in, 512}, .w = w->view, .y = {at, 9, w->view.out}});
      at += 9 * w->view.out;
    }
    ops.gemm_many(products);
    return y;
  });
}

}  // namespace
}  // namespace troupe::kernels
