// Products and FFNs of the CUDA backend: against sums in double of the rounded activations, against
// the specification within what rounding activations to BF16 costs, and a row's bits in batches of
// every shape.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/convert.hpp"
#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

/// Sums in float32 of products that are exact: relative to the size of the summands.
constexpr double kSumTolerance = 1e-4;
/// BF16 keeps 8 bits.
constexpr double kRoundingTolerance = 1.0 / 256;

/// Weights of one form, on the host.
struct AnyWeight {
  std::unique_ptr<StoredWeight> floating;
  std::unique_ptr<IntegerWeight> integer;
  std::vector<uint32_t> columns;  ///< of integers with an order
  [[nodiscard]] const WeightView& view() const {
    return floating != nullptr ? floating->view : integer->view;
  }
  /// Which element of its input column `i` multiplies.
  [[nodiscard]] size_t input(size_t i) const { return columns.empty() ? i : columns[i]; }
};

struct Form {
  std::string name;
  DType dtype = DType::kBF16;
  bool scales = true;
  const IntegerForm* integer = nullptr;
  bool reordered = false;

  AnyWeight make(size_t out, size_t in, Draws& draws) const {
    if (integer == nullptr) {
      return {std::make_unique<StoredWeight>(dtype, out, in, draws, scales), nullptr, {}};
    }
    AnyWeight w{nullptr, std::make_unique<IntegerWeight>(*integer, out, in, draws), {}};
    if (reordered) {
      w.columns.resize(in);
      std::iota(w.columns.begin(), w.columns.end(), 0U);
      for (size_t i = in; i-- > 1;) std::swap(w.columns[i], w.columns[draws.below(i + 1)]);
      w.integer->view.columns = w.columns.data();
    }
    return w;
  }
  [[nodiscard]] bool rounds() const { return dtype != DType::kF32 && dtype != DType::kF16; }
};

void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

std::vector<Form> all_forms() {
  std::vector<Form> forms = {{"F32", DType::kF32},
                             {"F16", DType::kF16},
                             {"BF16", DType::kBF16},
                             {"F8", DType::kF8E4M3},
                             {"F8WithoutScales", DType::kF8E4M3, false}};
  for (const IntegerForm& form : integer_forms()) {
    forms.push_back({form.name, form.dtype, true, &form});
  }
  for (const size_t i : {1, 3}) {  // as act-order leaves them
    const IntegerForm& form = integer_forms()[i];
    forms.push_back({form.name + "InActOrder", form.dtype, true, &form, true});
  }
  return forms;
}

class CudaProduct : public Cuda, public testing::WithParamInterface<Form> {
 protected:
  /// Rows [first, first + count) of `x` times `w`.
  std::vector<float> product(const WeightView& w, const std::vector<float>& x, size_t first,
                             size_t count, const float* bias = nullptr) {
    float* y = room<float>(count * w.out);
    ops().gemm({.x = {put(&x[first * w.in], count * w.in), count, w.in},
                .w = w,
                .bias = bias,
                .y = {y, count, w.out}});
    return get(y, count * w.out);
  }
};

TEST_P(CudaProduct, IsTheSumOfProductsOfRoundedActivations) {
  Draws draws(701);
  for (const auto [rows, out, in] : std::vector<std::array<size_t, 3>>{
           {3, 48, 320}, {19, 80, 1184}, {40, 144, 160}, {131, 16, 96}, {1, 16, 32}}) {
    const AnyWeight w = GetParam().make(out, in, draws);
    const std::vector<float> x = draws.values(rows * in);
    const std::vector<float> bias = draws.values(out);
    const std::vector<float> y = product(put(w.view()), x, 0, rows, put(bias));
    const std::vector<float> specification = [&] {
      std::vector<float> out_rows(rows * out);
      scalar().gemm({.x = {x.data(), rows, in},
                     .w = w.view(),
                     .bias = bias.data(),
                     .y = {out_rows.data(), rows, out}});
      return out_rows;
    }();
    if (!GetParam().rounds()) {
      ASSERT_EQ(bit_difference(specification, y), "");
      continue;
    }
    for (size_t r = 0; r < rows; ++r) {
      for (size_t o = 0; o < out; ++o) {
        double want = bias[o];
        double size = std::abs(want);
        for (size_t i = 0; i < in; ++i) {
          const double term =
              static_cast<double>(as_bf16(x[r * in + w.input(i)])) * weight_at(w.view(), o, i);
          want += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(y[r * out + o], want, kSumTolerance * size) << r << " " << o << " in " << in;
        // The specification rounds activations for integer weights, too: one part in 254 each.
        const double rounding = is_integer(w.view().dtype) ? 3 : 1;
        ASSERT_NEAR(y[r * out + o], specification[r * out + o],
                    rounding * kRoundingTolerance * size);
      }
    }
  }
}

TEST_P(CudaProduct, GivesARowTheSameBitsInEveryBatch) {
  Draws draws(702);
  const size_t rows = 150, out = 80, in = 1056;
  const AnyWeight w = GetParam().make(out, in, draws);
  const WeightView on_device = put(w.view());
  const std::vector<float> x = draws.values(rows * in);
  const std::vector<float> all = product(on_device, x, 0, rows);
  for (const auto [first, count] : std::vector<std::array<size_t, 2>>{
           {0, 1}, {77, 1}, {149, 1}, {5, 16}, {60, 31}, {100, 50}}) {
    const std::vector<float> some = product(on_device, x, first, count);
    const std::vector<float> want(all.begin() + static_cast<std::ptrdiff_t>(first * out),
                                  all.begin() + static_cast<std::ptrdiff_t>((first + count) * out));
    ASSERT_EQ(bit_difference(want, some), "") << count << " rows from " << first;
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaProduct, testing::ValuesIn(all_forms()),
                         [](const auto& info) { return info.param.name; });

using CudaGemm = Cuda;

TEST_F(CudaGemm, TakesRowsOfWeightsThatAreNotAligned) {
  Draws draws(703);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kF16, DType::kF32}) {
    for (const size_t rows : {2, 35}) {
      const size_t out = 131, in = 133;
      const StoredWeight w(dtype, out, in, draws);
      const std::vector<float> x = draws.values(rows * in);
      float* y = room<float>(rows * out);
      ops().gemm({.x = {put(x), rows, in}, .w = put(w.view), .y = {y, rows, out}});
      const std::vector<float> got = get(y, rows * out);
      for (size_t i = 0; i < rows * out; ++i) {
        double want = 0;
        double size = 0;
        for (size_t k = 0; k < in; ++k) {
          const float a = x[i / out * in + k];
          const bool rounds = dtype == DType::kBF16 || dtype == DType::kF8E4M3;
          const double term =
              static_cast<double>(rounds ? as_bf16(a) : a) * weight_at(w.view, i % out, k);
          want += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(got[i], want, kSumTolerance * size) << to_string(dtype) << " " << i;
      }
    }
  }
}

TEST_F(CudaGemm, TakesOutputsOfAMatrixWhereverTheyBegin) {
  Draws draws(710);
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kF16, DType::kF32}) {
    for (const size_t in : {37, 40}) {
      const size_t out = 21, first = 3, count = 17;
      const StoredWeight w(dtype, out, in, draws, false);
      const WeightView on_device = put(w.view);
      for (const size_t rows : {2, 35}) {
        const float* x = put(draws.values(rows * in));
        float* all = room<float>(rows * out);
        float* some = room<float>(rows * count);
        ops().gemm({.x = {x, rows, in}, .w = on_device, .y = {all, rows, out}});
        ops().gemm(
            {.x = {x, rows, in}, .w = on_device.outputs(first, count), .y = {some, rows, count}});
        const std::vector<float> want = get(all, rows * out);
        const std::vector<float> got = get(some, rows * count);
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_EQ(got[i], want[i / count * out + first + i % count]) << to_string(dtype);
        }
      }
    }
  }
}

TEST_F(CudaGemm, DecodesEveryStoredValueExactly) {
  // One activation is 1, so an output is one weight times its scale.
  Draws draws(704);
  StoredWeight f8(DType::kF8E4M3, 256, 32, draws, false);
  for (size_t o = 0; o < 256; ++o) {
    for (size_t i = 0; i < 32; ++i)
      f8.bytes[1 + o * 32 + i] = static_cast<std::byte>(i == 5 ? o : 0);
  }
  for (const size_t rows : {1, 64}) {  // both kernels
    std::vector<float> x(rows * 32);
    for (size_t r = 0; r < rows; ++r) x[r * 32 + 5] = 1;
    float* y = room<float>(rows * 256);
    ops().gemm({.x = {put(x), rows, 32}, .w = put(f8.view), .y = {y, rows, 256}});
    const std::vector<float> got = get(y, rows * 256);
    for (size_t i = 0; i < got.size(); ++i) {
      const float want = from_f8e4m3(static_cast<uint8_t>(i % 256));
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(got[i])) << i % 256;
      } else {
        ASSERT_EQ(got[i], want) << i % 256;
      }
    }
    for (const IntegerForm& form : integer_forms()) {
      const IntegerWeight w(form, 256, 32, draws);  // random bytes: nearly all values
      float* y_int = room<float>(rows * 256);
      ops().gemm({.x = {put(x), rows, 32}, .w = put(w.view), .y = {y_int, rows, 256}});
      const std::vector<float> got_int = get(y_int, rows * 256);
      for (size_t i = 0; i < got_int.size(); ++i) {
        ASSERT_EQ(got_int[i], weight_at(w.view, i % 256, 5)) << form.name << " " << i % 256;
      }
    }
  }
}

TEST_F(CudaGemm, ComputesManyProductsOfDifferentFormsTogether) {
  Draws draws(705);
  const size_t in = 160;
  const std::vector<Form> forms = all_forms();
  std::vector<AnyWeight> weights;
  std::vector<GemmParams> products;
  const std::vector<float> x = draws.values(40 * in);
  const float* x_device = put(x);
  for (size_t i = 0; i < 2 * forms.size(); ++i) {
    weights.push_back(forms[i / 2].make(32 + 16 * (i % 3), in, draws));
    const WeightView w = put(weights.back().view());
    const size_t rows = i % 4 == 3 ? 0 : 1 + 13 * (i % 4);
    products.push_back(
        {.x = {x_device, rows, in}, .w = w, .y = {room<float>(rows * w.out), rows, w.out}});
  }
  ops().gemm_many(products);
  for (const GemmParams& p : products) {
    const std::vector<float> together = get(p.y.data, p.y.rows * p.y.cols);
    GemmParams alone = p;
    alone.y.data = room<float>(p.y.rows * p.y.cols);
    ops().gemm(alone);
    ASSERT_EQ(bit_difference(together, get(alone.y.data, p.y.rows * p.y.cols)), "");
  }
}

TEST_F(CudaGemm, KeepsWhatItUploadedUntilProductsInFlightHaveReadIt) {
  constexpr size_t kProducts = 40, kIn = 32, kOut = 16;
  const auto rows_of = [](size_t i) { return 1 + i % 3; };
  // All are in flight together, or each is waited for.
  const auto products = [&](bool waits) {
    Draws draws(711);
    std::vector<float*> y;
    for (size_t i = 0; i < kProducts; ++i) {
      const StoredWeight w(DType::kBF16, kOut, kIn, draws);
      const float* x = put(draws.values(rows_of(i) * kIn));
      const WeightView on_device = put(w.view);
      y.push_back(room<float>(rows_of(i) * kOut));
      ops().gemm({.x = {x, rows_of(i), kIn}, .w = on_device, .y = {y.back(), rows_of(i), kOut}});
      if (waits) {
        EXPECT_TRUE(memory().finish().ok());
      }
    }
    std::vector<float> all;
    for (size_t i = 0; i < kProducts; ++i) {
      const std::vector<float> one = get(y[i], rows_of(i) * kOut);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  };
  const std::vector<float> want = products(true);
  ASSERT_NO_FATAL_FAILURE(start({.staging_bytes = 2048}));  // a half takes two products or three
  expect_same_numbers(want, products(false));
}

TEST_F(CudaGemm, TakesMoreRowsThanAGridHasBlocksAlongY) {
  ASSERT_NO_FATAL_FAILURE(start({.workspace_bytes = size_t{16} << 10U}));
  Draws draws(712);
  const size_t rows = (size_t{1} << 16U) * 8;  // FloatGemm makes 8 rows a block
  const StoredWeight w(DType::kF32, 1, 1, draws);
  ops().gemm(
      {.x = {room<float>(rows), rows, 1}, .w = put(w.view), .y = {room<float>(rows), rows, 1}});
  // The first error is another one: what is launched after it would take the emulator minutes.
  const size_t in = size_t{16} << 10U;  // of one row that does not fit
  const StoredWeight wide(DType::kBF16, 16, in, draws);
  ops().gemm({.x = {room<float>(in), 1, in}, .w = put(wide.view), .y = {room<float>(16), 1, 16}});
  const Result<void> done = memory().finish();
  ASSERT_FALSE(done.ok());
  EXPECT_NE(done.error().message.find("workspace_bytes"), std::string::npos)
      << done.error().message;
}

TEST_F(CudaGemm, IsCutBetweenRowsThatFitTheWorkspace) {
  const size_t in = 160, out = 48;
  const auto products = [&] {
    Draws draws(713);
    const StoredWeight bf16(DType::kBF16, out, in, draws), f32(DType::kF32, out, in, draws);
    const IntegerWeight i4(integer_forms()[3], out, in, draws);
    std::vector<GemmParams> all;
    for (const auto& [w, rows] : {std::pair(&bf16.view, 70), {&f32.view, 70}, {&i4.view, 9}}) {
      const size_t count = static_cast<size_t>(rows);
      all.push_back({.x = {put(draws.values(count * in)), count, in},
                     .w = put(*w),
                     .y = {room<float>(count * out), count, out}});
    }
    ops().gemm_many(all);
    std::vector<float> results;
    for (const GemmParams& p : all) {
      const std::vector<float> y = get(p.y.data, p.y.rows * out);
      results.insert(results.end(), y.begin(), y.end());
    }
    return results;
  };
  const std::vector<float> want = products();
  ASSERT_NO_FATAL_FAILURE(start({.workspace_bytes = size_t{6} << 10U}));  // a few
  expect_same_numbers(want, products());
}

TEST_F(CudaGemm, ReportsMoreUploadsThanTheStagingMemoryHolds) {
  ASSERT_NO_FATAL_FAILURE(start({.staging_bytes = 2048}));
  Draws draws(709);
  const StoredWeight w(DType::kBF16, 16, 32, draws);
  const GemmParams p{
      .x = {put(draws.values(32)), 1, 32}, .w = put(w.view), .y = {room<float>(16), 1, 16}};
  for (int i = 0; i < 20; ++i) ops().gemm(p);  // each fits
  ASSERT_TRUE(memory().finish().ok());
  ops().gemm_many(std::vector<GemmParams>(20, p));
  const Result<void> done = memory().finish();
  ASSERT_FALSE(done.ok());
  EXPECT_NE(done.error().message.find("staging_bytes"), std::string::npos);
}

/// Experts of one shape, with their rows.
class CudaFfn : public Cuda {
 protected:
  static constexpr size_t kHidden = 160, kInner = 96;
  struct Expert {
    AnyWeight gate, up, down;
    WeightView gate_device, up_device, down_device;
  };

  Expert expert(const Form& form, Draws& draws) {
    Expert e{form.make(kInner, kHidden, draws),
             form.make(kInner, kHidden, draws),
             form.make(kHidden, kInner, draws),
             {},
             {},
             {}};
    e.gate_device = put(e.gate.view());
    e.up_device = put(e.up.view());
    e.down_device = put(e.down.view());
    return e;
  }
  FfnParams params(const Expert& e, const float* x, size_t rows) {
    return {.x = {x, rows, kHidden},
            .gate = e.gate_device,
            .up = e.up_device,
            .down = e.down_device,
            .y = {room<float>(rows * kHidden), rows, kHidden}};
  }
};

TEST_F(CudaFfn, IsNearTheSpecificationAndTheSameAloneAndInAGroup) {
  for (const Form& form : all_forms()) {
    Draws draws(706);  // a form's numbers do not depend on which forms come before it
    std::vector<Expert> experts;
    for (size_t i = 0; i < 3; ++i) experts.push_back(expert(form, draws));
    const std::vector<size_t> rows = {5, 0, 36};
    const std::vector<float> x = draws.values(36 * kHidden);
    const float* x_device = put(x);
    std::vector<FfnParams> group;
    for (size_t i = 0; i < 3; ++i) group.push_back(params(experts[i], x_device, rows[i]));
    ops().grouped_ffn(group);
    for (size_t i = 0; i < 3; ++i) {
      const std::vector<float> y = get(group[i].y.data, rows[i] * kHidden);
      std::vector<float> want(y.size());
      const FfnParams on_host{.x = {x.data(), rows[i], kHidden},
                              .gate = experts[i].gate.view(),
                              .up = experts[i].up.view(),
                              .down = experts[i].down.view(),
                              .y = {want.data(), rows[i], kHidden}};
      scalar().grouped_ffn({&on_host, 1});
      double square = 0;
      double error = 0;
      for (size_t j = 0; j < y.size(); ++j) {
        square += static_cast<double>(want[j]) * want[j];
        error += std::pow(static_cast<double>(y[j]) - want[j], 2);
      }
      ASSERT_LE(std::sqrt(error), 0.02 * std::sqrt(square)) << form.name;
      for (size_t r = 0; r < rows[i]; r += 7) {
        const FfnParams alone = params(experts[i], x_device + r * kHidden, 1);
        ops().grouped_ffn({&alone, 1});
        const auto row = y.begin() + static_cast<std::ptrdiff_t>(r * kHidden);
        ASSERT_EQ(bit_difference({row, row + kHidden}, get(alone.y.data, kHidden)), "");
      }
    }
  }
}

TEST_F(CudaFfn, FindsRowsByTheirNumbers) {
  for (const Form& form : all_forms()) {
    Draws draws(709);
    const std::vector<float> x = draws.values(7 * kHidden);
    const float* x_device = put(x);
    const std::vector<std::vector<uint32_t>> numbers = {{3}, {6, 0, 0, 5}, {2, 1, 4}};
    std::vector<FfnParams> group, ordered;
    for (const std::vector<uint32_t>& of : numbers) {
      const Expert e = expert(form, draws);
      std::vector<float> rows;
      for (const uint32_t n : of) {
        const auto row = x.begin() + static_cast<std::ptrdiff_t>(n * kHidden);
        rows.insert(rows.end(), row, row + kHidden);
      }
      ordered.push_back(params(e, put(rows), of.size()));
      group.push_back(params(e, x_device, of.size()));
      group.back().x.rows = 7;
      group.back().x_rows = of.data();
    }
    ops().grouped_ffn(group);
    ops().grouped_ffn(ordered);
    for (size_t i = 0; i < numbers.size(); ++i) {
      const size_t elements = numbers[i].size() * kHidden;
      ASSERT_EQ(bit_difference(get(ordered[i].y.data, elements), get(group[i].y.data, elements)),
                "")
          << form.name << " " << i;
    }
  }
}

TEST_F(CudaFfn, IsCutIntoPartsThatFitTheWorkspace) {
  std::vector<float> want;
  for (const size_t workspace :
       {64U << 20U, 150U << 10U, 20U << 10U}) {  // all, one, a few rows of one
    ASSERT_NO_FATAL_FAILURE(start({.workspace_bytes = workspace}));
    Draws draws(707);
    const Form form{"BF16"};
    const Expert e = expert(form, draws);
    const float* x = put(draws.values(40 * kHidden));
    std::vector<FfnParams> group;
    for (size_t i = 0; i < 5; ++i) group.push_back(params(e, x, 40));
    ops().grouped_ffn(group);
    for (const FfnParams& p : group) {
      const std::vector<float> y = get(p.y.data, 40 * kHidden);
      if (want.empty()) want = y;
      expect_same_numbers(want, y);
    }
  }
}

TEST_F(CudaFfn, ReportsAWorkspaceThatIsTooSmallForARowAndComputesNoMore) {
  ASSERT_NO_FATAL_FAILURE(start({.workspace_bytes = size_t{2} << 10U}));
  Draws draws(708);
  const Expert e = expert({"BF16"}, draws);
  const FfnParams p = params(e, put(draws.values(40 * kHidden)), 40);
  ops().grouped_ffn({&p, 1});
  for (int i = 0; i < 2; ++i) {  // for good
    const Result<void> done = memory().finish();
    ASSERT_FALSE(done.ok());
    EXPECT_NE(done.error().message.find("workspace_bytes"), std::string::npos);
  }
}

}  // namespace
}  // namespace troupe::kernels
