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
  // One bit per set; a change of the bits starts a new interval of like characters.
  std::map<char32_t, uint64_t> toggles{{0, 0}};
  for (size_t i = 0; i < sets_.size(); ++i) {
    for (const UnicodeRange& range : sets_[i]) {
      toggles[range.first] ^= uint64_t{1} << i;
      toggles[range.last + 1] ^= uint64_t{1} << i;
    }
  }
  std::vector<uint8_t> flat(kLastCodePoint + 1);
  std::map<uint64_t, uint8_t> symbol_of_bits;
  members_.assign(sets_.size(), Members{});
  uint64_t bits = 0;
  for (auto it = toggles.begin(); it != toggles.end() && it->first <= kLastCodePoint; ++it) {
    bits ^= it->second;
    const auto [entry, is_new] =
        symbol_of_bits.try_emplace(bits, static_cast<uint8_t>(symbol_of_bits.size()));
    if (symbol_of_bits.size() > 256) return false;
    if (is_new) {
      for (size_t i = 0; i < sets_.size(); ++i) members_[i][entry->second] = (bits >> i & 1) != 0;
    }
    const auto next = std::next(it);
    const char32_t end = next == toggles.end() ? kLastCodePoint + 1 : next->first;
    std::fill(flat.begin() + it->first, flat.begin() + end, entry->second);
  }
  std::map<std::vector<uint8_t>, uint16_t> page_of;
  for (size_t start = 0; start < flat.size(); start += 256) {
    std::vector<uint8_t> page(flat.begin() + static_cast<ptrdiff_t>(start),
                              flat.begin() + static_cast<ptrdiff_t>(start + 256));
    const auto [entry, is_new] =
        page_of.try_emplace(std::move(page), static_cast<uint16_t>(page_of.size()));
    if (is_new) symbols_.insert(symbols_.end(), entry->first.begin(), entry->first.end());
    pages_.push_back(entry->second);
  }
  return true;
}

}  // namespace troupe::model
