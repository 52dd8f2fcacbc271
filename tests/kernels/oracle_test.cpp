// The specification itself, against straightforward formulas in double precision that share no code
// with it. Tolerances are relative to the size of the summands, so cancellation does not matter.

#include <algorithm>
#include <numeric>

#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

/// Bits of a stored element by its definition: sign * 2^exponent * (1 + mantissa).
double element(const WeightView& w, size_t o, size_t i) {
  const size_t at = o * w.in + i;
  const auto* bytes = static_cast<const unsigned char*>(w.data) + at * size_of(w.dtype);
  uint32_t bits = 0;
  std::memcpy(&bits, bytes, size_of(w.dtype));
  switch (w.dtype) {
    case DType::kF32: return std::bit_cast<float>(bits);
    case DType::kBF16: return std::bit_cast<float>(bits << 16);
    case DType::kF16: {
      const int exponent = static_cast<int>(bits >> 10 & 31U);
      const double mantissa = (bits & 1023U) / 1024.0;
      const double size =
          exponent == 0 ? std::ldexp(mantissa, -14) : std::ldexp(1 + mantissa, exponent - 15);
      return (bits & 0x8000U) != 0 ? -size : size;
    }
    case DType::kF8E4M3: {
      const int exponent = static_cast<int>(bits >> 3 & 15U);
      const double mantissa = (bits & 7U) / 8.0;
      const double size =
          exponent == 0 ? std::ldexp(mantissa, -6) : std::ldexp(1 + mantissa, exponent - 7);
      const double scale =
          w.scales == nullptr ? 1.0 : w.scales[o / 128 * ((w.in + 127) / 128) + i / 128];
      return ((bits & 0x80U) != 0 ? -size : size) * scale;
    }
    case DType::kI8:
    case DType::kI4: break;  // quantised_test.cpp
  }
  return 0;
}

constexpr double kRelative = 1e-6;

TEST(Oracle, GemmIsTheProductOfRowsAndWeightsPlusBias) {
  Draws draws(101);
  for (const DType dtype : all_dtypes()) {
    for (const size_t in : {1, 36, 129, 576}) {
      const size_t out = 131;
      const StoredWeight w(dtype, out, in, draws);
      const std::vector<float> x = draws.values(3 * in);
      const std::vector<float> bias = draws.values(out);
      std::vector<float> y(3 * out);
      scalar().gemm(
          {.x = {x.data(), 3, in}, .w = w.view, .bias = bias.data(), .y = {y.data(), 3, out}});
      for (size_t r = 0; r < 3; ++r) {
        for (size_t o = 0; o < out; ++o) {
          double want = bias[o];
          double size = std::abs(want);
          for (size_t i = 0; i < in; ++i) {
            const double product = x[r * in + i] * element(w.view, o, i);
            want += product;
            size += std::abs(product);
          }
          ASSERT_NEAR(y[r * out + o], want, kRelative * size) << to_string(dtype) << " in " << in;
        }
      }
    }
  }
}

TEST(Oracle, EmbedCopiesTheRowsOfItsTokens) {
  Draws draws(102);
  for (const DType dtype : all_dtypes()) {
    const StoredWeight table(dtype, 140, 130, draws);
    const std::vector<TokenId> tokens = {139, 0, 127, 128, 0};
    std::vector<float> out(tokens.size() * 130);
    scalar().embed({.table = table.view, .tokens = tokens, .out = {out.data(), 5, 130}});
    for (size_t r = 0; r < 5; ++r) {
      for (size_t i = 0; i < 130; ++i) {
        // One rounding, and that only for FP8 with scales.
        ASSERT_EQ(out[r * 130 + i],
                  static_cast<float>(element(table.view, static_cast<size_t>(tokens[r]), i)));
      }
    }
  }
}

TEST(Oracle, RmsNormDividesByTheRootOfTheMeanSquare) {
  Draws draws(103);
  for (const size_t n : {1, 17, 129, 2048}) {
    const std::vector<float> x = draws.values(2 * n);
    const std::vector<float> weight = draws.values(n);
    std::vector<float> out(2 * n);
    scalar().rms_norm(
        {.x = {x.data(), 2, n}, .weight = weight.data(), .eps = 1e-3F, .out = {out.data(), 2, n}});
    for (size_t r = 0; r < 2; ++r) {
      double squares = 0;
      for (size_t i = 0; i < n; ++i) squares += std::pow(x[r * n + i], 2.0);
      const double root = std::sqrt(squares / static_cast<double>(n) + 1e-3F);
      for (size_t i = 0; i < n; ++i) {
        const double want = weight[i] * (x[r * n + i] / root);
        ASSERT_NEAR(out[r * n + i], want, kRelative * std::abs(want));
      }
    }
  }
}

TEST(Oracle, SiluMulIsTheGateTimesItsSigmoidTimesUp) {
  Draws draws(104);
  std::vector<float> gate = draws.values(1000);
  for (size_t i = 0; i < gate.size(); i += 2) gate[i] *= 80;
  const std::vector<float> up = draws.values(1000);
  std::vector<float> out(1000);
  scalar().silu_mul(
      {.gate = {gate.data(), 4, 250}, .up = {up.data(), 4, 250}, .out = {out.data(), 4, 250}});
  for (size_t i = 0; i < out.size(); ++i) {
    const double g = gate[i];
    const double want = g / (1 + std::exp(-g)) * up[i];
    ASSERT_NEAR(out[i], want, kRelative * std::abs(want)) << g;
  }
}

TEST(Oracle, RopeTurnsEachPairByItsAngleAndLeavesTheRest) {
  Draws draws(105);
  const size_t heads = 2;
  const size_t head_dim = 11;
  const size_t dim = 6;
  const std::vector<float> x = draws.values(3 * heads * head_dim);
  const std::vector<uint32_t> positions = {0, 1, 100000};
  const std::vector<float> inv_freq = {1.0F, 0.1F, 0.003F};
  const float magnitude = 1.25F;
  std::vector<float> out = x;
  scalar().rope({.x = {out.data(), 3, heads * head_dim},
                 .num_heads = heads,
                 .head_dim = head_dim,
                 .dim = dim,
                 .positions = positions,
                 .inv_freq = inv_freq,
                 .magnitude = magnitude});
  for (size_t r = 0; r < 3; ++r) {
    for (size_t h = 0; h < heads; ++h) {
      const size_t head = (r * heads + h) * head_dim;
      for (size_t i = 0; i < head_dim - dim; ++i) ASSERT_EQ(out[head + i], x[head + i]);
      for (size_t pair = 0; pair < dim / 2; ++pair) {
        const size_t at = head + head_dim - dim + 2 * pair;
        // float32 by contract: the angle of a far position depends on this rounding.
        const double angle = static_cast<float>(positions[r]) * inv_freq[pair];
        const double a = x[at] * std::cos(angle) - x[at + 1] * std::sin(angle);
        const double b = x[at] * std::sin(angle) + x[at + 1] * std::cos(angle);
        ASSERT_NEAR(out[at], magnitude * a, 4e-7);
        ASSERT_NEAR(out[at + 1], magnitude * b, 4e-7);
      }
    }
  }
}

TEST(Oracle, AddAddsInPlace) {
  std::vector<float> x = {1, 2, 3, 4};
  const std::vector<float> y = {10, 20, 30, 40};
  scalar().add({.x = {x.data(), 2, 2}, .y = {y.data(), 2, 2}});
  EXPECT_EQ(x, (std::vector<float>{11, 22, 33, 44}));
}

TEST(Oracle, CombineAddsWeightedSlotsThenSharedToTheResidual) {
  const std::vector<float> expert_rows = {1, 2, 10, 20, 100, 200};
  const float* rows = expert_rows.data();
  const std::vector<const float*> slots = {rows + 4, rows, rows + 2, rows + 2};
  const std::vector<float> weights = {0.5F, 2, 1, 3};
  const std::vector<float> shared = {7, 7, 9, 9};
  std::vector<float> residual = {1000, 1000, 2000, 2000};
  CombineParams p{.expert_rows = slots.data(),
                  .topk_weight = weights.data(),
                  .topk = 2,
                  .shared = {shared.data(), 2, 2},
                  .residual = {residual.data(), 2, 2}};
  scalar().combine(p);
  EXPECT_EQ(residual,
            (std::vector<float>{1000 + 52 + 7, 1000 + 104 + 7, 2000 + 40 + 9, 2000 + 80 + 9}));
  p.shared = {};
  scalar().combine(p);
  EXPECT_EQ(residual, (std::vector<float>{1111, 1215, 2089, 2169}));
}

TEST(Oracle, GroupedFfnIsDownOfSiluOfGateTimesUp) {
  Draws draws(106);
  const size_t hidden = 37;
  const size_t inner = 21;
  const StoredWeight gate(DType::kBF16, inner, hidden, draws);
  const StoredWeight up(DType::kF16, inner, hidden, draws);
  const StoredWeight down(DType::kF32, hidden, inner, draws);
  const std::vector<float> x = draws.values(2 * hidden);
  std::vector<float> y(2 * hidden);
  const FfnParams ffn{.x = {x.data(), 2, hidden},
                      .gate = gate.view,
                      .up = up.view,
                      .down = down.view,
                      .y = {y.data(), 2, hidden}};
  scalar().grouped_ffn({&ffn, 1});
  for (size_t r = 0; r < 2; ++r) {
    std::vector<double> middle;
    for (size_t m = 0; m < inner; ++m) {
      double g = 0;
      double u = 0;
      for (size_t i = 0; i < hidden; ++i) {
        g += x[r * hidden + i] * element(gate.view, m, i);
        u += x[r * hidden + i] * element(up.view, m, i);
      }
      middle.push_back(g / (1 + std::exp(-g)) * u);
    }
    for (size_t o = 0; o < hidden; ++o) {
      double want = 0;
      double size = 0;
      for (size_t m = 0; m < inner; ++m) {
        want += middle[m] * element(down.view, o, m);
        size += std::abs(middle[m] * element(down.view, o, m));
      }
      ASSERT_NEAR(y[r * hidden + o], want, 1e-5 * size + 1e-9);
    }
  }
}

/// Attention as textbooks have it: all keys and values made, softmax, weighted sum.
struct Textbook {
  static constexpr size_t kHeads = 3, kRank = 20, kRope = 6, kNope = 9, kV = 13, kBlock = 4;
  static constexpr size_t kContext = 30;
  Draws draws{107};
  KvCache cache{kContext, kBlock, kRank + kRope, draws};
  std::vector<AttentionRow> rows = {cache.row(1), cache.row(17), cache.row(kContext)};
  std::vector<float> q = draws.values(rows.size() * kHeads * (kNope + kRope));
  std::vector<float> kv_b = draws.values(kHeads * (kNope + kV) * kRank);
  double scale = 0.6F;

  const float* kv(size_t t) const {
    return static_cast<const float*>(cache.blocks[t / kBlock]) + t % kBlock * (kRank + kRope);
  }
  const float* kv_b_row(size_t h, size_t o) const { return &kv_b[(h * (kNope + kV) + o) * kRank]; }
  double expanded(size_t h, size_t o, size_t t) const {
    return std::inner_product(kv(t), kv(t) + kRank, kv_b_row(h, o), 0.0);
  }

  std::vector<double> attention() const {
    std::vector<double> out;
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t h = 0; h < kHeads; ++h) {
        const float* query = &q[(r * kHeads + h) * (kNope + kRope)];
        std::vector<double> p;
        for (size_t t = 0; t < rows[r].context_len; ++t) {
          double score =
              std::inner_product(query + kNope, query + kNope + kRope, kv(t) + kRank, 0.0);
          for (size_t i = 0; i < kNope; ++i) score += query[i] * expanded(h, i, t);
          p.push_back(std::exp(score * scale));
        }
        const double sum = std::accumulate(p.begin(), p.end(), 0.0);
        for (size_t i = 0; i < kV; ++i) {
          double value = 0;
          for (size_t t = 0; t < p.size(); ++t) value += p[t] / sum * expanded(h, kNope + i, t);
          out.push_back(value);
        }
      }
    }
    return out;
  }
};

TEST(Oracle, ExpandedAttentionIsTextbookAttention) {
  const Textbook book;
  const size_t n = book.rows.size();
  std::vector<float> out(n * Textbook::kHeads * Textbook::kV);
  scalar().mla_expanded({.q = {book.q.data(), n, Textbook::kHeads * 15},
                         .kv_b = book.kv_b.data(),
                         .rows = book.rows,
                         .block_tokens = Textbook::kBlock,
                         .num_heads = Textbook::kHeads,
                         .kv_rank = Textbook::kRank,
                         .nope_dim = Textbook::kNope,
                         .rope_dim = Textbook::kRope,
                         .v_dim = Textbook::kV,
                         .scale = static_cast<float>(book.scale),
                         .out = {out.data(), n, Textbook::kHeads * Textbook::kV}});
  const std::vector<double> want = book.attention();
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(out[i], want[i], 2e-6) << i;
}

TEST(Oracle, AbsorbedAttentionIsTextbookAttentionWithKvBMovedToTheQueryAndTheOutput) {
  const Textbook book;
  const size_t n = book.rows.size();
  constexpr size_t kHeads = Textbook::kHeads;
  constexpr size_t kRank = Textbook::kRank;
  std::vector<float> q_latent(n * kHeads * kRank);
  std::vector<float> q_rope;
  for (size_t rh = 0; rh < n * kHeads; ++rh) {
    const float* query = &book.q[rh * 15];
    for (size_t c = 0; c < kRank; ++c) {
      double sum = 0;
      for (size_t i = 0; i < Textbook::kNope; ++i) {
        sum += query[i] * book.kv_b_row(rh % kHeads, i)[c];
      }
      q_latent[rh * kRank + c] = static_cast<float>(sum);
    }
    q_rope.insert(q_rope.end(), query + Textbook::kNope, query + 15);
  }
  std::vector<float> latent(n * kHeads * kRank);
  scalar().mla_absorbed({.q_latent = {q_latent.data(), n, kHeads * kRank},
                         .q_rope = {q_rope.data(), n, kHeads * Textbook::kRope},
                         .rows = book.rows,
                         .block_tokens = Textbook::kBlock,
                         .num_heads = kHeads,
                         .kv_rank = kRank,
                         .rope_dim = Textbook::kRope,
                         .scale = static_cast<float>(book.scale),
                         .out = {latent.data(), n, kHeads * kRank}});
  const std::vector<double> want = book.attention();
  for (size_t rh = 0; rh < n * kHeads; ++rh) {
    for (size_t i = 0; i < Textbook::kV; ++i) {
      const float* row = book.kv_b_row(rh % kHeads, Textbook::kNope + i);
      const double got = std::inner_product(row, row + kRank, &latent[rh * kRank], 0.0);
      ASSERT_NEAR(got, want[rh * Textbook::kV + i], 4e-6);
    }
  }
}

TEST(Oracle, AttentionSurvivesScoresFarBeyondTheRangeOfExp) {
  // One position wins by a wide margin: its value is the result, whatever the size of the scores.
  const std::vector<float> kv = {300, 1, -300, 2, 299, 3};  // rank 1, rope 1
  const void* block = kv.data();
  const AttentionRow row{.blocks = {&block, 1}, .context_len = 3};
  const float q_latent = 1000;
  const float q_rope = 0;
  float out = 0;
  scalar().mla_absorbed({.q_latent = {&q_latent, 1, 1},
                         .q_rope = {&q_rope, 1, 1},
                         .rows = {&row, 1},
                         .block_tokens = 3,
                         .num_heads = 1,
                         .kv_rank = 1,
                         .rope_dim = 1,
                         .scale = 1,
                         .out = {&out, 1, 1}});
  EXPECT_EQ(out, 300.0F);
}

}  // namespace
}  // namespace troupe::kernels
