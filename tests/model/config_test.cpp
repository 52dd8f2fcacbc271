#include "model/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// The published config of DeepSeek-V2-Lite, in the Hub's spelling.
TestConfig v2_lite() {
  return TestConfig({
      {"architectures", R"(["DeepseekV2ForCausalLM"])"},
      {"attention_bias", "false"},
      {"attention_dropout", "0.0"},
      {"auto_map", R"({"AutoConfig":"configuration_deepseek.DeepseekV2Config"})"},
      {"aux_loss_alpha", "0.001"},
      {"bos_token_id", "100000"},
      {"eos_token_id", "100001"},
      {"first_k_dense_replace", "1"},
      {"hidden_act", R"("silu")"},
      {"hidden_size", "2048"},
      {"initializer_range", "0.02"},
      {"intermediate_size", "10944"},
      {"kv_lora_rank", "512"},
      {"max_position_embeddings", "163840"},
      {"model_type", R"("deepseek_v2")"},
      {"moe_intermediate_size", "1408"},
      {"moe_layer_freq", "1"},
      {"n_group", "1"},
      {"n_routed_experts", "64"},
      {"n_shared_experts", "2"},
      {"norm_topk_prob", "false"},
      {"num_attention_heads", "16"},
      {"num_experts_per_tok", "6"},
      {"num_hidden_layers", "27"},
      {"num_key_value_heads", "16"},
      {"pretraining_tp", "1"},
      {"q_lora_rank", "null"},
      {"qk_nope_head_dim", "128"},
      {"qk_rope_head_dim", "64"},
      {"rms_norm_eps", "1e-06"},
      {"rope_scaling", R"({"beta_fast":32,"beta_slow":1,"factor":40,"mscale":0.707,)"
                       R"("mscale_all_dim":0.707,"original_max_position_embeddings":4096,)"
                       R"("type":"yarn"})"},
      {"rope_theta", "10000"},
      {"routed_scaling_factor", "1.0"},
      {"scoring_func", R"("softmax")"},
      {"seq_aux", "true"},
      {"tie_word_embeddings", "false"},
      {"topk_group", "1"},
      {"topk_method", R"("greedy")"},
      {"torch_dtype", R"("bfloat16")"},
      {"transformers_version", R"("4.33.1")"},
      {"use_cache", "true"},
      {"v_head_dim", "128"},
      {"vocab_size", "102400"},
  });
}

/// The published config of DeepSeek-V3 and R1.
TestConfig v3() {
  return v2_lite()
      .set("architectures", R"(["DeepseekV3ForCausalLM"])")
      .set("bos_token_id", "0")
      .set("eos_token_id", "1")
      .set("ep_size", "1")
      .set("first_k_dense_replace", "3")
      .set("hidden_size", "7168")
      .set("intermediate_size", "18432")
      .set("model_type", R"("deepseek_v3")")
      .set("moe_intermediate_size", "2048")
      .set("n_group", "8")
      .set("n_routed_experts", "256")
      .set("n_shared_experts", "1")
      .set("norm_topk_prob", "true")
      .set("num_attention_heads", "128")
      .set("num_experts_per_tok", "8")
      .set("num_hidden_layers", "61")
      .set("num_key_value_heads", "128")
      .set("num_nextn_predict_layers", "1")
      .set("q_lora_rank", "1536")
      .set("quantization_config", R"({"activation_scheme":"dynamic","fmt":"e4m3",)"
                                  R"("quant_method":"fp8","weight_block_size":[128,128]})")
      .set("rope_scaling", R"({"beta_fast":32,"beta_slow":1,"factor":40,"mscale":1.0,)"
                           R"("mscale_all_dim":1.0,"original_max_position_embeddings":4096,)"
                           R"("type":"yarn"})")
      .set("routed_scaling_factor", "2.5")
      .set("scoring_func", R"("sigmoid")")
      .set("topk_group", "4")
      .set("topk_method", R"("noaux_tc")")
      .set("vocab_size", "129280");
}

ModelConfig parsed(const TestConfig& config) {
  auto result = parse_config(config.json());
  EXPECT_TRUE(result.ok()) << result.error().message;
  return result.ok() ? *result : ModelConfig();
}

TEST(ParseConfig, ReadsDeepSeekV2LiteAsPublished) {
  const ModelConfig config = parsed(v2_lite());
  EXPECT_EQ(config.architecture, Architecture::kDeepseekV2);
  EXPECT_EQ(config.vocab_size, 102400U);
  EXPECT_EQ(config.hidden_size, 2048U);
  EXPECT_EQ(config.num_layers, 27U);
  EXPECT_EQ(config.num_heads, 16U);
  EXPECT_EQ(config.q_lora_rank, 0U);
  EXPECT_EQ(config.kv_dim(), 576U);
  EXPECT_EQ(config.qk_head_dim(), 192U);
  EXPECT_EQ(config.num_routed_experts, 64U);
  EXPECT_EQ(config.num_experts_per_tok, 6U);
  EXPECT_EQ(config.topk_method, TopkMethod::kGreedy);
  EXPECT_FALSE(config.norm_topk_prob);
  EXPECT_EQ(config.routed_scaling_factor, 1.0F);
  EXPECT_FALSE(config.is_moe_layer(0));
  EXPECT_TRUE(config.is_moe_layer(1));
  EXPECT_TRUE(config.rope.yarn);
  EXPECT_EQ(config.rope.factor, 40);
  EXPECT_EQ(config.bos_token_id, 100000);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(100001));
  EXPECT_FALSE(config.fp8);
}

TEST(ParseConfig, ReadsDeepSeekV3AsPublished) {
  const ModelConfig config = parsed(v3());
  EXPECT_EQ(config.architecture, Architecture::kDeepseekV3);
  EXPECT_EQ(config.q_lora_rank, 1536U);
  EXPECT_EQ(config.topk_method, TopkMethod::kNoauxTc);
  EXPECT_EQ(config.num_groups, 8U);
  EXPECT_EQ(config.topk_groups, 4U);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_EQ(config.routed_scaling_factor, 2.5F);
  EXPECT_FALSE(config.is_moe_layer(2));
  EXPECT_TRUE(config.is_moe_layer(3));
  EXPECT_TRUE(config.fp8);
}

TEST(ParseConfig, ReadsItsOwnQuantisation) {
  const ModelConfig config = parsed(
      v2_lite().set("quantization_config",
                    R"({"quant_method":"troupe","version":1,"experts":"int4-g32","rest":"int8"})"));
  ASSERT_TRUE(config.quantised.has_value());
  EXPECT_EQ(config.quantised->experts, "int4-g32");
  EXPECT_EQ(config.quantised->rest, "int8");
  EXPECT_FALSE(config.fp8);
  const ModelConfig mixed = parsed(
      v2_lite().set("quantization_config",
                    R"({"quant_method":"troupe","version":1,"experts":"fp8","rest":"int8"})"));
  EXPECT_TRUE(mixed.quantised.has_value());
  EXPECT_TRUE(mixed.fp8);
}

TEST(ParseConfig, ReadsGroupLimitedGreedyOfDeepSeekV2) {
  const ModelConfig config = parsed(v2_lite()
                                        .set("topk_method", R"("group_limited_greedy")")
                                        .set("n_group", "8")
                                        .set("topk_group", "3"));
  EXPECT_EQ(config.topk_method, TopkMethod::kGroupLimitedGreedy);
  EXPECT_EQ(config.num_groups, 8U);
  EXPECT_EQ(config.topk_groups, 3U);
}

TEST(ParseConfig, TakesTheSpellingsThatTransformers5Saves) {
  const TestConfig saved =
      v2_lite()
          .erase("rope_scaling")
          .erase("rope_theta")
          .erase("torch_dtype")
          .erase("n_routed_experts")
          .set("dtype", R"("bfloat16")")
          .set("head_dim", "64")
          .set("qk_head_dim", "192")
          .set("num_experts", "64")
          .set("eos_token_id", "[100001, 7]")
          .set("layer_types", R"(["full_attention"])")
          .set("rope_parameters",
               R"({"beta_fast":32.0,"beta_slow":1.0,"factor":40.0,"mscale":0.707,)"
               R"("mscale_all_dim":0.707,"original_max_position_embeddings":4096,)"
               R"("rope_theta":10000.0,"rope_type":"yarn","type":"yarn"})");
  const ModelConfig config = parsed(saved);
  const ModelConfig hub = parsed(v2_lite());
  EXPECT_EQ(config.inv_freq(), hub.inv_freq());
  EXPECT_EQ(config.softmax_scale(), hub.softmax_scale());
  EXPECT_EQ(config.num_routed_experts, 64U);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(100001, 7));
}

TEST(ParseConfig, FillsMissingKeysAsTheHuggingFaceClassesDo) {
  TestConfig config = v3();
  for (const char* key : {"architectures",
                          "kv_lora_rank",
                          "q_lora_rank",
                          "qk_nope_head_dim",
                          "qk_rope_head_dim",
                          "v_head_dim",
                          "n_group",
                          "topk_group",
                          "n_routed_experts",
                          "n_shared_experts",
                          "norm_topk_prob",
                          "routed_scaling_factor",
                          "first_k_dense_replace",
                          "moe_layer_freq",
                          "hidden_act",
                          "rms_norm_eps",
                          "rope_theta",
                          "rope_scaling",
                          "scoring_func",
                          "topk_method",
                          "num_key_value_heads",
                          "bos_token_id",
                          "eos_token_id",
                          "tie_word_embeddings",
                          "attention_bias",
                          "max_position_embeddings",
                          "quantization_config"}) {
    config.erase(key);
  }
  const ModelConfig filled = parsed(config);
  const ModelConfig full = parsed(v3());
  EXPECT_EQ(filled.q_lora_rank, full.q_lora_rank);
  EXPECT_EQ(filled.kv_dim(), full.kv_dim());
  EXPECT_EQ(filled.num_groups, full.num_groups);
  EXPECT_EQ(filled.topk_groups, full.topk_groups);
  EXPECT_EQ(filled.num_routed_experts, full.num_routed_experts);
  EXPECT_EQ(filled.num_shared_experts, full.num_shared_experts);
  EXPECT_EQ(filled.norm_topk_prob, full.norm_topk_prob);
  EXPECT_EQ(filled.routed_scaling_factor, full.routed_scaling_factor);
  EXPECT_EQ(filled.first_k_dense_replace, full.first_k_dense_replace);
  EXPECT_EQ(filled.max_position_embeddings, 4096U);
  EXPECT_FALSE(filled.rope.yarn);
  EXPECT_FALSE(filled.bos_token_id.has_value());
  EXPECT_TRUE(filled.eos_token_ids.empty());
}

TEST(ParseConfig, TellsAMissingQueryRankFromANullOne) {
  EXPECT_EQ(parsed(v3().set("q_lora_rank", "null")).q_lora_rank, 0U);
  EXPECT_EQ(parsed(v3().erase("q_lora_rank")).q_lora_rank, 1536U);
}

TEST(ParseConfig, KnowsTheNamesOfAnOrderOfColumns) {
  const auto reorders = [](const std::string& order) {
    const ModelConfig config = parsed(v3().set(
        "quantization_config",
        R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":)"
        R"({"group_0":{"weights":{"num_bits":4,"group_size":128,"actorder":)" +
            order + "}}}}"));
    return config.published && config.published->reordered;
  };
  for (const char* name : {R"("group")", R"("dynamic")", "true"}) EXPECT_TRUE(reorders(name));
  for (const char* name : {R"("weight")", R"("static")", "false", "null"}) {
    EXPECT_FALSE(reorders(name)) << name;
  }
}

TEST(ParseConfig, TakesTheArchitectureFromItsClassNameAlone) {
  EXPECT_EQ(parsed(v3().erase("model_type")).architecture, Architecture::kDeepseekV3);
}

TEST(ParseConfig, TakesAModelWithoutExperts) {
  const ModelConfig config = parsed(v2_lite()
                                        .set("n_routed_experts", "null")
                                        .erase("num_experts_per_tok")
                                        .set("n_shared_experts", "null"));
  EXPECT_FALSE(config.is_moe_layer(5));
  EXPECT_EQ(config.num_shared_experts, 0U);
}

/// models.md section 1.5, computed there from the published configs.
TEST(Yarn, GivesTheRampAndSoftmaxScaleOfEachReleasedModel) {
  struct Case {
    const char* name;
    double theta, factor, beta_fast, mscale;
    double low, high, scale;
  };
  for (const Case& c : {Case{"V2-Lite", 1e4, 40, 32, 0.707, 10, 23, 0.1147214},
                        Case{"V3", 1e4, 40, 32, 1.0, 10, 23, 0.1352338},
                        Case{"Kimi-K2", 5e4, 32, 1, 1.0, 19, 20, 0.1308608},
                        Case{"Kimi-K2.5", 5e4, 64, 32, 1.0, 8, 20, 0.1446796}}) {
    SCOPED_TRACE(c.name);
    ModelConfig config;
    config.qk_nope_head_dim = 128;
    config.qk_rope_head_dim = 64;
    config.rope.yarn = true;
    config.rope.theta = c.theta;
    config.rope.factor = c.factor;
    config.rope.original_max_positions = 4096;
    config.rope.beta_fast = c.beta_fast;
    config.rope.mscale = config.rope.mscale_all_dim = c.mscale;
    EXPECT_EQ(config.rope_ramp().low, c.low);
    EXPECT_EQ(config.rope_ramp().high, c.high);
    EXPECT_NEAR(config.softmax_scale(), c.scale, 1e-7);
    EXPECT_EQ(config.rope_magnitude(), 1.0F);
  }
}

TEST(Yarn, GivesTheFrequenciesOfTransformers) {
  // transformers 5.23, ROPE_INIT_FUNCTIONS["yarn"] on V3's parameters.
  const std::vector<std::pair<size_t, double>> expected = {{0, 1.0},
                                                           {9, 0.07498941570520401},
                                                           {11, 0.039006926119327545},
                                                           {16, 0.005500000435858965},
                                                           {22, 0.00017782794020604342},
                                                           {31, 3.3338035336782923e-06}};
  const std::vector<float> frequencies = parsed(v3()).inv_freq();
  ASSERT_EQ(frequencies.size(), 32U);
  for (const auto& [index, value] : expected) {
    EXPECT_NEAR(frequencies[index], value, value * 1e-6) << index;
  }
}

TEST(Yarn, ScalesCosineAndSineOnlyWhenTheTwoMscalesDiffer) {
  const auto with = [](const std::string& extra) {
    return parsed(v3().set("rope_scaling",
                           R"({"type":"yarn","factor":32,"original_max_position_embeddings":4096)" +
                               extra + "}"))
        .rope_magnitude();
  };
  EXPECT_NEAR(with(R"(,"mscale":1.0,"mscale_all_dim":0.707)"), 1.0815612985589222, 1e-6);
  EXPECT_NEAR(with(""), 1 + 0.1 * std::log(32.0), 1e-6);
  EXPECT_NEAR(with(R"(,"mscale":1.0)"), 1 + 0.1 * std::log(32.0), 1e-6);
  EXPECT_EQ(with(R"(,"attention_factor":1.25,"mscale":1.0,"mscale_all_dim":0.707)"), 1.25F);
}

TEST(Yarn, IsAbsentFromPlainRotation) {
  const ModelConfig config = parsed(v3().set("rope_scaling", "null"));
  EXPECT_FLOAT_EQ(config.softmax_scale(), static_cast<float>(1 / std::sqrt(192.0)));
  EXPECT_EQ(config.rope_magnitude(), 1.0F);
  EXPECT_EQ(config.inv_freq()[0], 1.0F);
  EXPECT_FLOAT_EQ(config.inv_freq()[16], 0.01F);
}

struct Refusal {
  const char* name;
  std::function<TestConfig()> config;
  Code code;
  const char* mentions;
};

class RefusedConfig : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedConfig, IsAnErrorThatNamesTheKey) {
  const auto result = parse_config(GetParam().config().json());
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, GetParam().code) << result.error().message;
  EXPECT_THAT(result.error().message, HasSubstr(GetParam().mentions));
}

Refusal refuse(const char* name, const char* key, const char* value, Code code = Code::kUnsupported,
               const char* mentions = nullptr) {
  return {name, [=] { return v3().set(key, value); }, code, mentions != nullptr ? mentions : key};
}

Refusal missing(const char* name, const char* key) {
  return {name, [=] { return v3().erase(key); }, Code::kInvalidArgument, key};
}

std::string rope(const char* extra) {
  return std::string(R"({"type":"yarn","factor":40,"original_max_position_embeddings":4096)") +
         extra + "}";
}

Refusal refuse_rope(const char* name, const char* extra, Code code, const char* mentions) {
  return {name, [=] { return v3().set("rope_scaling", rope(extra)); }, code, mentions};
}

constexpr Code kBad = Code::kInvalidArgument;
constexpr Code kNo = Code::kUnsupported;

INSTANTIATE_TEST_SUITE_P(
    Config, RefusedConfig,
    ::testing::Values(
        refuse("SparseAttention", "index_topk", "2048"),
        refuse("UnknownFlag", "use_magic_attention", "true"),
        refuse("DeepSeekV32", "model_type", R"("deepseek_v32")"),
        refuse("OtherFamily", "model_type", R"("qwen3_moe")"),
        refuse("OtherClass", "architectures", R"(["DeepseekV32ForCausalLM"])"),
        refuse("ContradictingClass", "architectures", R"(["DeepseekV2ForCausalLM"])", kBad),
        refuse("NestedTextConfig", "text_config", "{}"),
        refuse("OtherActivation", "hidden_act", R"("gelu")"),
        refuse("SoftmaxScoresInV3", "scoring_func", R"("softmax")"),
        refuse("GreedyInV3", "topk_method", R"("greedy")"),
        refuse("OtherQuantization", "quantization_config", R"({"quant_method":"bitsandbytes"})",
               kNo, "quant_method"),
        refuse("GptqOf3Bits", "quantization_config",
               R"({"quant_method":"gptq","bits":3,"group_size":128})", kNo, "bits"),
        refuse("AwqOfAnotherLayout", "quantization_config",
               R"({"quant_method":"awq","bits":4,"group_size":128,"version":"gemv"})", kNo,
               "version"),
        refuse("GroupsThatAreNoBlocks", "quantization_config",
               R"({"quant_method":"awq","bits":4,"group_size":48})", kNo, "group_size"),
        refuse("CompressedToFloats", "quantization_config",
               R"({"quant_method":"compressed-tensors","format":"float-quantized"})", kNo,
               "format"),
        refuse("CompressedInt8WithZeros", "quantization_config",
               R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":)"
               R"({"group_0":{"weights":{"num_bits":8,"type":"int","symmetric":false}}}})",
               kNo, "symmetric"),
        refuse("CompressedIntegersOf4BitsUnpacked", "quantization_config",
               R"({"quant_method":"compressed-tensors","format":"int-quantized","config_groups":)"
               R"({"group_0":{"weights":{"num_bits":4,"type":"int"}}}})",
               kNo, "num_bits"),
        refuse("CompressedInAnUnknownOrder", "quantization_config",
               R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":)"
               R"({"group_0":{"weights":{"num_bits":4,"group_size":128,"actorder":"first"}}}})",
               kNo, "actorder"),
        refuse("CompressedGroupsWithoutSize", "quantization_config",
               R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":)"
               R"({"group_0":{"weights":{"num_bits":4,"strategy":"group"}}}})",
               kNo, "strategy"),
        refuse("CompressedPerTensor", "quantization_config",
               R"({"quant_method":"compressed-tensors","format":"int-quantized","config_groups":)"
               R"({"group_0":{"weights":{"num_bits":8,"strategy":"tensor"}}}})",
               kNo, "strategy"),
        refuse("AwqOf8Bits", "quantization_config",
               R"({"quant_method":"awq","bits":8,"group_size":128})", kNo, "bits"),
        refuse("StaticActivations", "quantization_config",
               R"({"quant_method":"fp8","activation_scheme":"static"})", kNo, "activation_scheme"),
        refuse("OtherBlocks", "quantization_config",
               R"({"quant_method":"fp8","weight_block_size":[64,64]})", kNo, "weight_block_size"),
        refuse("PerTensorScales", "quantization_config",
               R"({"quant_method":"fp8","weight_block_size":null})", kNo, "weight_block_size"),
        refuse("UnknownQuantizationKey", "quantization_config",
               R"({"quant_method":"fp8","weight_block_size":[128,128],"zero_point":true})", kNo,
               "zero_point"),
        refuse("LaterVersionOfOurOwn", "quantization_config",
               R"({"quant_method":"troupe","version":2,"experts":"int8","rest":"int8"})", kNo,
               "version"),
        refuse("OwnWithoutSchemes", "quantization_config",
               R"({"quant_method":"troupe","version":1,"rest":"int8"})", kBad, "experts"),
        refuse("OwnWithUnknownScheme", "quantization_config",
               R"({"quant_method":"troupe","version":1,"experts":"int3","rest":"int8"})", kNo,
               "experts"),
        refuse("CompressedTensors", "compression_config", "{}"),
        refuse("SlidingWindow", "layer_types", R"(["sliding_attention"])"),
        refuse("OtherFfnOrder", "mlp_layer_types", R"(["sparse"])", kBad),
        refuse("HalfSplitRotation", "rope_interleave", "false"),
        refuse("GroupedQueries", "num_key_value_heads", "8"),
        refuse("OtherHeadDim", "head_dim", "128"),
        refuse_rope("LinearRope", R"(,"rope_type":"linear")", kBad, "rope_type"),
        refuse_rope("UntruncatedRamp", R"(,"truncate":false)", kNo, "truncate"),
        refuse_rope("UnknownRopeKey", R"(,"long_factor":[1.0])", kNo, "long_factor"),
        refuse_rope("ShrinkingFactor", R"(,"attention_factor":-1)", kBad, "attention_factor"),
        refuse_rope("SwappedBetas", R"(,"beta_fast":1,"beta_slow":32)", kBad, "beta_fast"),
        refuse("DynamicRope", "rope_scaling", R"({"type":"dynamic","factor":2})", kNo, "dynamic"),
        refuse("RopeIsNumber", "rope_scaling", "4", kBad),
        refuse("BothRopesDiffer", "rope_parameters", R"({"rope_type":"default"})", kBad,
               "rope_parameters"),
        missing("NoVocabulary", "vocab_size"), missing("NoHiddenSize", "hidden_size"),
        missing("NoLayers", "num_hidden_layers"), missing("NoHeads", "num_attention_heads"),
        missing("NoInnerSize", "intermediate_size"),
        missing("NoExpertSize", "moe_intermediate_size"), missing("NoTopk", "num_experts_per_tok"),
        Refusal{"NoType", [] { return v3().erase("model_type").erase("architectures"); }, kBad,
                "model_type"},
        refuse("ZeroHidden", "hidden_size", "0", kBad),
        refuse("NegativeHidden", "hidden_size", "-8", kBad),
        refuse("HugeHidden", "hidden_size", "4294967296", kBad),
        refuse("BeyondIntegers", "hidden_size", "1e400", kBad),
        refuse("FractionalHidden", "hidden_size", "7168.5", kBad),
        refuse("TextualHidden", "hidden_size", R"("7168")", kBad),
        refuse("TooManyLayers", "num_hidden_layers", "100000", kBad),
        refuse("OddRotation", "qk_rope_head_dim", "63", kBad),
        refuse("GroupsDoNotDivide", "n_group", "7", kBad),
        refuse("MoreGroupsChosen", "topk_group", "9", kBad),
        refuse("GroupsOfOne", "n_group", "256", kBad),
        refuse("TopkTooLarge", "num_experts_per_tok", "65", kBad),
        Refusal{"TopkBeyondGroups",
                [] { return v3().set("topk_group", "1").set("num_experts_per_tok", "33"); }, kBad,
                "num_experts_per_tok"},
        Refusal{"TopkBeyondExperts", [] { return v2_lite().set("n_routed_experts", "4"); }, kBad,
                "num_experts_per_tok"},
        Refusal{"NormalisedV2", [] { return v2_lite().set("norm_topk_prob", "true"); }, kNo,
                "norm_topk_prob"},
        Refusal{"BiasedGateInV2", [] { return v2_lite().set("topk_method", R"("noaux_tc")"); }, kNo,
                "topk_method"},
        Refusal{"GroupsWithoutCount",
                [] {
                  return v2_lite().set("topk_method", R"("group_limited_greedy")").erase("n_group");
                },
                kBad, "n_group"},
        Refusal{"SpellingsDisagree", [] { return v3().set("num_experts", "128"); }, kBad,
                "num_experts"},
        refuse("EosBeyondVocabulary", "eos_token_id", "[1, 129280]", kBad),
        refuse("NegativeBos", "bos_token_id", "-1", kBad),
        refuse("EpsIsZero", "rms_norm_eps", "0", kBad),
        refuse("ThetaIsOne", "rope_theta", "1", kBad),
        refuse("FlagIsNumber", "attention_bias", "1", kBad),
        refuse("ScaleIsNegative", "routed_scaling_factor", "-2.5", kBad)),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ParseConfig, RefusesTextThatIsNoObject) {
  for (const char* text : {"", "[]", "7", "{", "{}x", "\xff\xfe", "{\"a\":1,\"a\":2}"}) {
    const auto result = parse_config(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_THAT(result.error().message, HasSubstr("config.json"));
  }
}

TEST(ParseConfig, NamesARepeatedKey) {
  const auto result = parse_config(R"({"hidden_size":1,"hidden_size":2})");
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("\"hidden_size\" occurs twice"));
}

TEST(ParseConfig, RefusesDeepNestingInsteadOfOverflowingTheStack) {
  const std::string deep(200000, '[');
  const auto result = parse_config("{\"auto_map\":" + deep);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("too deep"));
}

}  // namespace
}  // namespace troupe::model
