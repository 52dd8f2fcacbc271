#pragma once

// What the chat formats write: one function per family of templates. Sources of model/ only.

#include <span>
#include <string_view>
#include <vector>

#include "model/chat_format.hpp"

namespace troupe::model {

/// ChatFormat::render() for V2, which has no tools.
std::vector<TextSegment> render_v2(std::span<const ChatMessage> messages,
                                   const ChatOptions& options, std::string_view bos,
                                   std::string_view eos);

/// ChatFormat::render() for V3, R1 and V3.1.
std::vector<TextSegment> render_v3(std::span<const ChatMessage> messages,
                                   const ChatOptions& options, ChatFormatKind kind,
                                   std::string_view bos);

}  // namespace troupe::model
