// The whole forward pass against transformers, on the tiny checkpoints of tests/golden and on the
// demo model.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "actors/local_model.hpp"
#include "model/chat_format.hpp"
#include "model/tokenizer.hpp"

namespace troupe::actors {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

const fs::path kModels = fs::path(TROUPE_SOURCE_DIR) / "tests/golden/models";
const fs::path kDemo = fs::path(TROUPE_SOURCE_DIR) / "models/demo";
constexpr double kRelativeTolerance = 2e-4;

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<TokenId> tokens(const json::value& array) {
  std::vector<TokenId> ids;
  for (const auto& id : array.as_array()) ids.push_back(static_cast<TokenId>(id.as_int64()));
  return ids;
}

std::unique_ptr<LocalModel> load(const fs::path& directory, const LocalModelOptions& options) {
  auto checkpoint = model::Checkpoint::open(directory.string());
  if (!checkpoint.ok()) {
    ADD_FAILURE() << checkpoint.error().message;
    return nullptr;
  }
  auto local = LocalModel::load(*checkpoint, options);
  if (!local.ok()) {
    ADD_FAILURE() << local.error().message;
    return nullptr;
  }
  return std::move(*local);
}

std::vector<TokenId> greedy_tokens(LocalModel& local, const json::value& prompt, size_t count) {
  scheduler::RequestSpec spec{.prompt = tokens(prompt), .max_tokens = static_cast<uint32_t>(count)};
  spec.sampling.temperature = 0;
  std::vector<TokenId> ours;
  const auto done = local.generate(spec, [&](const model::SampledToken& token) {
    ours.push_back(token.token);
    return true;
  });
  EXPECT_TRUE(done.ok()) << done.error().message;
  return ours;
}

using Logits = std::vector<std::vector<float>>;

Logits all_logits(LocalModel& local, const std::vector<TokenId>& prompt) {
  Logits rows;
  const auto done = local.logits(prompt, [&](uint32_t position, std::span<const float> row) {
    EXPECT_EQ(position, rows.size());
    rows.emplace_back(row.begin(), row.end());
  });
  EXPECT_TRUE(done.ok()) << done.error().message;
  return rows;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = json::parse(read_file(kModels / GetParam() / "golden.json"));
    logits_ = read_file(kModels / GetParam() / golden_.at("logits_file").as_string().c_str());
  }

  std::vector<float> expected_row(const json::value& prompt, size_t row) const {
    const auto vocab = static_cast<size_t>(golden_.at("vocab_size").as_int64());
    const size_t at = static_cast<size_t>(prompt.at("offset").as_int64()) + row * vocab * 4;
    EXPECT_LE(at + vocab * 4, logits_.size());
    std::vector<float> values(vocab);
    std::memcpy(values.data(), logits_.data() + at, vocab * 4);
    return values;
  }

  /// Largest difference over the row's largest magnitude, over all stored rows.
  double worst_error(LocalModel& local) const {
    double worst = 0;
    for (const json::value& prompt : golden_.at("prompts").as_array()) {
      const Logits ours = all_logits(local, tokens(prompt.at("tokens")));
      const auto& positions = prompt.at("positions").as_array();
      for (size_t i = 0; i < positions.size(); ++i) {
        const auto position = static_cast<size_t>(positions[i].as_int64());
        const std::vector<float> expected = expected_row(prompt, i);
        double scale = 0, difference = 0;
        for (size_t v = 0; v < expected.size(); ++v) {
          scale = std::max<double>(scale, std::abs(expected[v]));
          difference = std::max<double>(difference, std::abs(ours[position][v] - expected[v]));
          if (!std::isfinite(ours[position][v])) return INFINITY;
        }
        worst = std::max(worst, difference / scale);
      }
    }
    return worst;
  }

  json::value golden_;
  std::string logits_;
};

TEST_P(Golden, HasPromptsOfOneTwoSeventeenAndThreeHundredTokens) {
  std::vector<size_t> lengths;
  for (const json::value& prompt : golden_.at("prompts").as_array()) {
    lengths.push_back(prompt.at("tokens").as_array().size());
  }
  EXPECT_EQ(lengths, (std::vector<size_t>{1, 2, 17, 300}));
}

TEST_P(Golden, LogitsAgreeWithTransformersInTheAbsorbedForm) {
  const auto local = load(kModels / GetParam(), {});
  ASSERT_NE(local, nullptr);
  const double worst = worst_error(*local);
  RecordProperty("worst_relative_error", std::to_string(worst));
  EXPECT_LE(worst, kRelativeTolerance);
}

TEST_P(Golden, LogitsAgreeWithTransformersInTheExpandedForm) {
  const auto local = load(kModels / GetParam(), {.form = AttentionForm::kExpanded});
  ASSERT_NE(local, nullptr);
  EXPECT_LE(worst_error(*local), kRelativeTolerance);
}

TEST_P(Golden, GreedyContinuationIsIdentical) {
  const auto local = load(kModels / GetParam(), {.num_threads = 2});
  ASSERT_NE(local, nullptr);
  for (const json::value& greedy : golden_.at("greedy").as_array()) {
    const std::vector<TokenId> expected = tokens(greedy.at("continuation"));
    ASSERT_EQ(expected.size(), 64U);
    EXPECT_EQ(greedy_tokens(*local, greedy.at("prompt"), expected.size()), expected);
  }
}

TEST_P(Golden, ChunkedOneShotAndTokenByTokenPrefillAgreeBitForBit) {
  const std::vector<TokenId> prompt = tokens(golden_.at("prompts").as_array().back().at("tokens"));
  for (const auto& [form, kv_dtype] : {std::pair{AttentionForm::kAbsorbed, DType::kF32},
                                       std::pair{AttentionForm::kExpanded, DType::kF32},
                                       std::pair{AttentionForm::kAbsorbed, DType::kBF16},
                                       std::pair{AttentionForm::kExpanded, DType::kBF16}}) {
    Logits whole;
    for (const uint32_t chunk : {512U, 1U, 7U, 64U}) {
      const auto local = load(kModels / GetParam(), {.num_threads = chunk % 3 + 1,
                                                     .form = form,
                                                     .kv_dtype = kv_dtype,
                                                     .chunk_tokens = chunk});
      ASSERT_NE(local, nullptr);
      const Logits rows = all_logits(*local, prompt);
      if (whole.empty()) whole = rows;
      ASSERT_EQ(rows.size(), whole.size());
      for (size_t r = 0; r < rows.size(); ++r) {
        ASSERT_EQ(0, std::memcmp(rows[r].data(), whole[r].data(), rows[r].size() * 4))
            << "chunk of " << chunk << ", position " << r;
      }
    }
  }
}

/// Half a unit in the last of BF16's 8 bits for each element, averaged over what is summed.
TEST_P(Golden, LogitsAreLittleOffWithKvInBf16) {
  for (const AttentionForm form : {AttentionForm::kAbsorbed, AttentionForm::kExpanded}) {
    const auto local = load(kModels / GetParam(), {.form = form, .kv_dtype = DType::kBF16});
    ASSERT_NE(local, nullptr);
    const double worst = worst_error(*local);
    EXPECT_GT(worst, kRelativeTolerance) << "nothing was rounded";
    EXPECT_LE(worst, 0.02);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::ValuesIn(model_names()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(GoldenModels, AreAtLeastTwelve) { EXPECT_GE(model_names().size(), 12U); }

TEST(DemoModel, ReadsAndContinuesChatsAsTransformersDoes) {
  const auto local = load(kDemo, {.num_threads = 2});
  ASSERT_NE(local, nullptr);
  const auto tokenizer = model::Tokenizer::load(kDemo.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const auto format = model::ChatFormat::detect(*tokenizer);
  ASSERT_TRUE(format.ok()) << format.error().message;
  const json::value golden = json::parse(read_file(kDemo / "golden.json"));
  ASSERT_EQ(golden.as_array().size(), 9U);
  for (const json::value& chat : golden.as_array()) {
    const std::string prompt(chat.at("prompt").as_string());
    SCOPED_TRACE(prompt.substr(0, 60));
    const std::vector<model::ChatMessage> messages = {{model::ChatRole::kUser, prompt}};
    const auto encoded = format->encode(*tokenizer, messages);
    ASSERT_TRUE(encoded.ok()) << encoded.error().message;
    EXPECT_EQ(*encoded, tokens(chat.at("tokens")));
    const std::vector<TokenId> expected = tokens(chat.at("continuation"));
    ASSERT_EQ(expected.size(), 32U);
    EXPECT_EQ(greedy_tokens(*local, chat.at("tokens"), expected.size()), expected);
  }
}

TEST(LocalModel, RefusesTokensOutsideTheVocabularyAndTooLongPrompts) {
  const auto local = load(kModels / "v3-odd", {.max_context = 32});
  ASSERT_NE(local, nullptr);
  const auto ignore = [](uint32_t, std::span<const float>) {};
  EXPECT_EQ(local->logits(std::vector<TokenId>{}, ignore).error().code, Code::kInvalidArgument);
  EXPECT_EQ(local->logits(std::vector<TokenId>{-1}, ignore).error().code, Code::kInvalidArgument);
  EXPECT_EQ(local->logits(std::vector<TokenId>{1 << 20}, ignore).error().code,
            Code::kInvalidArgument);
  EXPECT_EQ(local->logits(std::vector<TokenId>(33, 1), ignore).error().code,
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace troupe::actors
