#pragma once

// The cluster-level scheduler: admits requests into a bounded queue, starts them on routers, keeps
// the token log and ends every accepted request exactly once. Decides per request, never per layer.
// A request whose router goes down or is drained waits again and resumes from its token log, on
// whatever router is free: its client sees neither gap nor repeat.
// A request that waits on its router, none of its rows computed, moves to one where it would begin
// clearly sooner: one that comes up, is drained no more or has done its work. Once, until it has
// begun: so none is sent to and fro.
// A place that comes free goes to the request whose turn it is by FairQueue, which says how often
// one may be passed; what gave its place up for another tenant comes on top, as it was charged
// before. Places and KV blocks that are given up or left over go to the tenant that holds the
// fewest: there a request is passed only by tenants that hold no more than its own.
// Pure: handle(event, now) -> effects; the shell carries them out in order.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"
#include "scheduler/fair_queue.hpp"
#include "scheduler/request.hpp"
#include "scheduler/router_pool.hpp"
#include "scheduler/service_estimate.hpp"

namespace troupe::scheduler {

struct SchedulerOptions {
  /// Waiting for a router; one more is refused. The last eighth is for tenants with none waiting.
  uint32_t max_queued = 64;
  uint32_t max_queued_per_tenant = 64;
  uint32_t max_running = 16;  ///< on one router at a time
  uint64_t kv_tokens = 0;     ///< KV positions of one router; 0: not known
  PrefixIndexOptions prefix_index;
  uint32_t min_fetch_tokens = 256;  ///< KV is fetched from another router from so many tokens on
  /// A request that has not begun moves for a quarter of the work before its first token and so
  /// many tokens of it.
  uint32_t min_gain_tokens = 256;
  uint32_t max_context = 0;  ///< prompt + max_tokens of one request
  Duration min_retry_after = seconds(1);
  /// How long requests wait for a router after the last one went down, counted from when it was
  /// last heard; at least min_wait_without_router. So a client hears within two seconds.
  Duration max_wait_without_router = milliseconds(1500);
  Duration min_wait_without_router = milliseconds(200);
  /// The same while the nodes that are left form a new epoch: what was accepted is worth a wait.
  Duration max_wait_recovering = seconds(10);
  /// Times that one request may lose its router; one that does so often may be the reason.
  uint32_t max_losses = 3;
  /// What a tenant's running requests cost its next one, in time of order on a router: somebody
  /// with many there stands behind somebody with few.
  Duration order_per_running = seconds(1);
  FairQueueOptions fairness;
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
/// Routers are gone, or cannot compute (an expert node is gone): their requests wait again. Each is
/// also cancelled on its router, which may be alive; on one that is gone there is nothing to do.
/// Those that go together are told together: what one of them loses must not begin on another, only
/// to be lost once more.
struct RoutersDown {
  std::vector<NodeId> routers;
  Error reason;
  bool recovering = false;  ///< enough nodes are left to serve again
};
/// A router's process ended, after its RoutersDown or without one: nothing is cached there any
/// more.
struct RouterGone {
  NodeId router;
};
/// Too few nodes are left to form an epoch: whoever waits for a router waits for one to come back.
struct CannotServe {
  Error reason;
};
/// A router takes no new requests and gives up those it has, which go on elsewhere; false ends
/// that. Without another router its requests stay: draining loses nothing.
struct Drained {
  NodeId router;
  bool drained = true;
};
/// Tokens from a router, or without tokens: rows of the request are in a step, the first of this
/// attempt. Stale attempts and duplicates are dropped; after a gap, or more tokens than were asked
/// for, the request ends in Failed, because its stream can no longer be right.
struct RouterEmitted {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  uint32_t first = 0;
  std::vector<model::SampledToken> tokens;
  uint32_t num_cached = 0;                           ///< of the tokens that this attempt began with
  std::vector<model::SampledToken> prompt_logprobs;  ///< with the first token, if wanted
};
struct RouterFinished {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  FinishReason reason = FinishReason::kStop;
};
/// kUnavailable: the router cannot go on with it, another attempt may. Any other code is the end.
struct RouterFailed {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  Error error;
};
/// Time passed. Sent when next_deadline() is reached; every other event looks at deadlines, too.
struct Tick {};
/// The head is stopping: refuse what is new, end what waits.
struct Stopping {};

using SchedulerEvent =
    std::variant<Submitted, Cancelled, RouterUp, RoutersDown, RouterGone, CannotServe, Drained,
                 RouterEmitted, RouterFinished, RouterFailed, Tick, Stopping>;

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
  int64_t order = 0;              ///< smaller runs earlier and is preempted later
  std::optional<NodeId> kv_from;  ///< this router probably has so much of its KV that asking pays
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
  uint64_t resumed_total = 0;  ///< starts after the first, of any request
  uint64_t moved_total = 0;    ///< of these, away from a router without enough KV blocks
  uint64_t moved_to_begin_total =
      0;                       ///< of these, before they had begun, to where they begin sooner
  uint64_t yielded_total = 0;  ///< running requests that gave their place to another tenant's
  uint64_t prompt_tokens_total = 0;
  uint64_t generated_tokens_total = 0;
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  [[nodiscard]] std::vector<SchedulerEffect> handle(const SchedulerEvent& event, Instant now);

  /// When the next request or the wait for a router ends.
  [[nodiscard]] std::optional<Instant> next_deadline() const;
  [[nodiscard]] SchedulerCounts counts() const;

  /// Invariants: no request lost or doubled, bounds kept. "" or the reason.
  [[nodiscard]] std::string check() const;

 private:
  /// A request from Admitted to its end: the token log and where it runs.
  struct Entry {
    RequestSpec spec;
    Instant submitted;
    uint64_t sequence = 0;  ///< of admission
    Instant deadline;
    std::vector<TokenId> emitted;
    uint32_t attempt = 0;              ///< starts so far
    uint32_t num_losses = 0;           ///< of its router
    std::optional<RouterShare> share;  ///< of the router that it runs on; none while it is queued
    int64_t order = 0;                 ///< from the first start
    bool has_moved = false;            ///< to begin sooner, and has not begun since
    // Of the present attempt, or of the last one:
    bool begun = false;            ///< rows of it were in a step
    Instant heard;                 ///< its start, or when its last tokens came
    std::optional<Instant> first;  ///< when its first tokens came
    size_t num_at_first = 0;       ///< tokens emitted then

    [[nodiscard]] bool may_move() const { return !begun && !has_moved; }
    [[nodiscard]] bool runs_on(NodeId router) const { return share && share->router == router; }
    [[nodiscard]] std::vector<TokenId> known() const;
    /// Among those that run: the greatest is the last, of equal order the youngest.
    [[nodiscard]] std::pair<int64_t, uint64_t> place() const { return {order, sequence}; }
  };
  using Entries = std::map<RequestId, Entry>;
  using Counts = std::map<std::string, uint64_t>;  ///< by tenant; 0 for those not in it
  using Effects = std::vector<SchedulerEffect>;
  /// Of a tenant: none of its requests comes before one that started before it, however few run by
  /// now, and though that is on its way to another router or waits for one.
  struct Turns {
    Instant last;
    uint64_t num_started = 0;  ///< requests, of those that have not ended
  };

  void on(const Submitted& event, Instant now, Effects& effects);
  void on(const Cancelled& event, Instant now, Effects& effects);
  void on(const RouterUp& event, Instant now, Effects& effects);
  void on(const RoutersDown& event, Instant now, Effects& effects);
  void on(const RouterGone& event, Instant now, Effects& effects);
  void on(const CannotServe& event, Instant now, Effects& effects);
  void on(const Drained& event, Instant now, Effects& effects);
  void on(const RouterEmitted& event, Instant now, Effects& effects);
  void on(const RouterFinished& event, Instant now, Effects& effects);
  void on(const RouterFailed& event, Instant now, Effects& effects);
  void on(const Tick& event, Instant now, Effects& effects);
  void on(const Stopping& event, Instant now, Effects& effects);

  struct Refusal {
    Error error;
    bool for_good = false;  ///< the same request would be refused again, whoever else is there
  };
  [[nodiscard]] std::optional<Refusal> reason_to_refuse(const RequestSpec& spec, Instant now) const;
  /// What a new request takes at best, alone and with all cached that may be, if that is more time
  /// than it has. One that would be in time as things are now would be so at best, whatever was
  /// learned of those that were alone. Cost: hashes of a prompt that would be too late if none of
  /// it were cached.
  [[nodiscard]] std::optional<Duration> too_long_at_best(const RequestSpec& spec,
                                                         Instant now) const;
  /// That its time would be over before its end. @param wait for a place
  [[nodiscard]] std::optional<Refusal> reason_for_lateness(const RequestSpec& spec, Duration wait,
                                                           uint64_t load, Instant now) const;
  /// How long a new request would probably wait for a place, if there is none now; nothing as long
  /// as nothing is known, and too short where more than 256 come before it. Cost: O(running).
  [[nodiscard]] std::optional<Duration> wait_of(const RequestSpec& spec, Instant now) const;
  [[nodiscard]] Duration retry_after(const RequestSpec& spec, Instant now) const;
  /// Requests on a router, on average and rounded up, with so many more.
  [[nodiscard]] uint64_t load(uint64_t num_more = 0) const;
  /// From a start with these tokens emitted to the end, as others took.
  /// @param num_cached of the tokens that it begins with, which are taken to cost nothing
  [[nodiscard]] Duration service_of(const RequestSpec& spec, size_t num_emitted, uint64_t load,
                                    Instant now, uint32_t num_cached = 0) const;
  [[nodiscard]] Duration time_left(const Entry& running, uint64_t load, Instant now) const;
  [[nodiscard]] uint64_t num_expected(const RequestSpec& spec, Instant now) const;
  [[nodiscard]] Instant end_of_wait(bool recovering, Instant now) const;
  void leave_router(RequestId request, Entry& entry);
  void learn_length(const Entry& ended);
  Entry* find_attempt(NodeId router, RequestId request, uint32_t attempt);
  /// @returns whether the request whose turn it is finds no room though somebody has a place
  bool start_queued(Instant now, Effects& effects);
  /// Whose turn it is waits for KV blocks: a tenant that has fewer blocks, with what starts counted
  /// in, need not wait with it. As those of its own tenant end, ever fewer pass.
  void fill_room(Instant now, Effects& effects);
  /// With all places taken (or KV blocks), the tenant with the most gives one up to the waiting one
  /// with the fewest if that was served no more, until they differ by one at most. What was
  /// computed stays in the router's prefix cache.
  void even_out_places(bool blocked, Instant now, Effects& effects);
  /// Whose place a request of this tenant and class would get; none if they are as even as can be.
  [[nodiscard]] std::optional<RequestId> who_yields_to(const std::string& tenant,
                                                       uint32_t priority) const;
  [[nodiscard]] uint64_t places_of(const std::string& tenant) const;
  [[nodiscard]] Counts::const_iterator tenant_with_most() const;
  void start_waiting(RequestId request, const RouterShare& share, Instant now, Effects& effects);
  void start(RequestId request, Entry& entry, const RouterShare& share, Instant now,
             Effects& effects);
  /// A router with more requests than its KV blocks hold gives the last ones to one with room.
  void relieve_overcommitted(Instant now, Effects& effects);
  /// Those that wait on a router, the last in order first, move to where they begin clearly sooner.
  /// Cost: nothing while nobody may move, else O(routers) for each router where somebody may. As
  /// long as another one would be sooner if all were cached there, each look also sorts those that
  /// run here and hashes up to kMostStaying prompts that stay, and those that move.
  void move_to_begin_sooner(Instant now, Effects& effects);
  /// To another router, without waiting for it.
  void move(RequestId request, const RouterShare& share, Instant now, Effects& effects);
  /// The request leaves its router and waits for another start, or ends if it needs none. It was
  /// lost, not moved: it also ends if that happened too often.
  void lose(RequestId request, const Error& reason, Effects& effects);
  /// @param is_next before all who have not run yet
  void wait_again(RequestId request, const Error& reason, bool is_next, Effects& effects);
  [[nodiscard]] std::vector<RequestId> running_on(NodeId router) const;
  void end_what_is_late(Instant now, Effects& effects);
  void fail(RequestId request, Error error, Effects& effects);
  void fail_queued(const Error& error, Effects& effects);
  /// Takes the request out of every list.
  void forget(Entries::iterator entry);

  SchedulerOptions options_;
  Entries requests_;
  FairQueue queue_;
  RouterPool routers_;
  ServiceEstimate estimate_;
  std::map<RequestId, const Entry*> running_;  ///< those that have a router, of requests_
  /// Those that run and have neither begun nor moved, by router.
  std::set<std::pair<NodeId, RequestId>> may_move_;
  Counts running_of_;                   ///< running requests by tenant; no zeros
  std::map<std::string, Turns> turns_;  ///< of tenants with requests that have started
  std::set<std::pair<Instant, RequestId>> deadlines_;  ///< of every entry
  std::optional<Instant> queue_deadline_;              ///< the end of the wait for a router
  Instant last_heard_;                                 ///< of the last router that went down
  std::string last_loss_;                              ///< why nothing serves
  bool stopping_ = false;
  /// At last_look_ nobody could start, give way or move, and since then only tokens came. They may
  /// change whose turn it is, but looking costs hashes of prompts: so it is the first one 10 ms or
  /// more after the look that has it looked at again.
  bool settled_ = false;
  Instant last_look_;
  SchedulerCounts counts_;  ///< but for queued and running, which counts() fills in
};

}  // namespace troupe::scheduler
