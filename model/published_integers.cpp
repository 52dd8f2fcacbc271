#include "model/published_integers.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/panels.hpp"
#include "model/dequantise.hpp"
#include "model/for_all.hpp"

namespace troupe::model {
namespace {

/// Where AWQ's words have the column that is i-th of eight.
constexpr std::array<size_t, 8> kAwqPlaces = {0, 4, 1, 5, 2, 6, 3, 7};
/// Makes four signed bytes unsigned around 128, and back.
constexpr uint32_t kFlipSigns = 0x80808080U;

constexpr size_t kBytesPerWord = 4;
using PanelWords = std::array<uint32_t, kPanelRows>;

uint32_t word(Bytes words, size_t index) {
  uint32_t bits;
  std::memcpy(&bits, words.data() + index * kBytesPerWord, kBytesPerWord);
  return bits;
}

size_t per_word(const PublishedMatrix& m) { return 32 / bits_of(m.dtype); }

unsigned middle(DType dtype) { return dtype == DType::kI8 ? 128 : kMiddleOfI4; }

/// Integer number `place` of a word.
unsigned integer(const PublishedMatrix& m, uint32_t word, size_t place) {
  return word >> (bits_of(m.dtype) * place) & ((1U << bits_of(m.dtype)) - 1);
}

bool rows_first(PublishedFormat format) {
  return format == PublishedFormat::kCompressedInt8 || format == PublishedFormat::kCompressedPacked;
}

size_t num_groups(const PublishedMatrix& m) { return (m.in + m.group - 1) / m.group; }

/// What word k has at place p comes to place k of word p.
void transpose(std::array<uint32_t, 8>& words) {
  uint32_t mask = 0x0000ffffU;
  for (size_t step = 4; step > 0; step /= 2, mask ^= mask << (4 * step)) {
    for (size_t k = 0; k < words.size(); ++k) {
      if ((k & step) != 0) continue;
      const uint32_t swapped = (words[k] >> (4 * step) ^ words[k + step]) & mask;
      words[k + step] ^= swapped;
      words[k] ^= swapped << (4 * step);
    }
  }
}

/// Integers [index * n, (index + 1) * n) of each row of a panel, the first of them lowest.
PanelWords panel_words(const PublishedMatrix& m, size_t panel, size_t index) {
  const size_t row = panel * kPanelRows;
  PanelWords words;
  switch (m.format) {
    case PublishedFormat::kCompressedInt8:
    case PublishedFormat::kCompressedPacked: {
      const size_t words_of_row = m.in / per_word(m);
      const uint32_t flip = m.format == PublishedFormat::kCompressedInt8 ? kFlipSigns : 0;
      for (size_t r = 0; r < kPanelRows; ++r) {
        words[r] = word(m.weight, (row + r) * words_of_row + index) ^ flip;
      }
      break;
    }
    case PublishedFormat::kGptq:
    case PublishedFormat::kGptqV2: {
      std::memcpy(words.data(), m.weight.data() + (index * m.out + row) * kBytesPerWord,
                  sizeof words);
      break;
    }
    case PublishedFormat::kAwq: {
      for (size_t half = 0; half < kPanelRows; half += 8) {
        std::array<uint32_t, 8> columns;
        for (size_t k = 0; k < 8; ++k) {
          columns[k] = word(m.weight, ((index * 8 + k) * m.out + row + half) / 8);
        }
        transpose(columns);
        for (size_t r = 0; r < 8; ++r) words[half + r] = columns[kAwqPlaces[r]];
      }
      break;
    }
  }
  return words;
}

/// The same of the columns in their order.
PanelWords ordered_words(const PublishedMatrix& m, size_t panel, size_t index) {
  if (m.columns.empty()) return panel_words(m, panel, index);
  const size_t n = per_word(m);
  PanelWords words = {};
  for (size_t k = 0; k < n; ++k) {
    const size_t column = m.columns[index * n + k];
    const PanelWords from = panel_words(m, panel, column / n);
    for (size_t r = 0; r < kPanelRows; ++r) {
      words[r] |= integer(m, from[r], column % n) << (bits_of(m.dtype) * k);
    }
  }
  return words;
}

unsigned zero(const PublishedMatrix& m, size_t o, size_t g) {
  if (m.zeros.empty()) return middle(m.dtype);
  const size_t n = per_word(m);
  switch (m.format) {
    case PublishedFormat::kCompressedInt8: break;
    case PublishedFormat::kCompressedPacked:
      return integer(m, word(m.zeros, o / n * num_groups(m) + g), o % n);
    case PublishedFormat::kGptq: return integer(m, word(m.zeros, (g * m.out + o) / n), o % n) + 1;
    case PublishedFormat::kGptqV2: return integer(m, word(m.zeros, (g * m.out + o) / n), o % n);
    case PublishedFormat::kAwq:
      return integer(m, word(m.zeros, (g * m.out + o) / n), kAwqPlaces[o % n]);
  }
  return middle(m.dtype);
}

float scale(const PublishedMatrix& m, size_t o, size_t g) {
  const size_t bytes = size_of(m.scale_dtype);
  const size_t at = rows_first(m.format) ? o * num_groups(m) + g : g * m.out + o;
  float value;
  to_float32(m.scales.subspan(at * bytes, bytes), m.scale_dtype, {&value, 1});
  return value;
}

/// The four lower half bytes to a byte each.
uint32_t spread(uint32_t halves) {
  halves = (halves | halves << 8) & 0x00ff00ffU;
  return (halves | halves << 4) & 0x0f0f0f0fU;
}

void pack_bytes(const PublishedMatrix& m, size_t panel, std::byte* to) {
  for (size_t index = 0; index < m.in / kPanelQuad; ++index) {
    PanelWords words = ordered_words(m, panel, index);
    for (uint32_t& w : words) w ^= kFlipSigns;
    std::memcpy(to + index * sizeof words, words.data(), sizeof words);
  }
}

void pack_halves(const PublishedMatrix& m, size_t panel, std::byte* to) {
  for (size_t block = 0; block < m.in / kPanelBlock; ++block) {
    // Elements 0-7, 8-15 go to the lower halves, 16-23, 24-31 to the higher ones.
    std::array<PanelWords, 4> words;
    for (size_t i = 0; i < words.size(); ++i) words[i] = ordered_words(m, panel, block * 4 + i);
    for (size_t i = 0; i < 2; ++i) {
      for (const unsigned shift : {0U, 16U}) {
        PanelWords quads;
        for (size_t r = 0; r < kPanelRows; ++r) {
          quads[r] = spread(words[i][r] >> shift & 0xffffU) |
                     spread(words[i + 2][r] >> shift & 0xffffU) << 4;
        }
        std::memcpy(to, quads.data(), sizeof quads);
        to += sizeof quads;
      }
    }
  }
}

}  // namespace

Result<std::vector<uint32_t>> columns_by_group(Bytes groups, size_t in, size_t group) {
  const size_t num_groups = (in + group - 1) / group;
  std::vector<uint32_t> columns(in);
  std::vector<size_t> next(num_groups);  // place of the next column of each group
  for (size_t g = 0; g < num_groups; ++g) next[g] = g * group;
  bool in_order = true;
  for (size_t i = 0; i < in; ++i) {
    int32_t g;
    std::memcpy(&g, groups.data() + i * sizeof g, sizeof g);
    if (g < 0 || static_cast<size_t>(g) >= num_groups) {
      return Error{Code::kCorrupt, "puts column " + std::to_string(i) + " into group " +
                                       std::to_string(g) + " of " + std::to_string(num_groups)};
    }
    const auto at = static_cast<size_t>(g);
    const size_t end = std::min(in, (at + 1) * group);
    if (next[at] == end) {  // so another has too few
      return Error{Code::kCorrupt, "puts more than " + std::to_string(end - at * group) +
                                       " columns into group " + std::to_string(g)};
    }
    in_order = in_order && next[at] == i;
    columns[next[at]++] = static_cast<uint32_t>(i);
  }
  if (in_order) columns.clear();
  return columns;
}

WeightView PanelMatrix::view(const PublishedMatrix& from) const {
  WeightView view{.data = data.data(), .dtype = from.dtype, .out = from.out, .in = from.in};
  view.group_scales = {.data = scales.data(),
                       .dtype = DType::kF32,
                       .group = from.group,
                       .zeros = zeros.empty() ? nullptr : zeros.data()};
  if (!from.columns.empty()) view.columns = from.columns.data();
  return view;
}

Result<void> to_panel(const PublishedMatrix& from, size_t panel, const PanelPart& to) {
  const bool in_bytes = from.dtype == DType::kI8;
  if (in_bytes) {
    pack_bytes(from, panel, to.data);
  } else {
    pack_halves(from, panel, to.data);
  }
  for (size_t g = 0; g < num_groups(from); ++g) {
    for (size_t r = 0; r < kPanelRows; ++r) {
      const size_t o = panel * kPanelRows + r;
      to.scales[g * kPanelRows + r] = scale(from, o, g);
      const unsigned z = zero(from, o, g);
      if (!in_bytes) {
        to.zeros[g * kPanelRows + r] = static_cast<uint8_t>(z);
      } else if (z != middle(DType::kI8)) {
        return Error{Code::kUnsupported,
                     "row " + std::to_string(o) + " has a zero of " + std::to_string(z) +
                         "; integers of 8 bits must be symmetric, with zeros of 128"};
      }
    }
  }
  return {};
}

Result<PanelMatrix> to_panels(const PublishedMatrix& from, size_t num_threads) {
  const size_t num_panels = from.out / kPanelRows;
  const size_t panel_bytes = kPanelRows * from.in * bits_of(from.dtype) / 8;
  const size_t panel_scales = kPanelRows * num_groups(from);
  PanelMatrix panels;
  panels.data.resize(num_panels * panel_bytes);
  panels.scales.resize(num_panels * panel_scales);
  panels.zeros.resize(from.dtype == DType::kI8 ? 0 : panels.scales.size());
  TRY(for_all(num_panels, num_threads, [&](size_t panel) {
    return to_panel(from, panel,
                    {.data = panels.data.data() + panel * panel_bytes,
                     .scales = panels.scales.data() + panel * panel_scales,
                     .zeros = panels.zeros.data() + panel * panel_scales});
  }));
  if (std::ranges::all_of(panels.zeros, [](uint8_t z) { return z == kMiddleOfI4; })) {
    panels.zeros.clear();
  }
  return panels;
}

std::vector<float> to_floats(const PublishedMatrix& from, size_t first, size_t count) {
  std::vector<float> values(count * kPanelRows * from.in);
  const size_t n = per_word(from);
  for (size_t panel = 0; panel < count; ++panel) {
    for (size_t index = 0; index < from.in / n; ++index) {
      const PanelWords words = ordered_words(from, first + panel, index);
      const size_t g = index * n / from.group;
      for (size_t r = 0; r < kPanelRows; ++r) {
        const size_t o = (first + panel) * kPanelRows + r;
        const auto z = static_cast<int>(zero(from, o, g));
        const float factor = scale(from, o, g);
        float* row = values.data() + (panel * kPanelRows + r) * from.in;
        for (size_t k = 0; k < n; ++k) {
          const size_t i = index * n + k;
          row[from.columns.empty() ? i : from.columns[i]] =
              static_cast<float>(static_cast<int>(integer(from, words[r], k)) - z) * factor;
        }
      }
    }
  }
  return values;
}

}  // namespace troupe::model
