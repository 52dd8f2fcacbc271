#pragma once

// The tokens of a model as a grammar sees them: byte strings in a tree of common prefixes, laid out
// in the order in which it is walked, so that one pass over an array tries every token and a prefix
// that leads nowhere skips its whole subtree.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {

/// Plain text is whole characters of UTF-8 without control characters, '"' and '\\', as strings in
/// JSON may hold it anywhere.
class Vocabulary {
 public:
  /// The last byte of a prefix of some tokens.
  struct Node {
    TokenId token;   ///< that is this prefix exactly, or -1
    uint32_t next;   ///< the first node behind the subtree
    uint16_t depth;  ///< bytes of the prefix, >= 1
    uint8_t byte;
    bool is_plain;  ///< the tokens of the subtree are plain text, and the prefix up to this byte is
  };

  /// Added tokens, special or not, stand for no text that a user's grammar may ask for: they
  /// structure the prompt. Here they are their mark(), and only the grammar of tool calls asks for
  /// some of them.
  /// @param end_tokens ids that end an answer
  /// @param size ids of the model, which may have more than the tokenizer
  /// @errors as the other
  static Result<std::shared_ptr<const Vocabulary>> create(const Tokenizer& tokenizer,
                                                          std::span<const TokenId> end_tokens,
                                                          size_t size);

  /// @param tokens bytes of each id; tokens that are empty are never allowed
  /// @errors kInvalidArgument: no end token, one outside the vocabulary, or a token longer than
  ///         kMaxTokenBytes
  static Result<std::shared_ptr<const Vocabulary>> create(std::span<const std::string_view> tokens,
                                                          std::span<const TokenId> end_tokens);

  [[nodiscard]] size_t size() const { return bytes_begin_.size() - 1; }
  /// Words of a bit mask over the vocabulary.
  [[nodiscard]] size_t num_words() const { return (size() + 63) / 64; }
  /// Empty for an end token and an id outside the vocabulary.
  [[nodiscard]] std::string_view token_bytes(TokenId token) const;
  [[nodiscard]] const std::vector<TokenId>& end_tokens() const { return end_tokens_; }
  [[nodiscard]] bool is_end(TokenId token) const;
  [[nodiscard]] std::span<const Node> nodes() const { return nodes_; }
  /// A mask of the tokens in plain subtrees.
  [[nodiscard]] std::span<const uint64_t> plain_tokens() const { return plain_tokens_; }

  static constexpr size_t kMaxTokenBytes = 1024;

  /// The bytes of an added token: its content between bytes that no text has and no other token,
  /// so that nothing but this token makes them.
  static std::string mark(std::string_view content) {
    return kMarkByte + std::string(content) + kMarkByte;
  }

 private:
  static constexpr char kMarkByte = '\xFF';

  Vocabulary() = default;
  void add_nodes();
  void mark_plain();

  std::vector<char> bytes_;
  std::vector<uint32_t> bytes_begin_;  // [size + 1]
  std::vector<TokenId> end_tokens_;    // rising
  std::vector<Node> nodes_;
  std::vector<uint64_t> plain_tokens_;
};

}  // namespace troupe::model
