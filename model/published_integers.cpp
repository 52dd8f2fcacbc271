#include "model/published_integers.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/panels.hpp"
#include "model/dequantise.hpp"

namespace troupe::model {
namespace {

constexpr size_t kPerWord = 8;
/// Where AWQ's words have the column that is i-th of eight.
constexpr std::array<size_t, kPerWord> kAwqPlaces = {0, 4, 1, 5, 2, 6, 3, 7};

unsigned nibble(Bytes words, size_t word, size_t place) {
  uint32_t bits;
  std::memcpy(&bits, words.data() + word * sizeof bits, sizeof bits);
  return bits >> (4 * place) & 0xfU;
}

DType dtype_of(PublishedFormat format) {
  return format == PublishedFormat::kCompressedInt8 ? DType::kI8 : DType::kI4;
}

/// The byte or nibble of element (o, i).
unsigned stored(const PublishedMatrix& m, size_t o, size_t i) {
  switch (m.format) {
    case PublishedFormat::kCompressedInt8: return static_cast<unsigned>(m.weight[o * m.in + i]);
    case PublishedFormat::kCompressedInt4:
      return nibble(m.weight, (o * m.in + i) / kPerWord, i % kPerWord);
    case PublishedFormat::kGptq:
    case PublishedFormat::kGptqV2: return nibble(m.weight, i / kPerWord * m.out + o, i % kPerWord);
    case PublishedFormat::kAwq:
      return nibble(m.weight, (i * m.out + o) / kPerWord, kAwqPlaces[o % kPerWord]);
  }
  return 0;
}

uint8_t zero(const PublishedMatrix& m, size_t o, size_t g) {
  const size_t word = (g * m.out + o) / kPerWord;
  switch (m.format) {
    case PublishedFormat::kCompressedInt8: return 0;
    case PublishedFormat::kCompressedInt4: return kMiddleOfI4;
    case PublishedFormat::kGptq:
      return static_cast<uint8_t>(nibble(m.zeros, word, o % kPerWord) + 1);
    case PublishedFormat::kGptqV2: return static_cast<uint8_t>(nibble(m.zeros, word, o % kPerWord));
    case PublishedFormat::kAwq:
      return static_cast<uint8_t>(nibble(m.zeros, word, kAwqPlaces[o % kPerWord]));
  }
  return 0;
}

bool rows_first(PublishedFormat format) {
  return format == PublishedFormat::kCompressedInt8 || format == PublishedFormat::kCompressedInt4;
}

size_t num_groups(const PublishedMatrix& m) { return (m.in + m.group - 1) / m.group; }

/// [out, groups]
std::vector<float> scales_of(const PublishedMatrix& m) {
  const size_t groups = num_groups(m);
  std::vector<float> stored_scales(m.out * groups);
  to_float32(m.scales, m.scale_dtype, stored_scales);
  if (rows_first(m.format)) return stored_scales;
  std::vector<float> scales(stored_scales.size());
  for (size_t g = 0; g < groups; ++g) {
    for (size_t o = 0; o < m.out; ++o) scales[o * groups + g] = stored_scales[g * m.out + o];
  }
  return scales;
}

}  // namespace

WeightView PanelMatrix::view(const PublishedMatrix& from) const {
  WeightView view{
      .data = data.data(), .dtype = dtype_of(from.format), .out = from.out, .in = from.in};
  view.group_scales = {.data = scales.data(),
                       .dtype = DType::kF32,
                       .group = from.group,
                       .zeros = zeros.empty() ? nullptr : zeros.data()};
  return view;
}

PanelMatrix to_panels(const PublishedMatrix& from) {
  const size_t groups = num_groups(from);
  const bool in_bytes = dtype_of(from.format) == DType::kI8;
  PanelMatrix panels;
  panels.data.resize(from.out * from.in / (in_bytes ? 1 : 2));
  for (size_t o = 0; o < from.out; ++o) {
    for (size_t i = 0; i < from.in; ++i) {
      const unsigned bits = stored(from, o, i);
      if (in_bytes) {
        panels.data[panel_byte_of_i8(from.in, o, i)] = static_cast<std::byte>(bits);
      } else {
        panels.data[panel_byte_of_i4(from.in, o, i)] |=
            static_cast<std::byte>(in_high_half(i) ? bits << 4U : bits);
      }
    }
  }
  const std::vector<float> scales = scales_of(from);
  panels.scales.resize(scales.size());
  panels.zeros.resize(in_bytes ? 0 : scales.size());
  for (size_t o = 0; o < from.out; ++o) {
    for (size_t g = 0; g < groups; ++g) {
      panels.scales[panel_scale(groups, o, g)] = scales[o * groups + g];
      if (!in_bytes) panels.zeros[panel_scale(groups, o, g)] = zero(from, o, g);
    }
  }
  if (std::ranges::all_of(panels.zeros, [](uint8_t z) { return z == kMiddleOfI4; })) {
    panels.zeros.clear();
  }
  return panels;
}

std::vector<float> to_floats(const PublishedMatrix& from) {
  const size_t groups = num_groups(from);
  const bool in_bytes = dtype_of(from.format) == DType::kI8;
  const std::vector<float> scales = scales_of(from);
  std::vector<float> values(from.out * from.in);
  for (size_t o = 0; o < from.out; ++o) {
    for (size_t i = 0; i < from.in; ++i) {
      const unsigned bits = stored(from, o, i);
      const int integer = in_bytes ? static_cast<int8_t>(bits)
                                   : static_cast<int>(bits) - zero(from, o, i / from.group);
      values[o * from.in + i] = static_cast<float>(integer) * scales[o * groups + i / from.group];
    }
  }
  return values;
}

}  // namespace troupe::model
