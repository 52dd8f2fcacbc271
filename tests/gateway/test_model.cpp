#include "tests/gateway/test_model.hpp"

#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

namespace troupe::gateway {
namespace {

template <class T>
T must(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    std::abort();
  }
  return std::move(result).value();
}

constexpr const char* kDemo = TROUPE_SOURCE_DIR "/models/demo";

std::string read_file(const std::string& name) {
  std::ifstream in(std::string(kDemo) + "/" + name);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The demo's tokenizer with more added tokens, one of them special.
model::Tokenizer tokenizer_with_marks() {
  namespace json = boost::json;
  json::value document = json::parse(read_file("tokenizer.json"));
  json::array& added = document.as_object().at("added_tokens").as_array();
  int64_t id = added.back().at("id").as_int64();
  for (const char* mark : {"<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
                           "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
                           "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>",
                           "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"}) {
    added.push_back({{"id", ++id},
                     {"content", mark},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", std::string_view(mark) == "<｜tool▁sep｜>"}});
  }
  return must(
      model::Tokenizer::parse(json::serialize(document), read_file("tokenizer_config.json")));
}

}  // namespace

TestModel::TestModel() : TestModel(must(model::Tokenizer::load(kDemo)), std::nullopt) {}

TestModel::TestModel(model::ChatFormatKind kind) : TestModel(tokenizer_with_marks(), kind) {}

TestModel::TestModel(model::Tokenizer tokenizer_in, std::optional<model::ChatFormatKind> kind)
    : tokenizer(std::move(tokenizer_in)),
      chat_format(must(kind ? model::ChatFormat::create(*kind, tokenizer)
                            : model::ChatFormat::detect(tokenizer))),
      gateway{.id = "org/demo",
              .tokenizer = tokenizer,
              .chat_format = &chat_format,
              .max_context = kind ? 4096U : 512U,  // descriptions of tools are long
              .eos_token_ids = {tokenizer.eos().value()},
              .defaults = {}} {}

}  // namespace troupe::gateway
