#include "model/quantise.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "base/bfloat16.hpp"
#include "base/check.hpp"

namespace troupe::model {
namespace {

struct NamedScheme {
  std::string_view name;
  Scheme scheme;
};

constexpr auto kSchemes = std::to_array<NamedScheme>({
    {"bf16", {}},
    {"fp8", {.dtype = DType::kF8E4M3}},
    {"int8", {.dtype = DType::kI8}},
    {"int8-g128", {.dtype = DType::kI8, .group = 128}},
    {"int4-g32", {.dtype = DType::kI4, .group = 32}},
    {"int4-g32-asym", {.dtype = DType::kI4, .group = 32, .zeros = true}},
    {"int4-g128", {.dtype = DType::kI4, .group = 128}},
    {"int4-g128-asym", {.dtype = DType::kI4, .group = 128, .zeros = true}},
});

// The arithmetic goes over the 16 rows of a panel at once: lane r is row r, and no sum crosses
// lanes, so compilers make vectors of the inner loops and every build gives the same bits.
constexpr size_t kLanes = kPanelRows;
using Lanes = std::array<float, kLanes>;

/// Of a magnitude: the next BF16 not below it.
uint16_t to_bf16_up(float magnitude) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(magnitude) + 0xffffU) >> 16);
}

/// To the nearest integer, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no
/// bits for a fraction.
inline float rounded(float value) {
  constexpr float kNoFraction = 12582912.0F;
  return (value + kNoFraction) - kNoFraction;
}

inline float clamped(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

/// What turns a group's values into integers: q = clamp(round(x * inverse) + zero).
struct Grid {
  Lanes scale, inverse, zero;
  std::array<uint16_t, kLanes> scale_bits;

  void set(size_t lane, uint16_t bits, float zero_in) {
    scale_bits[lane] = bits;
    scale[lane] = from_bf16(bits);
    const float inverse_in = 1.0F / scale[lane];
    inverse[lane] = std::isfinite(inverse_in) ? inverse_in : 0.0F;
    zero[lane] = zero_in;
  }
};

struct Range {
  Lanes min, max;
};

Range range_of(const float* x, size_t count) {
  Range range{};
  for (size_t i = 0; i < count; ++i) {
    for (size_t r = 0; r < kLanes; ++r) {
      const float value = x[i * kLanes + r];
      range.min[r] = value < range.min[r] ? value : range.min[r];
      range.max[r] = value > range.max[r] ? value : range.max[r];
    }
  }
  return range;
}

/// Squared error of kI4 on a grid, by row.
Lanes error_of(const float* x, size_t count, const Grid& grid) {
  Lanes error{};
  for (size_t i = 0; i < count; ++i) {
    for (size_t r = 0; r < kLanes; ++r) {
      const float value = x[i * kLanes + r];
      const float q = clamped(rounded(value * grid.inverse[r]) + grid.zero[r], 0.0F, 15.0F);
      const float off = value - (q - grid.zero[r]) * grid.scale[r];
      error[r] += off * off;
    }
  }
  return error;
}

/// The least-squares scale for the integers that a grid gives: sum(x q) / sum(q q).
Lanes refitted(const float* x, size_t count, const Grid& grid) {
  Lanes products{}, squares{};
  for (size_t i = 0; i < count; ++i) {
    for (size_t r = 0; r < kLanes; ++r) {
      const float value = x[i * kLanes + r];
      const float q =
          clamped(rounded(value * grid.inverse[r]) + grid.zero[r], 0.0F, 15.0F) - grid.zero[r];
      products[r] += value * q;
      squares[r] += q * q;
    }
  }
  for (size_t r = 0; r < kLanes; ++r) {
    products[r] = squares[r] > 0 ? products[r] / squares[r] : grid.scale[r];
  }
  return products;
}

Grid grid_of_i8(const Range& range) {
  Grid grid;
  for (size_t r = 0; r < kLanes; ++r) {
    grid.set(r, to_bf16_up(std::max(range.max[r], -range.min[r]) / 127.0F), 0.0F);
  }
  return grid;
}

/// A candidate grid of kI4, the range shrunk to `part` of what it is.
Grid candidate(const Range& range, float part, bool zeros) {
  Grid grid;
  for (size_t r = 0; r < kLanes; ++r) {
    if (zeros) {
      const uint16_t bits = to_bf16(part * (range.max[r] - range.min[r]) / 15.0F);
      grid.set(r, bits, 0.0F);
      grid.zero[r] = clamped(rounded(-part * range.min[r] * grid.inverse[r]), 0.0F, 15.0F);
    } else {
      const float end = range.max[r] >= -range.min[r] ? range.max[r] : range.min[r];
      grid.set(r, to_bf16(part * end / -8.0F), float{kMiddleOfI4});
    }
  }
  return grid;
}

Grid grid_of_i4(const float* x, size_t count, const Range& range, bool zeros) {
  // Symmetric grids reach 8 steps to the side of the larger end and 7 to the other, so 8/7 of the
  // range covers both ends.
  constexpr std::array kSymmetric = {1.0F, 8.0F / 7.0F, 1.07F, 0.94F, 0.88F, 0.82F};
  // Asymmetric ones have 15 steps; 16/15 of the range leaves room for the rounding of the zero.
  constexpr std::array kAsymmetric = {1.0F, 16.0F / 15.0F, 1.03F, 0.96F, 0.92F, 0.87F};
  Grid best = candidate(range, 1.0F, zeros);
  Lanes least = error_of(x, count, best);
  const auto take_better = [&](const Grid& grid) {
    const Lanes error = error_of(x, count, grid);
    for (size_t r = 0; r < kLanes; ++r) {
      if (error[r] < least[r]) {
        least[r] = error[r];
        best.set(r, grid.scale_bits[r], grid.zero[r]);
      }
    }
  };
  for (const float part : std::span(zeros ? kAsymmetric : kSymmetric).subspan(1)) {
    take_better(candidate(range, part, zeros));
  }
  if (zeros) {  // some groups lie so that 8 is the best zero and a negative scale the best end
    for (const float part : std::span(kSymmetric).first(2)) {
      take_better(candidate(range, part, false));
    }
  }
  const Lanes scales = refitted(x, count, best);
  Grid refit;
  for (size_t r = 0; r < kLanes; ++r) refit.set(r, to_bf16(scales[r]), best.zero[r]);
  take_better(refit);
  return best;
}

/// One byte per element, [count, 16 lanes].
void round_to_grid(const float* x, size_t count, const Grid& grid, DType dtype, uint8_t* q) {
  const float low = dtype == DType::kI8 ? -127.0F : 0.0F;
  const float high = dtype == DType::kI8 ? 127.0F : 15.0F;
  for (size_t i = 0; i < count; ++i) {
    for (size_t r = 0; r < kLanes; ++r) {
      const float value = rounded(x[i * kLanes + r] * grid.inverse[r]) + grid.zero[r];
      q[i * kLanes + r] = static_cast<uint8_t>(static_cast<int32_t>(clamped(value, low, high)));
    }
  }
}

/// [32 elements, 16 lanes] of bytes into the order of a panel.
void pack_block(const uint8_t* q, DType dtype, uint8_t* out) {
  const size_t quads = kPanelBlock / kPanelQuad / (dtype == DType::kI4 ? 2 : 1);
  constexpr size_t kHalf = kPanelBlock / 2;
  for (size_t quad = 0; quad < quads; ++quad) {
    for (size_t r = 0; r < kLanes; ++r) {
      for (size_t k = 0; k < kPanelQuad; ++k) {
        const size_t i = quad * kPanelQuad + k;
        uint32_t byte = q[i * kLanes + r];
        if (dtype == DType::kI4) byte |= uint32_t{q[(i + kHalf) * kLanes + r]} << 4;
        *out++ = static_cast<uint8_t>(byte);
      }
    }
  }
}

constexpr float kLargestF8 = 448.0F;

/// To the nearest E4M3 ("fn"), ties to even; what is above the largest becomes that.
uint8_t to_f8e4m3(float value) {
  constexpr uint32_t kDropped = 23 - 3;  // bits of the mantissa
  constexpr uint32_t kExponentShift = (127 - 7) << 3;
  constexpr uint32_t kLargest = 0x7e;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffU;
  const uint32_t half = (1U << (kDropped - 1)) - 1 + (magnitude >> kDropped & 1U);
  const uint32_t normal = ((magnitude + half) >> kDropped) - kExponentShift;
  // Below the smallest normal number the steps are 2^-9.
  const auto subnormal = static_cast<uint32_t>(rounded(std::abs(value) * 0x1p9F));
  const uint32_t nearest = std::abs(value) < 0x1p-6F ? subnormal : normal;
  return static_cast<uint8_t>(bits >> 24 & 0x80U) |
         static_cast<uint8_t>(std::min(nearest, kLargest));
}

}  // namespace

std::optional<Scheme> parse_scheme(std::string_view name) {
  const auto* found = std::find_if(kSchemes.begin(), kSchemes.end(),
                                   [&](const NamedScheme& s) { return s.name == name; });
  return found == kSchemes.end() ? std::nullopt : std::optional(found->scheme);
}

const std::string& scheme_names() {
  static const std::string names = [] {
    std::string text;
    for (const NamedScheme& s : kSchemes) text += (text.empty() ? "" : ", ") + std::string(s.name);
    return text;
  }();
  return names;
}

bool quantise_panel(const float* rows, size_t in, const Scheme& scheme, const PanelOut& out) {
  CHECK(scheme.in_panels());
  CHECK_EQ(in % kPanelBlock, size_t{0});
  CHECK(!scheme.zeros || out.zeros != nullptr);
  const size_t group = scheme.group == 0 ? in : scheme.group;
  const size_t block_bytes = kPanelBlock * kLanes / (scheme.dtype == DType::kI4 ? 2 : 1);
  std::vector<float> x(std::min(group, in) * kLanes);  // [element, lane]
  std::vector<uint8_t> q(x.size());
  uint8_t* data = out.data;
  for (size_t first = 0, g = 0; first < in; first += group, ++g) {
    const size_t count = std::min(group, in - first);
    Lanes sum{};
    for (size_t r = 0; r < kLanes; ++r) {
      for (size_t i = 0; i < count; ++i) x[i * kLanes + r] = rows[r * in + first + i];
    }
    for (size_t i = 0; i < count; ++i) {
      for (size_t r = 0; r < kLanes; ++r) sum[r] += x[i * kLanes + r] * 0.0F;  // NaN if not finite
    }
    if (std::any_of(sum.begin(), sum.end(), [](float s) { return s != 0; })) return false;
    const Range range = range_of(x.data(), count);
    const Grid grid = scheme.dtype == DType::kI8 ? grid_of_i8(range)
                                                 : grid_of_i4(x.data(), count, range, scheme.zeros);
    round_to_grid(x.data(), count, grid, scheme.dtype, q.data());
    for (size_t i = 0; i < count; i += kPanelBlock, data += block_bytes) {
      pack_block(q.data() + i * kLanes, scheme.dtype, data);
    }
    std::memcpy(out.scales + g * kLanes, grid.scale_bits.data(), sizeof grid.scale_bits);
    if (scheme.zeros) {
      for (size_t r = 0; r < kLanes; ++r) {
        out.zeros[g * kLanes + r] = static_cast<uint8_t>(grid.zero[r]);
      }
    }
  }
  return true;
}

bool quantise_f8(const float* rows, size_t count, size_t in, uint8_t* data, float* scales) {
  constexpr size_t kBlock = WeightView::kScaleBlock;
  CHECK_LE(count, kBlock);
  for (size_t first = 0; first < in; first += kBlock) {
    const size_t end = std::min(first + kBlock, in);
    float largest = 0, not_finite = 0;
    for (size_t r = 0; r < count; ++r) {
      for (size_t i = first; i < end; ++i) {
        const float value = rows[r * in + i];
        largest = std::max(largest, std::abs(value));
        not_finite += value * 0.0F;  // NaN then
      }
    }
    if (not_finite != 0) return false;
    const float scale = largest / kLargestF8 > 0 ? largest / kLargestF8 : 1.0F;
    for (size_t r = 0; r < count; ++r) {
      for (size_t i = first; i < end; ++i) {
        data[r * in + i] = to_f8e4m3(rows[r * in + i] / scale);
      }
    }
    scales[first / kBlock] = scale;
  }
  return true;
}

}  // namespace troupe::model
