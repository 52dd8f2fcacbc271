#include "tests/gateway/test_model.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

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

}  // namespace

TestModel::TestModel()
    : tokenizer(must(model::Tokenizer::load(std::string(TROUPE_SOURCE_DIR) + "/models/demo"))),
      chat_format(must(model::ChatFormat::detect(tokenizer))),
      gateway{.id = "org/demo",
              .tokenizer = tokenizer,
              .chat_format = &chat_format,
              .max_context = 512,
              .eos_token_ids = {tokenizer.eos().value()},
              .defaults = {}} {}

}  // namespace troupe::gateway
