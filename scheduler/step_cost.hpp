#pragma once

// What a step costs, learned on line by moving averages, so that growing contexts are followed:
// decoding, by the number of those who decode, and what rows of prefill add to it. Steps that only
// decode teach the first; a mixture alone could not tell the two apart, so the batcher leaves
// prefill out of a step now and then.
//
// Decoding is remembered by powers of two of those who decode. Between and beyond what is known it
// is taken to grow with the root of their number: the first ones of a mixture of experts have it
// read most, further ones share it. In a burst their number grows faster than steps could teach.
//
// A row of prefill has no one price: the first few of a step make it read most experts and cost
// more than those that follow. So the steps that mix and those that only prefill, which are larger,
// are remembered apart, and what lies between lies on the line through both.
//
// A row attends to all positions before it: behind `attention_span` of them it costs twice as much
// as the first, and counts for two. Rows below are such ones, whose price does not depend on where
// in a prompt they are.
//
// A row whose next token is scored (prompt_logprobs) costs the head's logits besides. The shell
// times that apart, so a scored row has a price in rows of prefill.
//
// From that follows how much prefill a step takes while others decode: their tokens come on average
// no later than agreed. A step that was to take longer is paid for by those that follow. Agreed is
// that prefill takes a share of the time, and more where many requests wait for their first token
// and few for their next one.

#include <array>
#include <cstdint>
#include <optional>

#include "base/time.hpp"

namespace troupe::scheduler {

/// What of a step decides its cost.
struct StepShape {
  uint32_t num_decoding = 0;  ///< requests that get their next token
  uint32_t num_passed = 0;    ///< that could have got it, too
  uint32_t prefill_tokens = 0;
  uint32_t num_scored = 0;     ///< of prefill_tokens
  uint64_t prefill_depth = 0;  ///< positions before each of them, summed
  bool dear = false;           ///< it has more prefill than rows_beside()
  /// Requests about to get their first token for each one that decodes; up to 2 change nothing.
  double crowd = 1;
};

/// How long a token may take on average because others prefill: the longer of the two.
struct StepGoal {
  /// Of the time of a step that only decodes; >= 100. What is above 100 is multiplied by half the
  /// crowd.
  uint32_t percent = 200;
  Duration target;
};

class StepCost {
 public:
  /// @param attention_span positions that cost a row as much as all else; 0: they cost nothing
  explicit StepCost(StepGoal goal, uint32_t attention_span = 0)
      : goal_(goal), attention_span_(attention_span) {}

  /// @param scoring of `took`: for the scored rows, beside what other rows of prefill cost
  /// REQUIRES: the step decodes or has rows of prefill.
  void learn(const StepShape& step, Duration took, Duration scoring = {});

  /// Rows of prefill that a step may take beside those who decode.
  /// @param num_decoding who could decode
  /// @param crowd as StepShape has it
  /// @returns nothing as long as no step that decodes, or none that prefills, is known
  [[nodiscard]] std::optional<uint64_t> rows_beside(uint32_t num_decoding, double crowd) const;
  /// As many as pay to be computed together, for a step that is to take longer than agreed: fewer
  /// where it would take more than half as much again, but one at least.
  [[nodiscard]] uint32_t dear_rows(uint32_t that_pay, uint32_t num_decoding, double crowd) const;
  /// The same as rows_beside() in a step of their own, for which those who decode wait up to twice
  /// as long as agreed.
  [[nodiscard]] std::optional<uint64_t> rows_instead(uint32_t num_decoding, double crowd) const;
  /// Rows at the start of a prompt that take so long where nobody decodes.
  /// @returns nothing as long as no step that prefills is known
  [[nodiscard]] std::optional<uint64_t> rows_alone(Duration most) const;
  /// What the first row of a prompt costs in large steps.
  /// @returns nothing as long as no step that prefills is known
  [[nodiscard]] std::optional<Duration> row_price() const;
  /// What a scored row costs in all, in rows of prefill.
  /// @returns nothing as long as no step that scores is known
  [[nodiscard]] std::optional<double> scored_row() const;
  /// Those who decode have waited for longer than agreed. At most kMaxSteps steps of it are
  /// remembered: what hung for a second must not keep prompts waiting.
  [[nodiscard]] bool overdrawn() const { return overdraft_ns_ > 0; }

 private:
  static constexpr double kMaxSteps = 16;

  /// Of the rows of some steps; both 0: not known.
  struct Average {
    double rows = 0;
    double ns = 0;
    void learn(double rows_sample, double ns_sample, double rate);
    [[nodiscard]] bool known() const { return ns > 0; }
  };
  /// What a token may take.
  [[nodiscard]] double agreed_ns(uint32_t num_decoding, double crowd) const;
  /// Of a step that only decodes; 0 for nobody, or if not known.
  [[nodiscard]] double decode_ns(uint32_t num_decoding) const;
  [[nodiscard]] std::optional<uint64_t> rows_within(double budget_ns) const;
  /// Of alone_ and mixed_ the cheaper, that of full steps.
  [[nodiscard]] const Average& full() const { return alone_.known() ? alone_ : mixed_; }

  StepGoal goal_;
  uint32_t attention_span_;
  std::array<Average, 16> decode_;  ///< of 1, 2 to 3, 4 to 7, ... who decode
  double overdraft_ns_ = 0;
  Average mixed_, alone_;
  Average scored_;  ///< beside what else they cost
};

}  // namespace troupe::scheduler
