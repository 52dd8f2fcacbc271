#include "model/tokenizer.hpp"

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;  // offsets are 32 bits, U+FFFD triples a byte

Error too_long(size_t num_bytes) {
  return Error{Code::kInvalidArgument,
               "text of " + std::to_string(num_bytes) +
                   " bytes is above the tokenizer's limit of 1 GiB; split it"};
}

}  // namespace

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kMaxTextBytes) return too_long(text.size());
  std::string repaired;
  if (valid_utf8_prefix(text) != text.size()) {
    append_lossy_utf8(repaired, text);
    text = repaired;
  }
  const TextRange all{0, text.size()};
  return encode_shielded(
      text, std::span<const TextRange>(&all, options.parse_special || text.empty() ? 0 : 1),
      options);
}

Result<std::vector<TokenId>> Tokenizer::encode(std::span<const TextSegment> segments) const {
  size_t num_bytes = 0;
  for (const TextSegment& segment : segments) num_bytes += segment.text.size();
  if (num_bytes > kMaxTextBytes) return too_long(num_bytes);
  std::string text;
  std::vector<TextRange> shielded;
  for (const TextSegment& segment : segments) {
    const size_t begin = text.size();
    append_lossy_utf8(text, segment.text);
    if (!segment.is_user_content || begin == text.size()) continue;
    if (!shielded.empty() && shielded.back().end == begin) {
      shielded.back().end = text.size();
    } else {
      shielded.push_back({begin, text.size()});
    }
  }
  return encode_shielded(text, shielded, {});
}

Result<std::vector<TokenId>> Tokenizer::encode_shielded(std::string_view text,
                                                        std::span<const TextRange> shielded,
                                                        EncodeOptions options) const {
  std::vector<TokenId> out;
  out.reserve(text.size() / 4 + 8);
  if (options.add_special_tokens) out.insert(out.end(), prefix_.begin(), prefix_.end());
  std::vector<AddedTokens::Part> parts;
  added_.split(text, shielded, parts);
  PreTokenizer::Scratch scratch;
  for (const AddedTokens::Part& part : parts) {
    if (part.token >= 0) {
      out.push_back(part.token);
      continue;
    }
    const std::string_view plain = text.substr(part.begin, part.end - part.begin);
    const auto piece_ends = TRY(pre_tokenizer_.split(plain, scratch));
    size_t begin = 0;
    for (const uint32_t end : piece_ends) {
      bpe_.encode(plain.substr(begin, end - begin), out);
      begin = end;
    }
  }
  if (options.add_special_tokens) out.insert(out.end(), suffix_.begin(), suffix_.end());
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> tokens, bool skip_special) const {
  std::string bytes;
  for (const TokenId token : tokens) {
    if (!(skip_special && is_special(token))) bytes.append(token_bytes(token));
  }
  if (valid_utf8_prefix(bytes) == bytes.size()) return bytes;
  std::string text;
  append_lossy_utf8(text, bytes);
  return text;
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  if (id < 0 || static_cast<size_t>(id) >= vocab_size()) return {};
  const auto i = static_cast<size_t>(id);
  return std::string_view(bytes_.data(), bytes_.size())
      .substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < special_.size() && special_[static_cast<size_t>(id)];
}

std::optional<TokenId> Tokenizer::id_of(std::string_view content) const {
  if (const auto found = by_content_.find(std::string(content)); found != by_content_.end()) {
    return found->second;
  }
  if (const auto found = by_bytes_.find(content); found != by_bytes_.end()) return found->second;
  return std::nullopt;
}

}  // namespace troupe::model
