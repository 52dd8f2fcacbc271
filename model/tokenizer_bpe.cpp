#include "model/tokenizer_bpe.hpp"

#include <algorithm>
#include <bit>
#include <queue>

namespace troupe::model {
namespace {

constexpr uint64_t kEmptySlot = UINT64_MAX;  // a pair of ids -1, which no token has

uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t mix(uint64_t key) {
  key *= 0x9E3779B97F4A7C15;
  return key ^ key >> 32;
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::array<TokenId, 256>& byte_tokens,
                                 const std::vector<Merge>& merges, Vocabulary whole_pieces)
    : byte_tokens_(byte_tokens),
      slots_(std::bit_ceil(2 * merges.size() + 2), Slot{kEmptySlot, {kNoRank, -1}}),
      whole_pieces_(std::move(whole_pieces)) {
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const uint64_t key = pair_key(merge.left, merge.right);
    size_t at = mix(key) & (slots_.size() - 1);
    while (slots_[at].pair != kEmptySlot && slots_[at].pair != key) {
      at = (at + 1) & (slots_.size() - 1);
    }
    slots_[at] = {key, {static_cast<uint32_t>(rank), merge.merged}};
  }
  for (const auto& [piece, id] : whole_pieces_) {
    longest_whole_piece_ = std::max(longest_whole_piece_, piece.size());
  }
}

void BytePairEncoder::index_reachable(const Vocabulary& vocabulary) {
  std::vector<TokenId> tokens;
  for (const auto& [piece, id] : vocabulary) {
    tokens.clear();
    encode(piece, tokens);
    if (tokens.size() != 1 || tokens[0] != id || piece.size() == 1) continue;
    whole_pieces_.emplace(piece, id);
    longest_whole_piece_ = std::max(longest_whole_piece_, piece.size());
  }
}

BytePairEncoder::Ranked BytePairEncoder::find(TokenId left, TokenId right) const {
  const uint64_t key = pair_key(left, right);
  size_t at = mix(key) & (slots_.size() - 1);
  while (slots_[at].pair != key) {
    if (slots_[at].pair == kEmptySlot) return {kNoRank, -1};
    at = (at + 1) & (slots_.size() - 1);
  }
  return slots_[at].value;
}

void BytePairEncoder::encode(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.size() == 1) {
    out.push_back(byte_tokens_[static_cast<unsigned char>(piece[0])]);
    return;
  }
  if (piece.size() <= longest_whole_piece_) {
    const auto found = whole_pieces_.find(piece);
    if (found != whole_pieces_.end()) {
      out.push_back(found->second);
      return;
    }
  }
  if (piece.size() <= kShortPiece) {
    merge_short(piece, out);
  } else {
    merge_long(piece, out);
  }
}

void BytePairEncoder::merge_short(std::string_view piece, std::vector<TokenId>& out) const {
  // For a few bytes, looking at all pairs again beats keeping a queue.
  std::array<TokenId, kShortPiece> tokens;
  std::array<Ranked, kShortPiece> pairs;  // [i]: the merge of tokens i and i + 1
  size_t n = piece.size();
  for (size_t i = 0; i < n; ++i) tokens[i] = byte_tokens_[static_cast<unsigned char>(piece[i])];
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = find(tokens[i], tokens[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    tokens[best] = pairs[best].merged;
    std::copy(tokens.begin() + best + 2, tokens.begin() + n, tokens.begin() + best + 1);
    if (best + 2 < n) {
      std::copy(pairs.begin() + best + 2, pairs.begin() + n - 1, pairs.begin() + best + 1);
    }
    --n;
    if (best > 0) pairs[best - 1] = find(tokens[best - 1], tokens[best]);
    if (best + 1 < n) pairs[best] = find(tokens[best], tokens[best + 1]);
  }
  out.insert(out.end(), tokens.begin(), tokens.begin() + n);
}

void BytePairEncoder::merge_long(std::string_view piece, std::vector<TokenId>& out) const {
  constexpr uint32_t kNone = UINT32_MAX;
  struct Node {
    TokenId token;
    uint32_t previous, next;
    uint32_t rank;  // of the merge with the next token; what the queue says may be out of date
  };
  const auto n = static_cast<uint32_t>(piece.size());
  std::vector<Node> nodes(n);
  // (rank << 32 | position): the smallest is the pair to merge.
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue;
  const auto enqueue = [&](uint32_t i) {
    Node& node = nodes[i];
    node.rank = node.next == kNone ? kNoRank : find(node.token, nodes[node.next].token).rank;
    if (node.rank != kNoRank) queue.push(static_cast<uint64_t>(node.rank) << 32 | i);
  };
  for (uint32_t i = 0; i < n; ++i) {
    nodes[i] = {byte_tokens_[static_cast<unsigned char>(piece[i])], i == 0 ? kNone : i - 1,
                i + 1 == n ? kNone : i + 1, kNoRank};
  }
  for (uint32_t i = 0; i < n; ++i) enqueue(i);
  while (!queue.empty()) {
    const auto rank = static_cast<uint32_t>(queue.top() >> 32);
    const auto i = static_cast<uint32_t>(queue.top());
    queue.pop();
    Node& node = nodes[i];
    if (node.rank != rank) continue;  // this pair is gone
    Node& absorbed = nodes[node.next];
    node.token = find(node.token, absorbed.token).merged;
    absorbed.rank = kNoRank;
    node.next = absorbed.next;
    if (node.next != kNone) nodes[node.next].previous = i;
    enqueue(i);
    if (node.previous != kNone) enqueue(node.previous);
  }
  for (uint32_t i = 0; i != kNone; i = nodes[i].next) out.push_back(nodes[i].token);
}

}  // namespace troupe::model
