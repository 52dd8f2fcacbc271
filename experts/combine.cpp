#include "experts/combine.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace troupe::experts {

Combine::Combine(const DispatchPlan& plan, const std::vector<uint64_t>& frame_bytes,
                 CombineOptions options)
    : options_(options), missing_(static_cast<uint32_t>(plan.shards.size())) {
  CHECK_EQ(plan.shards.size(), frame_bytes.size());
  for (size_t i = 0; i < plan.shards.size(); ++i) {
    const ShardDispatch& to = plan.shards[i];
    parts_.push_back({.shard = to.shard,
                      .num_rows = static_cast<uint32_t>(to.assignments.size()),
                      .first_result = to.first_result,
                      .frame_bytes = frame_bytes[i],
                      .resend_after = options.resend_after});
  }
}

CombineEffects Combine::due(transport::CreditLedger& credits, Instant now) {
  CombineEffects effects;
  for (uint32_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    if (part.here) continue;
    if (!part.first_sent) {
      const auto taken = credits.take(part.shard, part.frame_bytes);
      if (!taken.ok()) {
        CHECK(taken.error().code == Code::kResourceExhausted);
        continue;  // an earlier frame's answer brings the credit back, or its shard falls silent
      }
      part.first_sent = now;
    } else if (now - *part.first_sent >= options_.timeout) {
      if (!effects.silent) effects.silent = part.shard;
      continue;
    } else if (now < part.resend_at) {
      continue;
    } else {
      part.resend_after = part.resend_after * 2;  // the first copy's credit covers its repeats
    }
    part.resend_at = now + part.resend_after;
    effects.send.push_back(i);
  }
  return effects;
}

Combine::Answer Combine::answered(NodeId shard, uint32_t num_rows,
                                  transport::CreditLedger& credits) {
  const auto part = std::ranges::lower_bound(parts_, shard, {}, &Part::shard);
  if (part == parts_.end() || part->shard != shard || !part->first_sent) return {};
  if (part->here) return {.verdict = Verdict::kDuplicate};
  if (part->num_rows != num_rows) return {.verdict = Verdict::kWrongSize};
  CHECK(credits.give_back(shard, part->frame_bytes).ok());
  part->here = true;
  --missing_;
  return {.verdict = Verdict::kTake, .first_result = part->first_result};
}

std::vector<NodeId> Combine::awaited() const {
  std::vector<NodeId> shards;
  for (const Part& part : parts_) {
    if (!part.here) shards.push_back(part.shard);
  }
  return shards;
}

}  // namespace troupe::experts
