// troupe show: what a checkpoint is, before anyone loads it.

#include <cstdio>

#include "apps/command.hpp"
#include "apps/local_options.hpp"
#include "base/rounded_size.hpp"
#include "model/weights.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

const char* name_of(model::Architecture architecture) {
  return architecture == model::Architecture::kDeepseekV2 ? "deepseek_v2" : "deepseek_v3";
}

const char* name_of(model::TopkMethod method) {
  switch (method) {
    case model::TopkMethod::kGreedy: return "greedy";
    case model::TopkMethod::kGroupLimitedGreedy: return "group_limited_greedy";
    case model::TopkMethod::kNoauxTc: return "noaux_tc";
  }
  return "";
}

std::string count(uint64_t n) {
  char text[64];
  const auto value = static_cast<double>(n);
  if (n >= 1'000'000'000) {
    std::snprintf(text, sizeof text, "%.2f B", value / 1e9);
  } else if (n >= 1'000'000) {
    std::snprintf(text, sizeof text, "%.2f M", value / 1e6);
  } else {
    std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(n));
  }
  return text;
}

void print_text(const model::Checkpoint& checkpoint) {
  const model::ModelConfig& c = checkpoint.config();
  const model::Checkpoint::Summary summary = checkpoint.summary();
  uint32_t num_moe_layers = 0;
  for (LayerIdx l = 0; l < c.num_layers; ++l) num_moe_layers += c.is_moe_layer(l) ? 1 : 0;
  const uint64_t kv_elements = uint64_t{c.num_layers} * c.kv_dim();
  std::printf("model             %s\n", checkpoint.directory().c_str());
  std::printf("architecture      %s\n", name_of(c.architecture));
  std::printf("parameters        %s total, %s active per token\n",
              count(summary.total_parameters).c_str(), count(summary.active_parameters).c_str());
  std::printf("layers            %u: %u dense, %u with experts; hidden %u, vocabulary %u\n",
              c.num_layers, c.num_layers - num_moe_layers, num_moe_layers, c.hidden_size,
              c.vocab_size);
  std::printf(
      "attention         MLA, %u heads; q rank %s, kv rank %u; nope %u, rope %u, value %u\n",
      c.num_heads, c.q_lora_rank == 0 ? "none" : std::to_string(c.q_lora_rank).c_str(),
      c.kv_lora_rank, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim);
  std::printf(
      "experts           %u routed, top-%u, %u shared; inner %u; gate %s, %u of %u groups\n",
      c.num_routed_experts, c.num_experts_per_tok, c.num_shared_experts, c.moe_intermediate_size,
      name_of(c.topk_method), c.topk_groups, c.num_groups);
  std::printf("positions         %u%s\n", c.max_position_embeddings,
              c.rope.yarn
                  ? (" (YaRN, from " + std::to_string(c.rope.original_max_positions) + ")").c_str()
                  : "");
  std::printf("KV per token      %s in float32 (%llu elements; %s in BF16)\n",
              rounded_size(kv_elements * 4).c_str(), static_cast<unsigned long long>(kv_elements),
              rounded_size(kv_elements * 2).c_str());
  std::printf("tensors           %llu, %llu ignored (MTP, rotary buffers)\n",
              static_cast<unsigned long long>(summary.num_tensors),
              static_cast<unsigned long long>(summary.ignored_tensors));
  if (c.quantised) {
    std::printf("quantised         experts %s, the rest %s\n", c.quantised->experts.c_str(),
                c.quantised->rest.c_str());
  }
  if (c.published) {
    std::printf("quantised         %s\n", std::string(to_string(c.published->format)).c_str());
  }
  for (const auto& [dtype, bytes] : summary.bytes_by_dtype) {
    std::printf("%-17s %s\n", std::string(to_string(dtype)).c_str(), rounded_size(bytes).c_str());
  }
}

void print_json(const model::Checkpoint& checkpoint) {
  const model::ModelConfig& c = checkpoint.config();
  const model::Checkpoint::Summary summary = checkpoint.summary();
  const unsigned long long kv_bytes = uint64_t{c.num_layers} * c.kv_dim() * sizeof(float);
  std::string bytes;
  for (const auto& [dtype, n] : summary.bytes_by_dtype) {
    bytes +=
        (bytes.empty() ? "\"" : ",\"") + std::string(to_string(dtype)) + "\":" + std::to_string(n);
  }
  const std::string schemes = c.quantised ? ",\"schemes\":{\"experts\":\"" + c.quantised->experts +
                                                "\",\"rest\":\"" + c.quantised->rest + "\"}"
                                          : "";
  std::printf(
      "{\"model\":%s,\"architecture\":\"%s\",\"parameters_total\":%llu,\"parameters_active\":%llu,"
      "\"num_layers\":%u,\"hidden_size\":%u,\"vocab_size\":%u,\"num_routed_experts\":%u,"
      "\"num_experts_per_tok\":%u,\"max_position_embeddings\":%u,\"kv_bytes_per_token\":%llu,"
      "\"kv_bytes_per_token_bf16\":%llu,"
      "\"bytes_by_dtype\":{%s}%s}\n",
      json_string(checkpoint.directory()).c_str(), name_of(c.architecture),
      static_cast<unsigned long long>(summary.total_parameters),
      static_cast<unsigned long long>(summary.active_parameters), c.num_layers, c.hidden_size,
      c.vocab_size, c.num_routed_experts, c.num_experts_per_tok, c.max_position_embeddings,
      kv_bytes, kv_bytes / 2, bytes.c_str(), schemes.c_str());
}

}  // namespace

int run_show(const Arguments& arguments) {
  CommandLine line{.usage = "troupe show MODEL",
                   .text =
                       "Describes a checkpoint directory from its headers; loads no weights.\n\n"
                       "  troupe show models/demo",
                   .positional = {"model"}};
  line.options.add_options()("model,m", po::value<std::string>()->required(),
                             "checkpoint directory")("json", "print one JSON object");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto checkpoint = model::Checkpoint::open(values["model"].as<std::string>());
  if (!checkpoint.ok()) return fail(checkpoint.error());
  if (values.count("json") != 0) {
    print_json(*checkpoint);
  } else {
    print_text(*checkpoint);
  }
  return kSuccess;
}

}  // namespace troupe::apps
