#pragma once

// What `troupe bench local` and `troupe bench kernels` share: lists as options, where results go,
// progress and the clock.

#include <chrono>
#include <string>
#include <vector>

#include "apps/command.hpp"
#include "loadgen/result_table.hpp"

namespace troupe::apps {

/// "2026-11-25 08:00:00 UTC"
std::string utc_now();

double seconds_since(std::chrono::steady_clock::time_point start);

/// What /proc/cpuinfo calls the processor; "" if it does not say.
std::string cpu_name();

/// "1,16" of an option as numbers between `least` and `most`, in this order.
/// @errors kInvalidArgument naming the option
Result<std::vector<uint32_t>> number_list(const Values& values, const char* option, uint32_t least,
                                          uint32_t most);

/// A number of an option, checked. @errors kInvalidArgument naming the option
Result<uint32_t> number_value(const Values& values, const char* option, uint32_t least,
                              uint32_t most);

/// Adds -o and --output.
void add_result_options(Options& options);

/// Where results go and how they are written.
struct ResultTarget {
  loadgen::ResultFormat format = loadgen::ResultFormat::kMarkdown;
  std::string path;  ///< "": standard output
};

/// Checks also that the file could be written. @errors kInvalidArgument
Result<ResultTarget> read_result_target(const Values& values);

/// @errors kResourceExhausted if the file could not be written after all
Result<void> write_results(const ResultTarget& target, const loadgen::ResultTable& table);

/// What is being measured, on standard error: a line that changes on a terminal, else one for each.
class MeasuringLine {
 public:
  MeasuringLine();
  ~MeasuringLine();
  MeasuringLine(const MeasuringLine&) = delete;
  MeasuringLine& operator=(const MeasuringLine&) = delete;

  void show(const std::string& text);

 private:
  bool terminal_;
};

/// As std::snprintf, for a few numbers.
[[gnu::format(printf, 1, 2)]] std::string formatted(const char* format, ...);

/// 0.45 as "45 %"
inline std::string percent(double fraction) { return formatted("%.0f %%", 100 * fraction); }

}  // namespace troupe::apps
