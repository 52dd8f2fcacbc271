#pragma once

// A router's batcher: forms each step from running requests, chunked prefill and decode mixed under
// a token budget and a time budget, whose costs it learns from the steps themselves. Blocks are
// taken as a request grows; when they run out, the request that comes last in order gives its own
// up and waits again (preemption): what it computed stays in the prefix cache as long as there is
// room. Pure: the shell brings facts about KV blocks and finished steps as events.
//
// Order is one number per request, smallest first. The cluster's scheduler makes it from the time
// of submission and the priority class, so that nobody is passed for ever. What order promises:
// - Whoever waits is asked blocks for before all that come after it, those aside that are pending,
//   and only the last one that runs is preempted. That holds for one whose blocks need many copies
//   to or from the host first, a part in each step (kvcache/holder.hpp): until its answer comes
//   nobody else is taken in, because it holds nothing yet, so whoever came in meanwhile would take
//   the room that its copies make, again and again. Those who run go on, and KV that comes from
//   another router keeps nobody: its request arrives here when that is over.
// - The first prompt that has blocks, and lacks no mask, waits for at most kMaxRepaying steps in a
//   row. In the next one it gets at least half of what prefill may cost, in whole rows and one at
//   least, or all that it lacks.
// - Whoever could decode is in each step, unless a prompt before it in order ends in that step.

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"
#include "scheduler/step_cost.hpp"

namespace troupe::scheduler {

struct BatcherOptions {
  /// Rows of one step. A scored row (Arrived::num_scored) counts for as many as were measured to
  /// take its time; before that was measured, min_prefill_tokens of them fill a step. Where nobody
  /// decodes, of rows deep in a prompt only as many as cost what a full step at its start does.
  uint32_t max_step_tokens = 512;
  uint32_t max_running = 16;  ///< requests with KV blocks; <= max_step_tokens
  /// What prefill may make of the steps of those who decode: their tokens come on average at most
  /// so much later because somebody's prompt is long. The crowd are the requests whose prefill one
  /// step can end. The target holds in any case: nobody notices that tokens came faster, but
  /// everybody how long the first one took. Half a dozen short steps that each take few rows of
  /// prefill also cost more than a longer one.
  StepGoal step{.percent = 200, .target = milliseconds(5)};
  /// A step of more than min_prefill_tokens takes no longer than this, as far as its cost is known,
  /// even where nobody decodes: whoever arrives, or leaves, waits for the step that is out.
  Duration max_step_time = seconds(6);
  /// As long as it takes at most half as much again as agreed, a step takes no fewer rows of
  /// prefill: the first ones cost most. Steps that only decode make up for it.
  uint32_t min_prefill_tokens = 16;
  /// Positions that cost a row of prefill as much as all else; 0: they cost nothing.
  uint32_t attention_span = 0;
};

/// Names a question to the KV holder, so that a late answer is told from the awaited one.
using AskId = uint64_t;

// --- events -----------------------------------------------------------------------------------
/// A request to run: `num_known` tokens (prompt and already emitted) wait for prefill;
/// `max_context` is the most tokens it may ever hold. A request that is already here is ignored.
/// REQUIRES: 1 <= num_known < max_context, and max_context tokens fit the whole KV pool: nothing
/// else can end the wait of a request that never fits.
struct Arrived {
  RequestId request;
  uint32_t num_known = 0;
  uint32_t max_context = 0;
  int64_t order = 0;  ///< equal ones by arrival
  /// So many of its first rows are scored: the head computes logits for them, too, the first time
  /// that they are in a step.
  uint32_t num_scored = 0;
};
/// The KV holder's answers to ReserveBlocks and ExtendBlocks.
struct BlocksReserved {
  AskId ask = 0;
  RequestId request;
  uint32_t num_tokens = 0;  ///< it has room for so many now, at least as many as asked for
  uint32_t num_cached = 0;  ///< ReserveBlocks: so many are computed already; < num_known
};
struct BlocksRefused {  ///< asked again when blocks are freed
  AskId ask = 0;
  RequestId request;
};
/// Another request is just computing what this one needs next: BlocksWake follows, then it is asked
/// for again.
struct BlocksPending {
  AskId ask = 0;
  RequestId request;
};
struct BlocksWake {
  RequestId request;
};
/// The step ran: every entry with wants_token got one token appended, but for those named in
/// `unsampled`. What their choice takes was not there in time (the mask of a grammar): their last
/// row is computed again, in a step after MaskReady.
struct StepDone {
  StepId step;
  Duration took;
  std::set<RequestId> unsampled = {};
  Duration scoring = {};  ///< of `took`: for scored rows, beside what other rows of prefill take
};
/// Ignored if it is not that what the request waits for.
struct MaskReady {
  RequestId request;
};
/// Finished, cancelled or failed: frees its place; it appears in no later step. Sent before the
/// StepDone of the step that finished it. Its blocks may be read by the step that is out: the shell
/// releases them before StepDone then, and before Left if no step is out.
struct Left {
  RequestId request;
};
using BatcherEvent = std::variant<Arrived, BlocksReserved, BlocksRefused, BlocksPending, BlocksWake,
                                  StepDone, MaskReady, Left>;

// --- effects ----------------------------------------------------------------------------------
/// A table for a waiting request with room for all that it knows.
struct ReserveBlocks {
  AskId ask = 0;
  RequestId request;
  uint32_t num_tokens = 0;
};
/// More room for a running one.
struct ExtendBlocks {
  AskId ask = 0;
  RequestId request;
  uint32_t num_tokens = 0;
};
/// It waits again: the shell releases its blocks, which no step reads. Before the asks that want
/// them.
struct Preempt {
  RequestId request;
};
/// One request's part in a step: positions first .. first + count - 1 go through the model.
struct StepEntry {
  RequestId request;
  uint32_t first_position = 0;
  uint32_t count = 0;
  bool wants_token = false;  ///< the last of its rows is the last known token: sample after it
  friend bool operator==(const StepEntry&, const StepEntry&) = default;
  /// Positions before each of its rows, summed.
  [[nodiscard]] uint64_t depth() const {
    return uint64_t{count} * first_position + uint64_t{count} * (count - 1) / 2;
  }
};
struct RunStep {
  StepId step;
  std::vector<StepEntry> entries;
};
using BatcherEffect = std::variant<Preempt, ReserveBlocks, ExtendBlocks, RunStep>;

class Batcher {
 public:
  /// At most so many steps in a row only decode while prompts wait, because those before took
  /// longer than agreed or so that the cost of decoding stays known. Then prefill gets on at any
  /// cost.
  static constexpr uint32_t kMaxRepaying = 15;

  explicit Batcher(BatcherOptions options);

  /// At most one step is out at a time; RunStep comes whenever none is and a request can run.
  /// Cost: O(running) with a step that starts or ends, else O(log waiting + log running); measured
  /// in bench/results/scheduler.md.
  [[nodiscard]] std::vector<BatcherEffect> handle(const BatcherEvent& event);

  [[nodiscard]] size_t num_waiting() const { return waiting_.size(); }
  [[nodiscard]] size_t num_running() const { return running_.size(); }
  [[nodiscard]] uint64_t num_preempted() const { return num_preempted_; }
  [[nodiscard]] std::optional<Duration> row_price() const { return cost_.row_price(); }
  /// Invariants: "" or the reason.
  [[nodiscard]] std::string check() const;

 private:
  /// Place of a request: smaller runs earlier and is preempted later.
  struct Place {
    int64_t order = 0;
    uint64_t arrival = 0;
    friend auto operator<=>(const Place&, const Place&) = default;
  };
  struct Waiting {
    RequestId request;
    uint32_t num_known = 0;
    uint32_t max_context = 0;
    uint32_t scored_from = 0;  ///< rows scored_from .. scored_end - 1 are still to be scored
    uint32_t scored_end = 0;
    bool pending = false;  ///< sleeps until BlocksWake
  };
  /// Invariant: num_computed < num_known <= max_context, num_computed <= num_room.
  struct Running {
    RequestId request;
    uint32_t num_known = 0;
    uint32_t max_context = 0;
    uint32_t scored_from = 0, scored_end = 0;  ///< as those of Waiting
    uint32_t num_computed = 0;                 ///< positions that went through the model
    uint32_t num_room = 0;                     ///< positions that have blocks
    bool decoding = false;                     ///< its prefill is over
    bool unsampled = false;                    ///< in no step before MaskReady
    AskId ask = 0;                             ///< the question that is out; 0: none
    bool refused = false;                      ///< not asked again before blocks are freed
    bool retry = false;  ///< blocks were freed since it asked: a refusal is out of date
  };
  using Effects = std::vector<BatcherEffect>;
  using RunningAt = std::map<Place, Running>::iterator;
  /// The step that is out, without the entries of those who left.
  struct OutStep {
    StepId step;
    StepShape shape;  ///< as it was sent
    std::vector<StepEntry> entries;
    std::vector<RunningAt> requests;  ///< of the entries
  };

  void on(const Arrived& event);
  void on(const BlocksReserved& event);
  void on(const BlocksRefused& event);
  void on(const BlocksPending& event);
  void on(const BlocksWake& event);
  void on(const StepDone& event);
  void on(const MaskReady& event);
  void on(const Left& event);

  /// Somebody's blocks are free: whoever was refused may ask again.
  void blocks_freed();
  void preempt_for_the_starved(Effects& effects);
  void ask_for_room(Effects& effects);
  void ask_for_next(Effects& effects);
  void run_step(Effects& effects);
  /// Prefill rows that the next step may take while nobody decodes.
  [[nodiscard]] uint32_t rows_alone(const std::vector<RunningAt>& prefilling) const;
  /// Prefill rows that the next step may take while others decode.
  [[nodiscard]] uint32_t rows_beside(uint32_t num_decoding, double crowd) const;
  /// Rows for each of those who prefill, and what they come to.
  struct Shares {
    std::vector<uint32_t> rows;
    uint32_t cost = 0;
  };
  /// Of what so many rows cost half goes to those with the least left, the rest in order: the first
  /// prompt takes at most twice as long, and short ones that come after it need not wait for its
  /// end. A row of the first prompt that costs more than its half takes of the others', and one
  /// that costs more than all is the only one: nobody waits for ever.
  [[nodiscard]] Shares prefill_shares(const std::vector<RunningAt>& prefilling, uint32_t rows,
                                      bool counts_depth) const;
  /// What these positions of a request cost, in rows. Their depth counts where others decode: with
  /// nobody to keep waiting, large steps cost least.
  [[nodiscard]] uint64_t cost_of(const Running& running, uint32_t first, uint32_t end,
                                 bool counts_depth) const;
  /// Of all that it lacks, beside others.
  [[nodiscard]] uint64_t cost_left(const Running& running) const {
    return cost_of(running, running.num_computed, running.num_known, true);
  }
  /// It knows more tokens, or has got room: it may have to ask for more.
  void review_room(RunningAt at);
  /// Leaves running_: with it every other trace of its running.
  void stop_running(RunningAt at);
  RunningAt find_running(RequestId request);
  static uint32_t room_wanted(const Running& running);

  BatcherOptions options_;
  std::unordered_map<RequestId, Place> places_;  ///< of all that are here; never iterated
  std::map<Place, Waiting> waiting_;
  std::set<Place> askable_;  ///< of waiting_: those that are not pending
  std::map<Place, Running> running_;
  std::set<Place> wanting_;  ///< of running_: those to ask more room for
  std::set<Place> short_;    ///< of running_: those asked for, or refused
  size_t num_refused_ = 0;   ///< of short_
  struct Ask {
    AskId id = 0;
    Place place;
    bool retry = false;  ///< blocks were freed meanwhile: a refusal is out of date
  };
  std::optional<Ask> ask_;          ///< the ReserveBlocks that is out; one at a time
  bool admission_closed_ = false;   ///< nobody is taken in before blocks are freed
  bool frees_at_step_end_ = false;  ///< somebody left during the step that is out
  std::optional<OutStep> step_;
  uint32_t num_mixed_;         ///< steps in which prefill and decoding met since one only decoded
  uint32_t num_repaying_ = 0;  ///< steps in a row for which prompts waited
  StepId last_step_;
  AskId last_ask_ = 0;
  uint64_t last_arrival_ = 0;
  uint64_t num_preempted_ = 0;
  StepCost cost_;
  uint32_t scored_row_;  ///< what a scored row costs, in rows; 1 .. max_step_tokens
};

}  // namespace troupe::scheduler
