#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/tokenizer.hpp"
#include "tests/model/tokenizer_files.hpp"

namespace troupe::model {
namespace {

struct HostileCase {
  std::string name;
  std::string json;
  std::string message_part;  // what the error has to name
  std::string config = "{}";
};

std::string with(void (*change)(TokenizerParts&)) {
  TokenizerParts parts;
  change(parts);
  return parts.json();
}

std::string added(const std::string& tokens) {
  TokenizerParts parts;
  parts.added_tokens = tokens;
  return parts.json();
}

std::string pre_tokenizer(const std::string& node) {
  TokenizerParts parts;
  parts.pre_tokenizer = node;
  return parts.json();
}

std::string split_regex(const std::string& regex) {
  return pre_tokenizer(
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":")" + regex +
      R"("},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::vector<HostileCase> hostile_cases() {
  const std::string good = TokenizerParts().json();
  std::string deep_sequence;
  for (int i = 0; i < 12; ++i) deep_sequence += R"({"type":"Sequence","pretokenizers":[)";
  deep_sequence += R"({"type":"Digits"})";
  for (int i = 0; i < 12; ++i) deep_sequence += "]}";
  return {
      {"Empty", "", "tokenizer.json"},
      {"Truncated", good.substr(0, good.size() / 2), "tokenizer.json"},
      {"TrailingBytes", good + "x", "tokenizer.json"},
      {"NotUtf8", replaced(good, "1.0", "\xFF"), "tokenizer.json"},
      {"DeeplyNested", std::string(100'000, '['), "tokenizer.json"},
      {"KeyTwice", with([](auto& p) { p.root_options = R"(,"version":"2.0")"; }), "version"},
      {"VocabKeyTwice", replaced(good, "\"A\":65,", "\"A\":65,\"A\":999,"), "twice"},
      {"AnArray", "[]", "tokenizer.json"},
      {"UnknownRootKey", with([](auto& p) { p.root_options = R"(,"surprise":1)"; }), "surprise"},
      {"Truncation", with([](auto& p) { p.root_options = R"(,"truncation":{"max_length":1})"; }),
       "truncation"},
      {"NoModel",
       R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}})",
       "model"},
      {"ModelOfAnotherType", replaced(good, "\"BPE\"", "\"Unigram\""), "model.type"},
      {"UnknownModelKey", with([](auto& p) { p.model_options = R"(,"novelty":true)"; }),
       "model.novelty"},
      {"Dropout", with([](auto& p) { p.model_options = R"(,"dropout":0.1)"; }), "model.dropout"},
      {"ByteFallback", with([](auto& p) { p.model_options = R"(,"byte_fallback":true)"; }),
       "model.byte_fallback"},
      {"SubwordPrefix",
       with([](auto& p) { p.model_options = R"(,"continuing_subword_prefix":"##")"; }),
       "model.continuing_subword_prefix"},
      {"IgnoreMergesIsANumber", with([](auto& p) { p.model_options = R"(,"ignore_merges":1)"; }),
       "model.ignore_merges"},
      {"VocabIsAnArray",
       R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},"model":{"vocab":[],"merges":[]}})",
       "model.vocab"},
      {"VocabIdNegative", replaced(good, ":65,", ":-65,"), "model.vocab"},
      {"VocabIdFraction", replaced(good, ":65,", ":65.5,"), "model.vocab"},
      {"VocabIdHuge", replaced(good, ":65,", ":4294967296,"), "model.vocab"},
      {"VocabIdBeyond64Bits", replaced(good, ":65,", ":18446744073709551615,"), "model.vocab"},
      {"VocabIdTwice", replaced(good, ":65,", ":66,"), "id 66"},
      {"VocabLacksAByte", replaced(good, "\"A\":65,", ""), "byte 65"},
      {"VocabHasTheEmptyToken", replaced(good, "\"A\":65,", "\"A\":65,\"\":999,"), "empty"},
      {"MergesMissing", replaced(good, ",\"merges\":[]", ""), "model.merges"},
      {"MergeOfOne", with([](auto& p) { p.merges = R"(["ab"])"; }), "model.merges[0]"},
      {"MergeOfThree", with([](auto& p) { p.merges = R"(["a b c"])"; }), "model.merges[0]"},
      {"MergeOfNumbers", with([](auto& p) { p.merges = R"([["a",1]])"; }), "model.merges[0]"},
      {"MergeOfUnknownTokens", with([](auto& p) { p.merges = R"(["zz a"])"; }), "zz"},
      {"MergeIntoNothing", with([](auto& p) { p.merges = R"(["a b"])"; }), "ab"},
      {"Normalizer", with([](auto& p) { p.normalizer = R"({"type":"NFC"})"; }), "NFC"},
      {"NormalizerInASequence", with([](auto& p) {
         p.normalizer = R"({"type":"Sequence","normalizers":[{"type":"Lowercase"}]})";
       }),
       "Lowercase"},
      {"NoPreTokenizer", pre_tokenizer("null"), "pre_tokenizer"},
      {"UnknownPreTokenizer", pre_tokenizer(R"({"type":"Metaspace"})"), "Metaspace"},
      {"NoByteLevel", pre_tokenizer(R"({"type":"Digits"})"), "ByteLevel"},
      {"ByteLevelNotLast",
       pre_tokenizer(
           R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},{"type":"Digits"}]})"),
       "last"},
      {"PrefixSpace", pre_tokenizer(R"({"type":"ByteLevel","add_prefix_space":true})"),
       "add_prefix_space"},
      {"DeepPreTokenizer", pre_tokenizer(deep_sequence), "nested"},
      {"SplitBehaviour",
       pre_tokenizer(
           R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"Removed","invert":false})"),
       "behavior"},
      {"SplitInverted",
       pre_tokenizer(
           R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"Isolated","invert":true})"),
       "invert"},
      {"RegexMalformed", split_regex("(a"), "(a"},
      {"RegexMatchesNothing", split_regex("a*"), "match nothing"},
      {"RegexEmpty", split_regex(""), "pattern"},
      {"RegexClassIntersection", split_regex("[a-z&&[^b]]"), "class"},
      {"RegexHexDigits", split_regex("\\\\h+"), "\\h"},
      {"RegexScript", split_regex("\\\\p{Han}+"), "property"},
      {"AddedTokensAreAnObject", added("{}"), "added_tokens"},
      {"AddedTokenWithoutContent", added(R"([{"id":300}])"), "added_tokens[0].content"},
      {"AddedTokenEmpty", added(R"([{"id":300,"content":""}])"), "added_tokens[0].content"},
      {"AddedTokenHuge", added(R"([{"id":300,"content":")" + std::string(5000, 'a') + "\"}]"),
       "256 bytes"},
      {"AddedTokenTwice", added(R"([{"id":300,"content":"x1"},{"id":301,"content":"x1"}])"),
       "twice"},
      {"AddedTokenTakesAnId", added(R"([{"id":65,"content":"x1"}])"), "id 65"},
      {"AddedTokenContradictsVocab", added(R"([{"id":300,"content":"A"}])"), "65"},
      {"AddedTokenIdHuge", added(R"([{"id":2147483647,"content":"x1"}])"), "added_tokens[0].id"},
      {"AddedTokenUnknownKey", added(R"([{"id":300,"content":"x","color":1}])"), "color"},
      {"NoDecoder", with([](auto& p) { p.decoder = "null"; }), "decoder"},
      {"DecoderOfAnotherType", with([](auto& p) { p.decoder = R"({"type":"WordPiece"})"; }),
       "WordPiece"},
      {"PostProcessorOfAnotherType",
       with([](auto& p) { p.post_processor = R"({"type":"BertProcessing"})"; }), "BertProcessing"},
      {"TemplateWithUnknownToken", with([](auto& p) {
         p.post_processor =
             R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"[CLS]"}},{"Sequence":{"id":"A"}}]})";
       }),
       "[CLS]"},
      {"TemplateWithoutText",
       with([](auto& p) { p.post_processor = R"({"type":"TemplateProcessing","single":[]})"; }),
       "Sequence"},
      {"ConfigNotJson", good, "tokenizer_config.json", "{"},
      {"BosUnknown", good, "bos_token", R"({"bos_token":"<nope>"})"},
      {"BosIsANumber", good, "bos_token", R"({"bos_token":1})"},
      {"AddBosIsAString", good, "add_bos_token", R"({"add_bos_token":"yes"})"},
      {"ChatTemplateIsANumber", good, "chat_template", R"({"chat_template":1})"},
  };
}

class HostileTokenizer : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileTokenizer, IsAnErrorThatNamesTheCause) {
  const auto tokenizer = Tokenizer::parse(GetParam().json, GetParam().config);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_THAT(tokenizer.error().message, testing::HasSubstr(GetParam().message_part));
  EXPECT_LT(tokenizer.error().message.size(), 600U);
  EXPECT_TRUE(tokenizer.error().code == Code::kInvalidArgument ||
              tokenizer.error().code == Code::kUnsupported ||
              tokenizer.error().code == Code::kCorrupt);
}

INSTANTIATE_TEST_SUITE_P(All, HostileTokenizer, testing::ValuesIn(hostile_cases()),
                         [](const auto& test) { return test.param.name; });

TEST(HostileTokenizer, TheUnchangedFileIsGood) {
  EXPECT_TRUE(Tokenizer::parse(TokenizerParts().json()).ok());
}

}  // namespace
}  // namespace troupe::model
