#pragma once

// The demo model's tokenizer and chat format, as the gateway sees them; no weights.

#include "gateway/gateway_model.hpp"
#include "model/chat_format.hpp"
#include "model/tokenizer.hpp"

namespace troupe::gateway {

struct TestModel {
  TestModel();

  model::Tokenizer tokenizer;
  model::ChatFormat chat_format;
  GatewayModel gateway;
};

}  // namespace troupe::gateway
