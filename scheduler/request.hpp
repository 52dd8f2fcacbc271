#pragma once

// A request as the cluster sees it, and what its client hears. Prompt, emitted tokens, sampling
// parameters and seed together are the token log: the truth from which any worker can resume.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "model/sampling.hpp"

namespace troupe::scheduler {

/// Why a stream ended well.
enum class FinishReason : uint8_t {
  kStop,    ///< a stop token was sampled (it is the last emitted token)
  kLength,  ///< max_tokens or the context's end
};

inline constexpr uint32_t kMaxPriority = 15;

/// One choice of one client request, tokenized.
struct RequestSpec {
  std::vector<TokenId> prompt;  ///< not empty
  uint32_t max_tokens = 0;      ///< >= 1
  model::SamplingParams sampling;
  std::vector<TokenId> stop_token_ids;  ///< the model's end tokens are here unless ignore_eos
  std::string tenant;                   ///< whose request it is; "" for everybody's
  uint32_t priority = 0;                ///< class, 0 is the most urgent; <= kMaxPriority
  std::string cache_namespace;          ///< requests share cached prefixes only within one
  Duration timeout;                     ///< from submission to the last token; > 0
};

/// Taken in: it will end in Finished or Failed.
struct Admitted {
  RequestId request;
};
/// Not taken in. Nothing was computed. kInvalidArgument: it cannot be meant; kResourceExhausted: no
/// room to wait; kDeadlineExceeded: its time would be over before its end; kUnavailable: nothing
/// serves.
struct Refused {
  RequestId request;
  Error error;
  /// When trying again is reasonable. Nothing: the request itself is the reason, and the same one
  /// would be refused again. That is so of kInvalidArgument, and of kDeadlineExceeded if it would
  /// not end in time with the cluster for itself.
  std::optional<Duration> retry_after;
};
/// Tokens number `first`, first + 1, ... of the stream; no gap, no repeat.
struct TokensEmitted {
  RequestId request;
  uint32_t first = 0;
  std::vector<model::SampledToken> tokens;
  uint32_t num_cached = 0;  ///< prompt tokens that were found in the prefix cache
  /// With the first token, if the request wants them: of the prompt's tokens from the second on.
  std::vector<model::SampledToken> prompt_logprobs;
};
struct Finished {
  RequestId request;
  FinishReason reason = FinishReason::kStop;
};
/// The request ended without its answer.
struct Failed {
  RequestId request;
  Error error;
};

/// In order: Refused, or Admitted, TokensEmitted*, then Finished or Failed.
using ClientEvent = std::variant<Admitted, Refused, TokensEmitted, Finished, Failed>;

}  // namespace troupe::scheduler
