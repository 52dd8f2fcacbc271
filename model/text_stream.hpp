#pragma once

// Text of a growing answer, token by token: whole characters only, and nothing of a stop string.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {

struct TextStreamOptions {
  std::vector<std::string> stop;  ///< stop strings, none of them empty
  bool include_stop = false;      ///< the matched stop string is part of the text
  bool skip_special = true;       ///< special tokens give no text
  std::vector<TokenId> shown;     ///< but these do all the same
  uint32_t min_tokens = 0;        ///< stop strings count only in the text of later tokens
};

/// Turns tokens into text as they arrive.
///
/// Invariants: without a stop, the pushes' texts and flush()'s joined equal Tokenizer::decode of
/// all tokens; every returned text is whole UTF-8; what is returned and where it stops do not
/// depend on how the text is cut into tokens, only on the text. Not thread-safe.
class TextStream {
 public:
  /// @param tokenizer has to outlive the stream
  /// @errors kInvalidArgument for an empty stop string
  static Result<TextStream> create(const Tokenizer& tokenizer, TextStreamOptions options = {});

  /// The text that `token` settles; may be empty. Nothing once stopped().
  std::string push(TokenId token);

  /// The end of the answer: what was held back, an unfinished character as U+FFFD.
  std::string flush();

  /// Whether this token's bytes are part of the text.
  [[nodiscard]] bool shows(TokenId token) const;

  /// Index in `stop` of the string that ended the text: the one that was complete first, the
  /// longest of those that were complete at the same byte.
  [[nodiscard]] std::optional<size_t> stopped() const { return stopped_; }

 private:
  /// A stop string with its Knuth-Morris-Pratt table.
  struct Stop {
    std::string text;
    std::vector<uint32_t> border;  // [i]: longest proper border of text[0 .. i]
    uint32_t num_matched = 0;      // length of the longest prefix that ends the text so far
    bool advance(char byte);       // true: the whole string has been seen
  };

  TextStream(const Tokenizer& tokenizer, TextStreamOptions options);
  std::string advance(std::string_view text);

  const Tokenizer* tokenizer_;
  bool include_stop_;
  bool skip_special_;
  std::vector<TokenId> shown_;
  uint32_t min_tokens_;
  uint32_t num_tokens_ = 0;  // counted up to min_tokens_ + 1
  std::vector<Stop> stops_;
  std::string bytes_;  // an unfinished character
  std::string held_;   // text that may turn out to begin a stop string
  std::optional<size_t> stopped_;
};

}  // namespace troupe::model
