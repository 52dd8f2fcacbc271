#include "tests/model/checkpoint_files.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>

#include "model/safetensors.hpp"

namespace troupe::model {

namespace fs = std::filesystem;

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "troupe-model-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) {
    throw std::runtime_error("no temporary directory");
  }
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_file(const std::string& path, std::string_view content) {
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!out.flush()) {
    throw std::runtime_error("cannot write " + path);
  }
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    throw std::runtime_error("cannot read " + path);
  }
  return {std::istreambuf_iterator<char>(in), {}};
}

namespace {

uint64_t count_of(const std::vector<uint64_t>& shape) {
  uint64_t count = 1;
  for (const uint64_t dim : shape) {
    count *= dim;
  }
  return count;
}

}  // namespace

TestTensor ramp(std::vector<uint64_t> shape, float first, float step) {
  TestTensor tensor{"F32", std::move(shape), {}};
  const uint64_t count = count_of(tensor.shape);
  tensor.bytes.resize(count * 4);
  for (uint64_t i = 0; i < count; ++i) {
    const float value = first + step * static_cast<float>(i);
    std::memcpy(tensor.bytes.data() + 4 * i, &value, 4);
  }
  return tensor;
}

TestTensor ramp_bf16(std::vector<uint64_t> shape, float first, float step) {
  TestTensor tensor = ramp(std::move(shape), first, step);
  std::string upper_halves;
  for (size_t i = 0; i < tensor.bytes.size(); i += 4) {
    upper_halves += tensor.bytes.substr(i + 2, 2);
  }
  tensor.dtype = "BF16";
  tensor.bytes = upper_halves;
  return tensor;
}

std::string safetensors_prefix(std::string_view header_json) {
  const uint64_t size = header_json.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  return out + std::string(header_json);
}

std::string safetensors(const TestTensors& tensors) {
  std::ostringstream header;
  std::string data;
  header << R"({"__metadata__":{"format":"pt"})";
  for (const auto& [name, tensor] : tensors) {
    header << ",\"" << name << R"(":{"dtype":")" << tensor.dtype << R"(","shape":[)";
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      header << (i > 0 ? "," : "") << tensor.shape[i];
    }
    header << R"(],"data_offsets":[)" << data.size() << ",";
    data += tensor.bytes;
    header << data.size() << "]}";
  }
  header << "}";
  return safetensors_prefix(header.str()) + data;
}

TestTensors tensors_of(const std::string& file) {
  const auto header = parse_safetensors(std::as_bytes(std::span(file)), file.size());
  if (!header.ok()) {
    throw std::runtime_error(header.error().message);
  }
  TestTensors tensors;
  for (const TensorHeader& tensor : header->tensors) {
    tensors[tensor.name] = {std::string(tensor.stored_dtype), tensor.shape,
                            file.substr(tensor.begin, tensor.end - tensor.begin)};
  }
  return tensors;
}

TestConfig& TestConfig::set(const std::string& key, const std::string& json) {
  keys_[key] = json;
  return *this;
}

TestConfig& TestConfig::erase(const std::string& key) {
  keys_.erase(key);
  return *this;
}

std::string TestConfig::json() const {
  std::string out = "{";
  for (const auto& [key, value] : keys_) {
    out += (out.size() > 1 ? ",\"" : "\"") + key + "\":" + value;
  }
  return out + "}";
}

TestConfig tiny_v3_config() {
  return TestConfig({{"architectures", R"(["DeepseekV3ForCausalLM"])"},
                     {"model_type", R"("deepseek_v3")"},
                     {"vocab_size", "16"},
                     {"hidden_size", "8"},
                     {"num_hidden_layers", "2"},
                     {"num_attention_heads", "2"},
                     {"num_key_value_heads", "2"},
                     {"q_lora_rank", "5"},
                     {"kv_lora_rank", "6"},
                     {"qk_nope_head_dim", "4"},
                     {"qk_rope_head_dim", "2"},
                     {"v_head_dim", "3"},
                     {"intermediate_size", "9"},
                     {"moe_intermediate_size", "7"},
                     {"n_routed_experts", "4"},
                     {"n_shared_experts", "1"},
                     {"num_experts_per_tok", "2"},
                     {"n_group", "2"},
                     {"topk_group", "1"},
                     {"topk_method", R"("noaux_tc")"},
                     {"scoring_func", R"("sigmoid")"},
                     {"norm_topk_prob", "true"},
                     {"routed_scaling_factor", "2.5"},
                     {"first_k_dense_replace", "1"},
                     {"moe_layer_freq", "1"},
                     {"hidden_act", R"("silu")"},
                     {"rms_norm_eps", "1e-06"},
                     {"rope_theta", "10000"},
                     {"rope_scaling", "null"},
                     {"max_position_embeddings", "128"},
                     {"bos_token_id", "0"},
                     {"eos_token_id", "1"},
                     {"torch_dtype", R"("float32")"}});
}

TestTensors tiny_v3_tensors() {
  TestTensors tensors;
  float next = 1;  // every tensor starts at its own number, so that a mix-up shows
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape) {
    tensors[name] = ramp(std::move(shape), next, 0.25F);
    next += 100;
  };
  const auto add_ffn = [&](const std::string& prefix, uint64_t inner) {
    add(prefix + "gate_proj.weight", {inner, 8});
    add(prefix + "up_proj.weight", {inner, 8});
    add(prefix + "down_proj.weight", {8, inner});
  };
  add("model.embed_tokens.weight", {16, 8});
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    add(layer + "input_layernorm.weight", {8});
    add(layer + "post_attention_layernorm.weight", {8});
    add(layer + "self_attn.q_a_proj.weight", {5, 8});
    add(layer + "self_attn.q_a_layernorm.weight", {5});
    add(layer + "self_attn.q_b_proj.weight", {12, 5});
    add(layer + "self_attn.kv_a_proj_with_mqa.weight", {8, 8});
    add(layer + "self_attn.kv_a_layernorm.weight", {6});
    add(layer + "self_attn.kv_b_proj.weight", {14, 6});
    add(layer + "self_attn.o_proj.weight", {8, 6});
  }
  add_ffn("model.layers.0.mlp.", 9);
  add("model.layers.1.mlp.gate.weight", {4, 8});
  add("model.layers.1.mlp.gate.e_score_correction_bias", {4});
  add_ffn("model.layers.1.mlp.shared_experts.", 7);
  for (int expert = 0; expert < 4; ++expert) {
    add_ffn("model.layers.1.mlp.experts." + std::to_string(expert) + ".", 7);
  }
  add("model.norm.weight", {8});
  add("lm_head.weight", {16, 8});
  return tensors;
}

void write_checkpoint(const std::string& directory, const TestConfig& config,
                      const TestTensors& tensors) {
  write_file(directory + "/config.json", config.json());
  write_file(directory + "/model.safetensors", safetensors(tensors));
}

}  // namespace troupe::model
