#include "model/grammar_vocabulary.hpp"

#include <algorithm>
#include <deque>
#include <string>

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

bool is_plain_text(std::string_view bytes) {
  const auto needs_escape = [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\';
  };
  return valid_utf8_prefix(bytes) == bytes.size() &&
         std::none_of(bytes.begin(), bytes.end(), needs_escape);
}

}  // namespace

Result<std::shared_ptr<const Vocabulary>> Vocabulary::create(const Tokenizer& tokenizer,
                                                             std::span<const TokenId> end_tokens,
                                                             size_t size) {
  std::vector<std::string_view> tokens(size);
  for (size_t id = 0; id < std::min(size, tokenizer.vocab_size()); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(static_cast<TokenId>(id));
    if (bytes.find(kMarkByte) == std::string_view::npos) tokens[id] = bytes;
  }
  std::deque<std::string> marks;  // elements do not move
  for (const AddedToken& added : tokenizer.added_tokens()) {
    if (static_cast<size_t>(added.id) >= size) continue;
    tokens[added.id] = marks.emplace_back(mark(added.content));
  }
  return create(tokens, end_tokens);
}

Result<std::shared_ptr<const Vocabulary>> Vocabulary::create(
    std::span<const std::string_view> tokens, std::span<const TokenId> end_tokens) {
  if (end_tokens.empty()) {
    return Error{Code::kInvalidArgument, "a vocabulary without an end token can end no text"};
  }
  std::shared_ptr<Vocabulary> out(new Vocabulary());
  out->end_tokens_.assign(end_tokens.begin(), end_tokens.end());
  std::sort(out->end_tokens_.begin(), out->end_tokens_.end());
  for (const TokenId end : end_tokens) {
    if (end < 0 || static_cast<size_t>(end) >= tokens.size()) {
      return Error{Code::kInvalidArgument, "end token " + std::to_string(end) +
                                               " lies outside the vocabulary of " +
                                               std::to_string(tokens.size())};
    }
  }
  out->bytes_begin_.push_back(0);
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].size() > kMaxTokenBytes) {
      return Error{Code::kInvalidArgument, "token " + std::to_string(id) + " is longer than " +
                                               std::to_string(kMaxTokenBytes) + " bytes"};
    }
    if (!out->is_end(static_cast<TokenId>(id))) {
      out->bytes_.insert(out->bytes_.end(), tokens[id].begin(), tokens[id].end());
    }
    out->bytes_begin_.push_back(static_cast<uint32_t>(out->bytes_.size()));
  }
  out->add_nodes();
  out->mark_plain();
  return std::shared_ptr<const Vocabulary>(std::move(out));
}

void Vocabulary::add_nodes() {
  std::vector<TokenId> sorted;
  for (size_t id = 0; id < size(); ++id) {
    if (!token_bytes(static_cast<TokenId>(id)).empty()) sorted.push_back(static_cast<TokenId>(id));
  }
  std::sort(sorted.begin(), sorted.end(), [&](TokenId a, TokenId b) {
    return std::pair(token_bytes(a), a) < std::pair(token_bytes(b), b);
  });
  std::vector<uint32_t> open;  // nodes of the prefixes of the last token
  const auto close_down_to = [&](size_t depth) {
    for (; open.size() > depth; open.pop_back()) {
      nodes_[open.back()].next = static_cast<uint32_t>(nodes_.size());
    }
  };
  std::string_view last;
  for (const TokenId token : sorted) {
    const std::string_view bytes = token_bytes(token);
    size_t shared =
        std::mismatch(bytes.begin(), bytes.end(), last.begin(), last.end()).first - bytes.begin();
    // Two tokens of the same bytes: a second node for the same prefix.
    if (shared == bytes.size()) --shared;
    close_down_to(shared);
    for (size_t depth = shared; depth < bytes.size(); ++depth) {
      open.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({.token = depth + 1 == bytes.size() ? token : -1,
                        .next = 0,
                        .depth = static_cast<uint16_t>(depth + 1),
                        .byte = static_cast<uint8_t>(bytes[depth]),
                        .is_plain = false});
    }
    last = bytes;
  }
  close_down_to(0);
}

void Vocabulary::mark_plain() {
  plain_tokens_.resize(num_words());
  for (size_t i = nodes_.size(); i-- > 0;) {  // children before parents
    Node& node = nodes_[i];
    node.is_plain = node.token < 0 || is_plain_text(token_bytes(node.token));
    for (size_t child = i + 1; child < node.next && node.is_plain; child = nodes_[child].next) {
      node.is_plain = nodes_[child].is_plain;
    }
  }
  // A subtree may be skipped where the text before it is whole, so not from within a character.
  std::string prefix;
  for (uint32_t i = 0; i < nodes_.size();) {
    prefix.resize(nodes_[i].depth - 1);
    if (nodes_[i].is_plain && is_plain_text(prefix)) {
      for (const uint32_t end = nodes_[i].next; i < end; ++i) {
        const TokenId token = nodes_[i].token;
        if (token >= 0) plain_tokens_[token / 64] |= uint64_t{1} << token % 64;
      }
      continue;
    }
    nodes_[i].is_plain = false;
    prefix += static_cast<char>(nodes_[i].byte);
    ++i;
  }
}

std::string_view Vocabulary::token_bytes(TokenId token) const {
  if (token < 0 || static_cast<size_t>(token) >= size()) return {};
  const uint32_t begin = bytes_begin_[token];
  return {bytes_.data() + begin, bytes_begin_[token + 1] - begin};
}

bool Vocabulary::is_end(TokenId token) const {
  return std::binary_search(end_tokens_.begin(), end_tokens_.end(), token);
}

}  // namespace troupe::model
