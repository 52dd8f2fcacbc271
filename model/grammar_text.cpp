#include "model/grammar_text.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

using Expr = GrammarBuilder::Expr;

/// A closed range of bytes at each place of a character's UTF-8.
using ByteRanges = std::vector<std::pair<uint8_t, uint8_t>>;

/// Cuts a range into parts whose UTF-8 is one range of bytes at each place.
void add_byte_ranges(UnicodeRange range, std::vector<ByteRanges>& out) {
  for (const char32_t last_of_length : {0x7FU, 0x7FFU, 0xD7FFU, 0xDFFFU, 0xFFFFU}) {
    if (range.first <= last_of_length && last_of_length < range.last) {
      add_byte_ranges({range.first, last_of_length}, out);
      add_byte_ranges({last_of_length + 1, range.last}, out);
      return;
    }
  }
  if (range.first >= 0xD800 && range.last <= 0xDFFF) return;
  const int num_bytes = range.last < 0x80      ? 1
                        : range.last < 0x800   ? 2
                        : range.last < 0x10000 ? 3
                                               : 4;
  for (int i = 1; i < num_bytes; ++i) {
    const char32_t low = (char32_t{1} << 6 * i) - 1;  // bits of the last i bytes
    if ((range.first & ~low) == (range.last & ~low)) continue;
    if ((range.first & low) != 0) {
      add_byte_ranges({range.first, range.first | low}, out);
      add_byte_ranges({(range.first | low) + 1, range.last}, out);
      return;
    }
    if ((range.last & low) != low) {
      add_byte_ranges({range.first, (range.last & ~low) - 1}, out);
      add_byte_ranges({range.last & ~low, range.last}, out);
      return;
    }
  }
  std::string first, last;
  append_utf8(first, range.first);
  append_utf8(last, range.last);
  ByteRanges ranges;
  for (int i = 0; i < num_bytes; ++i) {
    ranges.emplace_back(static_cast<uint8_t>(first[i]), static_cast<uint8_t>(last[i]));
  }
  out.push_back(std::move(ranges));
}

std::string escape_of(char32_t c) {
  constexpr std::string_view kHex = "0123456789abcdef";
  switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\b': return "\\b";
    case '\f': return "\\f";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: return std::string("\\u00") + kHex[c >> 4] + kHex[c & 15];
  }
}

bool needs_escape(char32_t c) { return c < 0x20 || c == '"' || c == '\\'; }

}  // namespace

CodePointSet all_characters() { return {{0, 0xD7FF}, {0xE000, 0x10FFFF}}; }

CodePointSet without(const CodePointSet& set, const CodePointSet& removed) {
  CodePointSet left;
  auto cut = removed.begin();
  for (UnicodeRange range : set) {
    while (cut != removed.end() && cut->last < range.first) ++cut;
    for (auto at = cut; at != removed.end() && at->first <= range.last; ++at) {
      if (range.first < at->first) left.push_back({range.first, at->first - 1});
      range.first = at->last + 1;
    }
    if (range.first <= range.last) left.push_back(range);
  }
  return left;
}

Expr character_of(GrammarBuilder& builder, const CodePointSet& set, Spelling spelling) {
  std::vector<Expr> branches;
  CodePointSet plain = set;
  if (spelling == Spelling::kJson) {
    const CodePointSet escaped{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    plain = without(set, escaped);
    std::vector<std::string> escapes;
    for (char32_t c = 0; c < 0x80; ++c) {
      if (needs_escape(c) && contains(set, c)) escapes.push_back(escape_of(c));
    }
    if (!escapes.empty()) branches.push_back(builder.choice(std::move(escapes)));
  }
  std::vector<ByteRanges> sequences;
  for (const UnicodeRange& range : plain) add_byte_ranges(range, sequences);
  // Characters that differ in their first byte only are one branch.
  std::map<ByteRanges, ByteSet> first_bytes;
  for (const ByteRanges& ranges : sequences) {
    ByteSet& set_of_first = first_bytes[{ranges.begin() + 1, ranges.end()}];
    for (unsigned byte = ranges[0].first; byte <= ranges[0].second; ++byte) set_of_first.set(byte);
  }
  for (const auto& [rest, first] : first_bytes) {
    std::vector<Expr> parts{builder.byte_of(first)};
    for (const auto& [low, high] : rest) parts.push_back(builder.byte_between(low, high));
    branches.push_back(builder.sequence(parts));
  }
  return builder.either(branches);
}

std::string spelled(std::string_view text, Spelling spelling) {
  if (spelling == Spelling::kPlain) return std::string(text);
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (needs_escape(byte)) {
      out += escape_of(byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string json_string(std::string_view text) {
  return '"' + spelled(text, Spelling::kJson) + '"';
}

}  // namespace troupe::model
