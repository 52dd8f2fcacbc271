#pragma once

// Reads the bodies of OpenAI-shaped requests. Pure. A field that would change the answer and is not
// supported is refused by name, never ignored; null means unset; unknown fields are collected for
// one log line.

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "gateway/api_error.hpp"
#include "model/chat_format.hpp"
#include "model/sampling.hpp"

namespace troupe::gateway {

inline constexpr uint32_t kMaxChoices = 16;   ///< n
inline constexpr uint32_t kMaxPrompts = 128;  ///< prompts times n of one completions request
inline constexpr uint32_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 1024;  ///< of one stop string
inline constexpr size_t kMaxTools = 128;
inline constexpr size_t kMaxToolCalls = 128;  ///< of one message
inline constexpr size_t kMaxToolNameBytes = 64;
inline constexpr size_t kMaxBadWords = 128;
inline constexpr size_t kMaxBadWordBytes = 256;  ///< of one; a token has at least one
inline constexpr uint32_t kMaxTopLogprobs = 20;
inline constexpr size_t kMaxSaltBytes = 1024;
inline constexpr uint32_t kMaxTokensLimit = 1U << 24;

/// What chat and text completions share.
struct GenerationRequest {
  std::optional<std::string> model;
  model::SamplingParams sampling;  ///< seed: only if has_seed
  bool has_seed = false;
  /// Asked for by name; sampling.num_prompt_logprobs is enough for this and for `echo`.
  std::optional<uint32_t> num_prompt_logprobs;
  std::optional<uint32_t> max_tokens;  ///< >= 1
  uint32_t num_choices = 1;            ///< 1 .. kMaxChoices, per prompt
  std::vector<std::string> stop;       ///< none empty
  std::vector<TokenId> stop_token_ids;
  std::string grammar_field;           ///< which field asked for sampling.grammar; "" without one
  std::vector<std::string> bad_words;  ///< none empty; sampling.bad_words: once tokenized
  std::string cache_salt;              ///< prefixes are shared only with requests of the same salt
  uint32_t priority = 0;               ///< 0 is the most urgent
  bool include_stop = false;           ///< include_stop_str_in_output
  bool skip_special_tokens = true;
  bool ignore_eos = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  std::vector<std::string> ignored_fields;  ///< unknown names, for the log
};

/// Whether the answer has to be a call of a tool.
struct ToolChoice {
  bool is_forced = false;
  std::string name;  ///< of the tool; "": of any
};

struct ChatRequest {
  GenerationRequest generation;
  std::vector<model::ChatMessage> messages;  ///< not empty
  std::vector<model::ToolDefinition> tools;  ///< none with "tool_choice": "none"
  ToolChoice tool_choice;
  std::set<std::string> strict_tools;  ///< their arguments have to follow their schemas
  bool parallel_tool_calls = true;     ///< false: the answer ends with its first call
  bool thinking = false;               ///< chat_template_kwargs.thinking
  bool add_generation_prompt = true;
};

using Prompts = std::variant<std::vector<std::string>, std::vector<std::vector<TokenId>>>;

struct CompletionRequest {
  GenerationRequest generation;
  Prompts prompts;  ///< 1 .. kMaxPrompts / n, each token list not empty
  bool echo = false;
  bool echo_only = false;  ///< with "max_tokens": 0, which generation.max_tokens holds as 1
};

/// POST /tokenize: a prompt or a chat.
struct TokenizeRequest {
  std::optional<std::string> model;
  std::variant<std::string, ChatRequest> input;
  bool add_special_tokens = true;  ///< of a prompt
  bool return_token_strs = false;
};

/// Of /v1/troupe/drain.
struct DrainRequest {
  std::string node;
  bool drained = true;
};

struct DetokenizeRequest {
  std::optional<std::string> model;
  std::vector<TokenId> tokens;
};

/// @param defaults for what the request leaves open
/// @param seen gets the names of all fields that the parser looks for, if it is given:
///        "stream_options.include_usage", "messages[].role"; what /openapi.json has to describe
ApiResult<ChatRequest> parse_chat_request(std::string_view body,
                                          const model::SamplingParams& defaults,
                                          std::set<std::string>* seen = nullptr);
ApiResult<CompletionRequest> parse_completion_request(std::string_view body,
                                                      const model::SamplingParams& defaults,
                                                      std::set<std::string>* seen = nullptr);
ApiResult<TokenizeRequest> parse_tokenize_request(std::string_view body,
                                                  std::set<std::string>* seen = nullptr);
ApiResult<DetokenizeRequest> parse_detokenize_request(std::string_view body,
                                                      std::set<std::string>* seen = nullptr);
ApiResult<DrainRequest> parse_drain_request(std::string_view body,
                                            std::set<std::string>* seen = nullptr);

}  // namespace troupe::gateway
