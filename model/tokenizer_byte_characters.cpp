#include "model/tokenizer_byte_characters.hpp"

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {

ByteCharacters::ByteCharacters() {
  char32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool prints =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    character_of_byte_[byte] = prints ? static_cast<char32_t>(byte) : next++;
    byte_of_character_[character_of_byte_[byte]] = static_cast<char>(byte);
  }
}

std::string ByteCharacters::spelling_of(uint8_t byte) const {
  std::string spelling;
  append_utf8(spelling, character_of_byte_[byte]);
  return spelling;
}

std::optional<std::string> ByteCharacters::to_bytes(std::string_view spelling) const {
  std::string bytes;
  for (size_t at = 0; at < spelling.size();) {
    const auto found = byte_of_character_.find(decode_utf8(spelling, at));
    if (found == byte_of_character_.end()) return std::nullopt;
    bytes.push_back(found->second);
  }
  return bytes;
}

}  // namespace troupe::model
