// Tiny models in every format of weights: the bits of a row do not depend on chunks, threads,
// batch or shards. Clusters are threads of this process here; tests/e2e/process_test.cpp has real
// processes.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actors/local_model.hpp"
#include "base/check.hpp"
#include "model/checkpoint_writer.hpp"
#include "model/random_weights.hpp"
#include "model/safetensors.hpp"
#include "tests/actors/test_cluster.hpp"
#include "tests/model/published_tensors.hpp"
#include "tests/support/requests.hpp"

namespace troupe::actors {
namespace {

/// Every matrix fits panels; rows of 160 have two groups of 128, the second shorter.
model::TestConfig tiny_config() {
  return model::tiny_v3_config()
      .set("vocab_size", "160")
      .set("hidden_size", "160")
      .set("num_hidden_layers", "3")
      .set("q_lora_rank", "96")
      .set("kv_lora_rank", "64")
      .set("qk_nope_head_dim", "32")
      .set("qk_rope_head_dim", "16")
      .set("v_head_dim", "32")
      .set("intermediate_size", "288")
      .set("moe_intermediate_size", "160")
      .set("n_routed_experts", "8")
      .set("num_experts_per_tok", "3")
      .set("n_group", "4")
      .set("topk_group", "2")
      .set("max_position_embeddings", "512");
}

/// Random weights in Troupe's own schemes.
void save(const std::string& directory, const std::string& experts, const std::string& rest) {
  model::TestConfig config = tiny_config();
  if (rest == "fp8") {
    config.set("quantization_config", R"({"quant_method":"fp8"})");
  } else if (rest != "bf16") {
    config.set("quantization_config", R"({"quant_method":"troupe","version":1,"experts":")" +
                                          experts + R"(","rest":")" + rest + "\"}");
  }
  const auto saved =
      model::save_checkpoint(*model::parse_config(config.json()), model::RandomWeights(1, 0.1F),
                             {.directory = directory,
                              .config_json = config.json(),
                              .experts = *model::parse_scheme(experts),
                              .rest = *model::parse_scheme(rest)});
  CHECK(saved.ok());
  CHECK_EQ(saved->matrices_kept, uint64_t{0});
}

/// The same model, all of its linear layers integers as others publish them.
void publish(const std::string& directory, const model::PublishedTestFormat& format) {
  save(directory, "bf16", "bf16");
  model::TestTensors tensors;
  for (auto& [name, tensor] :
       model::tensors_of(model::read_file(directory + "/model.safetensors"))) {
    if (name.find("_proj") == std::string::npos) {
      tensors[name] = std::move(tensor);
      continue;
    }
    const model::IntegerMatrix matrix =
        model::random_integers(format.published, tensor.shape[0], tensor.shape[1], tensors.size());
    const std::string stem = name.substr(0, name.rfind("weight"));
    for (auto& [end, part] : model::published_tensors(format.published, matrix)) {
      tensors[stem + end] = std::move(part);
    }
  }
  model::write_checkpoint(directory, tiny_config().set("quantization_config", format.config),
                          tensors);
}

struct Format {
  std::string name;
  /// Gives a model in it, which may lie in this directory.
  std::function<std::string(const std::string& directory)> model;
};

void PrintTo(const Format& format, std::ostream* out) { *out << format.name; }

std::vector<Format> formats() {
  std::vector<Format> all;
  const auto add = [&](std::string name, std::function<std::string(const std::string&)> model) {
    std::replace(name.begin(), name.end(), '-', '_');
    all.push_back({std::move(name), std::move(model)});
  };
  for (const char* golden : {"v3-odd", "v2-no-yarn-odd", "v3-fp8", "v3-fp8-partial"}) {
    add(golden, [golden](const std::string&) { return golden_model(golden); });
  }
  const auto add_schemes = [&](const std::string& experts, const std::string& rest) {
    add(experts == rest ? rest : experts + "_and_" + rest, [=](const std::string& directory) {
      save(directory, experts, rest);
      return directory;
    });
  };
  for (const char* scheme : {"bf16", "fp8", "int8", "int8-g128", "int4-g32", "int4-g32-asym",
                             "int4-g128", "int4-g128-asym"}) {
    add_schemes(scheme, scheme);
  }
  add_schemes("int4-g32", "int8");
  add_schemes("int4-g128-asym", "int8-g128");
  add_schemes("fp8", "int8");
  for (const model::PublishedTestFormat& format : model::published_formats()) {
    add(format.name, [&format](const std::string& directory) {
      publish(directory, format);
      return directory;
    });
  }
  return all;
}

class EveryFormat : public testing::TestWithParam<Format> {
 protected:
  model::TempDir dir_;
  const std::string model_ = GetParam().model(dir_.path());
};

INSTANTIATE_TEST_SUITE_P(Formats, EveryFormat, testing::ValuesIn(formats()),
                         [](const auto& info) { return info.param.name; });

TEST_P(EveryFormat, GivesTheSameBitsInChunksOfAnySizeWithAnyThreads) {
  const model::Checkpoint checkpoint = opened_model(model_);
  std::vector<TokenId> prompt;
  const auto vocab_size = static_cast<TokenId>(checkpoint.config().vocab_size);
  for (TokenId t = 0; t < 200; ++t) prompt.push_back((5 + t * 37) % vocab_size);
  for (const DType kv_dtype : {DType::kF32, DType::kBF16}) {
    std::vector<float> whole;
    for (const uint32_t chunk : {512U, 1U, 7U, 64U}) {
      const auto local = LocalModel::load(
          checkpoint, {.num_threads = chunk % 3 + 1, .kv_dtype = kv_dtype, .chunk_tokens = chunk});
      ASSERT_TRUE(local.ok()) << local.error().message;
      std::vector<float> logits;
      const auto done = (*local)->logits(prompt, [&](uint32_t, std::span<const float> row) {
        logits.insert(logits.end(), row.begin(), row.end());
      });
      ASSERT_TRUE(done.ok()) << done.error().message;
      if (whole.empty()) whole = logits;
      ASSERT_TRUE(std::ranges::all_of(logits, [](float x) { return std::isfinite(x); }));
      ASSERT_EQ(logits.size(), whole.size());
      ASSERT_EQ(0, std::memcmp(logits.data(), whole.data(), whole.size() * sizeof(float)))
          << "chunks of " << chunk << ", KV in " << to_string(kv_dtype);
    }
  }
}

TEST_P(EveryFormat, GivesTheSameTokensInAClusterAndInOneProcess) {
  const auto specs = mixed_requests(opened_model(model_).config().vocab_size, 12);
  std::map<DType, std::vector<Stream>> expected;  // by type of the KV
  for (const DType kv : {DType::kF32, DType::kBF16}) {
    expected[kv] = generated_alone(model_, specs, kv);
  }
  const std::vector<ClusterOptions> clusters = {
      {.num_shards = 1, .num_threads = 2, .batcher = {.max_step_tokens = 16, .max_running = 3}},
      {.num_routers = 2, .num_shards = 3, .micro_batches = 2},
      {.num_shards = 5, .num_threads = 2},
      {.num_routers = 2, .num_shards = 2, .kv_dtype = DType::kBF16},
  };
  for (ClusterOptions options : clusters) {
    SCOPED_TRACE(std::to_string(options.num_shards) + " shards, KV in " +
                 std::string(to_string(options.kv_dtype)));
    options.model = model_;
    TestCluster cluster(options);
    ASSERT_TRUE(cluster.wait_serving());
    expect_same_together(cluster, specs, expected.at(options.kv_dtype));
  }
}

}  // namespace
}  // namespace troupe::actors
