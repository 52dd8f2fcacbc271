#pragma once

// What was seen of one request. Times are those of this process's monotonic clock, read when bytes
// arrived and before they were parsed.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/time.hpp"

namespace troupe::loadgen {

enum class Outcome {
  kServed,       ///< an answer to its end
  kRefused,      ///< 429 or 503: the server said that it is overloaded
  kFailed,       ///< anything else; `error_kind` says what
  kInterrupted,  ///< the run was ended by its user
};

struct Record {
  uint32_t source = 0;
  bool is_background = false;  ///< not measured, only sent beside the others
  uint32_t tenant = 0;
  uint64_t conversation = 0;
  uint32_t turn = 0;
  uint32_t asked_output_tokens = 0;

  Instant start;  ///< from here latency counts: open loop the arrival, closed loop the sending
  Instant sent;   ///< the first byte was given to the system, the connection included
  std::vector<Instant> tokens;  ///< one per event with text
  Instant last;                 ///< the last event of the answer: TPOT and E2EL end here
  Instant ended;                ///< nothing more came

  /// As the server counts; without `usage` from it, planned words and events with text.
  uint32_t input_tokens = 0;
  uint32_t output_tokens = 0;
  std::optional<uint32_t> cached_tokens;
  bool has_usage = false;

  Outcome outcome = Outcome::kFailed;
  std::string error_kind;          ///< few different ones: "HTTP 400", "timeout"
  std::string error;               ///< in full
  std::vector<Duration> refusals;  ///< time to each refusal, retried ones included

  [[nodiscard]] std::optional<Duration> ttft() const {
    return tokens.empty() ? std::nullopt : std::optional(tokens.front() - start);
  }
  [[nodiscard]] Duration e2el() const { return last - start; }
  /// Mean time per output token behind the first one; none for a single token.
  [[nodiscard]] std::optional<double> tpot_ms() const {
    if (tokens.empty() || output_tokens < 2) return std::nullopt;
    return static_cast<double>((last - tokens.front()).ns) * 1e-6 / (output_tokens - 1);
  }
};

}  // namespace troupe::loadgen
