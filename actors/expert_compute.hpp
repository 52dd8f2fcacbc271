#pragma once

// The routed experts' arithmetic for one batch of rows, as an expert shard and the single process
// both run it: one grouped FFN over the rows of each expert, results in the order of the tasks.

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

/// One row through one expert.
struct ExpertTask {
  uint32_t row = 0;  ///< of x
  ExpertIdx expert = 0;
};

/// Buffers kept between calls so that a warm shard allocates nothing.
struct ExpertScratch {
  kernels::Memory& memory;  ///< of the backend that computes
  kernels::Array sorted;    ///< results by expert
  std::vector<uint32_t> order, rows;
  std::vector<const float*> from;
  std::vector<void*> to;
  std::vector<kernels::FfnParams> ffns;
};

/// Row i of y is what tasks[i] gives. REQUIRES: each task's (layer, expert) is in the table, whose
/// weights lie, as x [any, hidden] and y [tasks, hidden], in the backend's memory.
/// Cost: of tasks by ascending expert this copies nothing; else each result, once. Backends may
/// copy rows that their kernels cannot find by number (FfnParams::x_rows).
void compute_experts(kernels::Ops& ops, const ExpertTable& table, LayerIdx layer, ConstRows x,
                     std::span<const ExpertTask> tasks, Rows y, ExpertScratch& scratch);

}  // namespace troupe::actors
