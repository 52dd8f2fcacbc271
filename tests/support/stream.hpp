#pragma once

// What a client saw of one request.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/client.hpp"
#include "base/time.hpp"
#include "model/sampling.hpp"
#include "scheduler/request.hpp"

namespace troupe::actors {

struct Stream {
  RequestId request;
  std::vector<model::SampledToken> tokens;
  uint32_t num_cached = 0;  ///< prompt tokens found in the prefix cache
  std::vector<model::SampledToken> prompt_logprobs;
  bool admitted = false;
  std::optional<scheduler::FinishReason> finished;
  std::optional<Error> error;  ///< refused or failed
  Instant ended_at;            ///< under virtual time only
  std::string violation;       ///< the first breach of the order that ClientEvent promises, or ""

  [[nodiscard]] bool ended() const { return finished.has_value() || error.has_value(); }
  [[nodiscard]] std::vector<TokenId> ids() const;
  /// Takes the next event in.
  void take(const scheduler::ClientEvent& event);
};

/// Ended as `expected` did, with the same tokens and, bit by bit, the same log-probabilities.
void expect_same(const Stream& ours, const Stream& expected, const std::string& which = "");

}  // namespace troupe::actors
