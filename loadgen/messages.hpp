#pragma once

// What travels: the bodies of requests, and what an event of an answer says. Both are OpenAI's
// interface with the few fields that vLLM, SGLang, llama.cpp and Troupe add in common.

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::loadgen {

/// A turn of a conversation: role and content.
using Message = std::pair<std::string, std::string>;

struct BodyOptions {
  std::string model;
  bool is_chat = false;
  bool ignore_eos = true;
  double temperature = 0;
  std::optional<uint32_t> priority;
  boost::json::object extra;  ///< fields to add, or to replace ours with
};

/// For /v1/completions.
std::string completion_body(const BodyOptions& options, const std::vector<TokenId>& prompt,
                            uint32_t max_tokens);
/// For either endpoint: messages for a chat; for a completion their texts joined.
std::string text_body(const BodyOptions& options, const std::vector<Message>& messages,
                      uint32_t max_tokens);

struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  std::optional<uint32_t> cached_tokens;
};

/// One event of a streamed answer.
struct AnswerEvent {
  bool is_end = false;      ///< [DONE]
  bool has_choice = false;  ///< it is about the answer, not only `usage`
  std::string reasoning;
  std::string content;  ///< of a completion: its text
  bool has_tool_call = false;
  std::string finish_reason;  ///< "" before the end
  std::optional<Usage> usage;
  std::optional<std::string> error;  ///< the server's own words, or all that it sent

  /// Something that was generated came with it.
  [[nodiscard]] bool has_output() const {
    return !reasoning.empty() || !content.empty() || has_tool_call;
  }
};

/// @errors kCorrupt: no JSON object, or not shaped like an event
Result<AnswerEvent> parse_event(std::string_view data);

/// What the JSON of a refusal or an error says for people, whole; nothing if it says nothing.
std::optional<std::string> server_words(std::string_view body);

inline constexpr size_t kMaxReportLine = 200;
/// One line of printable ASCII for a report, of what may be anything: other bytes become '?', and
/// "..." ends a line that was cut to kMaxReportLine bytes.
std::string report_line(std::string_view text);

}  // namespace troupe::loadgen
