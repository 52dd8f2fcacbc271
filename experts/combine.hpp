#pragma once

// The router's side of one dispatch: which shards still owe their rows, which frames may go out,
// and which must go out again. Expert work is a pure function, so a frame that may have been lost
// is simply repeated: a shard that has the first copy ignores the second. Pure.

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/time.hpp"
#include "experts/dispatch_plan.hpp"
#include "transport/credit.hpp"

namespace troupe::experts {

struct CombineOptions {
  /// A frame that is not answered is sent again after this long, then after twice as long, and so
  /// on: one that is only slow to compute is repeated few times.
  Duration resend_after = milliseconds(500);
  /// A shard that has not answered the first copy for this long counts as failed.
  Duration timeout = seconds(20);
};

/// What to do now. Frames are named by their index into the plan's shards.
struct CombineEffects {
  std::vector<uint32_t> send;    ///< ascending
  std::optional<NodeId> silent;  ///< this shard has not answered within the timeout
};

class Combine {
 public:
  /// Nothing is awaited.
  Combine() = default;
  /// @param frame_bytes [plan.shards.size()] what each frame takes of its shard's credit.
  /// REQUIRES: each fits the whole credit of its shard.
  Combine(const DispatchPlan& plan, const std::vector<uint64_t>& frame_bytes,
          CombineOptions options);

  /// Frames whose turn it is: the first copy when the shard's credit allows, repeats when overdue.
  /// Called at the start, after each answer and from time to time. Cost: O(shards).
  [[nodiscard]] CombineEffects due(transport::CreditLedger& credits, Instant now);

  enum class Verdict : uint8_t { kTake, kDuplicate, kUnknownShard, kWrongSize };
  struct Answer {
    Verdict verdict = Verdict::kUnknownShard;
    uint32_t first_result = 0;  ///< kTake: where its rows belong among the gathered rows
  };
  /// An answer of `num_rows` rows, one per assignment, came from `shard`. All but kTake change
  /// nothing; kTake gives the frame's credit back.
  Answer answered(NodeId shard, uint32_t num_rows, transport::CreditLedger& credits);

  [[nodiscard]] bool complete() const { return missing_ == 0; }
  [[nodiscard]] std::vector<NodeId> awaited() const;

 private:
  struct Part {
    NodeId shard;
    uint32_t num_rows = 0;
    uint32_t first_result = 0;
    uint64_t frame_bytes = 0;
    bool here = false;
    std::optional<Instant> first_sent;
    Instant resend_at;
    Duration resend_after;
  };
  CombineOptions options_;
  std::vector<Part> parts_;  ///< by shard id ascending, as in the plan
  uint32_t missing_ = 0;
};

}  // namespace troupe::experts
