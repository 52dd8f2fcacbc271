#pragma once

// A router's batcher: forms each step from running requests, chunked prefill and decode mixed under
// a token budget (simple continuous batching; decode first, then prefill in arrival order).
// Pure: the shell brings facts about KV blocks and finished steps as events.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.hpp"

namespace troupe::scheduler {

struct BatcherOptions {
  uint32_t max_step_tokens = 256;  ///< rows of one step
  uint32_t max_running = 16;       ///< requests with KV blocks
};

// --- events -----------------------------------------------------------------------------------
/// A request to run: `num_known` tokens (prompt and already emitted) wait for prefill;
/// `max_context` is the most tokens it may ever hold. A request that is already here is ignored.
/// REQUIRES: 1 <= num_known < max_context, and max_context tokens fit the whole KV pool: nothing
/// else can end the wait of a request that never fits.
struct Arrived {
  RequestId request;
  uint32_t num_known = 0;
  uint32_t max_context = 0;
};
/// The KV holder's answer to ReserveBlocks; every one is told, also if the request left meanwhile.
struct BlocksReserved {
  RequestId request;
};
struct BlocksRefused {  ///< asked again when a request leaves
  RequestId request;
};
/// The step ran: every entry with wants_token got one token appended.
struct StepDone {
  StepId step;
};
/// Finished, cancelled or failed: frees its place; it appears in no later step. Sent before the
/// StepDone of the step that finished it. Its blocks may be read by the step that is out: the shell
/// releases them before StepDone then, and before Left if no step is out.
struct Left {
  RequestId request;
};
using BatcherEvent = std::variant<Arrived, BlocksReserved, BlocksRefused, StepDone, Left>;

// --- effects ----------------------------------------------------------------------------------
struct ReserveBlocks {
  RequestId request;
  uint32_t num_tokens = 0;  ///< max_context: nothing is preempted at this stage
};
/// One request's part in a step: positions first .. first + count - 1 go through the model.
struct StepEntry {
  RequestId request;
  uint32_t first_position = 0;
  uint32_t count = 0;
  bool wants_token = false;  ///< the last of its rows is the last known token: sample after it
  friend bool operator==(const StepEntry&, const StepEntry&) = default;
};
struct RunStep {
  StepId step;
  std::vector<StepEntry> entries;
};
using BatcherEffect = std::variant<ReserveBlocks, RunStep>;

class Batcher {
 public:
  explicit Batcher(BatcherOptions options);

  /// At most one step is out at a time; RunStep comes whenever none is and there is work.
  [[nodiscard]] std::vector<BatcherEffect> handle(const BatcherEvent& event);

  [[nodiscard]] size_t num_waiting() const;
  [[nodiscard]] size_t num_running() const;
  [[nodiscard]] std::string check() const;

 private:
  struct Waiting {
    RequestId request;
    uint32_t num_known = 0;
    uint32_t max_context = 0;
  };
  /// Invariant: num_computed <= num_known <= max_context.
  struct Running {
    RequestId request;
    uint32_t num_known = 0;
    uint32_t max_context = 0;
    uint32_t num_computed = 0;  ///< positions that went through the model
    bool decoding = false;      ///< its prefill is over
  };
  /// The reservation whose answer is awaited.
  struct Ask {
    RequestId request;
    bool abandoned = false;  ///< the request left meanwhile
    bool retry = false;      ///< blocks were freed meanwhile: a refusal is out of date
  };

  void arrived(const Arrived& event);
  void answered(RequestId request, bool reserved);
  void step_done(StepId step);
  void left(RequestId request);
  void blocks_freed();
  std::optional<ReserveBlocks> next_ask();
  std::optional<RunStep> next_step();
  Running* find_running(RequestId request);

  BatcherOptions options_;
  std::deque<Waiting> waiting_;   ///< by arrival; the one asked for is at the front
  std::vector<Running> running_;  ///< by arrival
  std::optional<Ask> ask_;
  bool front_refused_ = false;      ///< waiting_.front() waits until blocks are freed
  bool frees_at_step_end_ = false;  ///< somebody left during the step that is out
  std::optional<RunStep> step_;     ///< the one that is out, without the entries of those who left
  StepId last_step_;
};

}  // namespace troupe::scheduler
