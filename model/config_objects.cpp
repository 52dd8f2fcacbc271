#include "model/config_objects.hpp"

#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <string>
#include <utility>

#include "model/json.hpp"
#include "model/quantise.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

/// One rope object: rope_scaling of Hub files, or rope_parameters of transformers 5.
Result<void> read_rope_object(const json::value& value, const std::string& name,
                              uint32_t max_positions, RopeConfig& rope) {
  if (!value.is_object()) {
    return Error{Code::kInvalidArgument,
                 "config.json: " + name + " is " + describe(value) + "; it must be an object"};
  }
  KeyReader keys(value.get_object(), "config.json: " + name + ".");
  const auto rope_type = TRY(keys.optional_text("rope_type"));
  const auto old_type = TRY(keys.optional_text("type"));
  if (rope_type && old_type && *rope_type != *old_type) {
    return keys.error(Code::kInvalidArgument, "rope_type",
                      "is " + quoted(*rope_type) + ", but type is " + quoted(*old_type));
  }
  const std::string type = rope_type ? *rope_type : old_type.value_or("default");
  if (type != "default" && type != "yarn") {
    return keys.error(Code::kUnsupported, rope_type ? "rope_type" : "type",
                      "is " + quoted(type) + "; Troupe computes \"default\" and \"yarn\"");
  }
  rope.theta = TRY(keys.number_or("rope_theta", 1.0001, 1e12, rope.theta));
  TRY(keys.only_flag("truncate", true));
  if (TRY(keys.number_or("partial_rotary_factor", 0, 1, 1)) != 1) {
    return keys.error(Code::kUnsupported, "partial_rotary_factor", "is not 1");
  }
  rope.yarn = type == "yarn";
  const auto factor = TRY(keys.optional_number("factor", 1, 1e6));
  rope.original_max_positions =
      TRY(keys.size_or({"original_max_position_embeddings"}, 1, 1U << 30, max_positions));
  rope.factor = factor.value_or(static_cast<double>(max_positions) / rope.original_max_positions);
  rope.beta_fast = TRY(keys.number_or("beta_fast", 1e-6, 1e6, 32));
  rope.beta_slow = TRY(keys.number_or("beta_slow", 1e-6, 1e6, 1));
  rope.mscale = TRY(keys.number_or("mscale", 0, 100, 0));
  rope.mscale_all_dim = TRY(keys.number_or("mscale_all_dim", 0, 100, 0));
  rope.attention_factor = TRY(keys.optional_number("attention_factor", 1e-6, 1e6));
  if (rope.yarn && rope.beta_fast < rope.beta_slow) {
    return keys.error(Code::kInvalidArgument, "beta_fast", "is smaller than beta_slow");
  }
  if (rope.yarn && rope.factor < 1) {
    return keys.error(Code::kInvalidArgument, "original_max_position_embeddings",
                      "exceeds max_position_embeddings, and no factor is given");
  }
  return keys.refuse_unread({});
}

Result<void> read_fp8(KeyReader& keys, ModelConfig& config) {
  TRY(keys.only_text("fmt", "e4m3"));
  TRY(keys.only_text("activation_scheme", "dynamic"));
  if (const auto scale = TRY(keys.optional_text("scale_fmt")); scale && *scale != "float") {
    TRY(keys.only_text("scale_fmt", "ue8m0"));
  }
  (void)keys.find("modules_to_not_convert");  // the tensors' own types tell
  const json::value* block = keys.find("weight_block_size");
  if (block == nullptr && keys.contains("weight_block_size")) {
    return keys.error(Code::kUnsupported, "weight_block_size",
                      "is null (one scale per tensor); only [128, 128] is supported");
  }
  if (block != nullptr && *block != json::array{128, 128}) {
    return keys.error(Code::kUnsupported, "weight_block_size",
                      "is " + describe(*block) + "; only [128, 128] is supported");
  }
  config.fp8 = true;
  return keys.refuse_unread({});
}

/// -1 and null stand for whole rows.
Result<uint32_t> read_group_size(KeyReader& keys) {
  const json::value* value = keys.find("group_size");
  if (value == nullptr || (value->is_int64() && value->get_int64() == -1)) {
    return 0U;
  }
  const uint32_t group = TRY(keys.size({"group_size"}, 1, 1U << 20));
  if (group % 32 != 0) {
    return keys.error(Code::kUnsupported, "group_size",
                      "is " + std::to_string(group) + ", not a multiple of 32");
  }
  return group;
}

/// 4, or 8, if the format is read with it.
Result<DType> read_bits(KeyReader& keys, std::string_view name, bool may_be_4, bool may_be_8) {
  const uint32_t bits = TRY(keys.size({name}, 1, 64));
  if (bits == 4 && may_be_4) return DType::kI4;
  if (bits == 8 && may_be_8) return DType::kI8;
  return keys.error(Code::kUnsupported, name,
                    "is " + std::to_string(bits) + "; Troupe reads " + (may_be_4 ? "4" : "") +
                        (may_be_4 && may_be_8 ? " and " : "") + (may_be_8 ? "8" : "") +
                        " of this format");
}

/// GPTQ and AWQ.
Result<void> read_packed(KeyReader& keys, PublishedFormat format, ModelConfig& config) {
  // How it was made, which changes nothing in what is stored; tensors tell what stays unconverted.
  constexpr auto kHarmless = std::to_array<std::string_view>({"modules_to_not_convert",
                                                              "true_sequential",
                                                              "damp_percent",
                                                              "static_groups",
                                                              "lm_head",
                                                              "model_name_or_path",
                                                              "model_file_base_name",
                                                              "dataset",
                                                              "batch_size",
                                                              "tokenizer",
                                                              "meta",
                                                              "model_seqlen",
                                                              "block_name_to_quantize",
                                                              "use_cuda_fp16",
                                                              "max_input_length",
                                                              "backend",
                                                              "cache_block_outputs",
                                                              "exllama_config",
                                                              "use_exllama",
                                                              "do_fuse",
                                                              "fuse_max_seq_len",
                                                              "modules_to_fuse",
                                                              "module_name_preceding_first_block",
                                                              "pad_token_id",
                                                              "sym"});
  const bool awq = format == PublishedFormat::kAwq;
  const DType dtype = TRY(read_bits(keys, "bits", /*may_be_4=*/true, /*may_be_8=*/!awq));
  PublishedIntegers published{
      .format = format, .dtype = dtype, .group = TRY(read_group_size(keys)), .zeros = true};
  if (awq) {
    TRY(keys.only_flag("zero_point", true));
    TRY(keys.only_text("version", "gemm"));
  } else {
    published.reordered = TRY(keys.flag_or("desc_act", false));
    TRY(keys.only_flag("is_marlin_format", false));
    const auto form = TRY(keys.optional_text("checkpoint_format"));
    if (form && *form == "gptq_v2") {
      published.format = PublishedFormat::kGptqV2;
    } else {
      TRY(keys.only_text("checkpoint_format", "gptq"));
    }
  }
  config.published = published;
  return keys.refuse_unread(kHarmless);
}

Result<void> read_compressed_tensors(KeyReader& keys, ModelConfig& config) {
  constexpr auto kHarmless = std::to_array<std::string_view>(
      {"ignore", "global_compression_ratio", "quantization_status", "version"});
  constexpr auto kHarmlessOfWeights = std::to_array<std::string_view>(
      {"observer", "observer_kwargs", "block_structure", "scale_dtype", "zp_dtype"});
  const auto format = TRY(keys.optional_text("format"));
  const bool int8 = format == "int-quantized";
  if (!format || (!int8 && format != "pack-quantized")) {
    return keys.error(Code::kUnsupported, "format",
                      (format ? "is " + quoted(*format) : std::string("is missing")) +
                          "; Troupe reads \"int-quantized\" and \"pack-quantized\"");
  }
  const json::value* groups = keys.find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->get_object().size() != 1 ||
      !groups->get_object().begin()->value().is_object()) {
    return keys.error(Code::kUnsupported, "config_groups", "must be an object of one group");
  }
  const json::object& group = groups->get_object().begin()->value().get_object();
  const json::value* weights = group.if_contains("weights");
  if (weights == nullptr || !weights->is_object()) {
    return keys.error(Code::kInvalidArgument, "config_groups", "has no weights");
  }
  KeyReader weight_keys(weights->get_object(), "config.json: quantization_config.weights.");
  PublishedIntegers published{
      .format = int8 ? PublishedFormat::kCompressedInt8 : PublishedFormat::kCompressedPacked,
      .dtype = TRY(read_bits(weight_keys, "num_bits", /*may_be_4=*/!int8, /*may_be_8=*/true)),
      .group = TRY(read_group_size(weight_keys)),
      .zeros = !TRY(weight_keys.flag_or("symmetric", true))};
  TRY(weight_keys.only_text("type", "int"));
  TRY(weight_keys.only_flag("dynamic", false));
  if (published.zeros && published.dtype == DType::kI8) {
    return weight_keys.error(Code::kUnsupported, "symmetric",
                             "is false; Troupe reads integers of 8 bits without zero points");
  }
  // Of calibration; only with "group", of which "dynamic" and true are other names, do neighbours
  // have other groups.
  const json::value* order = weight_keys.find("actorder");
  published.reordered =
      order != nullptr && (*order == "group" || *order == "dynamic" || *order == true);
  if (order != nullptr && !published.reordered && *order != "weight" && *order != "static" &&
      *order != false) {
    return weight_keys.error(
        Code::kUnsupported, "actorder",
        "is " + describe(*order) +
            "; Troupe reads \"group\", \"dynamic\", \"weight\" and \"static\"");
  }
  const auto strategy = TRY(weight_keys.optional_text("strategy"));
  if (strategy && *strategy != (published.group == 0 ? "channel" : "group")) {
    return weight_keys.error(
        Code::kUnsupported, "strategy",
        "is " + quoted(*strategy) +
            "; Troupe reads \"group\" with a group_size, and \"channel\" without one");
  }
  TRY(weight_keys.refuse_unread(kHarmlessOfWeights));
  config.published = published;
  for (const char* other : {"kv_cache_scheme", "sparsity_config", "transform_config"}) {
    const json::value* value = keys.find(other);
    if (value != nullptr && !(value->is_object() && value->get_object().empty())) {
      return keys.error(Code::kUnsupported, other, "is " + describe(*value));
    }
  }
  return keys.refuse_unread(kHarmless);
}

Result<void> read_troupe(KeyReader& keys, ModelConfig& config) {
  if (const uint32_t version = TRY(keys.size({"version"}, 1, 1U << 30)); version != 1) {
    return keys.error(Code::kUnsupported, "version",
                      "is " + std::to_string(version) + "; this Troupe reads version 1");
  }
  QuantisedSchemes schemes;
  for (const auto& [key, scheme] :
       {std::pair("experts", &schemes.experts), std::pair("rest", &schemes.rest)}) {
    const auto name = TRY(keys.optional_text(key));
    if (!name) {
      return keys.lacks(key);
    }
    const auto parsed = parse_scheme(*name);
    if (*name != kKeepScheme && !parsed) {
      return keys.error(Code::kUnsupported, key,
                        "is " + quoted(*name) + "; the schemes are " + scheme_names() + ", " +
                            std::string(kKeepScheme));
    }
    config.fp8 = config.fp8 || (parsed && parsed->dtype == DType::kF8E4M3);
    *scheme = *name;
  }
  config.quantised = schemes;
  return keys.refuse_unread({});
}

}  // namespace

std::string_view to_string(PublishedFormat format) {
  switch (format) {
    case PublishedFormat::kCompressedInt8: return "compressed-tensors int-quantized";
    case PublishedFormat::kCompressedPacked: return "compressed-tensors pack-quantized";
    case PublishedFormat::kGptq: return "GPTQ";
    case PublishedFormat::kGptqV2: return "GPTQ v2";
    case PublishedFormat::kAwq: return "AWQ";
  }
  return "";
}

Result<RopeConfig> read_rope(KeyReader& keys, uint32_t max_positions) {
  RopeConfig rope;
  TRY(keys.only_flag("rope_interleave", true));
  rope.theta = TRY(keys.number_or("rope_theta", 1.0001, 1e12, 10000));
  const json::value* old_form = keys.find("rope_scaling");
  const json::value* new_form = keys.find("rope_parameters");
  if (old_form != nullptr && new_form != nullptr && *old_form != *new_form) {
    return keys.error(Code::kInvalidArgument, "rope_scaling",
                      "and rope_parameters are both given and differ; keep one");
  }
  if (new_form != nullptr) {
    TRY(read_rope_object(*new_form, "rope_parameters", max_positions, rope));
  } else if (old_form != nullptr) {
    TRY(read_rope_object(*old_form, "rope_scaling", max_positions, rope));
  }
  return rope;
}

Result<void> read_quantization(KeyReader& parent, ModelConfig& config) {
  const json::value* value = parent.find("quantization_config");
  if (value == nullptr) {
    return {};
  }
  if (!value->is_object()) {
    return parent.error(Code::kInvalidArgument, "quantization_config",
                        "is " + describe(*value) + "; it must be an object");
  }
  KeyReader keys(value->get_object(), "config.json: quantization_config.");
  const auto method = TRY(keys.optional_text("quant_method"));
  if (!method) {
    return keys.lacks("quant_method");
  }
  if (*method == "troupe") {
    return read_troupe(keys, config);
  }
  if (*method == "fp8") {
    return read_fp8(keys, config);
  }
  if (*method == "gptq" || *method == "awq") {
    return read_packed(keys, *method == "awq" ? PublishedFormat::kAwq : PublishedFormat::kGptq,
                       config);
  }
  if (*method == "compressed-tensors") {
    return read_compressed_tensors(keys, config);
  }
  return keys.error(Code::kUnsupported, "quant_method",
                    "is " + quoted(*method) +
                        "; Troupe takes fp8, compressed-tensors, gptq, awq and its own, troupe");
}

}  // namespace troupe::model
