#pragma once

// Writes the bodies of OpenAI-shaped answers, exactly. Pure.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "actors/client.hpp"
#include "model/sampling.hpp"
#include "model/tokenizer.hpp"

namespace troupe::gateway {

enum class ResponseKind : uint8_t { kChat, kText };

/// The same in every chunk of an answer.
struct ResponseHead {
  ResponseKind kind = ResponseKind::kChat;
  std::string id;  ///< "chatcmpl-..." or "cmpl-..."
  int64_t created = 0;
  std::string model;
};

struct Usage {
  uint64_t prompt_tokens = 0;
  uint64_t completion_tokens = 0;
  uint64_t reasoning_tokens = 0;  ///< of completion_tokens
  uint64_t cached_tokens = 0;     ///< of prompt_tokens: found in the prefix cache
};
std::string usage_json(const Usage& usage);

/// One entry of a choice's logprobs.
struct TokenLogprob {
  model::SampledToken token;
  uint64_t text_offset = 0;  ///< code points of the answer before this token
  bool has_logprob = true;   ///< all but the first token of a prompt have one
};
/// {"content":[...],"refusal":null} for chat; {"tokens":[...],...} for text.
std::string logprobs_json(ResponseKind kind, const model::Tokenizer& tokenizer,
                          std::span<const TokenLogprob> entries);

/// [null, {"<token id>":{"logprob":...,"rank":...,"decoded_token":...},...},...]: for each token of
/// the prompt but the first the `num_top` likeliest and the token itself, whose rank is null if it
/// is none of them.
/// @param scored the prompt's tokens from the second on
std::string prompt_logprobs_json(const model::Tokenizer& tokenizer,
                                 std::span<const model::SampledToken> scored, uint32_t num_top);

/// A call as it stands in an answer.
struct ToolCallResult {
  std::string id;
  std::string name;
  std::string arguments;  ///< JSON, sent as a string
};

/// A whole choice.
struct ChoiceResult {
  uint32_t index = 0;
  std::string text;
  std::string reasoning;                       ///< chat
  std::vector<ToolCallResult> tool_calls;      ///< chat
  std::optional<std::string> logprobs;         ///< JSON
  std::optional<std::string> prompt_logprobs;  ///< JSON, if asked for; of a chat: of choice 0
  std::string_view finish_reason;              ///< "stop", "length" or "tool_calls"
  std::optional<std::string> stop_reason;      ///< the stop string that matched
};
std::string response_json(const ResponseHead& head, std::span<const ChoiceResult> choices,
                          const Usage& usage);

/// A step of a call: first its name and no arguments, then arguments alone.
struct ToolCallDelta {
  uint32_t index = 0;  ///< among the choice's calls
  std::string id;      ///< "" behind the first step
  std::string name;
  std::string arguments;
};

/// A step of one choice. Of text, reasoning and tool_call at most one is set.
struct ChoiceDelta {
  uint32_t index = 0;
  bool opens = false;               ///< chat: {"role":"assistant","content":""}, once per choice
  std::optional<std::string> text;  ///< absent in the last chunk of a chat choice
  std::optional<std::string> reasoning;
  std::optional<ToolCallDelta> tool_call;
  std::optional<std::string> logprobs;
  std::optional<std::string> prompt_logprobs;  ///< JSON, in the first chunk; of a chat: of choice 0
  std::optional<std::string_view> finish_reason;
  std::optional<std::string> stop_reason;
};
/// @param usage "" leaves the field out; else its JSON, maybe "null"
std::string chunk_json(const ResponseHead& head, const ChoiceDelta& delta, std::string_view usage);
/// The chunk without choices that carries the usage.
std::string usage_chunk_json(const ResponseHead& head, const Usage& usage);

/// `data: <json>` and a blank line.
std::string sse_event(std::string_view json);
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

/// The bytes of a token as text; broken UTF-8 reads as U+FFFD.
std::string token_text(const model::Tokenizer& tokenizer, TokenId token);

std::string model_card(std::string_view id, int64_t created, uint32_t max_context);
std::string status_json(const actors::ClusterStatus& status);

}  // namespace troupe::gateway
