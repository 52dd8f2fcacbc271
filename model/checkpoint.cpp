#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <utility>

#include "model/checkpoint_writer.hpp"
#include "model/json.hpp"
#include "model/mapped_file.hpp"
#include "model/tensor_store.hpp"
#include "model/tensor_visitors.hpp"
#include "model/weights.hpp"

namespace troupe::model {

struct Checkpoint::State {
  std::string directory;
  ModelConfig config;
  TensorStore store;
  std::vector<ExpertLayout> expert_layouts;  ///< by layer
  uint64_t digest = 0;
  Summary summary;
};

namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;

/// Tensors that real checkpoints carry and the main model does not use.
bool is_ignored(std::string_view name, const ModelConfig& config) {
  constexpr std::string_view kLayers = "model.layers.";
  if (name.ends_with(".rotary_emb.inv_freq")) {
    return true;
  }
  if (name == "lm_head.weight") {
    return config.tie_word_embeddings;
  }
  if (!name.starts_with(kLayers)) {
    return false;
  }
  name.remove_prefix(kLayers.size());
  uint32_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  // Layers beyond the last are those of multi-token prediction.
  return error == std::errc() && end != name.data() + name.size() && *end == '.' &&
         layer >= config.num_layers;
}

/// Parameters and bytes of the tensors that the model uses.
Checkpoint::Summary summarise(const ModelConfig& config, const TensorStore& store,
                              const std::vector<std::optional<TensorUse>>& uses) {
  Checkpoint::Summary summary;
  summary.num_tensors = store.tensors().size() + store.num_unlisted();
  summary.ignored_tensors = store.num_unlisted();
  std::map<DType, uint64_t> bytes;
  for (size_t i = 0; i < uses.size(); ++i) {
    if (!uses[i]) {
      ++summary.ignored_tensors;
      continue;
    }
    const TensorHeader& header = store.tensors()[i].header;
    bytes[uses[i]->counted_as] += header.end - header.begin;
    summary.total_parameters += uses[i]->parameters;
  }
  summary.bytes_by_dtype.assign(bytes.begin(), bytes.end());
  uint64_t moe_layers = 0;
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    moe_layers += config.is_moe_layer(layer) ? 1 : 0;
  }
  const uint64_t expert = uint64_t{3} * config.moe_intermediate_size * config.hidden_size;
  const uint64_t idle = config.num_routed_experts - config.num_experts_per_tok;
  const uint64_t embedding =
      config.tie_word_embeddings ? 0 : uint64_t{config.vocab_size} * config.hidden_size;
  summary.active_parameters = summary.total_parameters - embedding - moe_layers * idle * expert;
  return summary;
}

}  // namespace

void read_ahead(const WeightView& weights) {
  constexpr size_t kPageBytes = 4096;
  const auto read = [](const void* data, size_t size) {
    const auto* bytes = static_cast<const volatile std::byte*>(data);
    for (size_t at = 0; at < size; at += kPageBytes) (void)bytes[at];
    if (size > 0) (void)bytes[size - 1];
  };
  if (weights.empty()) return;
  read(weights.data, weights.size_bytes());
  if (!is_integer(weights.dtype)) return;
  const GroupScales& scales = weights.group_scales;
  const size_t num_scales = weights.out * weights.num_groups();
  read(scales.data, num_scales * size_of(scales.dtype));
  if (scales.zeros != nullptr) read(scales.zeros, num_scales);
}

Checkpoint::Checkpoint(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  const std::string config_path = directory + "/config.json";
  if (::access(config_path.c_str(), F_OK) != 0 &&
      ::access((directory + "/" + std::string(kUnfinishedFile)).c_str(), F_OK) == 0) {
    return Error{Code::kNotFound,
                 directory +
                     " is not complete: the run that writes it was interrupted, or "
                     "is not done; the same command goes on"};
  }
  const std::string text = TRY(read_text_file(config_path, kMaxConfigBytes));
  auto config = parse_config(text);
  if (!config.ok()) {
    return std::move(config).error().with_context(directory);
  }
  TensorStore store = TRY(TensorStore::open(directory));

  CheckingVisitor checker(*config, store);
  RouterWeights unused_router;
  FfnWeights unused_ffn;
  TRY(visit_router(*config, checker, unused_router));
  std::vector<ExpertLayout> layouts(config->num_layers, ExpertLayout::kPerExpert);
  for (LayerIdx layer = 0; layer < config->num_layers; ++layer) {
    if (!config->is_moe_layer(layer)) {
      continue;
    }
    if (store.find(fused_experts_name(layer)) != nullptr) {
      layouts[layer] = ExpertLayout::kFused;
    }
    for (ExpertIdx expert = 0; expert < config->num_routed_experts; ++expert) {
      TRY(visit_expert(*config, layouts[layer], layer, expert, checker, unused_ffn));
    }
  }
  for (size_t i = 0; i < store.tensors().size(); ++i) {
    const StoredTensor& tensor = store.tensors()[i];
    if (!checker.uses()[i] && !is_ignored(tensor.header.name, *config)) {
      return Error{Code::kUnsupported,
                   store.name_of(tensor) +
                       " is not part of the architecture that config.json describes; Troupe does "
                       "not leave out weights it does not understand"};
    }
  }
  const uint64_t digest = XXH3_64bits_withSeed(text.data(), text.size(), TRY(store.digest()));
  const Summary summary = summarise(*config, store, checker.uses());
  return Checkpoint(std::make_shared<const State>(
      State{directory, std::move(*config), std::move(store), std::move(layouts), digest, summary}));
}

const ModelConfig& Checkpoint::config() const { return state_->config; }

const std::string& Checkpoint::directory() const { return state_->directory; }

uint64_t Checkpoint::digest() const { return state_->digest; }

Checkpoint::Summary Checkpoint::summary() const { return state_->summary; }

Result<std::shared_ptr<const RouterWeights>> Checkpoint::load_router(bool with_kv_b,
                                                                     size_t num_threads) const {
  LoadingVisitor loader(state_->config, state_->store, with_kv_b, num_threads);
  auto weights = std::make_shared<RouterWeights>();
  TRY(visit_router(state_->config, loader, *weights));
  weights->storage = TRY(loader.finish());
  return std::shared_ptr<const RouterWeights>(std::move(weights));
}

Result<void> Checkpoint::visit(LayerIdx layer, ExpertIdx expert, TensorVisitor& visitor,
                               FfnWeights& ffn) const {
  const ModelConfig& config = state_->config;
  if (layer >= config.num_layers || !config.is_moe_layer(layer) ||
      expert >= config.num_routed_experts) {
    return Error{Code::kInvalidArgument, "there is no expert " + std::to_string(expert) +
                                             " in layer " + std::to_string(layer) + " of " +
                                             state_->directory};
  }
  return visit_expert(config, state_->expert_layouts[layer], layer, expert, visitor, ffn);
}

Result<ExpertWeights> Checkpoint::load_expert(LayerIdx layer, ExpertIdx expert,
                                              size_t num_threads) const {
  LoadingVisitor loader(state_->config, state_->store, /*with_kv_b=*/false, num_threads);
  ExpertWeights weights;
  TRY(visit(layer, expert, loader, weights.ffn));
  weights.storage = TRY(loader.finish());
  return weights;
}

Result<Checkpoint::Bytes> Checkpoint::bytes_of_router(bool with_kv_b) const {
  BytesVisitor counter(state_->config, state_->store, with_kv_b);
  RouterWeights unused;
  TRY(visit_router(state_->config, counter, unused));
  Bytes bytes{.own = counter.own_bytes(),
              .all = counter.all_bytes(),
              .head = counter.bytes_of(unused.head)};
  for (const LayerWeights& layer : unused.layers) {
    const AttentionWeights& a = layer.attention;
    for (const WeightView* matrix : {&a.q, &a.q_b, &a.uk_t, &a.o}) {
      bytes.by_outputs += counter.bytes_of(*matrix);
    }
    if (config().attention_bias) bytes.by_outputs += config().hidden_size * sizeof(float);
  }
  return bytes;
}

Result<Checkpoint::Bytes> Checkpoint::bytes_of_expert(LayerIdx layer, ExpertIdx expert) const {
  BytesVisitor counter(state_->config, state_->store);
  FfnWeights unused;
  TRY(visit(layer, expert, counter, unused));
  return Bytes{.own = counter.own_bytes(), .all = counter.all_bytes()};
}

}  // namespace troupe::model
