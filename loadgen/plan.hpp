#pragma once

// From what the command line asks for to the streams of each run. Pure: files are read and numbers
// checked before.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "loadgen/load.hpp"

namespace troupe::loadgen {

/// A tenant with a load of its own: "NAME:20/s" is an open loop, "NAME:20" so many clients.
struct TenantLoad {
  std::string name;
  std::optional<double> rate;
  std::optional<uint32_t> num_clients;
  std::optional<uint32_t> priority;  ///< a third part: "NAME:20:1"
};

/// A long prefill, with a single token of output, every so often beside the measured requests.
struct Background {
  uint32_t input_tokens = 0;
  Duration every;
  std::string api_key;  ///< "": that of the first tenant
};

/// A swept quantity and its values.
struct Sweep {
  std::string name;  ///< "concurrency" or "rate"
  std::vector<double> values;
};

struct Plan {
  WorkloadOptions workload;  ///< its seed is drawn for each run
  bool rows_have_times = false;

  std::optional<uint32_t> concurrency;  ///< closed loop
  std::optional<double> rate;           ///< open loop
  double burstiness = 1;
  std::optional<uint32_t> max_concurrency;
  std::optional<uint64_t> num_prompts;
  std::optional<Duration> duration;
  uint32_t num_warmups = 0;
  Duration think_time;
  uint64_t seed = 0;

  std::vector<Tenant> tenants;           ///< never empty
  std::vector<TenantLoad> tenant_loads;  ///< if set, tenant i has load i
  std::optional<Background> background;
  std::optional<Sweep> sweep;
  uint32_t num_repeats = 1;

  /// The trace's own arrival times are used.
  [[nodiscard]] bool replays_times() const {
    return workload.rows && rows_have_times && !concurrency && !rate && !sweep;
  }
};

/// @errors kInvalidArgument for options that contradict each other or set no bound
Result<void> check(const Plan& plan);

/// @param load the swept value, if there is a sweep
/// @param run_idx counts all runs: each asks other words, so no run finds the cache of another
std::vector<Stream> streams_of(const Plan& plan, std::optional<double> load, uint64_t run_idx);

/// Whoever asks something in the streams: the plan's tenants, then the background's if it has a
/// key.
std::vector<Tenant> tenants_of(const Plan& plan);
/// The requests that come first and are not counted; REQUIRES: num_warmups > 0.
std::vector<Stream> warmup_of(const Plan& plan);

/// "closed loop, 8 clients", "512 input and 64 output tokens".
std::string describe_load(const Plan& plan);
std::string describe_workload(const Plan& plan);

/// "a:3,b:1" @errors kInvalidArgument, as all below
Result<std::vector<Tenant>> parse_weights(const std::string& text);
/// "NAME:20/s", "NAME:20", "NAME:20/s:1"
Result<TenantLoad> parse_tenant_load(const std::string& text);
/// "TOKENS:SECONDS", "TOKENS:SECONDS:KEY"
Result<Background> parse_background(const std::string& text);
/// "concurrency=1,2,4", "rate=0.5,1"
Result<Sweep> parse_sweep(const std::string& text);

}  // namespace troupe::loadgen
