#include "loadgen/trace.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace troupe::loadgen {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Mooncake, ReadsRowsInOrderOfArrivalFromZero) {
  const auto rows = parse_mooncake(
      R"({"timestamp": 2500, "input_length": 600, "output_length": 7, "hash_ids": [0, 9]})"
      "\r\n\n"
      R"({"timestamp": 1000.5, "input_length": 3, "output_length": 1, "round": 4})"
      "\n");
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  ASSERT_EQ(rows->size(), 2U);
  EXPECT_EQ((*rows)[0].at, Duration{});
  EXPECT_EQ((*rows)[0].input_tokens, 3U);
  EXPECT_EQ((*rows)[1].at, microseconds(1'499'500));
  EXPECT_THAT((*rows)[1].hash_ids, ElementsAre(0, 9));
}

TEST(Mooncake, NamesTheLineOfWhatItCannotRead) {
  const std::string good = R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":[1]})"
                           "\n";
  for (const char* bad : {"{", "[]", "{}", R"({"timestamp":-1,"input_length":1,"output_length":1})",
                          R"({"timestamp":"0","input_length":1,"output_length":1})",
                          R"({"timestamp":1e300,"input_length":1,"output_length":1})",
                          R"({"timestamp":0,"input_length":0,"output_length":1})",
                          R"({"timestamp":0,"input_length":1.5,"output_length":1})",
                          R"({"timestamp":0,"input_length":99999999999,"output_length":1})",
                          R"({"timestamp":0,"input_length":1,"output_length":null})",
                          R"({"timestamp":0,"input_length":513,"output_length":1,"hash_ids":[1]})",
                          R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":[-1]})",
                          R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":["1"]})",
                          R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":7})"}) {
    const auto rows = parse_mooncake(good + bad + "\n" + good);
    ASSERT_FALSE(rows.ok()) << bad;
    EXPECT_EQ(rows.error().code, Code::kCorrupt);
    EXPECT_THAT(rows.error().message, StartsWith("line 2: ")) << bad;
  }
}

TEST(Azure, ReadsEveryFormOfTimestamp) {
  const auto rows = parse_azure(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n"
      "2023-11-16 23:59:59.9799600,4808,10\n"
      "2023-11-17 00:00:00+00:00,34,1\n"
      "2023-11-17T01:00:00.5+01:00,35,2\r\n"
      "2023-11-17 00:00:01Z,36,3\n");
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  std::vector<int64_t> at;
  for (const TraceRow& row : *rows) at.push_back(row.at.ns);
  EXPECT_THAT(at, ElementsAre(0, 20'040'000, 520'040'000, 1'020'040'000));
  EXPECT_EQ((*rows)[0].input_tokens, 4808U);
  EXPECT_EQ((*rows)[0].output_tokens, 10U);
}

TEST(Azure, FindsColumnsByName) {
  const auto rows =
      parse_azure("TIMESTAMP,NumImages,GeneratedTokens,ContextTokens\n2024-02-29 00:00:00,3,7,9\n");
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  EXPECT_EQ((*rows)[0].input_tokens, 9U);
  EXPECT_EQ((*rows)[0].output_tokens, 7U);
}

TEST(Azure, NamesTheLineOfWhatItCannotRead) {
  EXPECT_THAT(parse_azure("TIMESTAMP,ContextTokens\n").error().message,
              HasSubstr("line 1: there is no column GeneratedTokens"));
  for (const char* bad :
       {"2023-11-16 18:17:03,1", "2023-11-16,1,1", "2023-13-16 18:17:03,1,1",
        "2023-02-29 18:17:03,1,1", "2023-11-16 24:17:03,1,1", "2023-11-16 18:17:03.,1,1",
        "2023-11-16 18:17:03.1234567890,1,1", "2023-11-16 18:17:03+1,1,1",
        "1923-11-16 18:17:03,1,1", "2023-11-16 18:17:03,-1,1", "2023-11-16 18:17:03,1,0",
        "2023-11-16 18:17:03,1.5,1", "2023-11-16 18:17:03, 1,1", ",,", "+023-11-16 18:17:03,1,1"}) {
    const auto rows = parse_azure("TIMESTAMP,ContextTokens,GeneratedTokens\n\n" + std::string(bad));
    ASSERT_FALSE(rows.ok()) << bad;
    EXPECT_THAT(rows.error().message, StartsWith("line 3: ")) << bad;
  }
}

TEST(Prompts, HaveTheirOwnOrTheGivenLength) {
  const auto rows =
      parse_prompts("{\"prompt\": \"a\\u0000b\", \"max_tokens\": 3}\n{\"prompt\": \"c\"}", 8);
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  EXPECT_EQ((*rows)[0].prompt, std::string("a\0b", 3));
  EXPECT_EQ((*rows)[0].output_tokens, 3U);
  EXPECT_EQ((*rows)[1].output_tokens, 8U);
  EXPECT_THAT(parse_prompts("{\"prompt\": \"\"}", 8).error().message, StartsWith("line 1: "));
  EXPECT_FALSE(parse_prompts("{\"prompt\": [1]}", 8).ok());
}

TEST(Window, ShiftsAndSpeedsUp) {
  std::vector<TraceRow> rows;
  for (int i = 0; i < 5; ++i)
    rows.push_back({.at = seconds(i), .input_tokens = 1, .output_tokens = 1});
  rows = window_of(std::move(rows), seconds(1), seconds(4), 2);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].at, Duration{});
  EXPECT_EQ(rows[2].at, seconds(1));
}

TEST(Shortened, KeepsWhatFits) {
  const auto rows = shortened(
      {{.at = {}, .input_tokens = 1500, .output_tokens = 9, .hash_ids = {1, 2, 3}, .prompt = {}},
       {.at = {}, .input_tokens = 100, .output_tokens = 3, .hash_ids = {1}, .prompt = {}}},
      600, 5);
  EXPECT_EQ(rows[0].input_tokens, 600U);
  EXPECT_EQ(rows[0].output_tokens, 5U);
  EXPECT_THAT(rows[0].hash_ids, ElementsAre(1, 2));
  EXPECT_EQ(rows[1].input_tokens, 100U);
  EXPECT_EQ(rows[1].output_tokens, 3U);
}

/// The public traces, in the folder that TROUPE_TRACES names, or beside the sources.
TEST(Traces, OfTheRealWorldAreRead) {
  const char* const named = std::getenv("TROUPE_TRACES");
  const std::filesystem::path directory =
      named != nullptr
          ? std::filesystem::path(named)
          : std::filesystem::path(TROUPE_SOURCE_DIR).parent_path() / "shared" / "data" / "traces";
  if (named == nullptr && !std::filesystem::exists(directory)) {
    GTEST_SKIP()
        << "TROUPE_TRACES names no folder with mooncake_conversation.jsonl (kvcache-ai/Mooncake on "
           "GitHub: FAST25-release/traces/conversation_trace.jsonl) and azure_llm_2023_conv.csv "
           "(Azure/AzurePublicDataset: data/AzureLLMInferenceTrace_conv.csv)";
  }
  const auto text_of = [&](const char* name) {
    std::ifstream in(directory / name, std::ios::binary);
    EXPECT_TRUE(in.is_open()) << directory << " has no " << name;
    return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  };
  const auto mooncake = parse_mooncake(text_of("mooncake_conversation.jsonl"));
  ASSERT_TRUE(mooncake.ok()) << mooncake.error().message;
  EXPECT_EQ(mooncake->size(), 12'031U);
  const auto azure = parse_azure(text_of("azure_llm_2023_conv.csv"));
  ASSERT_TRUE(azure.ok()) << azure.error().message;
  EXPECT_EQ(azure->size(), 19'366U);
  EXPECT_NEAR(to_seconds(azure->back().at), 3502, 2);
}

}  // namespace
}  // namespace troupe::loadgen
