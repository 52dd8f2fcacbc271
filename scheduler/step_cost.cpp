#include "scheduler/step_cost.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace troupe::scheduler {
namespace {

constexpr double kRate = 0.25;
/// So many that wait for their first token count as much as one that decodes. Under steady load
/// there are about as many of both, and longer steps make tokens later but none earlier.
constexpr double kCrowdOfOne = 2;
/// A step that is to take longer than agreed takes at most so many times as long.
constexpr double kDearest = 1.5;
/// REQUIRES: num_decoding >= 1
size_t bucket(uint32_t num_decoding) {
  return std::min<size_t>(std::bit_width(num_decoding), 16) - 1;
}

}  // namespace

void StepCost::learn(const StepShape& step, Duration took, Duration scoring) {
  const auto took_ns = static_cast<double>(took.ns);
  if (took_ns <= 0) return;
  const auto scoring_ns = static_cast<double>(scoring.ns);
  if (step.num_scored > 0 && scoring_ns > 0) scored_.learn(step.num_scored, scoring_ns, kRate);
  if (step.prefill_tokens == 0) {
    decode_[bucket(step.num_decoding)].learn(step.num_decoding, took_ns, kRate);
  } else {
    auto rows = static_cast<double>(step.prefill_tokens);
    if (attention_span_ > 0) rows += static_cast<double>(step.prefill_depth) / attention_span_;
    const double rate = kRate * rows / (rows + 16);  // few tell little
    if (step.num_decoding > 0) {
      mixed_.learn(rows, std::max(0.0, took_ns - scoring_ns - decode_ns(step.num_decoding)), rate);
    } else {
      alone_.learn(rows, std::max(0.0, took_ns - scoring_ns), rate);
    }
  }
  const uint32_t num_waited = step.num_decoding + step.num_passed;
  if (num_waited == 0) {
    overdraft_ns_ = 0;
    return;
  }
  const double agreed = agreed_ns(num_waited, step.crowd);
  double lent_ns = took_ns - (step.num_passed > 0 ? 0 : agreed);
  // That others come out longer than meant is chance: as many come out shorter.
  if (step.num_passed == 0 && !step.dear) lent_ns = std::min(lent_ns, 0.0);
  overdraft_ns_ = std::clamp(overdraft_ns_ + lent_ns, 0.0, kMaxSteps * agreed);
}

void StepCost::Average::learn(double rows_sample, double ns_sample, double rate) {
  if (!known()) rate = 1;
  rows += rate * (rows_sample - rows);
  ns += rate * (ns_sample - ns);
}

double StepCost::agreed_ns(uint32_t num_decoding, double crowd) const {
  const double percent = 100 + (goal_.percent - 100) * std::max(1.0, crowd / kCrowdOfOne);
  return std::max(decode_ns(num_decoding) * percent / 100, static_cast<double>(goal_.target.ns));
}

double StepCost::decode_ns(uint32_t num_decoding) const {
  if (num_decoding == 0) return 0;
  const size_t own = bucket(num_decoding);
  const Average* nearest = nullptr;
  size_t distance = decode_.size();
  for (size_t i = 0; i < decode_.size(); ++i) {
    const size_t to_own = i < own ? own - i : i - own;
    if (!decode_[i].known() || to_own > distance) continue;
    nearest = &decode_[i];
    distance = to_own;
  }
  return nearest == nullptr ? 0 : nearest->ns * std::sqrt(num_decoding / nearest->rows);
}

std::optional<uint64_t> StepCost::rows_beside(uint32_t num_decoding, double crowd) const {
  return rows_within(agreed_ns(num_decoding, crowd) - overdraft_ns_ - decode_ns(num_decoding));
}

uint32_t StepCost::dear_rows(uint32_t that_pay, uint32_t num_decoding, double crowd) const {
  if (!mixed_.known()) return that_pay;
  const double budget_ns = kDearest * agreed_ns(num_decoding, crowd) - decode_ns(num_decoding);
  const double rows = mixed_.rows * budget_ns / mixed_.ns;
  return static_cast<uint32_t>(std::clamp(rows, 1.0, std::max<double>(1, that_pay)));
}

std::optional<uint64_t> StepCost::rows_instead(uint32_t num_decoding, double crowd) const {
  return rows_within(2 * agreed_ns(num_decoding, crowd) - overdraft_ns_);
}

std::optional<double> StepCost::scored_row() const {
  if (!scored_.known() || !full().known()) return std::nullopt;
  return 1 + scored_.ns / scored_.rows / (full().ns / full().rows);
}

std::optional<uint64_t> StepCost::rows_alone(Duration most) const {
  if (!full().known()) return std::nullopt;
  const double rows = static_cast<double>(most.ns) / full().ns * full().rows;
  return static_cast<uint64_t>(std::clamp(rows, 0.0, 1e9));
}

std::optional<Duration> StepCost::row_price() const {
  if (!full().known()) return std::nullopt;
  return Duration{std::llround(full().ns / full().rows)};
}

std::optional<uint64_t> StepCost::rows_within(double budget_ns) const {
  const bool knows_decoding = std::ranges::any_of(decode_, &Average::known);
  if (!knows_decoding || !(mixed_.known() || alone_.known())) return std::nullopt;
  if (budget_ns <= 0) return 0;
  const Average& near = mixed_.known() ? mixed_ : alone_;
  const double mean_price = near.ns / near.rows;
  double price = mean_price;
  if (mixed_.known() && alone_.rows > 2 * mixed_.rows) {
    price = std::clamp((alone_.ns - mixed_.ns) / (alone_.rows - mixed_.rows), mean_price / 4,
                       mean_price);
  }
  const double rows = near.rows + (budget_ns - near.ns) / price;
  return static_cast<uint64_t>(std::clamp(rows, 0.0, 1e9));
}

}  // namespace troupe::scheduler
