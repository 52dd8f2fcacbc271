#pragma once

// The fields of a request that say how tokens are chosen. Sources of gateway/ only.

#include "gateway/field_reader.hpp"
#include "gateway/openai_request.hpp"

namespace troupe::gateway {

/// Reads what chat and text completions share: temperature to bad_words, seed and stop_token_ids,
/// but not `logprobs`, whose type differs.
void read_sampling(FieldReader& reader, GenerationRequest& request);

}  // namespace troupe::gateway
