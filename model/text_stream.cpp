#include "model/text_stream.hpp"

#include <algorithm>

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {

bool TextStream::Stop::advance(char byte) {
  while (num_matched > 0 && (num_matched == text.size() || text[num_matched] != byte)) {
    num_matched = border[num_matched - 1];
  }
  if (text[num_matched] == byte) ++num_matched;
  return num_matched == text.size();
}

Result<TextStream> TextStream::create(const Tokenizer& tokenizer, TextStreamOptions options) {
  for (const std::string& stop : options.stop) {
    if (stop.empty()) {
      return Error{Code::kInvalidArgument, "an empty stop string would stop every answer at once"};
    }
  }
  return TextStream(tokenizer, std::move(options));
}

TextStream::TextStream(const Tokenizer& tokenizer, TextStreamOptions options)
    : tokenizer_(&tokenizer),
      include_stop_(options.include_stop),
      skip_special_(options.skip_special),
      shown_(std::move(options.shown)),
      min_tokens_(options.min_tokens) {
  for (std::string& text : options.stop) {
    std::vector<uint32_t> border(text.size());
    for (size_t i = 1; i < text.size(); ++i) {
      uint32_t length = border[i - 1];
      while (length > 0 && text[length] != text[i]) length = border[length - 1];
      border[i] = text[length] == text[i] ? length + 1 : 0;
    }
    stops_.push_back({std::move(text), std::move(border)});
  }
}

bool TextStream::shows(TokenId token) const {
  return !skip_special_ || !tokenizer_->is_special(token) ||
         std::find(shown_.begin(), shown_.end(), token) != shown_.end();
}

std::string TextStream::push(TokenId token) {
  if (num_tokens_ <= min_tokens_) ++num_tokens_;
  if (stopped_ || !shows(token)) return {};
  bytes_.append(tokenizer_->token_bytes(token));
  // Keep back a character that the next token may complete; it is at most three bytes long.
  size_t settled = 0;
  while (settled < bytes_.size()) {
    const std::string_view rest = std::string_view(bytes_).substr(settled);
    if (const size_t valid = valid_utf8_prefix(rest); valid > 0) {
      settled += valid;
      continue;
    }
    const Utf8Unit unit = next_utf8_unit(rest);
    if (unit.kind == Utf8Unit::Kind::kIncomplete) break;
    settled += unit.num_bytes;
  }
  std::string text;
  append_lossy_utf8(text, std::string_view(bytes_).substr(0, settled));
  bytes_.erase(0, settled);
  return advance(text);
}

std::string TextStream::flush() {
  if (stopped_) return {};
  std::string text;
  append_lossy_utf8(text, bytes_);
  bytes_.clear();
  std::string out = advance(text);
  if (!stopped_) out += held_;
  held_.clear();
  return out;
}

std::string TextStream::advance(std::string_view text) {
  if (stops_.empty() || num_tokens_ <= min_tokens_) return std::string(text);
  for (size_t i = 0; i < text.size(); ++i) {
    held_.push_back(text[i]);
    for (size_t k = 0; k < stops_.size(); ++k) {
      if (stops_[k].advance(text[i]) &&
          (!stopped_ || stops_[k].text.size() > stops_[*stopped_].text.size())) {
        stopped_ = k;
      }
    }
    if (stopped_) {
      if (!include_stop_) held_.resize(held_.size() - stops_[*stopped_].text.size());
      return std::exchange(held_, {});
    }
  }
  size_t num_held = 0;
  for (const Stop& stop : stops_) num_held = std::max<size_t>(num_held, stop.num_matched);
  // A stop string may be cut inside a character; the text that is given out may not.
  while (num_held < held_.size() &&
         (static_cast<unsigned char>(held_[held_.size() - num_held]) & 0xC0) == 0x80) {
    ++num_held;
  }
  std::string out = held_.substr(0, held_.size() - num_held);
  held_.erase(0, held_.size() - num_held);
  return out;
}

}  // namespace troupe::model
