#pragma once

// The fields of a request that say what the answer has to be: response_format, vLLM's
// structured_outputs, and older names of both. Sources of gateway/ only.

#include "gateway/field_reader.hpp"
#include "gateway/openai_request.hpp"

namespace troupe::gateway {

/// Reads them into request.sampling.grammar. What cannot be compiled is an error that names the
/// field, the place and the limit; so are two of them, since an answer can follow one grammar only.
void read_grammar(FieldReader& reader, GenerationRequest& request);

}  // namespace troupe::gateway
