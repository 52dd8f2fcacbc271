#pragma once

// The fields of a chat request that become its prompt. Sources of gateway/ only.

#include "gateway/field_reader.hpp"
#include "gateway/openai_request.hpp"

namespace troupe::gateway {

/// Reads messages, tools, tool_choice and what says how to render them.
void read_chat_fields(FieldReader& reader, ChatRequest& request);

}  // namespace troupe::gateway
