#pragma once

// The printable characters in which byte-level tokenizers spell bytes (GPT-2's alphabet): a byte
// that prints stands for itself, the other 68 are U+0100 and up, in order.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace troupe::model {

class ByteCharacters {
 public:
  ByteCharacters();

  /// The UTF-8 spelling of one byte.
  [[nodiscard]] std::string spelling_of(uint8_t byte) const;

  /// The bytes that a token's spelling stands for; nullopt if a character stands for no byte.
  [[nodiscard]] std::optional<std::string> to_bytes(std::string_view spelling) const;

 private:
  std::array<char32_t, 256> character_of_byte_;
  std::unordered_map<char32_t, char> byte_of_character_;
};

}  // namespace troupe::model
