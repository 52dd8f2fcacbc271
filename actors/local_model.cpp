#include "actors/local_model.hpp"

#include <algorithm>
#include <string>

#include "actors/device_room.hpp"
#include "actors/expert_balance.hpp"
#include "base/memory_room.hpp"
#include "base/rounded_size.hpp"
#include "experts/dispatch_plan.hpp"

namespace troupe::actors {
namespace {

constexpr size_t kBlockTokens = 16;

}  // namespace

LocalModel::LocalModel(model::Checkpoint checkpoint, const LocalModelOptions& options,
                       kernels::Backend backend)
    : checkpoint_(std::move(checkpoint)),
      options_(options),
      pool_(options.num_threads, options.cpus),
      backend_(backend.ops != nullptr ? std::move(backend) : kernels::make_cpu_backend(&pool_)),
      guides_(options.vocabulary) {}

KvShape LocalModel::kv_shape() const {
  return {.num_layers = config().num_layers,
          .num_blocks = blocks_per_sequence() * size_t{options_.num_sequences},
          .block_tokens = kBlockTokens,
          .kv_dim = config().kv_dim(),
          .dtype = options_.kv_dtype};
}

Result<void> LocalModel::check_memory() const {
  const model::ModelConfig& model = config();
  kernels::Memory& memory = *backend_.memory;
  const auto router = TRY(checkpoint_.bytes_of_router(options_.form == AttentionForm::kExpanded));
  uint64_t experts = 0;
  const auto add = [&](const model::Checkpoint::Bytes& bytes) {
    experts += memory.is_host() ? bytes.own : bytes.all;
  };
  for (LayerIdx layer = 0; layer < model.num_layers; ++layer) {
    if (!model.is_moe_layer(layer)) continue;
    for (ExpertIdx expert = 0; expert < model.num_routed_experts; ++expert) {
      add(TRY(checkpoint_.bytes_of_expert(layer, expert)));
    }
  }
  // Up to the model's maximum, pages are touched as far as they are used, and nobody knows how far.
  const bool kv_of_unknown_use = memory.is_host() && options_.max_context == 0;
  const uint64_t kv = kv_of_unknown_use ? 0 : kv_shape().blocks_bytes();
  const auto sizes = [&](uint64_t weights) {
    return " (" + rounded_size(weights) + ") and KV (" + rounded_size(kv) + ") need";
  };
  if (!memory.is_host()) {
    for (size_t k = 0; k < backend_.num_devices(); ++k) {
      const uint64_t weights =
          placed_bytes(router, {.rank = k, .num_ranks = backend_.num_devices()}) + experts;
      TRY(check_memory_room(
          checkpoint_.directory() + ": " + place_of(backend_, k) + ", weights" + sizes(weights),
          weights + kv, backend_.of_rank(k).memory->bytes_left(),
          "fewer tokens and a model in fewer bits need less"));
    }
    return {};
  }
  const uint64_t weights = router.own + experts;
  return check_memory_room(
      checkpoint_.directory() + ": copies of weights" + sizes(weights), weights + kv,
      options_.available_memory ? Result<uint64_t>(*options_.available_memory)
                                : memory.bytes_left(),
      "shorter or fewer sequences and KV in BF16 need less, and weights that `troupe quantize` "
      "wrote need no copies");
}

Result<std::unique_ptr<LocalModel>> LocalModel::load(const model::Checkpoint& checkpoint,
                                                     const LocalModelOptions& options,
                                                     kernels::Backend backend) {
  std::unique_ptr<LocalModel> local(new LocalModel(checkpoint, options, std::move(backend)));
  const kernels::Backend& devices = local->backend_;
  const model::ModelConfig& config = checkpoint.config();
  TRY(check_limits(config, *devices.ops));
  TRY(check_devices(config, devices.num_devices()));
  TRY(local->check_memory());
  local->weights_ =
      TRY(checkpoint.load_router(options.form == AttentionForm::kExpanded, options.num_threads));
  const KvShape kv = local->kv_shape();
  local->ranks_ = TRY(Ranks::load(config, local->weights_, devices, kv));
  for (uint32_t b = 0; b < kv.num_blocks; ++b) local->block_ids_.push_back(BlockId{b});
  TRY(local->load_experts());
  local->forward_ = std::make_unique<ParallelForward>(config, *local->ranks_, options.form,
                                                      ExchangeRows::kInPlace);
  return local;
}

Result<void> LocalModel::load_experts() {
  placement_ = TRY(ExpertBalance(config(), {}, {}).place(Epoch{1}, {{.id = NodeId{1}}}));
  for (size_t k = 0; k < ranks_->count(); ++k) {
    experts_.push_back({.table = {}, .scratch = {*backend_.of_rank(k).memory}});
  }
  for (LayerIdx layer = 0; layer < config().num_layers; ++layer) {
    if (!config().is_moe_layer(layer)) continue;
    for (ExpertIdx expert = 0; expert < config().num_routed_experts; ++expert) {
      const auto loaded = TRY(checkpoint_.load_expert(layer, expert, options_.num_threads));
      for (Experts& of_rank : experts_) {
        of_rank.table[{layer, expert}] = TRY(place(loaded, of_rank.scratch.memory));
      }
    }
  }
  for (const Experts& of_rank : experts_) {
    TRY(of_rank.scratch.memory.finish());  // what could not be copied is an error of loading
  }
  return {};
}

Result<void> LocalModel::check_tokens(std::span<const TokenId> tokens, size_t num_more) const {
  if (tokens.empty()) return Error{Code::kInvalidArgument, "the prompt has no tokens"};
  for (const TokenId token : tokens) {
    if (token < 0 || static_cast<uint32_t>(token) >= config().vocab_size) {
      return Error{Code::kInvalidArgument, "token id " + std::to_string(token) +
                                               " is outside the vocabulary of " +
                                               std::to_string(config().vocab_size)};
    }
  }
  if (tokens.size() + num_more > max_context()) {
    return Error{Code::kInvalidArgument,
                 std::to_string(tokens.size()) + " prompt tokens and " + std::to_string(num_more) +
                     " to generate exceed the context of " + std::to_string(max_context())};
  }
  return {};
}

ConstRows LocalModel::step(std::span<const TokenId> tokens, uint32_t first_position,
                           uint32_t num_logits) {
  const StepSequence sequence{.tokens = tokens,
                              .first_position = first_position,
                              .block_table = block_table(0),
                              .num_logits = num_logits};
  return step({&sequence, 1});
}

ConstRows LocalModel::step(std::span<const StepSequence> sequences) {
  const size_t hidden = config().hidden_size;
  work_ = work_outside_experts(config(), *weights_, options_.form, options_.kv_dtype, sequences);
  forward_->begin(sequences);
  while (forward_->advance() == Forward::Status::kExchange) {
    const Exchange exchange = forward_->of(0).exchange();
    const experts::DispatchPlan plan = experts::plan_dispatch(
        exchange.layer, exchange.topk_idx, static_cast<uint32_t>(exchange.rows.rows), exchange.topk,
        placement_);
    tasks_.clear();
    for (const experts::ShardDispatch& here : plan.shards) {
      for (const auto& [row, expert] : here.assignments) tasks_.push_back({here.rows[row], expert});
    }
    ranks_->for_each([&](size_t k) {
      Experts& here = experts_[k];
      kernels::Memory& memory = here.scratch.memory;
      const Rows results(here.results.room<float>(memory, tasks_.size() * hidden), tasks_.size(),
                         hidden);
      if (exchange.rows.rows <= kFewRows) memory.begin_section(this, exchange.layer);
      compute_experts(*backend_.of_rank(k).ops, here.table, exchange.layer,
                      forward_->of(k).exchange().rows, tasks_, results, here.scratch);
      here.rows.clear();
      for (const uint32_t row : plan.slot_row) here.rows.push_back(results.row(row));
      forward_->of(k).provide(here.rows);
    });
    work_ += work_of(experts_[0].scratch.ffns);
  }
  const Rows logits = forward_->logits();
  std::vector<const float*> rows;
  for (size_t r = 0; r < logits.rows; ++r) rows.push_back(logits.row(r));
  rows = forward_->on_host(rows);
  return ConstRows(rows.empty() ? nullptr : rows[0], logits.rows, logits.cols);
}

size_t LocalModel::max_context() const {
  return options_.max_context == 0 ? config().max_position_embeddings : options_.max_context;
}

size_t LocalModel::blocks_per_sequence() const {
  return (max_context() + kBlockTokens - 1) / kBlockTokens;
}

std::span<const BlockId> LocalModel::block_table(uint32_t sequence) const {
  CHECK_LT(sequence, options_.num_sequences);
  return std::span(block_ids_).subspan(sequence * blocks_per_sequence(), blocks_per_sequence());
}

void LocalModel::copy_kv(uint32_t from, uint32_t to, uint32_t num_positions) {
  std::vector<kvcache::Copy> copies;
  for (size_t b = 0; b * kBlockTokens < num_positions; ++b) {
    copies.emplace_back(kvcache::CopyBlock{block_table(from)[b], block_table(to)[b]});
  }
  ranks_->copy_blocks(copies);
}

void LocalModel::read_weights() {
  std::vector<WeightView> matrices{weights_->embedding, weights_->head};
  const auto add_ffn = [&](const model::FfnWeights& ffn) {
    matrices.insert(matrices.end(), {ffn.gate, ffn.up, ffn.down});
  };
  for (const model::LayerWeights& layer : weights_->layers) {
    const model::AttentionWeights& a = layer.attention;
    matrices.insert(matrices.end(), {a.q, a.q_a, a.q_b, a.kv_a, a.uk_t, a.uv, a.o});
    add_ffn(layer.dense);
    add_ffn(layer.shared);
  }
  for (const auto& [key, expert] : experts_[0].table) add_ffn(expert.ffn);
  pool_.parallel_for(matrices.size(), [&](size_t i) { model::read_ahead(matrices[i]); });
}

Result<void> LocalModel::logits(
    std::span<const TokenId> tokens,
    const std::function<void(uint32_t, std::span<const float>)>& visit) {
  TRY(check_tokens(tokens, 0));
  for (size_t first = 0; first < tokens.size(); first += options_.chunk_tokens) {
    const auto chunk =
        tokens.subspan(first, std::min<size_t>(options_.chunk_tokens, tokens.size() - first));
    const ConstRows rows =
        step(chunk, static_cast<uint32_t>(first), static_cast<uint32_t>(chunk.size()));
    for (size_t r = 0; r < rows.rows; ++r) {
      visit(static_cast<uint32_t>(first + r), {rows.row(r), rows.cols});
    }
  }
  return {};
}

Result<scheduler::FinishReason> LocalModel::generate(
    const scheduler::RequestSpec& spec,
    const std::function<bool(const model::SampledToken&)>& on_token) {
  TRY(check_tokens(spec.prompt, spec.max_tokens));
  TRY(model::validate(spec.sampling));
  std::vector<TokenId> known = spec.prompt;
  model::TokenHistory history(spec.sampling,
                              {.prompt = spec.prompt, .stop_token_ids = spec.stop_token_ids});
  model::GuideState guide;
  uint32_t computed = 0;
  for (uint32_t emitted = 0; emitted < spec.max_tokens;) {
    const auto left = static_cast<uint32_t>(known.size()) - computed;
    const uint32_t count = std::min(left, options_.chunk_tokens);
    const ConstRows rows =
        step(std::span(known).subspan(computed, count), computed, count == left ? 1 : 0);
    computed += count;
    if (count < left) continue;
    std::span<const uint64_t> mask;
    if (spec.sampling.grammar) {
      mask = TRY(guides_.mask(*spec.sampling.grammar, history.emitted(), guide));
    }
    const model::SampledToken token =
        model::sample({rows.row(0), rows.cols}, spec.sampling, known.size(), history, mask);
    if (token.token < 0) return model::no_token_error(token.token);
    known.push_back(token.token);
    history.append(token.token);
    ++emitted;
    const bool go_on = on_token(token);
    if (std::find(spec.stop_token_ids.begin(), spec.stop_token_ids.end(), token.token) !=
            spec.stop_token_ids.end() ||
        !go_on) {
      return scheduler::FinishReason::kStop;
    }
  }
  return scheduler::FinishReason::kLength;
}

}  // namespace troupe::actors
