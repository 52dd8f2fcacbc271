#pragma once

// Finding added tokens ("<｜User｜>", "</think>", ...) in text, before anything else is cut.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::model {

/// One entry of tokenizer.json's "added_tokens".
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool single_word = false;  ///< only between characters that are not of a word
  bool lstrip = false;       ///< swallows the space before it
  bool rstrip = false;       ///< swallows the space behind it
  bool normalized = false;   ///< searched after all that are not
  bool special = false;      ///< left out by decode unless asked for
};

/// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin, end;
};

class AddedTokens {
 public:
  static constexpr size_t kMaxContentBytes = 256;

  AddedTokens() = default;
  /// REQUIRES: contents are valid UTF-8, distinct, 1 to kMaxContentBytes long.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// A token, or (token < 0) text without any.
  struct Part {
    size_t begin, end;
    TokenId token;
  };

  /// Cuts valid UTF-8 at added tokens, leftmost first and longest at one place, in two passes: over
  /// everything for those that are not `normalized`, then over the rest.
  /// @param shielded sorted, disjoint ranges; a token that touches one is text
  /// Cost: O(text bytes), times the longest content where contents repeat themselves.
  void split(std::string_view text, std::span<const TextRange> shielded,
             std::vector<Part>& parts) const;

  [[nodiscard]] const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  /// Contents by their bytes; node 0 is the root.
  class Trie {
   public:
    void insert(std::string_view content, uint32_t token_idx);
    [[nodiscard]] bool empty() const { return nodes_.size() == 1; }
    [[nodiscard]] bool may_start(char byte) const {
      return starts_[static_cast<unsigned char>(byte)];
    }
    /// Index of the longest content at the front of `text`, or kNone.
    [[nodiscard]] uint32_t longest_prefix(std::string_view text) const;
    static constexpr uint32_t kNone = UINT32_MAX;

   private:
    struct Node {
      uint32_t token_idx = kNone;
      std::vector<std::pair<char, uint32_t>> children;
    };
    [[nodiscard]] uint32_t child(uint32_t node, char byte) const;
    std::vector<Node> nodes_ = std::vector<Node>(1);
    std::array<bool, 256> starts_{};
  };

  void split_by(const Trie& trie, std::string_view text, TextRange range,
                std::span<const TextRange> shielded, std::vector<Part>& parts) const;

  std::vector<AddedToken> tokens_;
  Trie raw_, normalized_;
};

}  // namespace troupe::model
