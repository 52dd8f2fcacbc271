#include "gateway/answer_text.hpp"

#include <algorithm>
#include <utility>

namespace troupe::gateway {
namespace {

using model::AnswerPart;

/// Code points that begin in these bytes.
uint64_t count_characters(std::string_view bytes) {
  return static_cast<uint64_t>(std::count_if(bytes.begin(), bytes.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

AnswerText::AnswerText(const model::Tokenizer& tokenizer, model::TextStream text,
                       model::AnswerSyntax syntax, bool want_logprobs)
    : tokenizer_(&tokenizer),
      text_(std::move(text)),
      parser_(syntax),
      want_logprobs_(want_logprobs) {}

void AnswerText::add_prompt(std::span<const TokenId> prompt,
                            std::span<const model::SampledToken> scored, uint32_t num_top) {
  if (!want_logprobs_) return;
  for (size_t i = 0; i < prompt.size(); ++i) {
    const bool has_logprob = i > 0 && i <= scored.size();
    model::SampledToken token =
        has_logprob ? scored[i - 1] : model::SampledToken{.token = prompt[i]};
    if (token.top_logprobs.size() > num_top) token.top_logprobs.resize(num_top);
    logprobs_.push_back({{std::move(token), num_characters_, has_logprob}, num_bytes_});
    const std::string_view bytes = tokenizer_->token_bytes(prompt[i]);
    num_bytes_ += bytes.size();
    if (text_.shows(prompt[i])) num_characters_ += count_characters(bytes);
  }
  num_text_bytes_ = num_bytes_;
}

std::vector<AnswerPart> AnswerText::push(const model::SampledToken& token) {
  ++num_tokens_;
  if (parser_.in_reasoning()) ++num_reasoning_tokens_;
  if (want_logprobs_) keep_logprob(token);
  return parse(text_.push(token.token));
}

std::vector<AnswerPart> AnswerText::end() {
  ended_ = true;
  std::vector<AnswerPart> parts = parse(text_.flush());
  append_parts(parts, parser_.finish());
  return parts;
}

std::vector<AnswerPart> AnswerText::parse(const std::string& text) {
  num_text_bytes_ += text.size();
  return parser_.push(text);
}

void AnswerText::keep_logprob(const model::SampledToken& token) {
  // A token without text has no place among the logprobs of the text: the end token above all.
  if (!text_.shows(token.token)) return;
  logprobs_.push_back({{token, num_characters_}, num_bytes_});
  const std::string_view bytes = tokenizer_->token_bytes(token.token);
  num_bytes_ += bytes.size();
  num_characters_ += count_characters(bytes);
}

std::optional<std::string> AnswerText::take_logprobs(ResponseKind kind) {
  if (!want_logprobs_) return std::nullopt;
  const uint64_t end = ended_ && !stopped() ? UINT64_MAX : num_text_bytes_;
  const auto first_kept =
      std::find_if(logprobs_.begin(), logprobs_.end(),
                   [&](const PendingLogprob& pending) { return pending.first_byte >= end; });
  std::vector<TokenLogprob> taken;
  for (auto it = logprobs_.begin(); it != first_kept; ++it) taken.push_back(std::move(it->entry));
  logprobs_.erase(logprobs_.begin(), first_kept);
  return logprobs_json(kind, *tokenizer_, taken);
}

void append_parts(std::vector<AnswerPart>& parts, std::vector<AnswerPart> more) {
  for (AnswerPart& part : more) {
    const bool joins = !parts.empty() && part.kind != AnswerPart::Kind::kToolCall &&
                       parts.back().kind == part.kind;
    if (joins) {
      parts.back().text += part.text;
    } else {
      parts.push_back(std::move(part));
    }
  }
}

}  // namespace troupe::gateway
