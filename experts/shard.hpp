#pragma once

// An expert shard's queue: dispatches from any router wait here, and micro-batches are formed from
// those of one layer. Knows rows and experts, nothing of requests. Pure.
//
// A shard that is free begins at once with what is there: it never waits for rows to come, so those
// of several routers meet in a batch only when they came while another one was computed. A batch is
// of the layer of the oldest dispatch that waits, so nothing that comes later delays a dispatch,
// whichever router it is from.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "experts/placement.hpp"

namespace troupe::experts {

/// Names one dispatch. Steps are counted anew in each epoch.
struct DispatchKey {
  Epoch epoch;
  NodeId router;
  StepId step;
  LayerIdx layer = 0;
  uint32_t attempt = 0;
  friend auto operator<=>(const DispatchKey&, const DispatchKey&) = default;
};

struct ShardOptions {
  uint32_t max_queued_rows = 65536;  ///< token rows waiting; above it a dispatch is refused
  uint32_t max_batch_rows = 8192;

  /// Rows of the largest batch. REQUIRES: no dispatch has more than max_batch_rows
  [[nodiscard]] uint32_t largest_batch() const { return std::min(max_queued_rows, max_batch_rows); }
};

// --- events -----------------------------------------------------------------------------------
/// The shard holds these experts now, for this epoch; what waits from an older one is rejected as
/// stale. An epoch that is not newer changes nothing.
struct ExpertsLoaded {
  Epoch epoch;
  std::vector<ExpertKey> held;
};
/// The shard holds these experts for a newer epoch, beside those of the one in force: until
/// EpochKept, dispatches of both are computed. An epoch that is not newer changes nothing.
struct ExpertsPrepared {
  Epoch epoch;
  std::vector<ExpertKey> held;
};
/// Of the epochs it holds experts for, only this one goes on; what waits from others is rejected as
/// stale. An epoch that is not there changes nothing.
struct EpochKept {
  Epoch epoch;
};
struct RowsArrived {
  DispatchKey key;
  uint32_t num_rows = 0;
  std::vector<ExpertIdx> experts;  ///< distinct or not; each must be held
};
struct BatchComputed {};
/// A router is gone: what it still waits for is dropped.
struct RouterGone {
  NodeId router;
};
using ShardEvent =
    std::variant<ExpertsLoaded, ExpertsPrepared, EpochKept, RowsArrived, BatchComputed, RouterGone>;

// --- effects ----------------------------------------------------------------------------------
/// kDuplicate: exactly this key is queued or running and will be answered. A repeat of one that was
/// answered already is computed again, which is harmless.
enum class RejectReason : uint8_t { kStaleEpoch, kNotHeld, kQueueFull, kDuplicate };
struct RejectRows {
  DispatchKey key;
  RejectReason reason = RejectReason::kStaleEpoch;
};
/// Compute these dispatches, oldest first, together and answer each; BatchComputed follows. The
/// layer is that of the oldest dispatch waiting. A single dispatch may exceed max_batch_rows.
struct RunBatch {
  LayerIdx layer = 0;
  std::vector<DispatchKey> dispatches;
};
using ShardEffect = std::variant<RejectRows, RunBatch>;

class Shard {
 public:
  explicit Shard(ShardOptions options);
  [[nodiscard]] std::vector<ShardEffect> handle(const ShardEvent& event);
  [[nodiscard]] uint32_t queued_rows() const;
  [[nodiscard]] std::string check() const;

 private:
  struct Queued {
    DispatchKey key;
    uint32_t num_rows = 0;  ///< >= 1: an empty dispatch takes its place, too
  };
  /// [expert], as long as the highest one held
  using Held = std::map<LayerIdx, std::vector<bool>>;

  void loaded(const ExpertsLoaded& event, std::vector<ShardEffect>& effects);
  void arrived(const RowsArrived& event, std::vector<ShardEffect>& effects);
  /// Rejects what waits from epochs that are not held any more.
  void reject_stale(std::vector<ShardEffect>& effects);
  [[nodiscard]] std::optional<RejectReason> reason_to_reject(const RowsArrived& event) const;
  std::optional<RunBatch> next_batch();

  ShardOptions options_;
  std::map<Epoch, Held> held_;  ///< none before the first ExpertsLoaded, two while one is prepared
  std::deque<Queued> queue_;    ///< by arrival
  uint32_t queued_rows_ = 0;
  std::vector<DispatchKey> running_;  ///< the batch that is out
};

}  // namespace troupe::experts
