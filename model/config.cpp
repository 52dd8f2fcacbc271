#include "model/config.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <utility>

#include "model/config_objects.hpp"
#include "model/json.hpp"
#include "model/key_reader.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr uint32_t kMaxTopk = 64;

/// Keys of released and saved configs that change nothing in what a trained model computes:
/// training, generation defaults, bookkeeping, multi-token prediction (its layers are left out).
constexpr auto kHarmlessKeys = std::to_array<std::string_view>({
    "add_cross_attention",
    "attention_dropout",
    "auto_map",
    "aux_loss_alpha",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "ep_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_mtp_layers",
    "num_nextn_predict_layers",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "sep_token_id",
    "seq_aux",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "use_bfloat16",
    "use_cache",
});

Result<Architecture> read_architecture(KeyReader& keys) {
  struct Known {
    std::string_view model_type;
    std::string_view class_name;
    Architecture architecture;
  };
  constexpr std::array kKnown = {
      Known{"deepseek_v2", "DeepseekV2ForCausalLM", Architecture::kDeepseekV2},
      Known{"deepseek_v3", "DeepseekV3ForCausalLM", Architecture::kDeepseekV3},
  };
  constexpr std::string_view kSupported =
      "; Troupe runs deepseek_v2 (DeepseekV2ForCausalLM) and deepseek_v3 (DeepseekV3ForCausalLM)";
  std::optional<Architecture> found;
  if (const auto model_type = TRY(keys.optional_text("model_type"))) {
    const auto* known = std::find_if(kKnown.begin(), kKnown.end(),
                                     [&](const Known& k) { return k.model_type == *model_type; });
    if (known == kKnown.end()) {
      return keys.error(Code::kUnsupported, "model_type",
                        "is " + quoted(*model_type) + std::string(kSupported));
    }
    found = known->architecture;
  }
  if (const auto names = TRY(keys.optional_texts("architectures"))) {
    for (const std::string& name : *names) {
      const auto* known = std::find_if(kKnown.begin(), kKnown.end(),
                                       [&](const Known& k) { return k.class_name == name; });
      if (known == kKnown.end()) {
        return keys.error(Code::kUnsupported, "architectures",
                          "names " + quoted(name) + std::string(kSupported));
      }
      if (found && *found != known->architecture) {
        return keys.error(Code::kInvalidArgument, "architectures",
                          "names " + quoted(name) + ", which contradicts model_type");
      }
      found = known->architecture;
    }
  }
  if (!found) {
    return keys.lacks("model_type");
  }
  return *found;
}

Result<void> read_attention(KeyReader& keys, ModelConfig& config) {
  config.num_heads = TRY(keys.size({"num_attention_heads"}, 1, 4096));
  const auto kv_heads = TRY(keys.optional_size({"num_key_value_heads"}, 1, 4096));
  if (kv_heads && *kv_heads != config.num_heads) {
    return keys.error(Code::kUnsupported, "num_key_value_heads",
                      "is " + std::to_string(*kv_heads) +
                          "; with latent attention it must equal num_attention_heads, " +
                          std::to_string(config.num_heads));
  }
  // An explicit null means "no low-rank queries"; only a missing key takes the class default.
  const bool has_q_lora_rank = keys.contains("q_lora_rank");
  config.q_lora_rank = TRY(keys.size_or({"q_lora_rank"}, 1, 1U << 16, has_q_lora_rank ? 0 : 1536));
  config.kv_lora_rank = TRY(keys.size_or({"kv_lora_rank"}, 1, 1U << 16, 512));
  config.qk_nope_head_dim = TRY(keys.size_or({"qk_nope_head_dim"}, 1, 4096, 128));
  config.qk_rope_head_dim = TRY(keys.size_or({"qk_rope_head_dim"}, 2, 4096, 64));
  config.v_head_dim = TRY(keys.size_or({"v_head_dim"}, 1, 4096, 128));
  if (config.qk_rope_head_dim % 2 != 0) {
    return keys.error(Code::kInvalidArgument, "qk_rope_head_dim",
                      "is " + std::to_string(config.qk_rope_head_dim) +
                          "; rotation works on pairs, so it must be even");
  }
  // transformers 5 saves these two; both follow from the others.
  const auto head_dim = TRY(keys.optional_size({"head_dim"}, 1, 1U << 16));
  if (head_dim && *head_dim != config.qk_rope_head_dim) {
    return keys.error(Code::kUnsupported, "head_dim",
                      "is " + std::to_string(*head_dim) + "; it must equal qk_rope_head_dim, " +
                          std::to_string(config.qk_rope_head_dim));
  }
  const auto qk_head_dim = TRY(keys.optional_size({"qk_head_dim"}, 1, 1U << 16));
  if (qk_head_dim && *qk_head_dim != config.qk_head_dim()) {
    return keys.error(Code::kInvalidArgument, "qk_head_dim",
                      "is " + std::to_string(*qk_head_dim) +
                          "; it must be qk_nope_head_dim + qk_rope_head_dim, " +
                          std::to_string(config.qk_head_dim()));
  }
  config.attention_bias = TRY(keys.flag_or("attention_bias", false));
  if (const auto types = TRY(keys.optional_texts("layer_types"))) {
    for (const std::string& type : *types) {
      if (type != "full_attention") {
        return keys.error(Code::kUnsupported, "layer_types",
                          "names " + quoted(type) + "; only \"full_attention\" is supported");
      }
    }
  }
  return {};
}

/// transformers may list the kind of every layer's FFN; the list has to say what the counts say.
Result<void> check_mlp_layer_types(KeyReader& keys, const ModelConfig& config) {
  const auto types = TRY(keys.optional_texts("mlp_layer_types"));
  if (!types) {
    return {};
  }
  if (types->size() != config.num_layers) {
    return keys.error(Code::kInvalidArgument, "mlp_layer_types",
                      "has " + std::to_string(types->size()) + " entries for " +
                          std::to_string(config.num_layers) + " layers");
  }
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    const std::string_view expected = config.is_moe_layer(layer) ? "sparse" : "dense";
    if ((*types)[layer] != expected) {
      return keys.error(Code::kUnsupported, "mlp_layer_types",
                        "calls layer " + std::to_string(layer) + " " + quoted((*types)[layer]) +
                            "; first_k_dense_replace and moe_layer_freq make it " +
                            quoted(expected));
    }
  }
  return {};
}

Result<void> read_feed_forward(KeyReader& keys, ModelConfig& config) {
  const bool v3 = config.architecture == Architecture::kDeepseekV3;
  constexpr uint32_t kMaxInner = 1U << 20;
  TRY(keys.only_text("hidden_act", "silu"));
  TRY(keys.only_flag("mlp_bias", false));
  config.intermediate_size = TRY(keys.size({"intermediate_size"}, 1, kMaxInner));
  config.num_routed_experts =
      TRY(keys.size_or({"n_routed_experts", "num_experts", "num_local_experts"}, 0, 1U << 16,
                       keys.contains("n_routed_experts") ? 0 : (v3 ? 256 : 64)));
  config.num_shared_experts =
      TRY(keys.size_or({"n_shared_experts", "num_shared_experts"}, 0, 64,
                       keys.contains("n_shared_experts") ? 0 : (v3 ? 1 : 2)));
  config.first_k_dense_replace = TRY(keys.size_or({"first_k_dense_replace"}, 0, config.num_layers,
                                                  std::min(config.num_layers, v3 ? 3U : 0U)));
  config.moe_layer_freq = TRY(keys.size_or({"moe_layer_freq"}, 1, config.num_layers, 1));
  if (config.num_routed_experts > 0) {
    config.moe_intermediate_size = TRY(keys.size({"moe_intermediate_size"}, 1, kMaxInner));
    config.num_experts_per_tok = TRY(keys.size({"num_experts_per_tok"}, 1, kMaxTopk));
    if (config.num_experts_per_tok > config.num_routed_experts) {
      return keys.error(Code::kInvalidArgument, "num_experts_per_tok",
                        "is " + std::to_string(config.num_experts_per_tok) + " of only " +
                            std::to_string(config.num_routed_experts) + " experts");
    }
  } else {
    (void)keys.find("moe_intermediate_size");
    (void)keys.find("num_experts_per_tok");
  }
  return check_mlp_layer_types(keys, config);
}

Result<void> read_groups(KeyReader& keys, ModelConfig& config) {
  const bool v3 = config.architecture == Architecture::kDeepseekV3;
  const uint32_t experts = config.num_routed_experts;
  const auto num_groups = TRY(keys.optional_size({"n_group"}, 1, 1U << 16));
  const auto topk_groups = TRY(keys.optional_size({"topk_group"}, 1, 1U << 16));
  if (config.topk_method == TopkMethod::kGreedy || experts == 0) {
    return {};  // the keys are read but mean nothing
  }
  if (!v3 && (!num_groups || !topk_groups)) {
    return keys.lacks(num_groups ? "topk_group" : "n_group");
  }
  config.num_groups = num_groups.value_or(8);
  config.topk_groups = topk_groups.value_or(4);
  if (experts % config.num_groups != 0) {
    return keys.error(Code::kInvalidArgument, "n_group",
                      "is " + std::to_string(config.num_groups) + ", which does not divide the " +
                          std::to_string(experts) + " experts");
  }
  const uint32_t per_group = experts / config.num_groups;
  if (config.topk_method == TopkMethod::kNoauxTc && per_group < 2) {
    return keys.error(Code::kInvalidArgument, "n_group",
                      "is " + std::to_string(config.num_groups) +
                          "; noaux_tc sums the best two of each group, and a group has one");
  }
  if (config.topk_groups > config.num_groups) {
    return keys.error(Code::kInvalidArgument, "topk_group",
                      "is " + std::to_string(config.topk_groups) + " of only " +
                          std::to_string(config.num_groups) + " groups");
  }
  if (config.num_experts_per_tok > config.topk_groups * per_group) {
    return keys.error(Code::kInvalidArgument, "num_experts_per_tok",
                      "is " + std::to_string(config.num_experts_per_tok) +
                          ", more than the experts of topk_group groups, " +
                          std::to_string(config.topk_groups * per_group));
  }
  return {};
}

Result<void> read_gate(KeyReader& keys, ModelConfig& config) {
  const bool v3 = config.architecture == Architecture::kDeepseekV3;
  TRY(keys.only_text("scoring_func", v3 ? "sigmoid" : "softmax"));
  const auto method = TRY(keys.optional_text("topk_method"));
  if (v3) {
    config.topk_method = TopkMethod::kNoauxTc;
  } else {
    config.topk_method =
        method == "group_limited_greedy" ? TopkMethod::kGroupLimitedGreedy : TopkMethod::kGreedy;
  }
  const bool known = !method || (v3 ? *method == "noaux_tc"
                                    : *method == "greedy" || *method == "group_limited_greedy");
  if (!known) {
    return keys.error(Code::kUnsupported, "topk_method",
                      "is " + quoted(*method) + "; this architecture has " +
                          (v3 ? "noaux_tc" : "greedy and group_limited_greedy"));
  }
  config.norm_topk_prob = TRY(keys.flag_or("norm_topk_prob", v3));
  if (!v3 && config.norm_topk_prob) {
    // transformers ignores it here, DeepSeek's own code does not: there is no one right answer.
    return keys.error(Code::kUnsupported, "norm_topk_prob",
                      "is true, which implementations of deepseek_v2 disagree about; no released "
                      "model has it");
  }
  config.routed_scaling_factor =
      static_cast<float>(TRY(keys.number_or("routed_scaling_factor", 1e-6, 1e6, v3 ? 2.5 : 1.0)));
  return read_groups(keys, config);
}

Result<TokenId> token_id(const KeyReader& keys, std::string_view name, const json::value& value,
                         const ModelConfig& config) {
  const auto number = value.is_int64() ? value.get_int64() : int64_t{-1};
  if (number < 0 || number >= int64_t{config.vocab_size}) {
    return keys.error(Code::kInvalidArgument, name,
                      "is " + describe(value) + "; token ids are integers from 0 to " +
                          std::to_string(config.vocab_size - 1));
  }
  return static_cast<TokenId>(number);
}

Result<void> read_tokens(KeyReader& keys, ModelConfig& config) {
  if (const json::value* bos = keys.find("bos_token_id")) {
    config.bos_token_id = TRY(token_id(keys, "bos_token_id", *bos, config));
  }
  const json::value* eos = keys.find("eos_token_id");
  if (eos == nullptr) {
    return {};
  }
  if (!eos->is_array()) {
    config.eos_token_ids.push_back(TRY(token_id(keys, "eos_token_id", *eos, config)));
    return {};
  }
  for (const json::value& item : eos->get_array()) {
    config.eos_token_ids.push_back(TRY(token_id(keys, "eos_token_id", item, config)));
  }
  return {};
}

}  // namespace

Result<ModelConfig> parse_config(std::string_view text) {
  if (text.size() > kMaxConfigBytes) {
    return Error{Code::kInvalidArgument, "config.json has " + std::to_string(text.size()) +
                                             " bytes, more than the limit of " +
                                             std::to_string(kMaxConfigBytes)};
  }
  auto document = parse_json(text);
  if (!document.ok()) {
    return std::move(document).error().with_context("config.json");
  }
  if (!document->is_object()) {
    return Error{Code::kInvalidArgument,
                 "config.json is " + describe(*document) + "; it must be an object"};
  }
  KeyReader keys(document->get_object(), "config.json: ");
  ModelConfig config;
  config.architecture = TRY(read_architecture(keys));
  config.vocab_size = TRY(keys.size({"vocab_size"}, 1, 1U << 24));
  config.hidden_size = TRY(keys.size({"hidden_size"}, 1, 1U << 17));
  config.num_layers = TRY(keys.size({"num_hidden_layers"}, 1, 1024));
  config.max_position_embeddings =
      TRY(keys.size_or({"max_position_embeddings"}, 1, 1U << 30,
                       config.architecture == Architecture::kDeepseekV3 ? 4096 : 2048));
  config.rms_norm_eps = static_cast<float>(TRY(keys.number_or("rms_norm_eps", 1e-12, 1, 1e-6)));
  config.tie_word_embeddings = TRY(keys.flag_or("tie_word_embeddings", false));
  TRY(read_attention(keys, config));
  TRY(read_feed_forward(keys, config));
  TRY(read_gate(keys, config));
  config.rope = TRY(read_rope(keys, config.max_position_embeddings));
  TRY(read_quantization(keys, config));
  TRY(read_tokens(keys, config));
  TRY(keys.refuse_unread(kHarmlessKeys));
  return config;
}

}  // namespace troupe::model
