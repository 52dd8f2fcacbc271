#pragma once

// The cluster-level scheduler: admits requests into a bounded queue, starts them on routers, keeps
// the token log and ends every accepted request exactly once. Decides per request, never per layer.
// Pure: handle(event, now) -> effects; the shell carries them out in order.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"
#include "scheduler/request.hpp"

namespace troupe::scheduler {

struct SchedulerOptions {
  uint32_t max_queued = 64;   ///< waiting for a router; one more is refused
  uint32_t max_running = 16;  ///< on one router at a time
  uint32_t max_context = 0;   ///< prompt + max_tokens of one request
  Duration min_retry_after = seconds(1);
};

// --- events -----------------------------------------------------------------------------------
struct Submitted {
  RequestId request;
  RequestSpec spec;
};
/// The client is gone or gave up: frees everything, nothing more is emitted.
struct Cancelled {
  RequestId request;
};
/// A router may be given requests (again): its epoch is in force and all its experts are reachable.
struct RouterUp {
  NodeId router;
};
/// A router is gone, or cannot compute (an expert node is gone): its requests end in Failed.
struct RouterDown {
  NodeId router;
  Error reason;
};
/// Tokens from a router. Stale attempts, duplicates and gaps are dropped.
struct RouterEmitted {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  uint32_t first = 0;
  std::vector<model::SampledToken> tokens;
};
struct RouterFinished {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  FinishReason reason = FinishReason::kStop;
};
struct RouterFailed {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  Error error;
};
/// Time passed: deadlines are looked at. Sent when next_deadline() is reached.
struct Tick {};
/// The head is stopping: refuse what is new, end what waits.
struct Stopping {};

using SchedulerEvent = std::variant<Submitted, Cancelled, RouterUp, RouterDown, RouterEmitted,
                                    RouterFinished, RouterFailed, Tick, Stopping>;

// --- effects ----------------------------------------------------------------------------------
/// Tell the client of this request.
struct Tell {
  RequestId request;
  ClientEvent event;
};
/// Start (or resume after `emitted`) a request on a router.
struct StartOnRouter {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  RequestSpec spec;
  std::vector<TokenId> emitted;
};
struct CancelOnRouter {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
};

using SchedulerEffect = std::variant<Tell, StartOnRouter, CancelOnRouter>;

/// Counts for metrics and `troupe status`.
struct SchedulerCounts {
  uint64_t queued = 0;
  uint64_t running = 0;
  uint64_t admitted_total = 0;
  uint64_t refused_total = 0;
  uint64_t finished_total = 0;
  uint64_t failed_total = 0;
  uint64_t cancelled_total = 0;
  uint64_t prompt_tokens_total = 0;
  uint64_t generated_tokens_total = 0;
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  [[nodiscard]] std::vector<SchedulerEffect> handle(const SchedulerEvent& event, Instant now);

  /// The earliest deadline of a queued or running request.
  [[nodiscard]] std::optional<Instant> next_deadline() const;
  [[nodiscard]] SchedulerCounts counts() const;

  /// Invariants: no request lost or doubled, bounds kept. "" or the reason.
  [[nodiscard]] std::string check() const;

 private:
  struct Entry;
  SchedulerOptions options_;
  // (the core's author adds state here; ordered containers only)
};

}  // namespace troupe::scheduler
