#pragma once

// From the records of a run to its figures. Names and definitions are those of `vllm bench serve`,
// where it has them.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "loadgen/record.hpp"
#include "loadgen/statistics.hpp"

namespace troupe::loadgen {

/// Service-level objectives of one request, in milliseconds.
struct Objectives {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;  ///< a single token meets it
  std::optional<double> e2el_ms;

  [[nodiscard]] bool any() const { return ttft_ms || tpot_ms || e2el_ms; }
  /// Served, with every objective met.
  [[nodiscard]] bool met_by(const Record& record) const;
};

/// "ttft:200", "tpot:50", "e2el:1000" in any order. @errors kInvalidArgument
Result<Objectives> parse_objectives(const std::vector<std::string>& words);

struct ErrorCount {
  uint64_t count = 0;
  std::string sample;
};

/// An open-loop request sent later than this behind its arrival counts as late.
inline constexpr Duration kLateAfter = milliseconds(5);

struct Summary {
  double duration_s = 0;  ///< from the start of the run to the end of its last request

  uint64_t completed = 0;
  uint64_t failed = 0;   ///< not served, for whatever reason but the user's
  uint64_t refused = 0;  ///< those of them that the server refused
  uint64_t interrupted = 0;
  uint64_t unsent = 0;
  uint64_t num_short = 0;  ///< served with fewer tokens than asked for
  bool has_usage = true;   ///< every served answer brought the server's own token counts

  uint64_t total_input_tokens = 0;  ///< of served requests, as all below
  uint64_t total_output_tokens = 0;
  std::optional<uint64_t> cached_tokens;  ///< if the server tells
  double request_throughput = 0;
  double output_throughput = 0;
  double total_token_throughput = 0;
  double max_output_tokens_per_s = 0;  ///< in the best second
  uint32_t max_concurrent_requests = 0;

  Objectives objectives;
  double request_goodput = 0;     ///< requests per second that met every objective
  double attainment_percent = 0;  ///< of all requests, failed and unsent ones included

  Distribution ttft_ms, tpot_ms, itl_ms, e2el_ms;
  Distribution refusal_ms;  ///< time to refuse, every refusal

  uint64_t late = 0;  ///< open loop: sent late, because max_in_flight was reached or we were slow
  Distribution delay_ms;  ///< from arrival to sending

  std::map<std::string, ErrorCount> errors;  ///< by kind
};

/// @param start, end of the run
Summary summarize(const std::vector<const Record*>& records, Instant start, Instant end,
                  const Objectives& objectives, uint64_t num_unsent);

/// One value per second of the run.
struct Timeline {
  std::vector<double> output_tokens;   ///< that came in this second
  std::vector<double> requests_ended;  ///< served ones
  std::vector<double> in_flight;       ///< greatest number at once
};
Timeline timeline_of(const std::vector<const Record*>& records, Instant start, Instant end);

}  // namespace troupe::loadgen
