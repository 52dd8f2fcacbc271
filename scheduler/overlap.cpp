#include "scheduler/overlap.hpp"

#include <algorithm>
#include <bit>

namespace troupe::scheduler {
namespace {

constexpr double kRate = 0.25;
/// Two micro-batches must be faster by so much to be chosen: they use more of the machine.
constexpr double kWorth = 0.97;

}  // namespace

Overlap::Bucket& Overlap::bucket(uint32_t num_rows, bool prefills) {
  return buckets_[prefills ? 1 : 0][static_cast<size_t>(std::bit_width(num_rows)) - 1];
}

uint32_t Overlap::choose(uint32_t num_rows, bool prefills) {
  if (num_rows < 2) return 1;
  if (fixed_ != 0) return fixed_;
  Bucket& known = bucket(num_rows, prefills);
  if (known.row_ns[0] == 0) return 1;
  if (known.row_ns[1] == 0) return 2;
  const uint32_t better = known.row_ns[1] < kWorth * known.row_ns[0] ? 2 : 1;
  if (known.until_trial > 0) {
    --known.until_trial;
    return better;
  }
  known.until_trial = known.trial_period;
  known.trial_period = std::min(2 * known.trial_period, kLastPeriod);
  return 3 - better;
}

void Overlap::learn(uint32_t num_rows, bool prefills, uint32_t micro_batches, Duration took) {
  if (took.ns <= 0 || num_rows < 2) return;
  Bucket& known = bucket(num_rows, prefills);
  const auto better = [&] { return known.row_ns[1] < kWorth * known.row_ns[0]; };
  const bool was_better = better();
  double& row_ns = known.row_ns[micro_batches - 1];
  const double sample = static_cast<double>(took.ns) / num_rows;
  row_ns = row_ns == 0 ? sample : row_ns + kRate * (sample - row_ns);
  if (better() != was_better) {  // not yet sure: look again soon
    known.trial_period = kFirstPeriod;
    known.until_trial = std::min(known.until_trial, kFirstPeriod);
  }
}

}  // namespace troupe::scheduler
