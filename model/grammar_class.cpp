#include "model/grammar_class.hpp"

#include <optional>

#include "model/grammar_text.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

std::optional<uint32_t> hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

bool is_alphanumeric(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// HH, HHHH or {H...} behind \x or \u.
Result<char32_t> take_code_point(SpecCursor& cursor, size_t num_digits) {
  const size_t begin = cursor.at;
  const bool is_braced = cursor.take("{");
  const size_t max_digits = is_braced ? 6 : num_digits;
  char32_t value = 0;
  size_t num = 0;
  for (; num < max_digits && hex_value(cursor.peek()); ++num, ++cursor.at) {
    value = value << 4 | *hex_value(cursor.peek());
  }
  if (is_braced ? num == 0 || !cursor.take("}") : num != num_digits) {
    return SpecCursor::error_at(begin, "a code point needs " + std::to_string(num_digits) +
                                           " hex digits, or up to 6 in braces");
  }
  if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
    return SpecCursor::error_at(begin, "not a character of Unicode");
  }
  return value;
}

}  // namespace

char32_t SpecCursor::take_character() { return decode_utf8(text, at); }

Error SpecCursor::error_at(size_t at, std::string_view what) {
  return {Code::kInvalidArgument, "at byte " + std::to_string(at) + ": " + std::string(what)};
}

std::optional<uint32_t> take_number(SpecCursor& cursor) {
  constexpr uint32_t kMost = 1'000'000'000;
  std::optional<uint32_t> value;
  for (; cursor.peek() >= '0' && cursor.peek() <= '9'; ++cursor.at) {
    const uint64_t next = uint64_t{value.value_or(0)} * 10 + (cursor.peek() - '0');
    value = static_cast<uint32_t>(next < kMost ? next : kMost);
  }
  return value;
}

Result<CodePointSet> take_escape(SpecCursor& cursor) {
  const size_t begin = cursor.at++;
  if (cursor.done()) return SpecCursor::error_at(begin, "a backslash ends the text");
  const char32_t c = cursor.take_character();
  const CodePointSet digit{{'0', '9'}};
  const CodePointSet word{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
  const CodePointSet space{{'\t', '\r'}, {' ', ' '}};
  const auto one = [](char32_t character) { return CodePointSet{{character, character}}; };
  switch (c) {
    case 'd': return digit;
    case 'D': return complement(digit);
    case 'w': return word;
    case 'W': return complement(word);
    case 's': return space;
    case 'S': return complement(space);
    case 't': return one('\t');
    case 'n': return one('\n');
    case 'r': return one('\r');
    case 'f': return one('\f');
    case 'x': return one(TRY(take_code_point(cursor, 2)));
    case 'u': return one(TRY(take_code_point(cursor, 4)));
    case 'b':
    case 'B':
    case 'A':
    case 'Z':
    case 'z':
    case 'G': return SpecCursor::error_at(begin, "word boundaries and anchors are not supported");
    case 'p':
    case 'P': return SpecCursor::error_at(begin, "Unicode properties (\\p) are not supported");
    default: break;
  }
  if (c == '0' && !(cursor.peek() >= '0' && cursor.peek() <= '9')) return one(0);
  if ((c >= '0' && c <= '9') || c == 'k' || c == 'g') {
    return SpecCursor::error_at(begin, "back-references are not supported");
  }
  if (is_alphanumeric(c)) return SpecCursor::error_at(begin, "unknown escape");
  return one(c);
}

Result<CodePointSet> take_class(SpecCursor& cursor) {
  const size_t begin = cursor.at++;
  const bool is_negated = cursor.take("^");
  std::vector<UnicodeRange> ranges;
  if (cursor.peek() == ']') return cursor.error("an empty class; a ']' in a class is written \\]");
  while (!cursor.take("]")) {
    if (cursor.done()) return SpecCursor::error_at(begin, "the class is not closed");
    if (cursor.sees("[:") || cursor.sees("[=") || cursor.sees("[.")) {
      return cursor.error("POSIX classes are not supported");
    }
    const size_t item = cursor.at;
    const auto take_item = [&]() -> Result<CodePointSet> {
      if (cursor.sees("\\b")) return cursor.at += 2, CodePointSet{{'\b', '\b'}};
      if (cursor.peek() == '\\') return take_escape(cursor);
      const char32_t c = cursor.take_character();
      return CodePointSet{{c, c}};
    };
    const CodePointSet first = TRY(take_item());
    if (cursor.peek() != '-' || cursor.sees("-]")) {
      ranges.insert(ranges.end(), first.begin(), first.end());
      continue;
    }
    ++cursor.at;
    if (cursor.done()) return SpecCursor::error_at(begin, "the class is not closed");
    const CodePointSet last = TRY(take_item());
    const auto is_one = [](const CodePointSet& set) {
      return set.size() == 1 && set[0].first == set[0].last;
    };
    if (!is_one(first) || !is_one(last)) {
      return SpecCursor::error_at(item, "a class cannot end a range; a '-' is written \\-");
    }
    if (first[0].first > last[0].first)
      return SpecCursor::error_at(item, "the range runs backward");
    ranges.push_back({first[0].first, last[0].first});
  }
  CodePointSet set = normalized(std::move(ranges));
  if (is_negated) set = complement(set);
  if (without(set, {{0xD800, 0xDFFF}}).empty()) {
    return SpecCursor::error_at(begin, "the class holds no character");
  }
  return set;
}

}  // namespace troupe::model
