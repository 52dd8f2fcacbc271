#pragma once

// What penalties, min_tokens and bad_words look at of a request's token log, kept up to date token
// by token so that no token costs a pass over the prompt.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"

namespace troupe::model {

struct SamplingParams;

/// The token log of a request before the token to sample.
struct TokenLog {
  std::span<const TokenId> prompt = {};
  std::span<const TokenId> emitted = {};
  std::span<const TokenId> stop_token_ids = {};  ///< banned until min_tokens are emitted
};

/// Why penalties change a token's logit.
struct TokenCount {
  TokenId token = 0;
  uint32_t num_emitted = 0;  ///< 0: it is in the prompt only
};

/// A function of the log, however many of its tokens were there at first and were appended later:
/// whoever resumes a request makes the same one.
class TokenHistory {
 public:
  TokenHistory() = default;  ///< nothing was emitted, nothing has to be counted
  /// @param params say whether a penalty counts tokens, and whether those of the prompt, too
  /// Cost: O(log): a copy of what was emitted; if tokens are counted, O(log * ln(log)).
  TokenHistory(const SamplingParams& params, const TokenLog& log);

  /// The next token of the answer. Cost: O(1); if tokens are counted, O(ln(distinct)), and for one
  /// that is new among them a move of those with higher ids.
  void append(TokenId token);

  /// Of the tokens that a penalty may look at: what is emitted, and with a repetition penalty the
  /// prompt. By rising id; empty if no penalty asks.
  [[nodiscard]] std::span<const TokenCount> counts() const { return counts_; }
  [[nodiscard]] std::span<const TokenId> emitted() const { return emitted_; }
  [[nodiscard]] std::span<const TokenId> stop_token_ids() const { return stop_token_ids_; }

 private:
  void count(TokenId token);

  bool is_counting_ = false;
  std::vector<TokenCount> counts_;
  std::vector<TokenId> emitted_;
  std::vector<TokenId> stop_token_ids_;
};

}  // namespace troupe::model
