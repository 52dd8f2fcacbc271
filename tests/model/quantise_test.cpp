// Rows of floats to panels of integers, against plain computations element by element.

#include "model/quantise.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "kernels/cpu/convert.hpp"

namespace troupe::model {
namespace {

constexpr size_t kIn = 160;  // the last group of 128 is shorter

/// About normal, each row of another size, so that a mixed-up scale shows.
std::vector<float> random_rows(uint64_t seed, size_t in) {
  std::vector<float> rows(kPanelRows * in);
  for (size_t i = 0; i < rows.size(); ++i) {
    float sum = -2;
    for (uint64_t part = 0; part < 4; ++part) {
      sum += static_cast<float>(random_uniform(seed, i, part));
    }
    rows[i] = sum * 0.02F * static_cast<float>(1 + i / in);
  }
  return rows;
}

/// One quantised panel as the kernels see it.
struct Panel {
  std::vector<uint8_t> data;
  std::vector<uint16_t> scales;
  std::vector<uint8_t> zeros;
  WeightView view;
  bool finite;

  Panel(const std::vector<float>& rows, size_t in, const Scheme& scheme)
      : data(kPanelRows * in * bits_of(scheme.dtype) / 8, 0xee),
        scales(kPanelRows * scheme.num_groups(in), 0xeeee),
        zeros(scheme.zeros ? scales.size() : 0, 0xee) {
    finite = quantise_panel(rows.data(), in, scheme,
                            {.data = data.data(), .scales = scales.data(), .zeros = zeros.data()});
    view = {.data = data.data(), .dtype = scheme.dtype, .out = kPanelRows, .in = in};
    view.group_scales = {.data = scales.data(),
                         .dtype = DType::kBF16,
                         .group = scheme.group == 0 ? in : scheme.group,
                         .zeros = scheme.zeros ? zeros.data() : nullptr};
  }
  Panel(const Panel&) = delete;
  Panel& operator=(const Panel&) = delete;

  [[nodiscard]] double squared_error(const std::vector<float>& rows) const {
    double error = 0;
    for (size_t o = 0; o < kPanelRows; ++o) {
      for (size_t i = 0; i < view.in; ++i) {
        const double off = double{rows[o * view.in + i]} - kernels::weight_at(view, o, i);
        error += off * off;
      }
    }
    return error;
  }
};

class EveryScheme : public testing::TestWithParam<const char*> {
 protected:
  Scheme scheme = *parse_scheme(GetParam());
};

INSTANTIATE_TEST_SUITE_P(InPanels, EveryScheme,
                         testing::Values("int8", "int8-g128", "int4-g32", "int4-g32-asym",
                                         "int4-g128", "int4-g128-asym"));

TEST_P(EveryScheme, GivesBackWhatItWasGivenWithinHalfAStep) {
  const std::vector<float> rows = random_rows(1, kIn);
  const Panel panel(rows, kIn, scheme);
  ASSERT_TRUE(panel.finite);
  size_t clipped = 0;
  for (size_t o = 0; o < kPanelRows; ++o) {
    for (size_t i = 0; i < kIn; ++i) {
      const float step =
          std::abs(kernels::group_scale(panel.view, o, i / panel.view.group_scales.group));
      const float off = std::abs(rows[o * kIn + i] - kernels::weight_at(panel.view, o, i));
      ASSERT_LE(off, 2.1F * step);
      if (off > 0.501F * step) ++clipped;
    }
  }
  // kI4 may clip the ends of a group where the others gain more.
  EXPECT_LE(clipped, scheme.dtype == DType::kI8 ? 0U : rows.size() / 20);
}

TEST_P(EveryScheme, IsAtLeastAsGoodAsThePlainGridOfTheRange) {
  const std::vector<float> rows = random_rows(2, kIn);
  const Panel panel(rows, kIn, scheme);
  const size_t group = panel.view.group_scales.group;
  double plain = 0;
  for (size_t o = 0; o < kPanelRows; ++o) {
    for (size_t first = 0; first < kIn; first += group) {
      const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(o * kIn + first);
      const auto end = begin + static_cast<std::ptrdiff_t>(std::min(group, kIn - first));
      const auto [low, high] = std::minmax_element(begin, end);
      const double largest = std::max(-double{*low}, double{*high});
      const double step = scheme.dtype == DType::kI8 ? largest / 127
                          : scheme.zeros             ? (double{*high} - *low) / 15
                                                     : largest / 7;
      const double zero = scheme.zeros ? std::nearbyint(-*low / step) : 8;
      for (auto x = begin; x != end; ++x) {
        double q = std::nearbyint(*x / step);
        if (scheme.dtype == DType::kI4) q = std::clamp(q + zero, 0.0, 15.0) - zero;
        const double off = *x - q * step;
        plain += off * off;
      }
    }
  }
  // Of kI8 only the scales' rounding to BF16 is to be seen; kI4's search has to pay.
  EXPECT_LT(panel.squared_error(rows), plain * (scheme.dtype == DType::kI8 ? 1.02 : 0.97));
}

TEST_P(EveryScheme, KeepsZerosAndSaysWhenANumberIsNotFinite) {
  std::vector<float> rows = random_rows(3, kIn);
  std::fill_n(rows.begin() + 3 * kIn, kIn, 0.0F);
  const Panel panel(rows, kIn, scheme);
  ASSERT_TRUE(panel.finite);
  for (size_t i = 0; i < kIn; ++i) EXPECT_EQ(kernels::weight_at(panel.view, 3, i), 0.0F);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    rows[7 * kIn + kIn - 1] = bad;
    EXPECT_FALSE(Panel(rows, kIn, scheme).finite);
  }
}

TEST_P(EveryScheme, QuantisesEachRowAlone) {
  std::vector<float> rows = random_rows(4, kIn);
  const Panel before(rows, kIn, scheme);
  for (size_t i = 0; i < kIn; ++i) rows[5 * kIn + i] *= 100;
  const Panel after(rows, kIn, scheme);
  for (size_t o = 0; o < kPanelRows; ++o) {
    for (size_t i = 0; i < kIn; ++i) {
      if (o == 5) continue;
      ASSERT_EQ(kernels::weight_at(before.view, o, i), kernels::weight_at(after.view, o, i));
    }
  }
}

TEST(Quantise, ReachesMinusEightWhereTheLargestEndLies) {
  std::vector<float> rows(kPanelRows * 32, 0.0F);
  for (int end : {-1, 1}) {
    for (size_t i = 0; i < 8; ++i) rows[i] = static_cast<float>(end * (static_cast<int>(i) + 1));
    const Panel panel(rows, 32, *parse_scheme("int4-g32"));
    for (size_t i = 0; i < 8; ++i) EXPECT_EQ(kernels::weight_at(panel.view, 0, i), rows[i]);
  }
}

/// The block of row o and element i of rows of `in`.
size_t block_of(size_t in, size_t o, size_t i) {
  return o / 128 * WeightView::num_scale_blocks(in) + i / 128;
}

TEST(QuantiseF8, GivesTheNearestNumberThatTheScaleOfABlockReaches) {
  constexpr size_t kRows = 100;
  std::vector<float> rows;
  for (size_t i = 0; i < kRows * kIn; ++i) {  // of all magnitudes, subnormal ones among them
    const auto small = static_cast<int>(random_bits(1, i) % 24);
    rows.push_back(std::ldexp(static_cast<float>(random_uniform(2, i)) - 0.5F, -small));
  }
  std::vector<uint8_t> data(kRows * kIn);
  std::vector<float> scales(2);
  ASSERT_TRUE(quantise_f8(rows.data(), kRows, kIn, data.data(), scales.data()));
  std::vector<double> numbers;
  for (unsigned code = 0; code < 256; ++code) {
    if ((code & 0x7fU) != 0x7fU)
      numbers.push_back(kernels::from_f8e4m3(static_cast<uint8_t>(code)));
  }
  std::vector<double> largest(2, 0);
  for (size_t o = 0; o < kRows; ++o) {
    for (size_t i = 0; i < kIn; ++i) {
      const double scale = scales[block_of(kIn, o, i)];
      const float x = rows[o * kIn + i];
      double least = INFINITY;
      for (const double number : numbers) least = std::min(least, std::abs(x - number * scale));
      const double got = kernels::from_f8e4m3(data[o * kIn + i]) * scale;
      ASSERT_LE(std::abs(x - got), least * (1 + 1e-6)) << x << " at " << o << ", " << i;
      largest[i / 128] = std::max<double>(largest[i / 128], std::abs(got / scale));
    }
  }
  EXPECT_EQ(largest, (std::vector<double>{448, 448})) << "blocks use the whole range";
}

TEST(QuantiseF8, RoundsTiesToEven) {
  std::vector<float> row = {448, 17, 19, -17, -19, 0x1p-10F, 0x3p-10F, 0, -0.0F};  // scale 1
  std::vector<uint8_t> data(row.size());
  float scale = 0;
  ASSERT_TRUE(quantise_f8(row.data(), 1, row.size(), data.data(), &scale));
  EXPECT_EQ(scale, 1);
  std::vector<float> got;
  for (const uint8_t code : data) got.push_back(kernels::from_f8e4m3(code));
  EXPECT_EQ(got, (std::vector<float>{448, 16, 20, -16, -20, 0, 0x1p-8F, 0, 0}));
}

TEST(QuantiseF8, KeepsZerosAndSaysWhenANumberIsNotFinite) {
  std::vector<float> rows(2 * kIn);
  std::vector<uint8_t> data(rows.size(), 0xee);
  std::vector<float> scales(2);
  ASSERT_TRUE(quantise_f8(rows.data(), 2, kIn, data.data(), scales.data()));
  EXPECT_EQ(data, std::vector<uint8_t>(rows.size()));
  for (const float scale : scales) EXPECT_GT(scale, 0);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    rows.back() = bad;
    EXPECT_FALSE(quantise_f8(rows.data(), 2, kIn, data.data(), scales.data()));
  }
}

TEST(Schemes, HaveNames) {
  EXPECT_EQ(parse_scheme("int4-g128-asym"),
            (Scheme{.dtype = DType::kI4, .group = 128, .zeros = true}));
  EXPECT_EQ(parse_scheme("bf16"), Scheme{});
  EXPECT_EQ(parse_scheme("fp8"), Scheme{.dtype = DType::kF8E4M3});
  for (const char* unknown : {"", "int5", "INT8", "int4", "int8-asym", "int4-g64"}) {
    EXPECT_FALSE(parse_scheme(unknown)) << unknown;
  }
  EXPECT_NE(scheme_names().find("int8-g128, int4-g32,"), std::string::npos) << scheme_names();
}

}  // namespace
}  // namespace troupe::model
