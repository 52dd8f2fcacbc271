#include "gateway/generation_plan.hpp"

#include <algorithm>
#include <random>
#include <utility>

#include "base/check.hpp"

namespace troupe::gateway {
namespace {

constexpr uint32_t kDefaultTextTokens = 16;  // OpenAI's and vLLM's default for completions

std::optional<ApiError> check_vocabulary(const std::vector<TokenId>& tokens, const char* param,
                                         size_t vocab_size) {
  const auto outside = std::find_if(tokens.begin(), tokens.end(), [&](TokenId token) {
    return static_cast<size_t>(token) >= vocab_size;
  });
  if (outside == tokens.end()) return std::nullopt;
  return invalid_value(param, "`" + std::string(param) + "` holds " + std::to_string(*outside) +
                                  "; ids of this model are below " + std::to_string(vocab_size) +
                                  ".");
}

/// A word as the model may write it: at the beginning of a text, and behind a blank.
void add_bad_word(const model::Tokenizer& tokenizer, const std::string& word,
                  std::vector<std::vector<TokenId>>& out) {
  for (const std::string& spelling : {word, " " + word}) {
    auto tokens = tokenizer.encode_plain(spelling);
    CHECK(tokens.ok());  // the parser lets only short words through
    const bool known = std::find(out.begin(), out.end(), *tokens) != out.end();
    if (!tokens->empty() && !known) out.push_back(std::move(tokens).value());
  }
}

std::optional<ApiError> check_min_tokens(const GenerationPlan& plan) {
  const uint32_t min_tokens = plan.request.sampling.min_tokens;
  for (const uint32_t max_tokens : plan.max_tokens) {
    if (min_tokens <= max_tokens) continue;
    return invalid_value("min_tokens", "`min_tokens` is " + std::to_string(min_tokens) +
                                           ", more than the " + std::to_string(max_tokens) +
                                           " tokens that the answer may have.");
  }
  return std::nullopt;
}

uint64_t fresh_seed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

ApiResult<model::ChatPrompt> prompt_of_chat(const GatewayModel& model, const ChatRequest& chat) {
  if (model.chat_format == nullptr) {
    return invalid_value("messages",
                         "The model `" + model.id + "` has no chat format; use /v1/completions.");
  }
  if (!chat.tools.empty() && !model.chat_format->knows_tools()) {
    return invalid_value("tools", "The model `" + model.id + "` has no tools: " +
                                      "its chat format or its tokenizer has no marks for them.");
  }
  auto prompt = model.chat_format->prepare(model.tokenizer, chat.messages,
                                           {.add_generation_prompt = chat.add_generation_prompt,
                                            .thinking = chat.thinking,
                                            .tools = chat.tools});
  if (!prompt.ok()) return from_error(prompt.error());
  return std::move(prompt).value();
}

ApiResult<std::vector<std::vector<TokenId>>> tokens_of_prompts(const GatewayModel& model,
                                                               const Prompts& prompts) {
  if (const auto* tokens = std::get_if<std::vector<std::vector<TokenId>>>(&prompts)) return *tokens;
  std::vector<std::vector<TokenId>> encoded;
  for (const auto& text : std::get<std::vector<std::string>>(prompts)) {
    auto tokens = model.tokenizer.encode(text, {.add_special_tokens = true});
    if (!tokens.ok()) return from_error(tokens.error());
    encoded.push_back(std::move(tokens).value());
  }
  return encoded;
}

std::optional<ApiError> complete_plan(GenerationPlan& plan, const GatewayModel& model) {
  const char* prompt_param = plan.kind == ResponseKind::kChat ? "messages" : "prompt";
  const auto& asked = plan.request.max_tokens;
  plan.max_tokens.clear();
  for (const auto& prompt : plan.prompts) {
    if (prompt.empty()) return invalid_value(prompt_param, "The prompt has no tokens.");
    if (auto error = check_vocabulary(prompt, prompt_param, model.tokenizer.vocab_size()))
      return error;
    const uint64_t wanted = asked.value_or(1);
    if (prompt.size() + wanted > model.max_context) {
      const bool prompt_alone = prompt.size() + 1 > model.max_context;
      return context_length_exceeded(model.max_context, prompt.size(), wanted,
                                     prompt_alone ? prompt_param : "max_tokens");
    }
    const auto room = model.max_context - static_cast<uint32_t>(prompt.size());
    const uint32_t unasked = plan.kind == ResponseKind::kChat ? room : kDefaultTextTokens;
    plan.max_tokens.push_back(asked.value_or(std::min(unasked, room)));
  }
  if (auto error = check_min_tokens(plan)) return error;
  auto& sampling = plan.request.sampling;
  std::vector<TokenId> biased;
  for (const auto& [token, bias] : sampling.logit_bias) biased.push_back(token);
  for (const auto& [tokens, param] : {std::pair(&plan.request.stop_token_ids, "stop_token_ids"),
                                      std::pair(&sampling.allowed_token_ids, "allowed_token_ids"),
                                      std::pair(&biased, "logit_bias")}) {
    if (auto error = check_vocabulary(*tokens, param, model.tokenizer.vocab_size())) return error;
  }
  sampling.bad_words.clear();
  for (const auto& word : plan.request.bad_words) {
    add_bad_word(model.tokenizer, word, sampling.bad_words);
  }
  if (!plan.request.has_seed) {
    sampling.seed = fresh_seed();  // drawn here, logged, so that it can be replayed
    plan.request.has_seed = true;
  }
  return std::nullopt;
}

scheduler::RequestSpec spec_of(const GenerationPlan& plan, const GatewayModel& model,
                               uint32_t index) {
  const uint32_t prompt = index / plan.request.num_choices;
  scheduler::RequestSpec spec;
  spec.prompt = plan.prompts[prompt];
  spec.max_tokens = plan.max_tokens[prompt];
  spec.sampling = plan.request.sampling;
  spec.sampling.seed += index % plan.request.num_choices;
  spec.stop_token_ids = plan.request.stop_token_ids;
  if (!plan.request.ignore_eos) {
    spec.stop_token_ids.insert(spec.stop_token_ids.end(), model.eos_token_ids.begin(),
                               model.eos_token_ids.end());
  }
  spec.tenant = plan.tenant;
  spec.priority = plan.request.priority;
  // No tenant can reach another one's prefixes, whatever salt it sends.
  spec.cache_namespace =
      std::to_string(plan.tenant.size()) + ":" + plan.tenant + plan.request.cache_salt;
  spec.timeout = plan.timeout;
  return spec;
}

}  // namespace troupe::gateway
