#pragma once

// A step's rows in one or two micro-batches, so that one computes while the rows of the other are
// at the experts.
//
// Rows are cut where it suits, in the middle of a prompt if need be. What keeps that right is one
// rule: a micro-batch begins a segment only after the one before it has begun the same segment.
// Segments run one after the other on the executor, so the later rows of a prompt find the KV of
// the earlier ones in every layer.

#include <cstdint>
#include <vector>

#include "actors/router_engine.hpp"
#include "base/ids.hpp"
#include "experts/combine.hpp"

namespace troupe::actors {

/// Micro-batches that a router may have out: as many as it has engines' lanes.
inline constexpr uint32_t kMaxMicroBatches = 2;

/// One that is out.
struct MicroBatch {
  StepId wire_step;        ///< names its dispatches; its own in the step's epoch
  uint32_t num_begun = 0;  ///< segments
  bool exchanging = false;
  bool shared_done = false;
  bool done = false;
  experts::DispatchPlan plan;
  std::vector<transport::Frame> frames;  ///< one per shard of the plan, kept until all answered
  experts::Combine combine;
  std::vector<GatheredFrame> answers;
  std::vector<Result<model::SampledToken>> sampled;
};

/// Cuts the parts of a step into `count` lists of nearly as many rows, in their order; none is
/// empty. Of a part that is cut, the piece with the last row wants the token.
/// REQUIRES: 1 <= count <= rows of all parts
std::vector<std::vector<StepPart>> cut_rows(std::vector<StepPart> parts, uint32_t count);

}  // namespace troupe::actors
