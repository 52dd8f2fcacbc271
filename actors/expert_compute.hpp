#pragma once

// The routed experts' arithmetic for one batch of rows, as an expert shard and the single process
// both run it: rows grouped by expert, one grouped FFN, results back in assignment order.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/tensor_view.hpp"
#include "experts/placement.hpp"
#include "kernels/array.hpp"
#include "kernels/memory.hpp"
#include "kernels/ops.hpp"
#include "model/weights.hpp"

namespace troupe::actors {

using ExpertTable = std::map<experts::ExpertKey, model::ExpertWeights>;

/// One row through one expert; both lie where the backend computes.
struct ExpertTask {
  const float* in = nullptr;  ///< [hidden]
  float* out = nullptr;       ///< [hidden]
  ExpertIdx expert = 0;
};

/// Buffers kept between calls so that a warm shard allocates nothing.
struct ExpertScratch {
  kernels::Memory& memory;  ///< of the backend that computes
  kernels::Array in, out;
  std::vector<const float*> from;
  std::vector<void*> to;
  std::vector<uint32_t> order;
  std::vector<kernels::FfnParams> ffns;
};

/// Computes every task. REQUIRES: each task's (layer, expert) is in the table, whose weights lie in
/// the backend's memory.
void compute_experts(kernels::Ops& ops, const ExpertTable& table, LayerIdx layer,
                     std::span<const ExpertTask> tasks, size_t hidden, ExpertScratch& scratch);

}  // namespace troupe::actors
