#pragma once

// A model's weights where a backend computes (kernels/placed_weights.hpp).

#include <memory>

#include "base/result.hpp"
#include "kernels/memory.hpp"
#include "kernels/ops.hpp"
#include "model/config.hpp"
#include "model/weights.hpp"

namespace troupe::actors {

using PlacedRouter = model::RouterWeightsOf<const float*>;

/// Whether a backend computes models of this shape.
/// @errors kUnsupported, naming the key of config.json and what is supported
Result<void> check_limits(const model::ModelConfig& config, const kernels::Ops& ops);

/// In the host's memory: the same ones, kept alive. @param memory outlives the result
/// @errors those of kernels::PlacedWeights
Result<std::shared_ptr<const PlacedRouter>> place(
    const std::shared_ptr<const model::RouterWeights>& weights, kernels::Memory& memory);
Result<model::ExpertWeights> place(const model::ExpertWeights& weights, kernels::Memory& memory);

}  // namespace troupe::actors
