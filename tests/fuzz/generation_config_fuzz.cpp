// The bytes are a generation_config.json; what is accepted must be fit for sampling.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.hpp"
#include "model/generation_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  troupe::model::ModelConfig config;
  config.vocab_size = 1000;
  const auto parsed = troupe::model::parse_generation_config(
      std::string_view(reinterpret_cast<const char*>(data), size), config);
  if (!parsed.ok()) {
    CHECK(!parsed.error().message.empty());
    return 0;
  }
  CHECK(troupe::model::validate(parsed->sampling).ok());
  for (const troupe::TokenId token : parsed->eos_token_ids) CHECK(token >= 0 && token < 1000);
  return 0;
}
