#include "scheduler/step_cost.hpp"

#include <algorithm>

namespace troupe::scheduler {
namespace {

constexpr double kRate = 0.25;

double moved(double known, double sample, double rate) {
  return known == 0 ? sample : known + rate * (sample - known);
}

}  // namespace

void StepCost::learn(const StepShape& step, Duration took) {
  const auto took_ns = static_cast<double>(took.ns);
  if (took_ns <= 0) return;
  if (step.prefill_tokens == 0) {
    decode_ns_ = moved(decode_ns_, took_ns, kRate);
    return;
  }
  const auto rows = static_cast<double>(step.prefill_tokens);
  const double sample = std::max(0.0, took_ns - (step.decodes ? decode_ns_ : 0)) / rows;
  token_ns_ = moved(token_ns_, sample, kRate * rows / (rows + 16));  // few rows tell little
}

std::optional<uint64_t> StepCost::prefill_tokens_within(uint32_t percent, Duration target) const {
  if (decode_ns_ <= 0 || token_ns_ <= 0) return std::nullopt;
  const double step_ns = std::max(decode_ns_ * percent / 100.0, static_cast<double>(target.ns));
  const double rows = (step_ns - decode_ns_) / token_ns_;
  return static_cast<uint64_t>(std::clamp(rows, 0.0, 1e9));
}

}  // namespace troupe::scheduler
