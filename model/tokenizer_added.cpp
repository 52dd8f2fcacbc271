#include "model/tokenizer_added.hpp"

#include <algorithm>

#include "model/pre_tokenizer_alphabet.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

/// The character that ends at `end`, which is behind at least one.
char32_t character_before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return decode_utf8(text, at);
}

bool is_word_before(std::string_view text, size_t at) {
  return at > 0 && contains(unicode_word(), character_before(text, at));
}

bool is_word_behind(std::string_view text, size_t at) {
  return at < text.size() && contains(unicode_word(), decode_utf8(text, at));
}

size_t skip_space_back(std::string_view text, size_t at, size_t limit) {
  while (at > limit && contains(unicode_space(), character_before(text, at))) {
    do --at;
    while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  }
  return at;
}

size_t skip_space(std::string_view text, size_t at) {
  while (at < text.size()) {
    size_t next = at;
    if (!contains(unicode_space(), decode_utf8(text, next))) break;
    at = next;
  }
  return at;
}

}  // namespace

uint32_t AddedTokens::Trie::child(uint32_t node, char byte) const {
  for (const auto& [label, next] : nodes_[node].children) {
    if (label == byte) return next;
  }
  return kNone;
}

void AddedTokens::Trie::insert(std::string_view content, uint32_t token_idx) {
  starts_[static_cast<unsigned char>(content[0])] = true;
  uint32_t node = 0;
  for (const char byte : content) {
    uint32_t next = child(node, byte);
    if (next == kNone) {
      next = static_cast<uint32_t>(nodes_.size());
      nodes_[node].children.emplace_back(byte, next);
      nodes_.emplace_back();
    }
    node = next;
  }
  nodes_[node].token_idx = token_idx;
}

uint32_t AddedTokens::Trie::longest_prefix(std::string_view text) const {
  uint32_t longest = kNone;
  uint32_t node = 0;
  for (const char byte : text) {
    node = child(node, byte);
    if (node == kNone) break;
    if (nodes_[node].token_idx != kNone) longest = nodes_[node].token_idx;
  }
  return longest;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    Trie& trie = tokens_[i].normalized ? normalized_ : raw_;
    trie.insert(tokens_[i].content, static_cast<uint32_t>(i));
  }
}

void AddedTokens::split_by(const Trie& trie, std::string_view text, TextRange range,
                           std::span<const TextRange> shielded, std::vector<Part>& parts) const {
  if (range.begin == range.end) return;
  // Neighbours count only within the range: earlier tokens have cut the text there.
  const std::string_view sentence = text.substr(0, range.end).substr(range.begin);
  size_t done = 0;
  auto shield = std::partition_point(shielded.begin(), shielded.end(),
                                     [&](const TextRange& s) { return s.end <= range.begin; });
  for (size_t at = 0; !trie.empty() && at < sentence.size();) {
    while (shield != shielded.end() && shield->end <= range.begin + at) ++shield;
    size_t limit = sentence.size();
    if (shield != shielded.end()) {
      if (shield->begin <= range.begin + at) {
        at = std::min(shield->end - range.begin, sentence.size());
        continue;
      }
      limit = std::min(limit, shield->begin - range.begin);
    }
    while (at < limit && !trie.may_start(sentence[at])) ++at;
    if (at == limit) continue;
    const uint32_t found = trie.longest_prefix(sentence.substr(at, limit - at));
    if (found == Trie::kNone) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = at;
    size_t end = at + token.content.size();
    at = end;
    if (token.single_word && (is_word_before(sentence, begin) || is_word_behind(sentence, end))) {
      continue;
    }
    if (token.lstrip) begin = skip_space_back(sentence, begin, std::min(done, begin));
    if (token.rstrip) end = skip_space(sentence, end);
    if (done < begin) parts.push_back({range.begin + done, range.begin + begin, -1});
    parts.push_back({range.begin + begin, range.begin + end, token.id});
    done = end;
  }
  if (done < sentence.size()) parts.push_back({range.begin + done, range.end, -1});
}

void AddedTokens::split(std::string_view text, std::span<const TextRange> shielded,
                        std::vector<Part>& parts) const {
  parts.clear();
  std::vector<Part> first;
  split_by(raw_, text, {0, text.size()}, shielded, first);
  for (const Part& part : first) {
    if (part.token >= 0) {
      parts.push_back(part);
    } else {
      split_by(normalized_, text, {part.begin, part.end}, shielded, parts);
    }
  }
}

}  // namespace troupe::model
