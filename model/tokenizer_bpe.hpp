#pragma once

// Byte-pair merges within one piece of text.
// Source: Sennrich et al., "Neural machine translation of rare words with subword units" (2016), on
// bytes as in GPT-2: of all neighbouring pairs, merge the one of lowest rank, leftmost first, until
// no pair has a merge.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.hpp"

namespace troupe::model {

class BytePairEncoder {
 public:
  struct Merge {
    TokenId left, right, merged;
  };
  /// Token of bytes; the views have to outlive the encoder.
  using Vocabulary = std::unordered_map<std::string_view, TokenId>;

  BytePairEncoder() = default;
  /// @param byte_tokens the token of each single byte, -1 for bytes that valid UTF-8 never holds
  /// @param merges by falling preference; a repeated pair keeps its last rank
  /// @param whole_pieces pieces that are one token whatever the merges say (ignore_merges)
  BytePairEncoder(const std::array<TokenId, 256>& byte_tokens, const std::vector<Merge>& merges,
                  Vocabulary whole_pieces);

  /// Lets pieces that the merges turn into one token be looked up at once.
  void index_reachable(const Vocabulary& vocabulary);

  /// Appends the tokens of a piece of valid UTF-8. Cost: O(n log n) for n bytes, whatever they are.
  void encode(std::string_view piece, std::vector<TokenId>& out) const;

 private:
  struct Ranked {
    uint32_t rank;
    TokenId merged;
  };
  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr size_t kShortPiece = 32;

  [[nodiscard]] Ranked find(TokenId left, TokenId right) const;
  void merge_short(std::string_view piece, std::vector<TokenId>& out) const;
  void merge_long(std::string_view piece, std::vector<TokenId>& out) const;

  struct Slot {
    uint64_t pair;
    Ranked value;
  };
  std::array<TokenId, 256> byte_tokens_{};
  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
  Vocabulary whole_pieces_;
  size_t longest_whole_piece_ = 0;
};

}  // namespace troupe::model
