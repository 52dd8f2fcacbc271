#pragma once

// Sets of code points, and the small alphabet that the sets of one tokenizer induce.
//
// A tokenizer's patterns only ask "is this character in set A?". Characters that no set tells apart
// are one symbol, so a text becomes an array of one-byte symbols once, and every pattern runs over
// that array with table look-ups: the cost of Unicode is paid once per character, whatever the
// number of patterns.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace troupe::model {

struct UnicodeRange {
  char32_t first, last;  ///< closed
  friend bool operator==(const UnicodeRange&, const UnicodeRange&) = default;
};

/// Sorted, disjoint and not adjacent ranges of scalar values.
using CodePointSet = std::vector<UnicodeRange>;

/// Sorts and joins. REQUIRES: first <= last <= 0x10FFFF in each range.
CodePointSet normalized(std::vector<UnicodeRange> ranges);
CodePointSet complement(const CodePointSet& set);

/// The set of a general category (L, M, N, P, S) as the Hugging Face tokenizers know it (Unicode
/// 16), or nullopt for another name.
std::optional<CodePointSet> unicode_category(std::string_view name);
const CodePointSet& unicode_space();  ///< regex \s
const CodePointSet& unicode_digit();  ///< the pre-tokenizer Digits
const CodePointSet& unicode_word();   ///< what single_word of added tokens takes for a word

bool contains(const CodePointSet& set, char32_t c);

class Alphabet {
 public:
  /// Which symbols are in a set.
  using Members = std::array<bool, 256>;

  /// Registers a set and returns its number; equal sets share one. nullopt: more than 64 sets.
  std::optional<uint8_t> add(const CodePointSet& set);

  /// Builds the tables. To be called once, after the last add(). False: the sets tell more than 256
  /// kinds of characters apart.
  [[nodiscard]] bool finish();

  [[nodiscard]] uint8_t symbol(char32_t c) const {
    return symbols_[static_cast<size_t>(pages_[c >> 8]) << 8 | (c & 0xFF)];
  }
  [[nodiscard]] const Members& members(uint8_t set) const { return members_[set]; }
  [[nodiscard]] size_t num_sets() const { return sets_.size(); }

 private:
  std::vector<CodePointSet> sets_;
  std::vector<Members> members_;
  std::vector<uint16_t> pages_;   // [0x1100] page of each block of 256 code points
  std::vector<uint8_t> symbols_;  // [pages, 256], pages of one symbol stored once
};

}  // namespace troupe::model
