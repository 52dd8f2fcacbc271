#include "actors/step_work.hpp"

#include <algorithm>
#include <vector>

namespace troupe::actors {
namespace {

/// A product with all of a matrix.
void add_product(const WeightView& w, uint64_t rows, StepWork& work) {
  if (rows == 0 || w.empty()) return;
  work.weight_bytes += held_bytes(w);
  (is_integer(w.dtype) ? work.integer_multiply_adds : work.float_multiply_adds) +=
      rows * w.out * w.in;
}

void add_ffn(const WeightView& gate, const WeightView& up, const WeightView& down, uint64_t rows,
             StepWork& work) {
  add_product(gate, rows, work);
  add_product(up, rows, work);
  add_product(down, rows, work);
}

void add_vectors(std::initializer_list<const std::vector<float>*> vectors, StepWork& work) {
  for (const auto* vector : vectors) work.weight_bytes += vector->size() * sizeof(float);
}

/// What the sequences of a step come to.
struct Counts {
  uint64_t rows = 0;
  uint64_t logits = 0;
  uint64_t positions = 0;      ///< visible to the last row of each sequence
  uint64_t row_positions = 0;  ///< visible to each row, summed
};

Counts counts_of(std::span<const StepSequence> sequences) {
  Counts counts;
  for (const StepSequence& sequence : sequences) {
    const uint64_t rows = sequence.tokens.size();
    counts.rows += rows;
    counts.logits += sequence.num_logits;
    counts.positions += sequence.first_position + rows;
    counts.row_positions += rows * sequence.first_position + rows * (rows + 1) / 2;
  }
  return counts;
}

void add_attention(const model::ModelConfig& config, const model::AttentionWeights& weights,
                   AttentionForm form, const Counts& counts, StepWork& work) {
  const uint64_t heads = config.num_heads, rank = config.kv_lora_rank;
  const uint64_t nope = config.qk_nope_head_dim, rope = config.qk_rope_head_dim;
  const uint64_t v = config.v_head_dim;
  for (const WeightView* w : {&weights.q, &weights.q_a, &weights.q_b, &weights.kv_a, &weights.o}) {
    add_product(*w, counts.rows, work);
  }
  add_vectors({&weights.input_norm, &weights.q_a_bias, &weights.q_a_norm, &weights.kv_a_bias,
               &weights.kv_a_norm, &weights.o_bias, &weights.post_norm},
              work);
  if (form == AttentionForm::kAbsorbed) {
    add_product(weights.uk_t, counts.rows, work);
    add_product(weights.uv, counts.rows, work);
    work.float_multiply_adds += counts.row_positions * heads * (2 * rank + rope);
  } else {
    work.weight_bytes += heads * (nope + v) * rank * sizeof(float);
    work.float_multiply_adds += counts.positions * heads * (nope + v) * rank;
    work.float_multiply_adds += counts.row_positions * heads * (nope + rope + v);
  }
}

}  // namespace

StepWork& StepWork::operator+=(const StepWork& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  float_multiply_adds += other.float_multiply_adds;
  integer_multiply_adds += other.integer_multiply_adds;
  num_experts += other.num_experts;
  return *this;
}

uint64_t held_bytes(const WeightView& w) {
  uint64_t bytes = w.size_bytes();
  if (w.scales != nullptr) bytes += w.num_block_scales() * sizeof(float);
  if (is_integer(w.dtype)) {
    const bool has_zeros = w.group_scales.zeros != nullptr;
    bytes += w.out * w.num_groups() * (size_of(w.group_scales.dtype) + (has_zeros ? 1 : 0));
    if (w.columns != nullptr) bytes += w.in * sizeof(*w.columns);
  }
  return bytes;
}

StepWork work_outside_experts(const model::ModelConfig& config, const model::RouterWeights& weights,
                              AttentionForm form, DType kv_dtype,
                              std::span<const StepSequence> sequences) {
  const Counts counts = counts_of(sequences);
  StepWork work;
  // Rows of the embedding are looked up, one for each token.
  work.weight_bytes += held_bytes(weights.embedding) / weights.embedding.out * counts.rows;
  for (const model::LayerWeights& layer : weights.layers) {
    add_attention(config, layer.attention, form, counts, work);
    work.kv_bytes += counts.positions * config.kv_dim() * size_of(kv_dtype);
    add_ffn(layer.dense.gate, layer.dense.up, layer.dense.down, counts.rows, work);
    add_ffn(layer.shared.gate, layer.shared.up, layer.shared.down, counts.rows, work);
    add_vectors({&layer.gate, &layer.gate_bias}, work);
    work.float_multiply_adds += counts.rows * layer.gate.size();
  }
  if (counts.logits > 0) add_vectors({&weights.final_norm}, work);
  add_product(weights.head, counts.logits, work);
  return work;
}

double attention_span(const model::ModelConfig& config, AttentionForm form) {
  const double hidden = config.hidden_size, heads = config.num_heads;
  const double rank = config.kv_lora_rank, rope = config.qk_rope_head_dim;
  const double nope = config.qk_nope_head_dim, v = config.v_head_dim;
  const double q = heads * (nope + rope), ql = config.q_lora_rank;
  const double expand = heads * (nope + v) * rank;  // uk and uv, or kv_b of a position
  const bool absorbed = form == AttentionForm::kAbsorbed;
  const double attention = (ql > 0 ? hidden * ql + ql * q : hidden * q) + hidden * (rank + rope) +
                           (absorbed ? expand : 0) + heads * v * hidden;
  const double position = absorbed ? heads * (2 * rank + rope) : expand + heads * (nope + rope + v);
  const double experts = config.num_experts_per_tok + config.num_shared_experts;
  double row = 0;
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    row += attention + (config.is_moe_layer(layer)
                            ? 3 * hidden * config.moe_intermediate_size * experts +
                                  hidden * config.num_routed_experts
                            : 3 * hidden * config.intermediate_size);
  }
  return row / (config.num_layers * position);
}

StepWork work_of(std::span<const kernels::FfnParams> experts) {
  StepWork work;
  for (const kernels::FfnParams& expert : experts) {
    add_ffn(expert.gate, expert.up, expert.down, expert.y.rows, work);
    ++work.num_experts;
  }
  return work;
}

}  // namespace troupe::actors
