#pragma once

// What a router computes on its executor: one step cut into segments at the exchanges with the
// expert shards. Used by one job at a time; knows no actors.

#include <memory>
#include <utility>
#include <vector>

#include "actors/forward.hpp"
#include "experts/dispatch_plan.hpp"
#include "experts/placement.hpp"
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
  // Only with wants_token and if model::reads_token_log(sampling): prompt and emitted so far.
  std::vector<TokenId> known;
  uint32_t num_prompt = 0;
  std::vector<TokenId> stop_token_ids;
};

/// Where a segment stopped, and what must happen before the next.
struct Segment {
  Forward::Status status = Forward::Status::kDone;
  experts::DispatchPlan plan;                ///< kExchange
  std::vector<transport::Frame> frames;      ///< kExchange: one per shard of the plan
  std::vector<model::SampledToken> sampled;  ///< kDone: of parts with wants_token
};

/// A shard's answer and where its rows belong.
struct GatheredFrame {
  uint32_t first_result = 0;
  transport::Frame frame;
};

class RouterEngine {
 public:
  RouterEngine(const model::ModelConfig& config,
               std::shared_ptr<const model::RouterWeights> weights, kernels::Ops& ops, KvShape kv,
               AttentionForm form);

  /// Fields of the frames that all steps of an epoch share.
  void set_epoch(std::shared_ptr<const experts::Placement> placement,
                 transport::FrameHeader prototype);

  Segment begin(StepId step, std::vector<StepPart> parts);
  void compute_shared() { forward_.compute_shared(); }
  Segment resume(const experts::DispatchPlan& plan, const std::vector<GatheredFrame>& answers);

  /// Copies whole KV blocks, between two segments of a step or with none out.
  void copy_blocks(const std::vector<kvcache::Copy>& copies) { kv_.copy(copies); }

  [[nodiscard]] uint64_t rows_computed() const { return rows_computed_; }
  [[nodiscard]] size_t kv_bytes() const { return kv_.size_bytes(); }

 private:
  Segment advance();

  const model::ModelConfig& config_;
  std::shared_ptr<const model::RouterWeights> weights_;
  KvStore kv_;
  Forward forward_;
  std::shared_ptr<const experts::Placement> placement_;
  transport::FrameHeader prototype_;
  std::vector<StepPart> parts_;
  std::vector<float> expert_rows_;
  uint64_t rows_computed_ = 0;
};

}  // namespace troupe::actors
