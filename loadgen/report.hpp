#pragma once

// What a benchmark leaves behind: a text block for people, JSON for programs, and one HTML file
// with plots. All are pure functions of the records, so each can be made again from them.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "loadgen/load.hpp"
#include "loadgen/summary.hpp"

namespace troupe::loadgen {

/// A server that is measured.
struct Server {
  std::string name;  ///< what reports call it by; "": the only one, and its user gave it no name
  std::string url;
  std::string model;
};

/// One run: a point of a sweep, or the only one.
struct Run {
  uint32_t server_idx = 0;
  std::optional<double> load;  ///< the swept value
  uint32_t repeat = 0;         ///< 0 for the first run with this value
  bool has_arrivals = false;   ///< part of it at least is an open loop
  LoadResult result;
  Summary total;  ///< of all streams but those in the background
  std::vector<std::pair<std::string, Summary>> tenants;  ///< if there is more than one
  std::optional<Summary> background;
};

struct Benchmark {
  std::string command;          ///< as typed
  std::string date;             ///< "2026-11-25 08:00:00 UTC"
  std::vector<Server> servers;  ///< at least one; if there are more, each has a name of its own
  std::string endpoint;
  std::string workload;  ///< in words
  std::string load;      ///< in words: "closed loop, 8 clients"
  std::optional<uint32_t> max_concurrency;
  std::optional<double> request_rate;  ///< requests per second; may be infinite
  double burstiness = 1;
  uint64_t num_prompts = 0;  ///< 0: bounded by time
  uint64_t seed = 0;
  std::string sweep;      ///< "concurrency" or "rate"; "": a single load
  std::vector<Run> runs;  ///< in the order of loads, then repeats; servers take turns
};

/// The runs of one load: for each server its repeats, none if it never got its turn.
using RunsByServer = std::vector<std::vector<const Run*>>;
std::vector<RunsByServer> runs_by_load(const Benchmark& benchmark);

/// Sums up what a load did. @param streams, tenants as the load had them
Run make_run(LoadResult result, const std::vector<Stream>& streams,
             const std::vector<Tenant>& tenants, const Objectives& objectives);

/// vLLM's block, with lines for what vLLM does not measure where there is something to say.
std::string text_report(const Benchmark& benchmark, const Run& run);

/// One line per load and server; with several runs of each the median and, in brackets, least and
/// most. Behind each server but the first one more line: its values over those of the first one in
/// the same repeat, whose runs are neighbours in time and ask the same.
std::string sweep_table(const Benchmark& benchmark);

/// vLLM's keys; for several runs {"runs": [...]} with the same keys in each.
/// @param detailed adds lengths, TTFTs, ITLs and errors of every request, as vLLM does
std::string json_report(const Benchmark& benchmark, bool detailed);

/// One self-contained page: no script, nothing is fetched.
std::string html_report(const Benchmark& benchmark);

/// The four latencies as every report names them.
struct LatencyName {
  const char* key;    ///< "ttft"
  const char* label;  ///< "TTFT"
  const char* title;  ///< "Time to First Token"
  const Distribution Summary::*values;
};
inline constexpr LatencyName kLatencies[] = {
    {"ttft", "TTFT", "Time to First Token", &Summary::ttft_ms},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)", &Summary::tpot_ms},
    {"itl", "ITL", "Inter-token Latency", &Summary::itl_ms},
    {"e2el", "E2EL", "End-to-end Latency", &Summary::e2el_ms},
};

}  // namespace troupe::loadgen
