#pragma once

// What a router computes on its executor: a step cut into segments at the exchanges with the expert
// shards, in lanes that hold one micro-batch each. Weights, activations and KV lie in the backend's
// memory, of several devices in that of each (actors/ranks.hpp); what goes to others and comes from
// them is on the host. Used by one job at a time; knows no actors.

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "actors/device_room.hpp"
#include "actors/forward.hpp"
#include "actors/next_mask.hpp"
#include "actors/ranks.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "experts/dispatch_plan.hpp"
#include "experts/placement.hpp"
#include "kernels/array.hpp"
#include "kernels/backend.hpp"
#include "kernels/thread_pool.hpp"
#include "model/sampling.hpp"
#include "transport/frame.hpp"

namespace troupe::actors {

/// One request's rows of a step, copied so that the actor may forget the request meanwhile.
struct StepPart {
  std::vector<TokenId> tokens;
  uint32_t first_position = 0;
  std::vector<BlockId> block_table;
  bool wants_token = false;
  model::SamplingParams sampling;
  std::shared_ptr<const NextMask> mask;  ///< of a request with a grammar
  /// With wants_token. Shared with the actor, which appends to it only after the step.
  std::shared_ptr<const model::TokenHistory> history;
  /// Prompt tokens whose log-probabilities are wanted: those behind the rows first_scored, ...
  uint32_t first_scored = 0;
  std::vector<TokenId> scored;
};

/// What the rows of a step, or of a part of it, were computed for.
struct StepOutput {
  /// Of parts with wants_token, in order; an Error ends the request, nullopt: its mask is not there
  /// yet.
  std::vector<std::optional<Result<model::SampledToken>>> sampled;
  std::vector<model::SampledToken> scored;  ///< of all parts, in order
  Duration scoring;                         ///< what computing `scored` took
};

/// Where a segment stopped, and what must happen before the next.
struct Segment {
  Forward::Status status = Forward::Status::kDone;
  experts::DispatchPlan plan;            ///< kExchange
  std::vector<transport::Frame> frames;  ///< kExchange: one per shard of the plan
  bool has_work_meanwhile = false;       ///< kExchange: for compute_meanwhile()
  StepOutput output;                     ///< kDone; nothing is scored yet
};

/// A shard's answer and where its rows belong.
struct GatheredFrame {
  uint32_t first_result = 0;
  transport::Frame frame;
};

class RouterEngine {
 public:
  /// @param backend and the rest outlive the engine; it keeps the weights only if they stay on the
  ///        host
  /// @param largest whose activations a device takes now; larger ones take theirs when they come
  /// @errors those of Ranks::load(); kResourceExhausted without room for those activations
  static Result<std::shared_ptr<RouterEngine>> make(
      const model::ModelConfig& config, const std::shared_ptr<const model::RouterWeights>& weights,
      const kernels::Backend& backend, kernels::ThreadPool& pool, KvShape kv, AttentionForm form,
      const LargestStep& largest = {});

  static constexpr uint32_t kLanes = 2;
  /// Rows whose logits score() computes together: bounds the memory for them.
  static constexpr uint32_t kScoredAtOnce = 32;

  /// Fields of the frames that all steps of an epoch share.
  void set_epoch(std::shared_ptr<const experts::Placement> placement,
                 transport::FrameHeader prototype);

  /// @param step names the frames; @param lane < kLanes, with nothing out in it
  Segment begin(uint32_t lane, StepId step, std::vector<StepPart> parts);
  /// What can be done while the shards compute: the shared expert.
  void compute_meanwhile(uint32_t lane);
  /// Answers are read where they are, unless a device computes.
  Segment resume(uint32_t lane, const experts::DispatchPlan& plan,
                 const std::vector<GatheredFrame>& answers);
  /// Of the lane's parts, after its segment came out kDone and before it begins again: their scored
  /// tokens, in order. Cost: the head's logits and model::score for each.
  std::vector<model::SampledToken> score(uint32_t lane);

  /// Copies whole KV blocks, between two segments of a step or with none out.
  void copy_blocks(const std::vector<kvcache::Copy>& copies) { ranks_->copy_blocks(copies); }

  /// Whole blocks, in and out. A table that they are in is read by no step before.
  [[nodiscard]] size_t block_bytes() const { return ranks_->block_bytes(); }
  void read_block(BlockId block, std::byte* into) const { ranks_->read_block(block, into); }
  void write_block(BlockId block, const std::byte* from) { ranks_->write_block(block, from); }

  [[nodiscard]] size_t kv_bytes() const { return ranks_->kv_bytes(); }

  /// Of its model (actors/step_work.hpp).
  [[nodiscard]] double attention_span() const { return attention_span_; }

 private:
  /// What the shards gave, where a rank computes.
  struct Results {
    kernels::Array staged;                  ///< on the host; unless the memory is the host's
    kernels::Array copies;                  ///< of those, on the device
    std::vector<const float*> rows;         ///< where each lies
    std::vector<const float*> expert_rows;  ///< the same by slot
  };
  struct Lane {
    ParallelForward forward;
    std::vector<Results> results;  ///< by rank
    StepId step = {};
    std::vector<StepPart> parts = {};
  };
  RouterEngine(const model::ModelConfig& config, std::unique_ptr<Ranks> ranks,
               const kernels::Backend& backend, kernels::ThreadPool& pool, AttentionForm form);
  /// A row of logits that a token is wanted for, or of one.
  struct RowToChoose {
    const StepPart* part = nullptr;
    float* logits = nullptr;
    std::span<const uint64_t> mask = {};
    std::optional<TokenId> scored = {};  ///< nullopt: sampled
    std::optional<model::SampledToken> out = {};
  };
  /// To one rank: copies of answers, if it is a device.
  void provide(Lane& lane, size_t rank, const experts::DispatchPlan& plan,
               const std::vector<GatheredFrame>& answers);
  Result<void> make_room(const LargestStep& largest);
  Segment advance(Lane& lane);
  StepOutput sample(Lane& lane);
  /// Fills `out` of each.
  void choose(ParallelForward& forward, std::vector<RowToChoose>& rows);
  /// Of those for which the device is the place.
  void choose_on_device(std::vector<RowToChoose>& rows);

  const model::ModelConfig& config_;
  kernels::Memory& memory_;       ///< of the first rank
  kernels::RowSampler* sampler_;  ///< likewise, or null
  std::unique_ptr<Ranks> ranks_;
  kernels::ThreadPool& pool_;  ///< tokens of several rows are chosen at the same time
  double attention_span_;
  std::vector<Lane> lanes_;
  std::shared_ptr<const experts::Placement> placement_;
  transport::FrameHeader prototype_;
};

}  // namespace troupe::actors
