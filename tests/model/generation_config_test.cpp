#include "model/generation_config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace troupe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig config_of_model() {
  ModelConfig config;
  config.vocab_size = 100;
  config.eos_token_ids = {1};
  return config;
}

Result<GenerationConfig> parse(std::string_view json) {
  return parse_generation_config(json, config_of_model());
}

TEST(GenerationConfig, GivesDefaultsForWhatARequestLeavesOpen) {
  // As in DeepSeek-R1's, with keys of other programs around.
  const auto parsed = parse(R"({"_from_model_config":true,"bos_token_id":0,"eos_token_id":[1,7],
      "do_sample":true,"temperature":0.6,"top_p":0.95,"top_k":50,"min_p":0.05,"repetition_penalty":1.25,
      "transformers_version":"4.46.3","max_new_tokens":9,"anything":{"x":[]}})");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->sampling.temperature, 0.6F);
  EXPECT_EQ(parsed->sampling.top_p, 0.95F);
  EXPECT_EQ(parsed->sampling.top_k, 50);
  EXPECT_EQ(parsed->sampling.min_p, 0.05F);
  EXPECT_EQ(parsed->sampling.repetition_penalty, 1.25F);
  EXPECT_THAT(parsed->eos_token_ids, ElementsAre(1, 7));
}

TEST(GenerationConfig, LeavesOpenaisDefaultsAndTheConfigsEndTokensWhereItSaysNothing) {
  for (const char* text :
       {"{}", R"({"temperature":null,"top_p":null,"top_k":null,"min_p":null,"eos_token_id":null})",
        R"({"temperature":1,"top_p":1.0,"top_k":0.0,"do_sample":false})"}) {
    const auto parsed = parse(text);
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    EXPECT_EQ(parsed->sampling.temperature, 1.0F) << text;
    EXPECT_EQ(parsed->sampling.top_p, 1.0F) << text;
    EXPECT_EQ(parsed->sampling.top_k, 0) << text;
    EXPECT_EQ(parsed->sampling.min_p, 0.0F) << text;
    EXPECT_THAT(parsed->eos_token_ids, ElementsAre(1)) << text;
  }
}

TEST(GenerationConfig, WrongValuesAreErrorsNamingTheKey) {
  struct Case {
    const char* json;
    const char* key;
  };
  for (const Case& bad : {
           Case{R"({"temperature":"hot"})", "temperature"},
           Case{R"({"temperature":true})", "temperature"},
           Case{R"({"temperature":[0.6]})", "temperature"},
           Case{R"({"temperature":-1})", "temperature"},
           Case{R"({"temperature":2.5})", "temperature"},
           Case{R"({"temperature":1e300})", "temperature"},
           Case{R"({"top_p":0})", "top_p"},
           Case{R"({"top_p":1.01})", "top_p"},
           Case{R"({"top_p":{}})", "top_p"},
           Case{R"({"min_p":-0.1})", "min_p"},
           Case{R"({"repetition_penalty":0})", "repetition_penalty"},
           Case{R"({"repetition_penalty":"1.1"})", "repetition_penalty"},
           Case{R"({"top_k":-2})", "top_k"},
           Case{R"({"top_k":1.5})", "top_k"},
           Case{R"({"top_k":"50"})", "top_k"},
           Case{R"({"top_k":1e300})", "top_k"},
           Case{R"({"top_k":18446744073709551615})", "top_k"},
           Case{R"({"eos_token_id":100})", "eos_token_id"},
           Case{R"({"eos_token_id":-1})", "eos_token_id"},
           Case{R"({"eos_token_id":"</s>"})", "eos_token_id"},
           Case{R"({"eos_token_id":[1,[2]]})", "eos_token_id"},
       }) {
    const auto parsed = parse(bad.json);
    ASSERT_FALSE(parsed.ok()) << bad.json;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument) << bad.json;
    EXPECT_THAT(parsed.error().message, HasSubstr("generation_config.json")) << bad.json;
    EXPECT_THAT(parsed.error().message, HasSubstr(bad.key)) << bad.json;
  }
}

TEST(GenerationConfig, HostileBytesAreErrors) {
  std::string many = R"({"eos_token_id":[1)";
  for (int i = 0; i < 1000; ++i) many += ",1";
  many += "]}";
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("7"),
        std::string("{\"top_k\":1,\"top_k\":2}"), std::string("{\"\xff\":1}"),
        std::string(100'000, '['), std::string("{\"temperature\":NaN}"), many}) {
    EXPECT_FALSE(parse(text).ok()) << text.substr(0, 40);
  }
}

TEST(GenerationConfig, IsReadFromTheCheckpointAndMayBeMissing) {
  const std::string directory = ::testing::TempDir() + "generation_config_test";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  auto loaded = load_generation_config(directory, config_of_model());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->sampling.temperature, 1.0F);

  const std::string path = directory + "/generation_config.json";
  std::ofstream(path) << R"({"temperature":0.25})";
  loaded = load_generation_config(directory, config_of_model());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->sampling.temperature, 0.25F);

  std::ofstream(path) << R"({"temperature":9})";
  loaded = load_generation_config(directory, config_of_model());
  ASSERT_FALSE(loaded.ok());
  EXPECT_THAT(loaded.error().message, HasSubstr(directory));
  EXPECT_THAT(loaded.error().message, HasSubstr("temperature"));

  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_FALSE(load_generation_config(directory, config_of_model()).ok()) << "a directory";
}

}  // namespace
}  // namespace troupe::model
