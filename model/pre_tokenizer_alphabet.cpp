#include "model/pre_tokenizer_alphabet.hpp"

#include <algorithm>
#include <iterator>
#include <map>

namespace troupe::model {
namespace {

#include "model/unicode_tables.inc"

constexpr char32_t kLastCodePoint = 0x10FFFF;

template <size_t kSize>
CodePointSet to_set(const UnicodeRange (&ranges)[kSize]) {
  return CodePointSet(std::begin(ranges), std::end(ranges));
}

}  // namespace

CodePointSet normalized(std::vector<UnicodeRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const UnicodeRange& a, const UnicodeRange& b) { return a.first < b.first; });
  CodePointSet out;
  for (const UnicodeRange& range : ranges) {
    if (!out.empty() && range.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, range.last);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

CodePointSet complement(const CodePointSet& set) {
  CodePointSet out;
  char32_t next = 0;
  for (const UnicodeRange& range : set) {
    if (range.first > next) out.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCodePoint) out.push_back({next, kLastCodePoint});
  return out;
}

std::optional<CodePointSet> unicode_category(std::string_view name) {
  if (name == "L") return to_set(kUnicodeLetter);
  if (name == "M") return to_set(kUnicodeMark);
  if (name == "N") return to_set(kUnicodeNumber);
  if (name == "P") return to_set(kUnicodePunctuation);
  if (name == "S") return to_set(kUnicodeSymbol);
  return std::nullopt;
}

const CodePointSet& unicode_space() {
  static const CodePointSet set = to_set(kUnicodeSpace);
  return set;
}

const CodePointSet& unicode_digit() {
  static const CodePointSet set = to_set(kUnicodeDigit);
  return set;
}

const CodePointSet& unicode_word() {
  static const CodePointSet set = to_set(kUnicodeWord);
  return set;
}

bool contains(const CodePointSet& set, char32_t c) {
  const auto after =
      std::upper_bound(set.begin(), set.end(), c,
                       [](char32_t x, const UnicodeRange& range) { return x < range.first; });
  return after != set.begin() && c <= std::prev(after)->last;
}

std::optional<uint8_t> Alphabet::add(const CodePointSet& set) {
  const auto found = std::find(sets_.begin(), sets_.end(), set);
  if (found != sets_.end()) return static_cast<uint8_t>(found - sets_.begin());
  if (sets_.size() == 64) return std::nullopt;
  sets_.push_back(set);
  return static_cast<uint8_t>(sets_.size() - 1);
}

bool Alphabet::finish() {
  // One bit per set; where bits change, another interval of like characters starts.
  std::map<char32_t, uint64_t> changes{{kLastCodePoint + 1, 0}};
  for (size_t i = 0; i < sets_.size(); ++i) {
    for (const UnicodeRange& range : sets_[i]) {
      changes[range.first] ^= uint64_t{1} << i;
      changes[range.last + 1] ^= uint64_t{1} << i;
    }
  }
  members_.assign(sets_.size(), Members{});
  std::map<uint64_t, uint8_t> symbol_of_bits;
  std::map<uint8_t, uint16_t> uniform_pages;  // most pages hold one symbol only; those are shared
  auto change = changes.begin();
  uint64_t bits = 0;
  uint8_t symbol = 0;
  for (char32_t c = 0; c <= kLastCodePoint;) {
    if (c == 0 || c == change->first) {
      if (c == change->first) bits ^= (change++)->second;
      if (symbol_of_bits.size() == 256 && !symbol_of_bits.contains(bits)) return false;
      symbol = symbol_of_bits.try_emplace(bits, static_cast<uint8_t>(symbol_of_bits.size()))
                   .first->second;
      for (size_t i = 0; i < sets_.size(); ++i) members_[i][symbol] = (bits >> i & 1) != 0;
    }
    if (c % 256 == 0 && change->first >= c + 256) {
      const auto [page, is_new] =
          uniform_pages.try_emplace(symbol, static_cast<uint16_t>(symbols_.size() / 256));
      if (is_new) symbols_.insert(symbols_.end(), 256, symbol);
      pages_.push_back(page->second);
      c += 256;
      continue;
    }
    if (c % 256 == 0) pages_.push_back(static_cast<uint16_t>(symbols_.size() / 256));
    const char32_t end = std::min<char32_t>((c / 256 + 1) * 256, change->first);
    symbols_.insert(symbols_.end(), end - c, symbol);
    c = end;
  }
  return true;
}

}  // namespace troupe::model
