#pragma once

// What the gateway knows of the model it serves: names, limits, text in and text out.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "model/chat_format.hpp"
#include "model/sampling.hpp"
#include "model/tokenizer.hpp"

namespace troupe::gateway {

struct GatewayModel {
  std::string id;                                  ///< as clients name it
  const model::Tokenizer& tokenizer;               ///< it and the chat format outlive the server
  const model::ChatFormat* chat_format = nullptr;  ///< nullptr: the model has no chat format
  uint32_t max_context = 0;                        ///< prompt + completion tokens
  std::vector<TokenId> eos_token_ids;              ///< end a choice unless ignore_eos
  model::SamplingParams defaults;                  ///< for what a request leaves open
};

}  // namespace troupe::gateway
