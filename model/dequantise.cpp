#include "model/dequantise.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/bfloat16.hpp"
#include "base/check.hpp"

namespace troupe::model {
namespace {

uint16_t load16(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return bits;
}

float from_f16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  const uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide_exponent = exponent == 0x1f ? 0xff : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide_exponent << 23 | mantissa << 13);
}

/// E4M3 without infinities ("fn"): bias 7, 0x7f and 0xff are NaN, largest value 448.
float from_e4m3(uint8_t bits) {
  const float sign = (bits & 0x80) != 0 ? -1.0F : 1.0F;
  const int exponent = (bits >> 3) & 0xf;
  const int mantissa = bits & 7;
  if (exponent == 0xf && mantissa == 7) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  const int significand = exponent == 0 ? mantissa : mantissa + 8;
  return sign * std::ldexp(static_cast<float>(significand), (exponent == 0 ? 1 : exponent) - 10);
}

const std::array<float, 256>& e4m3_table() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> values{};
    for (size_t bits = 0; bits < values.size(); ++bits) {
      values[bits] = from_e4m3(static_cast<uint8_t>(bits));
    }
    return values;
  }();
  return table;
}

}  // namespace

void to_float32(Bytes bytes, DType dtype, std::span<float> values) {
  CHECK_EQ(bytes.size(), values.size() * size_of(dtype));
  switch (dtype) {
    case DType::kF32:
      if (!values.empty()) {
        std::memcpy(values.data(), bytes.data(), bytes.size());
      }
      return;
    case DType::kF16:
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = from_f16(load16(&bytes[2 * i]));
      }
      return;
    case DType::kBF16:
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = from_bf16(load16(&bytes[2 * i]));
      }
      return;
    case DType::kF8E4M3:
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = e4m3_table()[static_cast<uint8_t>(bytes[i])];
      }
      return;
    case DType::kI8:
    case DType::kI4: CHECK(false);  // these lie in panels and have scales
  }
}

void apply_block_scales(std::span<float> values, size_t first, size_t in, const float* scales) {
  constexpr size_t kBlock = WeightView::kScaleBlock;
  const size_t blocks_in = WeightView::num_scale_blocks(in);
  for (size_t at = 0; at < values.size(); at += in) {
    const float* of_row = scales + (first + at / in) / kBlock * blocks_in;
    for (size_t i = 0; i < in; ++i) values[at + i] *= of_row[i / kBlock];
  }
}

}  // namespace troupe::model
