// Products with integer weights: rule 5 of kernels/ops.hpp by an independent computation, the same
// bits in every version, and sums at the edge of what their integers hold.

#include <limits>
#include <numeric>
#include <utility>

#include "base/panels.hpp"
#include "kernels/cpu/convert.hpp"
#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

class IntegerProduct : public testing::TestWithParam<IntegerForm> {};

std::vector<float> product(Ops& ops, const WeightView& w, const std::vector<float>& x, size_t rows,
                           const float* bias = nullptr) {
  std::vector<float> y(rows * (w.out + 2), 7.0F);
  ops.gemm({.x = {x.data(), rows, w.in, x.size() / rows},
            .w = w,
            .bias = bias,
            .y = {y.data(), rows, w.out, w.out + 2}});
  return y;
}

TEST_P(IntegerProduct, FollowsItsRule) {
  Draws draws(1);
  constexpr size_t kIn = 416;  // the last group of 128 is shorter
  const IntegerWeight w(GetParam(), 32, kIn, draws);
  const std::vector<float> x = draws.values(kIn);
  const std::vector<float> y = product(scalar(), w.view, x, 1);
  // In double, from weights as they are defined and activations rounded independently.
  for (size_t o = 0; o < w.view.out; ++o) {
    double sum = 0, magnitude = 0;
    for (size_t first = 0; first < kIn; first += 32) {
      double max = 0;
      for (size_t i = first; i < first + 32; ++i) max = std::max(max, std::abs(double{x[i]}));
      for (size_t i = first; i < first + 32; ++i) {
        const double q = std::nearbyint(x[i] * (127.0F / static_cast<float>(max)));
        const double term = q * max / 127 * weight_at(w.view, o, i);
        sum += term;
        magnitude += std::abs(term);
      }
    }
    EXPECT_NEAR(y[o], sum, 1e-6 * magnitude) << "output " << o;
  }
}

TEST_P(IntegerProduct, IsCloseToThatOfUnroundedActivations) {
  Draws draws(2);
  const IntegerWeight w(GetParam(), 64, 512, draws);
  const std::vector<float> x = draws.values(512);
  const std::vector<float> y = product(scalar(), w.view, x, 1);
  double error = 0, power = 0;
  for (size_t o = 0; o < w.view.out; ++o) {
    double exact = 0;
    for (size_t i = 0; i < 512; ++i) exact += double{x[i]} * weight_at(w.view, o, i);
    error += (y[o] - exact) * (y[o] - exact);
    power += exact * exact;
  }
  EXPECT_LT(error, 2e-4 * power);
}

TEST_P(IntegerProduct, GivesTheSameBitsForEveryShape) {
  Draws draws(3);
  for (const size_t in : {32, 64, 160, 416, 1408}) {
    for (const size_t out : {16, 48, 144}) {
      const IntegerWeight w(GetParam(), out, in, draws);
      const std::vector<float> bias = draws.values(out);
      for (const size_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 30, 65}) {
        const std::vector<float> x = draws.values(rows * (in + 3));
        expect_same_bits(
            std::to_string(rows) + " x " + std::to_string(in) + " x " + std::to_string(out),
            [&](Ops& ops) {
              return product(ops, w.view, x, rows, rows % 2 == 0 ? bias.data() : nullptr);
            });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(IntegerProduct, GivesTheSameBitsWhereThreadsShareIt) {
  Draws draws(4);
  const IntegerWeight w(GetParam(), 720, 1056, draws);
  for (const size_t rows : {1, 5, 70}) {
    const std::vector<float> x = draws.values(rows * w.view.in);
    expect_same_bits(std::to_string(rows) + " rows",
                     [&](Ops& ops) { return product(ops, w.view, x, rows); });
  }
}

TEST_P(IntegerProduct, OfARowDoesNotDependOnItsBatch) {
  Draws draws(5);
  const IntegerWeight w(GetParam(), 144, 160, draws);
  constexpr size_t kBatch = 33;
  const std::vector<float> x = draws.values(kBatch * 160);
  for (const auto& v : versions().all()) {
    const std::vector<float> together = product(*v.ops, w.view, x, kBatch);
    for (const size_t size : {1, 2, 3, 5, 17}) {
      std::vector<float> apart;
      for (size_t r = 0; r < kBatch; r += size) {
        const size_t rows = std::min(size, kBatch - r);
        const std::vector<float> part(&x[r * 160], &x[r * 160] + rows * 160);
        const std::vector<float> y = product(*v.ops, w.view, part, rows);
        apart.insert(apart.end(), y.begin(), y.end());
      }
      ASSERT_EQ(bit_difference(together, apart), "") << v.name << " in batches of " << size;
    }
  }
}

TEST_P(IntegerProduct, OfAnOutputDoesNotDependOnTheOthers) {
  Draws draws(6);
  const IntegerWeight w(GetParam(), 96, 416, draws);
  const std::vector<float> x = draws.values(3 * 416);
  const auto in_parts = [&](Ops& ops, size_t outputs) {
    std::vector<float> y(3 * 96);
    for (size_t o = 0; o < 96; o += outputs) {
      ops.gemm({.x = {x.data(), 3, 416},
                .w = w.view.outputs(o, outputs),
                .y = {y.data() + o, 3, outputs, 96}});
    }
    return y;
  };
  for (const auto& v : versions().all()) {
    EXPECT_EQ(bit_difference(in_parts(*v.ops, 96), in_parts(*v.ops, 16)), "") << v.name;
  }
}

TEST_P(IntegerProduct, HoldsTheLargestSums) {
  Draws draws(7);
  const IntegerWeight w(GetParam(), 32, 64, draws);
  std::vector<std::byte> bytes(w.view.size_bytes());
  WeightView view = w.view;
  view.data = bytes.data();
  for (const int byte : {0x00, 0xff, 0x80, 0x7f}) {
    std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(byte));
    for (const float value : {1.0F, -1.0F, 3e38F}) {
      const std::vector<float> x(21 * 64, value);
      expect_same_bits("byte " + std::to_string(byte) + ", activations " + std::to_string(value),
                       [&](Ops& ops) { return product(ops, view, x, 21); });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(IntegerProduct, TakesZerosBeyondSignedBytes) {
  Draws draws(10);
  IntegerWeight w(GetParam(), 48, 416, draws);
  if (w.zeros.empty()) return;
  w.zeros[20] = 129;
  w.zeros[w.zeros.size() - 1] = 255;
  for (const size_t rows : {1, 19}) {
    const std::vector<float> x = draws.values(rows * 416);
    expect_same_bits(std::to_string(rows) + " rows",
                     [&](Ops& ops) { return product(ops, w.view, x, rows); });
  }
}

TEST_P(IntegerProduct, KeepsWhatIsNotFiniteToItsRow) {
  Draws draws(8);
  const IntegerWeight w(GetParam(), 16, 96, draws);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr size_t kRows = 16;
  std::vector<float> x = draws.values(kRows * 96);
  x[5] = std::numeric_limits<float>::quiet_NaN();
  x[96 + 40] = kInfinity;
  x[2 * 96 + 95] = -kInfinity;
  std::fill_n(&x[3 * 96], 96, 0.0F);
  std::fill_n(&x[4 * 96], 96, 1e-41F);  // its inverse is infinite
  expect_same_bits("rows that are not finite", [&](Ops& ops) {
    const std::vector<float> y = product(ops, w.view, x, kRows);
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t o = 0; o < 16; ++o) EXPECT_EQ(std::isnan(y[r * 18 + o]), r < 3) << r;
    }
    EXPECT_EQ(y[3 * 18], 0.0F);
    EXPECT_EQ(y[4 * 18], 0.0F);
    return y;
  });
}

TEST_P(IntegerProduct, GivesTheSameBitsInGroupedFfns) {
  Draws draws(9);
  constexpr size_t kHidden = 96, kInner = 160;
  // Some matrices of an expert may be kept in another form.
  for (const int integers : {0b111, 0b011, 0b100, 0b001}) {
    std::vector<std::unique_ptr<IntegerWeight>> integer;
    std::vector<StoredWeight> stored;
    std::vector<std::vector<float>> x;
    const std::vector<size_t> rows = {1, 4, 0, 17, 2};
    for (const size_t n : rows) {
      for (int m = 0; m < 3; ++m) {
        const size_t out = m == 2 ? kHidden : kInner, in = m == 2 ? kInner : kHidden;
        integer.push_back(std::make_unique<IntegerWeight>(GetParam(), out, in, draws));
        stored.emplace_back(DType::kBF16, out, in, draws);
      }
      x.push_back(draws.values(n * kHidden));
    }
    const std::vector<float> all_x = draws.values(9 * kHidden);
    std::vector<uint32_t> x_rows(17);
    for (uint32_t& row : x_rows) row = static_cast<uint32_t>(draws.below(9));
    for (size_t e = 0; e < rows.size(); ++e) {  // what the experts find by number
      for (size_t r = 0; r < rows[e]; ++r) {
        std::copy_n(all_x.data() + x_rows[r] * kHidden, kHidden, x[e].data() + r * kHidden);
      }
    }
    const auto run = [&](Ops& ops, bool by_number) {
      std::vector<std::vector<float>> y;
      std::vector<FfnParams> experts;
      for (const size_t n : rows) y.emplace_back(n * kHidden);
      for (size_t e = 0; e < rows.size(); ++e) {
        const auto weight = [&](size_t m) {
          return (integers >> m & 1) != 0 ? integer[3 * e + m]->view : stored[3 * e + m].view;
        };
        experts.push_back({.x = {x[e].data(), rows[e], kHidden},
                           .gate = weight(0),
                           .up = weight(1),
                           .down = weight(2),
                           .y = {y[e].data(), rows[e], kHidden}});
        if (!by_number) continue;
        experts[e].x = {all_x.data(), 9, kHidden};
        experts[e].x_rows = x_rows.data();
      }
      ops.grouped_ffn(experts);
      std::vector<float> all;
      for (const auto& part : y) all.insert(all.end(), part.begin(), part.end());
      return all;
    };
    const std::string what = "integers in " + std::to_string(integers);
    expect_same_bits(what, [&](Ops& ops) { return run(ops, false); });
    expect_same_bits(what + " by number", [&](Ops& ops) { return run(ops, true); });
    ASSERT_EQ(bit_difference(run(scalar(), false), run(scalar(), true)), "") << what;
    if (HasFatalFailure()) return;
  }
}

/// An order of `in` columns.
std::vector<uint32_t> random_order(size_t in, Draws& draws) {
  std::vector<uint32_t> order(in);
  std::iota(order.begin(), order.end(), 0U);
  for (size_t i = in; i-- > 1;) std::swap(order[i], order[draws.below(i + 1)]);
  return order;
}

std::vector<float> in_order(const std::vector<float>& x, const std::vector<uint32_t>& order) {
  std::vector<float> ordered(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ordered[i] = x[i / order.size() * order.size() + order[i % order.size()]];
  }
  return ordered;
}

TEST_P(IntegerProduct, WithAnOrderOfColumnsIsThatOfActivationsInIt) {
  Draws draws(11);
  constexpr size_t kIn = 416;
  const IntegerWeight a(GetParam(), 48, kIn, draws), b(GetParam(), 48, kIn, draws);
  const std::vector<uint32_t> orders[] = {random_order(kIn, draws), random_order(kIn, draws)};
  for (const size_t rows : {1, 5, 33}) {
    const std::vector<float> x = draws.values(rows * kIn);
    std::vector<float> expected;
    for (const auto& [w, order] : {std::pair(&a, &orders[0]), std::pair(&b, &orders[1]),
                                   std::pair(&a, static_cast<decltype(&orders[0])>(nullptr))}) {
      const std::vector<float> y =
          product(scalar(), w->view, order == nullptr ? x : in_order(x, *order), rows);
      expected.insert(expected.end(), y.begin(), y.end());
    }
    const auto run = [&](Ops& ops) {  // all three read the same rows
      std::vector<float> y(3 * rows * 50, 7.0F);
      std::vector<GemmParams> products;
      for (const IntegerWeight* w : {&a, &b, &a}) {
        const size_t i = products.size();
        products.push_back({.x = {x.data(), rows, kIn},
                            .w = w->view,
                            .y = {y.data() + i * rows * 50, rows, 48, 50}});
        if (i < 2) products.back().w.columns = orders[i].data();
      }
      ops.gemm_many(products);
      return y;
    };
    EXPECT_EQ(bit_difference(expected, run(scalar())), "");
    expect_same_bits(std::to_string(rows) + " rows", run);
  }
}

TEST_P(IntegerProduct, HasAnOrderOfColumnsOfItsOwnForEachMatrixOfAnFfn) {
  Draws draws(12);
  constexpr size_t kHidden = 96, kInner = 160, kRows = 5;
  const IntegerWeight gate(GetParam(), kInner, kHidden, draws),
      up(GetParam(), kInner, kHidden, draws), down(GetParam(), kHidden, kInner, draws);
  const std::vector<uint32_t> of_gate = random_order(kHidden, draws),
                              of_up = random_order(kHidden, draws),
                              of_down = random_order(kInner, draws);
  const std::vector<float> x = draws.values(kRows * kHidden);
  // By single operations without an order.
  const auto multiply = [](const WeightView& w, const std::vector<float>& rows) {
    std::vector<float> y(kRows * w.out);
    scalar().gemm({.x = {rows.data(), kRows, w.in}, .w = w, .y = {y.data(), kRows, w.out}});
    return y;
  };
  std::vector<float> inner = multiply(gate.view, in_order(x, of_gate));
  const std::vector<float> factors = multiply(up.view, in_order(x, of_up));
  scalar().silu_mul({.gate = {inner.data(), kRows, kInner},
                     .up = {factors.data(), kRows, kInner},
                     .out = {inner.data(), kRows, kInner}});
  const std::vector<float> expected = multiply(down.view, in_order(inner, of_down));
  const auto run = [&](Ops& ops) {
    std::vector<float> y(kRows * kHidden);
    FfnParams ffn{.x = {x.data(), kRows, kHidden},
                  .gate = gate.view,
                  .up = up.view,
                  .down = down.view,
                  .y = {y.data(), kRows, kHidden}};
    ffn.gate.columns = of_gate.data();
    ffn.up.columns = of_up.data();
    ffn.down.columns = of_down.data();
    ops.grouped_ffn({&ffn, 1});
    return y;
  };
  EXPECT_EQ(bit_difference(expected, run(scalar())), "");
  expect_same_bits("an FFN", run);
}

INSTANTIATE_TEST_SUITE_P(Forms, IntegerProduct, testing::ValuesIn(integer_forms()),
                         [](const auto& form) { return form.param.name; });

TEST(IntegerProductShapes, ThatDoNotFitPanelsAreRefused) {
  Draws draws(10);
  const IntegerWeight w(integer_forms()[0], 32, 64, draws);
  const std::vector<float> x(64);
  std::vector<float> y(32);
  WeightView narrow = w.view;
  narrow.in = 48;
  EXPECT_DEATH(scalar().gemm({.x = {x.data(), 1, 48}, .w = narrow, .y = {y.data(), 1, 32}}),
               "fits_panels");
  WeightView bare = w.view;
  bare.group_scales.data = nullptr;
  EXPECT_DEATH(scalar().gemm({.x = {x.data(), 1, 64}, .w = bare, .y = {y.data(), 1, 32}}),
               "group_scales");
}

}  // namespace
}  // namespace troupe::kernels
