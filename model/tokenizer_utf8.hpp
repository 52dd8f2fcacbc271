#pragma once

// UTF-8 as the tokenizer meets it: text from outside may be broken, and every broken place reads as
// U+FFFD exactly as Python's errors="replace" and Rust's from_utf8_lossy do it: one replacement for
// each maximal prefix of a character that could not be completed (Unicode 16, section 3.9).

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::model {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// The unit at the front of some bytes: a character, a broken place, or an unfinished tail.
struct Utf8Unit {
  enum class Kind : uint8_t { kCharacter, kInvalid, kIncomplete };
  Kind kind;
  uint32_t num_bytes;  ///< 1 .. 4
};

/// REQUIRES: bytes is not empty. kIncomplete: all of `bytes` begins a character that more bytes may
/// complete.
Utf8Unit next_utf8_unit(std::string_view bytes);

/// Decodes the character at `at` of valid UTF-8 and moves `at` behind it.
inline char32_t decode_utf8(std::string_view valid, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(valid[at + i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return at += 1, lead;
  if (lead < 0xE0) {
    const char32_t c = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    return at += 2, c;
  }
  if (lead < 0xF0) {
    const char32_t c = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    return at += 3, c;
  }
  const char32_t c =
      (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  return at += 4, c;
}

void append_utf8(std::string& out, char32_t scalar);

/// Number of bytes at the front of `text` that are valid UTF-8.
size_t valid_utf8_prefix(std::string_view text);

/// Appends `bytes` with each broken place replaced; an unfinished tail counts as broken.
void append_lossy_utf8(std::string& out, std::string_view bytes);

}  // namespace troupe::model
