#include "kernels/cpu/convert.hpp"

#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

/// The value that the fields of a small float stand for.
double value_of(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto exponent = static_cast<int>(bits >> mantissa_bits & ((1U << exponent_bits) - 1));
  const double mantissa =
      std::ldexp(static_cast<double>(bits & ((1U << mantissa_bits) - 1)), -mantissa_bits);
  const double size =
      exponent == 0 ? std::ldexp(mantissa, 1 - bias) : std::ldexp(1 + mantissa, exponent - bias);
  return (bits >> (exponent_bits + mantissa_bits) & 1U) != 0 ? -size : size;
}

/// All codes of a type, converted by one version through the embedding of a table of one column
/// or of rows long enough for its vectors.
std::vector<float> all_codes(Ops& ops, DType dtype, size_t num_codes, size_t in) {
  std::vector<std::byte> bytes(num_codes * size_of(dtype));
  for (size_t code = 0; code < num_codes; ++code) {
    std::memcpy(&bytes[code * size_of(dtype)], &code, size_of(dtype));
  }
  const WeightView table{.data = bytes.data(), .dtype = dtype, .out = num_codes / in, .in = in};
  std::vector<TokenId> tokens(table.out);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<TokenId>(i);
  std::vector<float> out(num_codes);
  ops.embed({.table = table, .tokens = tokens, .out = {out.data(), table.out, in}});
  return out;
}

void expect_all_codes(DType dtype, size_t num_codes, const std::function<bool(uint32_t)>& is_nan,
                      const std::function<double(uint32_t)>& value) {
  std::vector<Ops*> ops = {&scalar()};
  for (const auto& v : versions().all()) ops.push_back(v.ops.get());
  for (Ops* version : ops) {
    for (const size_t in : {1, 256}) {
      const std::vector<float> got = all_codes(*version, dtype, num_codes, in);
      for (uint32_t code = 0; code < num_codes; ++code) {
        if (is_nan(code)) {
          ASSERT_TRUE(std::isnan(got[code])) << version->target() << " code " << code;
        } else {
          const auto want = static_cast<float>(value(code));
          ASSERT_EQ(std::bit_cast<uint32_t>(got[code]), std::bit_cast<uint32_t>(want))
              << version->target() << " code " << code;
        }
      }
    }
  }
}

TEST(Convert, AllFp8CodesHaveTheirValue) {
  expect_all_codes(
      DType::kF8E4M3, 256, [](uint32_t code) { return (code & 0x7fU) == 0x7fU; },
      [](uint32_t code) { return value_of(code, 4, 3); });
  EXPECT_EQ(from_f8e4m3(0x7e), 448.0F);      // the largest
  EXPECT_EQ(from_f8e4m3(0x01), 0x1p-9F);     // the smallest subnormal
  EXPECT_EQ(from_f8e4m3(0x87), -0x1.cp-7F);  // the largest subnormal, negative
}

TEST(Convert, AllF16CodesHaveTheirValue) {
  expect_all_codes(
      DType::kF16, 65536,
      [](uint32_t code) { return (code & 0x7c00U) == 0x7c00U && (code & 0x3ffU) != 0; },
      [](uint32_t code) {
        if ((code & 0x7fffU) == 0x7c00U) {
          return (code & 0x8000U) != 0 ? -HUGE_VAL : HUGE_VAL;
        }
        return value_of(code, 5, 10);
      });
  EXPECT_EQ(from_f16(0x7bff), 65504.0F);
  EXPECT_EQ(from_f16(0x0001), 0x1p-24F);
}

TEST(Convert, AllBf16CodesAreTheUpperHalfOfAFloat) {
  expect_all_codes(
      DType::kBF16, 65536, [](uint32_t code) { return (code & 0x7fffU) > 0x7f80U; },
      [](uint32_t code) { return std::bit_cast<float>(code << 16U); });
}

TEST(Convert, Fp8ScalesBelongToBlocksOf128By128WithPartialOnesAtTheEnds) {
  const size_t out = 130;
  const size_t in = 257;
  const std::vector<std::byte> ones(out * in, std::byte{0x38});  // 1.0
  const std::vector<float> scales = {1, 2, 3, 10, 20, 30};       // [2, 3]
  const WeightView w{
      .data = ones.data(), .dtype = DType::kF8E4M3, .out = out, .in = in, .scales = scales.data()};
  std::vector<TokenId> tokens(out);
  for (size_t i = 0; i < out; ++i) tokens[i] = static_cast<TokenId>(i);
  for (const auto& v : versions().all()) {
    std::vector<float> got(out * in);
    v.ops->embed({.table = w, .tokens = tokens, .out = {got.data(), out, in}});
    EXPECT_EQ(got[0], 1);
    EXPECT_EQ(got[127], 1);
    EXPECT_EQ(got[128], 2);
    EXPECT_EQ(got[255], 2);
    EXPECT_EQ(got[256], 3);
    EXPECT_EQ(got[127 * in + 127], 1);
    EXPECT_EQ(got[128 * in], 10);
    EXPECT_EQ(got[129 * in + 128], 20);
    EXPECT_EQ(got[129 * in + 256], 30);
  }
}

}  // namespace
}  // namespace troupe::kernels
