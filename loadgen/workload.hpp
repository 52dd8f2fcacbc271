#pragma once

// What is asked: the requests of a run as a pure function of (options, conversation, turn), so that
// the same seed asks the same whatever the server does and in whatever order answers come.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loadgen/prompt.hpp"
#include "loadgen/trace.hpp"

namespace troupe::loadgen {

/// A length drawn evenly from [mean * (1 - range_ratio), mean * (1 + range_ratio)], at least 1.
struct LengthRange {
  uint32_t mean = 0;
  double range_ratio = 0;  ///< in [0, 1)
};

struct WorkloadOptions {
  uint64_t seed = 0;
  LengthRange input;
  LengthRange output;
  LengthRange later_input;    ///< what turns behind the first one add
  uint32_t num_prefixes = 1;  ///< one of so many, drawn for each conversation, ...
  uint32_t prefix_len = 0;    ///< ... of so many words, comes before the input; 0: none
  uint32_t num_turns = 1;
  /// If set, requests are these rows in order instead of being drawn.
  std::shared_ptr<const std::vector<TraceRow>> rows;
};

/// What one request adds to its conversation, and how long its answer shall be.
struct PlannedRequest {
  std::vector<Segment> segments;
  std::string text;  ///< an own prompt; then there are no segments
  uint32_t output_tokens = 0;

  [[nodiscard]] uint32_t num_words() const;
};

class Workload {
 public:
  explicit Workload(WorkloadOptions options) : options_(std::move(options)) {}

  [[nodiscard]] uint64_t seed() const { return options_.seed; }
  [[nodiscard]] uint32_t num_turns() const { return options_.num_turns; }
  /// Conversations that there are; nothing: any number.
  [[nodiscard]] std::optional<uint64_t> size() const;
  /// REQUIRES: conversation < size(), turn < num_turns().
  [[nodiscard]] PlannedRequest plan(uint64_t conversation, uint32_t turn) const;

 private:
  [[nodiscard]] uint32_t draw(LengthRange range, uint64_t position, uint64_t stream) const;
  [[nodiscard]] PlannedRequest plan_row(uint64_t conversation) const;

  WorkloadOptions options_;
};

}  // namespace troupe::loadgen
