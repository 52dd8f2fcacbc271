#pragma once

// The step that a router has out: its micro-batches go segment by segment over the executor, and
// between the segments their rows to the expert shards and back.
//
// Rows are cut where it suits, in the middle of a prompt if need be. What keeps that right is one
// rule: a micro-batch begins a segment only after the one before it has begun the same segment.
// Segments run one after the other on the executor, so the later rows of a prompt find the KV of
// the earlier ones in every layer.

#include <caf/all.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "actors/router_engine.hpp"
#include "actors/services.hpp"
#include "actors/shard_links.hpp"
#include "base/ids.hpp"
#include "experts/combine.hpp"

namespace troupe::actors {

class StepRun {
 public:
  /// @param self the router's actor: it gets JobDone and Wake messages; both handlers run in it
  /// @param on_done the step ended; no job of it is left
  /// @param on_idle the jobs of a step that was dropped have ended
  StepRun(caf::event_based_actor* self, const WorkerServices* services,
          std::shared_ptr<RouterEngine> engine, ShardLinks& links, experts::CombineOptions options,
          std::function<void(StepOutput)> on_done, std::function<void()> on_idle);

  /// @param epoch_step names the dispatches, with the micro-batch: unique within the epoch
  /// REQUIRES: !out() and !busy(); 1 <= num_batches <= RouterEngine::kLanes and <= rows
  void begin(StepId epoch_step, std::vector<StepPart> parts, uint32_t num_batches);
  /// A frame of this epoch from a shard; what belongs to no exchange at hand is stale or a
  /// duplicate, and harmless.
  void answer(const transport::Frame& frame);
  /// On Wake: repeats what is overdue.
  void wake();
  /// Its epoch ended: what its jobs still compute is for nobody.
  void drop();

  [[nodiscard]] bool out() const { return !batches_.empty(); }
  /// A job is on the executor, of this step or of one that was dropped.
  [[nodiscard]] bool busy() const { return num_jobs_ > 0; }

 private:
  struct MicroBatch {
    StepId wire_step;        ///< names its dispatches
    uint32_t num_begun = 0;  ///< segments
    bool exchanging = false;
    bool meanwhile_done = false;  ///< what the engine computes while the rows are away
    bool done = false;
    experts::DispatchPlan plan;
    std::vector<transport::Frame> frames;  ///< one per shard of the plan, kept until all answered
    experts::Combine combine;
    std::vector<GatheredFrame> answers;
    StepOutput output;
  };

  [[nodiscard]] uint32_t lane_of(const MicroBatch& batch) const {
    return static_cast<uint32_t>(&batch - batches_.data());
  }
  template <class Job>
  void run(MicroBatch& batch, Job job);
  template <class Job, class Then>
  void submit(uint32_t lane, Job job, Then then);
  void segment_done(MicroBatch& batch, Segment& segment);
  void send_due(MicroBatch& batch);
  void resume_when_complete(MicroBatch& batch);
  void watch();

  caf::event_based_actor* self_;
  const WorkerServices* services_;
  std::shared_ptr<RouterEngine> engine_;
  ShardLinks& links_;
  experts::CombineOptions options_;
  std::function<void(StepOutput)> on_done_;
  std::function<void()> on_idle_;
  std::vector<MicroBatch> batches_;  ///< by lane; empty: no step is out
  uint64_t life_ = 0;                ///< tells the jobs of this step from those of dropped ones
  uint32_t num_jobs_ = 0;
  bool watching_ = false;
};

/// Cuts the parts of a step into `count` lists of nearly as many rows, in their order; none is
/// empty. Of a part that is cut, the piece with the last row wants the token.
/// REQUIRES: 1 <= count <= rows of all parts
std::vector<std::vector<StepPart>> cut_rows(std::vector<StepPart> parts, uint32_t count);

}  // namespace troupe::actors
