#pragma once

// What a step has to read and to compute at least, counted from shapes. Benchmarks divide it by
// what the machine can read and compute to say how far a step is from the best possible.

#include <cstdint>
#include <span>

#include "actors/forward.hpp"
#include "kernels/ops.hpp"
#include "model/config.hpp"
#include "model/weights.hpp"

namespace troupe::actors {

struct StepWork {
  uint64_t weight_bytes = 0;  ///< as they are held, scales included; what is needed, once
  uint64_t kv_bytes = 0;      ///< every visible position of every sequence, once in each layer
  uint64_t float_multiply_adds = 0;
  uint64_t integer_multiply_adds = 0;  ///< of products with integer weights
  uint64_t num_experts = 0;            ///< routed experts with rows, summed over the layers

  StepWork& operator+=(const StepWork& other);
};

/// Bytes of a matrix as it is held: elements, scales and zeros.
uint64_t held_bytes(const WeightView& w);

/// Everything but the routed experts. Multiply-adds are those of products and attention; norms,
/// rotations, softmax and sums of rows are left out.
StepWork work_outside_experts(const model::ModelConfig& config, const model::RouterWeights& weights,
                              AttentionForm form, DType kv_dtype,
                              std::span<const StepSequence> sequences);

/// A row that attends to so many positions takes twice the multiply-adds of one that attends to
/// none: counted from the model's shapes, with the experts, without the head.
double attention_span(const model::ModelConfig& config, AttentionForm form);

/// Some FFNs: the routed experts of one layer with the rows that chose them.
StepWork work_of(std::span<const kernels::FfnParams> experts);

}  // namespace troupe::actors
