#pragma once

// One choice's tokens become text, and the text's parts; log-probabilities wait for the text they
// belong to. Pure.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gateway/openai_response.hpp"
#include "model/answer_parser.hpp"
#include "model/text_stream.hpp"

namespace troupe::gateway {

class AnswerText {
 public:
  /// `tokenizer` must outlive it.
  AnswerText(const model::Tokenizer& tokenizer, model::TextStream text, model::AnswerSyntax syntax,
             bool want_logprobs);

  /// A prompt that is shown before the answer, for the logprobs.
  /// @param scored its tokens from the second on; each keeps `num_top` alternatives
  void add_prompt(std::span<const TokenId> prompt, std::span<const model::SampledToken> scored,
                  uint32_t num_top);
  /// The parts that this token settles. Nothing once stopped().
  std::vector<model::AnswerPart> push(const model::SampledToken& token);
  /// What was held back. The last call.
  std::vector<model::AnswerPart> end();

  /// Index of the stop string that ended the text.
  [[nodiscard]] std::optional<size_t> stopped() const { return text_.stopped(); }
  [[nodiscard]] uint64_t num_tokens() const { return num_tokens_; }
  [[nodiscard]] uint64_t num_reasoning_tokens() const { return num_reasoning_tokens_; }
  /// Calls whose arguments are over.
  [[nodiscard]] uint64_t num_ended_calls() const { return parser_.num_ended_calls(); }

  [[nodiscard]] bool has_logprobs() const { return !logprobs_.empty(); }
  /// JSON of the logprobs, not yet taken, of tokens whose text has begun to come; behind end() of
  /// all but those that lie wholly behind a stop string. Absent if none are wanted.
  std::optional<std::string> take_logprobs(ResponseKind kind);

 private:
  /// A token whose logprob waits for the text it belongs to.
  struct PendingLogprob {
    TokenLogprob entry;
    uint64_t first_byte = 0;  ///< of the token in the answer
  };

  void keep_logprob(const model::SampledToken& token);
  std::vector<model::AnswerPart> parse(const std::string& text);

  const model::Tokenizer* tokenizer_;
  model::TextStream text_;
  model::AnswerParser parser_;
  bool want_logprobs_;
  bool ended_ = false;
  uint64_t num_tokens_ = 0;
  uint64_t num_reasoning_tokens_ = 0;
  uint64_t num_bytes_ = 0;       ///< of all its tokens, and of the prompt's
  uint64_t num_characters_ = 0;  ///< of all of them that are shown
  uint64_t num_text_bytes_ = 0;  ///< of the settled text
  std::vector<PendingLogprob> logprobs_;
};

/// Appends parts, joining neighbours that are text of one kind.
void append_parts(std::vector<model::AnswerPart>& parts, std::vector<model::AnswerPart> more);

}  // namespace troupe::gateway
