#include "actors/forward.hpp"

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <utility>

#include "base/check.hpp"

namespace troupe::actors {
namespace {

/// Pointers to KV blocks that take the host longer to list than a device to begin.
constexpr size_t kManyBlocks = 4096;

/// Columns [first, first + cols) of every row.
template <class T>
RowsView<T> columns(RowsView<T> rows, size_t first, size_t cols) {
  CHECK_LE(first + cols, rows.stride);
  return RowsView<T>(rows.data + first, rows.rows, cols, rows.stride);
}

WeightView float_matrix(const float* data, size_t out, size_t in) {
  return WeightView{.data = data, .dtype = DType::kF32, .out = out, .in = in};
}

}  // namespace

kernels::GateMethod gate_method(model::TopkMethod method) {
  switch (method) {
    case model::TopkMethod::kGreedy: return kernels::GateMethod::kGreedy;
    case model::TopkMethod::kGroupLimitedGreedy: return kernels::GateMethod::kGroupLimitedGreedy;
    case model::TopkMethod::kNoauxTc: return kernels::GateMethod::kNoauxTc;
  }
  CHECK(false);
  return kernels::GateMethod::kGreedy;
}

Forward::Forward(const model::ModelConfig& config, const PlacedRouter& weights, kernels::Ops& ops,
                 KvStore& kv, AttentionForm form, ExchangeRows exchange_rows,
                 kernels::Collective* collective)
    : config_(config),
      weights_(weights),
      ops_(ops),
      kv_(kv),
      memory_(kv.memory()),
      form_(form),
      copies_rows_(exchange_rows == ExchangeRows::kOnHost && !memory_.is_host()),
      collective_(collective),
      num_ranks_(collective == nullptr ? 1 : collective->num_ranks()),
      num_heads_(config.num_heads / num_ranks_),
      inv_freq_(config.inv_freq()),
      rope_magnitude_(config.rope_magnitude()),
      softmax_scale_(config.softmax_scale()) {
  CHECK_EQ(kv.shape().kv_dim, size_t{config.kv_dim()});
  CHECK_EQ(kv.shape().num_layers, size_t{config.num_layers});
  CHECK_EQ(weights.layers[0].attention.uv.out, num_heads_ * config.v_head_dim);
}

Rows Forward::rows(kernels::Array& buffer, size_t cols) {
  return Rows(buffer.room<float>(memory_, size_t{num_rows_} * cols), num_rows_, cols);
}

Result<void> Forward::make_room(size_t num_rows, size_t num_logits, size_t num_others) {
  const size_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  const auto reserve = [&](kernels::Array& buffer, size_t cols) {
    return buffer.reserve<float>(memory_, num_rows * cols);
  };
  for (const auto& [buffer, cols] : std::initializer_list<std::pair<kernels::Array*, size_t>>{
           {&hidden_, hidden},
           {&normed_, hidden},
           {&q_a_, config_.q_lora_rank},
           {&q_, num_heads_ * config_.qk_head_dim()},
           {&kv_rows_, config_.kv_dim()},
           {&heads_, num_heads_ * config_.v_head_dim},
           {&update_, hidden}}) {
    TRY(reserve(*buffer, cols));
  }
  if (form_ == AttentionForm::kAbsorbed) {
    TRY(reserve(q_latent_, num_heads_ * config_.kv_lora_rank));
    TRY(reserve(q_rope_, num_heads_ * config_.qk_rope_head_dim));
    TRY(reserve(o_latent_, num_heads_ * config_.kv_lora_rank));
  }
  if (collective_ != nullptr) {
    TRY(reserve(all_heads_, config_.num_heads * config_.v_head_dim));
    TRY(reserve(part_of_update_, hidden / num_ranks_));
  }
  if (collective_ != nullptr && num_rows > 1) {
    TRY(reserve(gathered_, std::max<size_t>(config_.num_heads * config_.v_head_dim, hidden)));
  }
  if (config_.has_moe_layer()) {
    const size_t num_chosen = num_rows * config_.num_experts_per_tok;
    TRY(reserve(gate_logits_, config_.num_routed_experts));
    TRY(reserve(topk_weight_, config_.num_experts_per_tok));
    TRY(topk_idx_.reserve<ExpertIdx>(memory_, num_chosen));
    TRY(chosen_.reserve_on_host<ExpertIdx>(memory_, num_chosen));
    if (config_.num_shared_experts > 0) TRY(reserve(shared_, hidden));
    if (copies_rows_) TRY(normed_on_host_.reserve_on_host<float>(memory_, num_rows * hidden));
  }
  const size_t most_logits = std::max(num_logits, num_others);
  TRY(head_in_.reserve<float>(memory_, most_logits * hidden));
  TRY(logits_of_sequences_.reserve<float>(memory_, num_logits * vocab));
  TRY(logits_of_others_.reserve<float>(memory_, num_others * vocab));
  if (memory_.is_host()) return {};
  return logits_on_host_.reserve_on_host<float>(memory_, most_logits * vocab);
}

/// What all ranks have, each so many columns, beside each other.
Rows Forward::gather(const Rows& part, kernels::Array& buffer) {
  if (collective_ == nullptr) return part;
  const Rows whole = rows(buffer, num_ranks_ * part.cols);
  if (part.rows == 1) {
    collective_->all_gather(part.data, part.cols, whole.data);
    return whole;
  }
  const size_t count = part.rows * part.cols;
  auto* parts = gathered_.room<float>(memory_, num_ranks_ * count);
  collective_->all_gather(part.data, count, parts);
  for (size_t k = 0; k < num_ranks_; ++k) {
    memory_.copy_rows(columns(whole, k * part.cols, part.cols),
                      ConstRows(parts + k * count, part.rows, part.cols));
  }
  return whole;
}

void Forward::finish() { finish_or_end(memory_); }

void Forward::begin(std::span<const StepSequence> sequences) {
  tokens_.clear();
  positions_.clear();
  runs_.clear();
  logit_rows_.clear();
  for (const StepSequence& sequence : sequences) {
    const size_t count = sequence.tokens.size();
    CHECK_GT(count, size_t{0});
    CHECK_LE(size_t{sequence.num_logits}, count);
    CHECK_LE(sequence.first_position + count,
             sequence.block_table.size() * kv_.shape().block_tokens);
    runs_.push_back({.first = static_cast<uint32_t>(tokens_.size()),
                     .count = static_cast<uint32_t>(count),
                     .block_table = sequence.block_table});
    for (size_t i = 0; i < count; ++i) {
      if (i + sequence.num_logits >= count) {
        logit_rows_.push_back(static_cast<uint32_t>(tokens_.size()));
      }
      tokens_.push_back(sequence.tokens[i]);
      positions_.push_back(sequence.first_position + static_cast<uint32_t>(i));
    }
  }
  num_rows_ = static_cast<uint32_t>(tokens_.size());
  CHECK_GT(num_rows_, 0U);
  layer_ = 0;
  awaiting_ = false;
  // None of several devices may allocate behind what it waits for from the others
  // (kernels/collective.hpp).
  if (collective_ != nullptr) {
    const Result<void> room = make_room(num_rows_, logit_rows_.size(), 0);
    if (!room.ok()) kernels::end_process(room.error());
  }
  ops_.embed(
      {.table = weights_.embedding, .tokens = tokens_, .out = rows(hidden_, config_.hidden_size)});
}

/// @param number three of each layer: what follows the wait before it, what follows a long list of
///        KV blocks, and its shared expert
void Forward::begin_section(uint32_t number) {
  if (num_rows_ <= kFewRows) memory_.begin_section(this, number);
}

Forward::Status Forward::advance() {
  const size_t hidden = config_.hidden_size;
  if (awaiting_ && !shared_done_) compute_shared();
  begin_section(3 * (awaiting_ ? layer_ + 1 : layer_));
  if (awaiting_) {
    combine();
    awaiting_ = false;
    ++layer_;
  }
  for (; layer_ < config_.num_layers; ++layer_) {
    const LayerWeights& weights = weights_.layers[layer_];
    attention(weights.attention);
    ops_.rms_norm({.x = rows(hidden_, hidden),
                   .weight = weights.attention.post_norm,
                   .eps = config_.rms_norm_eps,
                   .out = rows(normed_, hidden)});
    if (config_.is_moe_layer(layer_)) {
      gate(weights);
      awaiting_ = true;
      shared_done_ = false;
      finish();
      return Status::kExchange;
    }
    const kernels::FfnParams ffn{.x = rows(normed_, hidden),
                                 .gate = weights.dense.gate,
                                 .up = weights.dense.up,
                                 .down = weights.dense.down,
                                 .y = rows(update_, hidden)};
    ops_.grouped_ffn({&ffn, 1});
    ops_.add({.x = rows(hidden_, hidden), .y = rows(update_, hidden)});
  }
  logits_ = head(logit_rows_, logits_of_sequences_);
  finish();
  return Status::kDone;
}

void Forward::attention(const AttentionWeights& weights) {
  const size_t hidden = config_.hidden_size;
  const size_t heads = num_heads_, qk_dim = config_.qk_head_dim();
  const size_t rank = config_.kv_lora_rank, rope = config_.qk_rope_head_dim;
  ops_.rms_norm({.x = rows(hidden_, hidden),
                 .weight = weights.input_norm,
                 .eps = config_.rms_norm_eps,
                 .out = rows(normed_, hidden)});
  const Rows normed = rows(normed_, hidden);
  const Rows kv = rows(kv_rows_, rank + rope);
  const Rows q = rows(q_, heads * qk_dim);
  products_.assign({{.x = normed, .w = weights.kv_a, .bias = weights.kv_a_bias, .y = kv}});
  if (config_.q_lora_rank == 0) {
    products_.push_back({.x = normed, .w = weights.q, .y = q});
    ops_.gemm_many(products_);
  } else {
    const Rows q_a = rows(q_a_, config_.q_lora_rank);
    products_.push_back({.x = normed, .w = weights.q_a, .bias = weights.q_a_bias, .y = q_a});
    ops_.gemm_many(products_);
    ops_.rms_norm({.x = q_a, .weight = weights.q_a_norm, .eps = model::kLoraNormEps, .out = q_a});
    ops_.gemm({.x = q_a, .w = weights.q_b, .y = q});
  }
  const Rows latent = columns(kv, 0, rank);
  ops_.rms_norm(
      {.x = latent, .weight = weights.kv_a_norm, .eps = model::kLoraNormEps, .out = latent});
  ops_.rope({.x = columns(kv, rank, rope),
             .num_heads = 1,
             .head_dim = rope,
             .dim = rope,
             .positions = positions_,
             .inv_freq = inv_freq_,
             .magnitude = rope_magnitude_});
  ops_.rope({.x = q,
             .num_heads = heads,
             .head_dim = qk_dim,
             .dim = rope,
             .positions = positions_,
             .inv_freq = inv_freq_,
             .magnitude = rope_magnitude_});
  write_kv(kv);
  if (form_ == AttentionForm::kAbsorbed) {
    attend_absorbed(weights);
  } else {
    attend_expanded(weights);
  }
  const Rows found = gather(rows(heads_, heads * config_.v_head_dim), all_heads_);
  const Rows update = rows(collective_ == nullptr ? update_ : part_of_update_, hidden / num_ranks_);
  ops_.gemm({.x = found, .w = weights.o, .bias = weights.o_bias, .y = update});
  ops_.add({.x = rows(hidden_, hidden), .y = gather(update, update_)});
}

void Forward::write_kv(const Rows& kv) {
  // All rows of the step are written before any is read: a row sees the earlier rows of its own
  // chunk through the cache, as it will see them in every later step.
  const size_t block_tokens = kv_.shape().block_tokens;
  const auto blocks_up_to = [&](uint32_t row) { return positions_[row] / block_tokens + 1; };
  size_t num_pointers = 0;
  for (const RowRun& run : runs_) num_pointers += blocks_up_to(run.first + run.count - 1);
  if (num_pointers > kManyBlocks) begin_section(3 * layer_ + 1);  // what is before begins
  block_pointers_.clear();
  block_pointers_.reserve(num_pointers);  // the spans below point into it
  attention_rows_.clear();
  kv_places_.clear();
  for (const RowRun& run : runs_) {
    const size_t first_pointer = block_pointers_.size();
    const size_t num_blocks = blocks_up_to(run.first + run.count - 1);
    for (size_t b = 0; b < num_blocks; ++b) {
      block_pointers_.push_back(kv_.row(layer_, run.block_table[b], 0));
    }
    for (uint32_t r = run.first; r < run.first + run.count; ++r) {
      kv_places_.push_back(kv_.row(layer_, run.block_table[positions_[r] / block_tokens],
                                   positions_[r] % block_tokens));
      attention_rows_.push_back(
          {.blocks = {block_pointers_.data() + first_pointer, blocks_up_to(r)},
           .context_len = positions_[r] + 1});
    }
  }
  ops_.store_kv({.x = kv, .kv_dtype = kv_.shape().dtype, .out = kv_places_});
}

void Forward::attend_absorbed(const AttentionWeights& weights) {
  const size_t heads = num_heads_, rank = config_.kv_lora_rank;
  const size_t nope = config_.qk_nope_head_dim, rope = config_.qk_rope_head_dim;
  const size_t qk_dim = nope + rope, v_dim = config_.v_head_dim;
  const Rows q = rows(q_, heads * qk_dim);
  const Rows q_latent = rows(q_latent_, heads * rank);
  const Rows q_rope = rows(q_rope_, heads * rope);
  products_.clear();
  for (size_t h = 0; h < heads; ++h) {
    products_.push_back({.x = columns(q, h * qk_dim, nope),
                         .w = weights.uk_t.outputs(h * rank, rank),
                         .y = columns(q_latent, h * rank, rank)});
  }
  // The heads of all rows as rows of their own.
  memory_.copy_rows(Rows(q_rope.data, num_rows_ * heads, rope),
                    ConstRows(q.data + nope, num_rows_ * heads, rope, qk_dim));
  ops_.gemm_many(products_);
  const Rows o_latent = rows(o_latent_, heads * rank);
  ops_.mla_absorbed({.q_latent = q_latent,
                     .q_rope = q_rope,
                     .rows = attention_rows_,
                     .kv_dtype = kv_.shape().dtype,
                     .block_tokens = kv_.shape().block_tokens,
                     .num_heads = heads,
                     .kv_rank = rank,
                     .rope_dim = rope,
                     .scale = softmax_scale_,
                     .out = o_latent});
  const Rows out = rows(heads_, heads * v_dim);
  products_.clear();
  for (size_t h = 0; h < heads; ++h) {
    products_.push_back({.x = columns(o_latent, h * rank, rank),
                         .w = weights.uv.outputs(h * v_dim, v_dim),
                         .y = columns(out, h * v_dim, v_dim)});
  }
  ops_.gemm_many(products_);
}

void Forward::attend_expanded(const AttentionWeights& weights) {
  const size_t heads = num_heads_;
  ops_.mla_expanded({.q = rows(q_, heads * config_.qk_head_dim()),
                     .kv_b = weights.kv_b,
                     .rows = attention_rows_,
                     .kv_dtype = kv_.shape().dtype,
                     .block_tokens = kv_.shape().block_tokens,
                     .num_heads = heads,
                     .kv_rank = config_.kv_lora_rank,
                     .nope_dim = config_.qk_nope_head_dim,
                     .rope_dim = config_.qk_rope_head_dim,
                     .v_dim = config_.v_head_dim,
                     .scale = softmax_scale_,
                     .out = rows(heads_, heads * config_.v_head_dim)});
}

void Forward::gate(const LayerWeights& weights) {
  const size_t experts = config_.num_routed_experts, topk = config_.num_experts_per_tok;
  const Rows logits = rows(gate_logits_, experts);
  ops_.gemm({.x = rows(normed_, config_.hidden_size),
             .w = float_matrix(weights.gate, experts, config_.hidden_size),
             .y = logits});
  auto* topk_idx = topk_idx_.room<ExpertIdx>(memory_, num_rows_ * topk);
  ops_.topk_gate({.logits = logits,
                  .bias = weights.gate_bias,
                  .method = gate_method(config_.topk_method),
                  .num_groups = config_.num_groups,
                  .topk_groups = config_.topk_groups,
                  .topk = topk,
                  .normalize = config_.norm_topk_prob,
                  .scale = config_.routed_scaling_factor,
                  .topk_idx = topk_idx,
                  .topk_weight = rows(topk_weight_, topk).data});
  const std::span<ExpertIdx> chosen = this->chosen();
  memory_.copy_out(chosen.data(), topk_idx, chosen.size_bytes());
  if (!copies_rows_) return;
  const Rows normed = rows(normed_, config_.hidden_size);
  auto* copy = normed_on_host_.room_on_host<float>(memory_, normed.rows * normed.cols);
  memory_.copy_out(copy, normed.data, normed.rows * normed.cols * sizeof(float));
}

std::span<ExpertIdx> Forward::chosen() {
  const size_t count = size_t{num_rows_} * config_.num_experts_per_tok;
  return {chosen_.room_on_host<ExpertIdx>(memory_, count), count};
}

Exchange Forward::exchange() {
  CHECK(awaiting_);
  ConstRows normed = rows(normed_, config_.hidden_size);
  if (copies_rows_) {
    normed.data = normed_on_host_.room_on_host<float>(memory_, normed.rows * normed.cols);
  }
  return {
      .layer = layer_, .rows = normed, .topk_idx = chosen(), .topk = config_.num_experts_per_tok};
}

void Forward::compute_shared() {
  CHECK(awaiting_);
  const model::FfnWeights& shared = weights_.layers[layer_].shared;
  if (!shared.gate.empty()) {
    begin_section(3 * layer_ + 2);
    const kernels::FfnParams ffn{.x = rows(normed_, config_.hidden_size),
                                 .gate = shared.gate,
                                 .up = shared.up,
                                 .down = shared.down,
                                 .y = rows(shared_, config_.hidden_size)};
    ops_.grouped_ffn({&ffn, 1});
    memory_.start();  // while the experts' answers are waited for
  }
  shared_done_ = true;
}

void Forward::provide(std::span<const float* const> expert_rows) {
  CHECK(awaiting_);
  CHECK_EQ(expert_rows.size(), chosen().size());
  expert_rows_ = expert_rows;
}

void Forward::combine() {
  CHECK(!expert_rows_.empty());
  const bool has_shared = !weights_.layers[layer_].shared.gate.empty();
  ops_.combine({.expert_rows = expert_rows_.data(),
                .topk_weight = rows(topk_weight_, config_.num_experts_per_tok).data,
                .topk = config_.num_experts_per_tok,
                .shared = has_shared ? ConstRows(rows(shared_, config_.hidden_size)) : ConstRows(),
                .residual = rows(hidden_, config_.hidden_size)});
  expert_rows_ = {};
}

Rows Forward::head(std::span<const uint32_t> of, kernels::Array& logits) {
  const size_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  if (of.empty()) return Rows(nullptr, 0, vocab);
  const Rows all = rows(hidden_, hidden);
  const Rows in(head_in_.room<float>(memory_, of.size() * hidden), of.size(), hidden);
  head_rows_.clear();
  head_places_.clear();
  for (size_t i = 0; i < of.size(); ++i) {
    head_rows_.push_back(all.row(of[i]));
    head_places_.push_back(in.row(i));
  }
  memory_.move_rows(head_rows_, head_places_, hidden);
  ops_.rms_norm({.x = in, .weight = weights_.final_norm, .eps = config_.rms_norm_eps, .out = in});
  const Rows out(logits.room<float>(memory_, of.size() * vocab), of.size(), vocab);
  ops_.gemm({.x = in, .w = weights_.head, .y = out});
  return out;
}

Rows Forward::logits_of(uint32_t first_row, uint32_t count) {
  CHECK_LE(first_row + count, num_rows_);
  std::vector<uint32_t> of(count);
  std::iota(of.begin(), of.end(), first_row);
  return head(of, logits_of_others_);
}

std::vector<const float*> Forward::on_host(std::span<const float* const> rows) {
  if (memory_.is_host() || rows.empty()) return {rows.begin(), rows.end()};
  const size_t vocab = config_.vocab_size;
  auto* copies = logits_on_host_.room_on_host<float>(memory_, rows.size() * vocab);
  std::vector<const float*> out;
  for (size_t i = 0; i < rows.size(); ++i) {
    memory_.copy_out(copies + i * vocab, rows[i], vocab * sizeof(float));
    out.push_back(copies + i * vocab);
  }
  finish();
  return out;
}

}  // namespace troupe::actors
