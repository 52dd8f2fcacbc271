#pragma once

// The load generator at work: one thread sends what sources make due, reads the answers and notes
// when their events came. Boost.Asio stays behind this header.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "loadgen/messages.hpp"
#include "loadgen/prompt.hpp"
#include "loadgen/record.hpp"
#include "loadgen/source.hpp"
#include "loadgen/workload.hpp"

namespace troupe::loadgen {

/// Who asks: the server sees the key.
struct Tenant {
  std::string name;
  std::string api_key;  ///< "": none is sent
  double weight = 1;    ///< its share of the requests of a source with several tenants
};

/// A source, what it asks, and for whom.
struct Stream {
  SourceOptions source;
  std::shared_ptr<const Workload> workload;
  std::vector<uint32_t> tenants;  ///< at least one, as positions in LoadOptions::tenants
  std::optional<uint32_t> priority;
  bool is_background = false;  ///< goes on until all others are done, and is cut then
};

struct LoadOptions {
  std::string host;
  std::string port;
  std::string path;  ///< "/v1/completions"
  BodyOptions body;
  bool sends_tokens = false;  ///< prompts are lists of token ids; needs /v1/completions
  std::vector<Tenant> tenants;
  Duration timeout = seconds(600);  ///< of one request, from sending to its end
  bool retries = false;             ///< refused requests are sent again after Retry-After
};

/// What a running load looks like from outside.
struct Progress {
  Duration elapsed;
  uint64_t num_ended = 0;
  uint64_t num_failed = 0;  ///< refused ones included
  uint32_t num_in_flight = 0;
  double output_events_per_s = 0;  ///< of the last second
};

struct LoadResult {
  std::vector<Record> records;  ///< in the order of their ends; `source` is the stream's position
  std::vector<uint64_t> num_unsent;  ///< per tenant; the background is not among them
  Instant start;
  Instant end;  ///< of the last request that is not in the background
  bool interrupted = false;
  Duration max_lag;  ///< the longest that this process was late for its own timer
};

/// Sends everything and returns when all is answered, or soon after SIGINT or SIGTERM.
/// @param on_progress called about every second
/// @errors kUnavailable if the host has no address
Result<LoadResult> run_load(const LoadOptions& options, const WordPool& pool,
                            const std::vector<Stream>& streams,
                            const std::function<void(const Progress&)>& on_progress);

}  // namespace troupe::loadgen
