#pragma once

// The demo model's tokenizer and chat format, as the gateway sees them; no weights. Or another
// format, with the marks for reasoning and tools among the tokens, as DeepSeek's tokenizers have.

#include <optional>

#include "gateway/gateway_model.hpp"
#include "model/chat_format.hpp"
#include "model/tokenizer.hpp"

namespace troupe::gateway {

struct TestModel {
  TestModel();
  explicit TestModel(model::ChatFormatKind kind);

  model::Tokenizer tokenizer;
  model::ChatFormat chat_format;
  GatewayModel gateway;

 private:
  TestModel(model::Tokenizer tokenizer_in, std::optional<model::ChatFormatKind> kind);
};

}  // namespace troupe::gateway
