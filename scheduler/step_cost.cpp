#include "scheduler/step_cost.hpp"

#include <algorithm>

namespace troupe::scheduler {
namespace {

constexpr double kRate = 0.25;
/// So many that wait for their first token count as much as one that decodes. Under steady load
/// there are about as many of both, and longer steps make tokens later but none earlier.
constexpr double kCrowdOfOne = 2;

}  // namespace

void StepCost::learn(const StepShape& step, Duration took) {
  const auto took_ns = static_cast<double>(took.ns);
  if (took_ns <= 0) return;
  if (step.prefill_tokens == 0) {
    decode_ns_ = decode_ns_ == 0 ? took_ns : decode_ns_ + kRate * (took_ns - decode_ns_);
  } else {
    const auto rows = static_cast<double>(step.prefill_tokens);
    if (step.decodes) {
      mixed_.learn(rows, std::max(0.0, took_ns - decode_ns_));
    } else {
      alone_.learn(rows, took_ns);
    }
  }
  if (!step.decodes && !step.passes_over) {  // nobody waited
    overdraft_ns_ = 0;
    return;
  }
  const double agreed = agreed_ns(step.crowd);
  double lent_ns = took_ns - (step.passes_over ? 0 : agreed);
  // That others come out longer than meant is chance: as many come out shorter.
  if (!step.passes_over && !step.dear) lent_ns = std::min(lent_ns, 0.0);
  overdraft_ns_ = std::clamp(overdraft_ns_ + lent_ns, 0.0, kMaxSteps * agreed);
}

void StepCost::Average::learn(double rows_sample, double ns_sample) {
  const double rate = known() ? kRate * rows_sample / (rows_sample + 16) : 1;  // few tell little
  rows += rate * (rows_sample - rows);
  ns += rate * (ns_sample - ns);
}

double StepCost::agreed_ns(double crowd) const {
  const double percent = 100 + (goal_.percent - 100) * std::max(1.0, crowd / kCrowdOfOne);
  return std::max(decode_ns_ * percent / 100, static_cast<double>(goal_.target.ns));
}

std::optional<uint64_t> StepCost::rows_beside(double crowd) const {
  return rows_within(agreed_ns(crowd) - overdraft_ns_ - decode_ns_);
}

std::optional<uint64_t> StepCost::rows_instead(double crowd) const {
  return rows_within(2 * agreed_ns(crowd) - overdraft_ns_);
}

std::optional<uint64_t> StepCost::rows_within(double budget_ns) const {
  if (decode_ns_ <= 0 || !(mixed_.known() || alone_.known())) return std::nullopt;
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
