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

/// One device of several that compute a router together (actors/ranks.hpp).
struct RankOf {
  size_t rank = 0;
  size_t num_ranks = 1;
};

/// Whether a backend computes models of this shape.
/// @errors kUnsupported, naming the key of config.json and what is supported
Result<void> check_limits(const model::ModelConfig& config, const kernels::Ops& ops);

/// Whether so many devices can share the heads and outputs of a model.
/// @errors kUnsupported, naming the key of config.json and numbers that are possible
Result<void> check_devices(const model::ModelConfig& config, size_t num_devices);

/// In the host's memory: the same ones, kept alive. Of several devices each has the outputs of its
/// heads of q or q_b, uk_t, uv and kv_b and its outputs of o, in order of the ranks; only the first
/// has the head of the model; all else is everywhere.
/// @param memory outlives the result
/// @errors those of kernels::PlacedWeights; kUnsupported for weights that cannot be cut there
Result<std::shared_ptr<const PlacedRouter>> place(
    const std::shared_ptr<const model::RouterWeights>& weights, kernels::Memory& memory,
    const RankOf& of = {});
/// What that takes on the device. @param bytes of all weights
uint64_t placed_bytes(const model::Checkpoint::Bytes& bytes, const RankOf& of);
Result<model::ExpertWeights> place(const model::ExpertWeights& weights, kernels::Memory& memory);

}  // namespace troupe::actors
