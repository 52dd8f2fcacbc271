#include "gateway/generation_plan.hpp"

#include <algorithm>
#include <random>
#include <utility>

#include "base/check.hpp"
#include "model/grammar_tools.hpp"

namespace troupe::gateway {
namespace {

constexpr uint64_t kMaxPromptLogprobs = 1 << 18;
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

/// The grammar of the calls that a chat asks for. Where they are not forced it begins with the mark
/// that opens them, and tools that are not strict may have any arguments.
ApiResult<model::GrammarSpec> spec_of_calls(const GatewayModel& model,
                                            const model::AnswerSyntax& syntax,
                                            const ChatRequest& chat) {
  const ToolChoice& choice = chat.tool_choice;
  if (chat.generation.ignore_eos) {
    return invalid_value("ignore_eos",
                         "`ignore_eos` together with forced or strict calls is impossible: behind "
                         "them nothing may follow.");
  }
  std::vector<model::ToolDefinition> tools;
  for (const model::ToolDefinition& tool : chat.tools) {
    if (!choice.name.empty() && tool.name != choice.name) continue;
    tools.push_back(tool);
    const bool follows = choice.is_forced || chat.strict_tools.contains(tool.name);
    if (!follows) tools.back().parameters = "{}";
  }
  model::GrammarSpec spec =
      model::tool_call_spec(tools, {.syntax = syntax.tools,
                                    .several = chat.parallel_tool_calls && choice.name.empty(),
                                    .is_open = !choice.is_forced});
  if (!choice.is_forced) {
    const auto begin = model.tokenizer.id_of("<｜tool▁calls▁begin｜>");
    CHECK(begin);  // or the chat format would know no tools
    spec.begins_after = *begin;
    spec.may_end_before = true;
  }
  if (const auto compiled = model::compile_grammar(spec); !compiled.ok()) {
    return invalid_value("tools", "`tools` cannot be followed: " + compiled.error().message + ".");
  }
  return spec;
}

/// Choices of a prompt that have it scored: a chat shows the log-probabilities of its prompt once.
uint32_t num_scored_choices(const GenerationPlan& plan) {
  return plan.kind == ResponseKind::kChat ? 1 : plan.request.num_choices;
}

/// What is written is held in memory as a whole.
std::optional<ApiError> check_prompt_logprobs(const GenerationPlan& plan) {
  const auto& num_top = plan.request.sampling.num_prompt_logprobs;
  if (!num_top) return std::nullopt;
  uint64_t num_tokens = 0;
  for (const auto& prompt : plan.prompts) num_tokens += prompt.size();
  const uint32_t num_choices = num_scored_choices(plan);
  const uint64_t wanted = num_tokens * num_choices * (*num_top + 1);
  if (wanted <= kMaxPromptLogprobs) return std::nullopt;
  return invalid_value(plan.request.num_prompt_logprobs ? "prompt_logprobs" : "logprobs",
                       "Log-probabilities of " + std::to_string(num_tokens) + " prompt tokens, " +
                           std::to_string(*num_top) + " alternatives each and " +
                           std::to_string(num_choices) + " choices are " + std::to_string(wanted) +
                           " in all; at most " + std::to_string(kMaxPromptLogprobs) +
                           " are allowed.");
}

std::optional<ApiError> check_bytes(const GatewayModel& model, uint64_t num_bytes,
                                    const char* param) {
  const uint64_t fewest = model.tokenizer.fewest_tokens(num_bytes);
  if (fewest < model.max_context) return std::nullopt;  // and one for the answer
  return prompt_too_long(model.max_context, fewest, param);
}

model::ChatOptions options_of(const ChatRequest& chat) {
  return {.add_generation_prompt = chat.add_generation_prompt,
          .thinking = chat.thinking,
          .tools = chat.tools};
}

uint64_t fresh_seed() {
  thread_local std::random_device device;  // making one asks the CPU what it can: dear in a VM
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

std::optional<ApiError> check_bytes(const GatewayModel& model, const ChatRequest& chat) {
  // As rendered: a format may leave out much of what was sent, such as earlier reasoning.
  if (model.chat_format == nullptr) return std::nullopt;
  if (!chat.tools.empty() && !model.chat_format->knows_tools()) return std::nullopt;
  uint64_t num_bytes = 0;
  for (const auto& segment : model.chat_format->render(chat.messages, options_of(chat))) {
    num_bytes += segment.text.size();
  }
  return check_bytes(model, num_bytes, "messages");
}

std::optional<ApiError> check_bytes(const GatewayModel& model, const Prompts& prompts) {
  const auto* texts = std::get_if<std::vector<std::string>>(&prompts);
  if (texts == nullptr) return std::nullopt;
  for (const std::string& text : *texts) {
    if (auto error = check_bytes(model, text.size(), "prompt")) return error;
  }
  return std::nullopt;
}

ApiResult<model::ChatPrompt> prompt_of_chat(const GatewayModel& model, const ChatRequest& chat) {
  if (model.chat_format == nullptr) {
    return invalid_value("messages",
                         "The model `" + model.id + "` has no chat format; use /v1/completions.");
  }
  if (!chat.tools.empty() && !model.chat_format->knows_tools()) {
    return invalid_value("tools", "The model `" + model.id + "` has no tools: " +
                                      "its chat format or its tokenizer has no marks for them.");
  }
  auto prompt = model.chat_format->prepare(model.tokenizer, chat.messages, options_of(chat));
  if (!prompt.ok()) return from_error(prompt.error());
  return std::move(prompt).value();
}

bool guides_calls(const ChatRequest& chat) {
  return chat.tool_choice.is_forced || !chat.strict_tools.empty();
}

std::optional<ApiError> guide_chat(const GatewayModel& model, const model::AnswerSyntax& syntax,
                                   ChatRequest& chat) {
  GenerationRequest& request = chat.generation;
  if (request.sampling.grammar && !chat.tools.empty()) {
    return invalid_value(request.grammar_field,
                         "`" + request.grammar_field +
                             "` together with `tools` is not supported: such an answer could not "
                             "be a call. Use \"tool_choice\": \"none\".");
  }
  if (!request.sampling.grammar && !guides_calls(chat)) return std::nullopt;
  model::GrammarSpec spec;
  if (guides_calls(chat)) {
    auto calls = spec_of_calls(model, syntax, chat);
    if (auto* error = std::get_if<ApiError>(&calls)) return std::move(*error);
    spec = std::get<model::GrammarSpec>(std::move(calls));
    request.grammar_field = "tools";
  } else {
    spec = *request.sampling.grammar;
  }
  if (syntax.opens_in_reasoning) {
    if (spec.may_end_before) {
      return invalid_value("tools",
                           "`strict` tools of an answer with reasoning are supported with "
                           "\"tool_choice\": \"required\" only.");
    }
    const auto end = model.tokenizer.id_of("</think>");
    CHECK(end);  // or the chat format would open no reasoning
    spec.begins_after = *end;
  }
  request.sampling.grammar = std::make_shared<const model::GrammarSpec>(std::move(spec));
  return std::nullopt;
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
  if (auto error = check_prompt_logprobs(plan)) return error;
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
  const uint32_t choice = index % plan.request.num_choices;
  spec.sampling.seed += choice;
  if (choice >= num_scored_choices(plan)) spec.sampling.num_prompt_logprobs.reset();
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
