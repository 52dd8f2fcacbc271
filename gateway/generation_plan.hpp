#pragma once

// A checked request for answers: which prompts, how many answers each, when to stop. Pure.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"
#include "gateway/api_error.hpp"
#include "gateway/gateway_model.hpp"
#include "gateway/openai_request.hpp"
#include "gateway/openai_response.hpp"
#include "scheduler/request.hpp"

namespace troupe::gateway {

struct GenerationPlan {
  ResponseKind kind = ResponseKind::kChat;
  std::vector<std::vector<TokenId>> prompts;
  GenerationRequest request;
  bool echo = false;
  bool echo_only = false;           ///< nothing of the answer is shown
  model::AnswerSyntax syntax;       ///< of chat answers; of texts: nothing to look for
  bool parallel_tool_calls = true;  ///< false: an answer ends with its first call
  std::string tenant;               ///< whose request it is; "" if the client does not say
  std::string request_id;
  int64_t created = 0;  ///< seconds since 1970
  Duration timeout;
  Instant arrived;
  std::vector<uint32_t> max_tokens;  ///< per prompt; set by complete_plan

  [[nodiscard]] uint32_t num_choices() const {
    return static_cast<uint32_t>(prompts.size()) * request.num_choices;
  }
};

/// A prompt whose bytes alone say that it is too long for the model: so much need not be tokenized.
std::optional<ApiError> check_bytes(const GatewayModel& model, const ChatRequest& chat);
std::optional<ApiError> check_bytes(const GatewayModel& model, const Prompts& prompts);
/// The prompt of a chat, rendered as the model's template does, and how to read the answer.
ApiResult<model::ChatPrompt> prompt_of_chat(const GatewayModel& model, const ChatRequest& chat);
/// Whether calls are forced or have to follow their schemas, so that a grammar makes them.
bool guides_calls(const ChatRequest& chat);
/// Says in chat.generation where in the answer its grammar begins, and makes one of the tools where
/// a call is forced or has to follow its schema.
/// @param syntax of the answer, as prompt_of_chat() says
std::optional<ApiError> guide_chat(const GatewayModel& model, const model::AnswerSyntax& syntax,
                                   ChatRequest& chat);
/// The prompts of a completions request, in order; text gets the tokenizer's BOS.
ApiResult<std::vector<std::vector<TokenId>>> tokens_of_prompts(const GatewayModel& model,
                                                               const Prompts& prompts);

/// Checks prompts and token ids against the vocabulary and the context; fills in max_tokens, the
/// tokens of bad_words and the seed.
std::optional<ApiError> complete_plan(GenerationPlan& plan, const GatewayModel& model);

/// What the cluster is asked for choice `index`: prompt index / n, seed + index % n, so that one
/// prompt's answers do not depend on which other prompts came with it. Of a chat only the first
/// choice has its prompt scored.
scheduler::RequestSpec spec_of(const GenerationPlan& plan, const GatewayModel& model,
                               uint32_t index);

}  // namespace troupe::gateway
