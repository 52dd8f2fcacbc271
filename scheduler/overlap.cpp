#include "scheduler/overlap.hpp"

#include <algorithm>
#include <bit>

#include "base/check.hpp"

namespace troupe::scheduler {
namespace {

/// Two micro-batches must be faster by so much to be chosen: they use more of the machine.
constexpr double kWorth = 0.97;

}  // namespace

void Overlap::Recent::add(double ns) { ns_[num_added_++ % kKept] = ns; }

double Overlap::Recent::median() const {
  CHECK_EQ(count(), kKept);
  std::array<double, kKept> sorted = ns_;
  std::ranges::sort(sorted);
  return sorted[kKept / 2];
}

bool Overlap::Bucket::known() const {
  return std::ranges::all_of(recent, [](const Recent& r) { return r.count() == Recent::kKept; });
}

uint32_t Overlap::Bucket::better() const {
  return recent[1].median() < kWorth * recent[0].median() ? 2 : 1;
}

Overlap::Bucket& Overlap::bucket(uint32_t num_rows, bool prefills) {
  return buckets_[prefills ? 1 : 0][static_cast<size_t>(std::bit_width(num_rows)) - 1];
}

uint32_t Overlap::choose(uint32_t num_rows, bool prefills) {
  if (num_rows < 2) return 1;
  if (fixed_ != 0) return fixed_;
  Bucket& at = bucket(num_rows, prefills);
  if (!at.known()) return at.recent[1].count() < at.recent[0].count() ? 2 : 1;
  if (at.until_trial > 0) {
    --at.until_trial;
    return at.better();
  }
  at.until_trial = at.trial_period;
  at.trial_period = std::min(2 * at.trial_period, kLastPeriod);
  return 3 - at.better();
}

void Overlap::learn(uint32_t num_rows, bool prefills, uint32_t micro_batches, uint64_t depth,
                    Duration took) {
  if (took.ns <= 0 || num_rows < 2) return;
  Bucket& at = bucket(num_rows, prefills);
  double rows = num_rows;
  if (attention_span_ > 0) rows += static_cast<double>(depth) / attention_span_;
  const double sample = static_cast<double>(took.ns) / rows;
  const bool was_known = at.known();
  const uint32_t was_better = was_known ? at.better() : 0;
  at.recent[micro_batches - 1].add(sample);
  if (!at.known()) return;
  if (!was_known) {
    at.until_trial = kFirstPeriod;
    return;
  }
  const double other = at.recent[2 - micro_batches].median();
  const bool would_be_better =
      micro_batches == 2 ? sample < kWorth * other : kWorth * sample < other;
  if (at.better() != was_better) {  // not yet sure: look again soon
    at.trial_period = kFirstPeriod;
    at.until_trial = std::min(at.until_trial, kFirstPeriod);
  } else if (micro_batches != was_better && would_be_better) {
    at.trial_period = kFirstPeriod;
    at.until_trial = 0;  // once may be chance: try again at once
  }
}

}  // namespace troupe::scheduler
