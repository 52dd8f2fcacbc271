#include "gateway/openai_request.hpp"

#include <array>
#include <limits>
#include <span>

#include "gateway/chat_fields.hpp"
#include "gateway/field_reader.hpp"
#include "gateway/grammar_fields.hpp"
#include "gateway/sampling_fields.hpp"
#include "model/json.hpp"
#include "scheduler/request.hpp"

namespace troupe::gateway {
namespace json = boost::json;
namespace {

/// What a field of an unsupported feature may hold without asking for the feature.
enum class Neutral { kNullOnly, kFalse, kTrue, kZero, kOne, kEmpty };

struct Unsupported {
  std::string_view name;
  Neutral neutral;
};

// Each of these would change the answer: saying nothing would be a wrong answer.
constexpr std::array kUnsupportedEverywhere = {
    Unsupported{"length_penalty", Neutral::kOne},
    Unsupported{"use_beam_search", Neutral::kFalse},
    Unsupported{"logprob_token_ids", Neutral::kEmpty},
    Unsupported{"truncate_prompt_tokens", Neutral::kNullOnly},
    Unsupported{"guided_whitespace_pattern", Neutral::kNullOnly},
    Unsupported{"structural_tag", Neutral::kNullOnly},
    Unsupported{"thinking_token_budget", Neutral::kNullOnly},
    Unsupported{"return_token_ids", Neutral::kFalse},
    Unsupported{"return_tokens_as_token_ids", Neutral::kFalse},
};
constexpr std::array kUnsupportedInChat = {
    Unsupported{"functions", Neutral::kEmpty},
    Unsupported{"function_call", Neutral::kNullOnly},
    Unsupported{"audio", Neutral::kNullOnly},
    Unsupported{"web_search_options", Neutral::kNullOnly},
    Unsupported{"continue_final_message", Neutral::kFalse},
    Unsupported{"add_special_tokens", Neutral::kFalse},
    Unsupported{"echo", Neutral::kFalse},
    Unsupported{"chat_template", Neutral::kNullOnly},
    Unsupported{"documents", Neutral::kEmpty},
    Unsupported{"include_reasoning", Neutral::kTrue},
    Unsupported{"separate_reasoning", Neutral::kTrue},
};
constexpr std::array kUnsupportedInCompletions = {
    Unsupported{"suffix", Neutral::kEmpty},
    Unsupported{"prompt_embeds", Neutral::kNullOnly},
    Unsupported{"add_special_tokens", Neutral::kTrue},
};

bool is_neutral(const json::value& value, Neutral neutral) {
  switch (neutral) {
    case Neutral::kNullOnly: return false;
    case Neutral::kFalse: return value.is_bool() && !value.get_bool();
    case Neutral::kTrue: return value.is_bool() && value.get_bool();
    case Neutral::kZero: return value.is_number() && value.to_number<double>() == 0.0;
    case Neutral::kOne: return value.is_number() && value.to_number<double>() == 1.0;
    case Neutral::kEmpty:
      return (value.is_array() && value.get_array().empty()) ||
             (value.is_object() && value.get_object().empty()) ||
             (value.is_string() && value.get_string().empty());
  }
  return false;
}

void refuse_unsupported(FieldReader& reader, std::span<const Unsupported> fields) {
  for (const auto& [name, neutral] : fields) {
    const auto* value = reader.find_unsupported(name);
    if (value != nullptr && !is_neutral(*value, neutral)) {
      reader.fail_unsupported(name, "is not supported yet; leave it out.");
    }
  }
}

void read_stream_options(FieldReader& reader, GenerationRequest& request) {
  const auto* options = reader.object("stream_options");
  if (options == nullptr) return;
  if (!request.stream) {
    return reader.fail("stream_options", "is allowed only together with \"stream\": true.");
  }
  FieldReader inner(*options, reader, "stream_options.");
  inner.read("include_usage", request.include_usage);
  inner.read("continuous_usage_stats", request.continuous_usage);
}

void read_prompt_logprobs(FieldReader& reader, GenerationRequest& request) {
  int64_t count = 0;
  if (!reader.read_integer("prompt_logprobs", 0, kMaxTopLogprobs, count)) return;
  request.num_prompt_logprobs = static_cast<uint32_t>(count);
  request.sampling.num_prompt_logprobs = request.num_prompt_logprobs;
}

/// All fields that both endpoints have but `logprobs`, whose type differs.
void read_generation(FieldReader& reader, GenerationRequest& request, uint32_t least_max_tokens) {
  reader.read("model", request.model);
  read_sampling(reader, request);
  int64_t integer = 0;
  if (reader.read_integer("n", 1, kMaxChoices, integer)) {
    request.num_choices = static_cast<uint32_t>(integer);
  }
  if (reader.read_integer("best_of", 1, kMaxChoices, integer) && integer != request.num_choices) {
    reader.fail_unsupported("best_of", "is supported only equal to `n`.");
  }
  if (reader.read_integer("max_tokens", least_max_tokens, kMaxTokensLimit, integer)) {
    request.max_tokens = static_cast<uint32_t>(integer);
  }
  if (reader.read_integer("max_completion_tokens", 1, kMaxTokensLimit, integer)) {
    request.max_tokens = static_cast<uint32_t>(integer);  // the newer name wins
  }
  reader.read_strings("stop", kMaxStopStrings, kMaxStopBytes, request.stop);
  reader.read("cache_salt", request.cache_salt);
  if (request.cache_salt.size() > kMaxSaltBytes) {
    reader.fail("cache_salt", "has more than " + std::to_string(kMaxSaltBytes) + " bytes.");
  }
  if (reader.read_integer("priority", 0, scheduler::kMaxPriority, integer)) {
    request.priority = static_cast<uint32_t>(integer);
  }
  reader.read("include_stop_str_in_output", request.include_stop);
  reader.read("skip_special_tokens", request.skip_special_tokens);
  reader.read("ignore_eos", request.ignore_eos);
  reader.read("stream", request.stream);
  read_stream_options(reader, request);
  read_prompt_logprobs(reader, request);
  read_grammar(reader, request);
  refuse_unsupported(reader, kUnsupportedEverywhere);
  reader.ignore({"user", "metadata", "store", "service_tier", "safety_identifier",
                 "prompt_cache_key", "guided_decoding_backend"});
}

void read_chat_logprobs(FieldReader& reader, model::SamplingParams& sampling) {
  reader.read("logprobs", sampling.want_logprobs);
  int64_t count = 0;
  if (!reader.read_integer("top_logprobs", 0, kMaxTopLogprobs, count)) return;
  if (count > 0 && !sampling.want_logprobs) {
    return reader.fail("top_logprobs", "needs \"logprobs\": true.");
  }
  sampling.num_top_logprobs = static_cast<uint32_t>(count);
}

std::vector<std::string> strings_of(FieldReader& reader, const json::array& list) {
  std::vector<std::string> prompts;
  for (const auto& entry : list) {
    if (!entry.is_string()) {
      reader.fail("prompt", "mixes strings with " + model::describe(entry) + ".");
      break;
    }
    prompts.emplace_back(std::string_view(entry.get_string()));
  }
  return prompts;
}

std::vector<TokenId> tokens_of(FieldReader& reader, const json::array& list) {
  std::vector<TokenId> tokens;
  if (list.empty()) reader.fail("prompt", "must not hold an empty list of tokens.");
  tokens.reserve(list.size());
  for (const auto& entry : list) {
    const auto id = as_integer(entry);
    if (!id || *id < 0 || *id > std::numeric_limits<TokenId>::max()) {
      reader.fail("prompt", "must hold token ids; " + model::describe(entry) + " is none.");
      break;
    }
    tokens.push_back(static_cast<TokenId>(*id));
  }
  return tokens;
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
Prompts read_prompts(FieldReader& reader) {
  const auto* value = reader.find("prompt");
  if (value == nullptr) {
    reader.fail("prompt", "is missing.");
    return {};
  }
  if (value->is_string()) {
    return std::vector<std::string>{std::string(std::string_view(value->get_string()))};
  }
  if (!value->is_array() || value->get_array().empty()) {
    reader.fail("prompt",
                "must be a string, a list of strings, a list of token ids or a list of "
                "lists of token ids.");
    return {};
  }
  const auto& list = value->get_array();
  if (list.front().is_string()) return strings_of(reader, list);
  if (!list.front().is_array()) {
    return std::vector<std::vector<TokenId>>{tokens_of(reader, list)};
  }
  std::vector<std::vector<TokenId>> prompts;
  for (const auto& entry : list) {
    if (!entry.is_array()) {
      reader.fail("prompt", "mixes lists with " + model::describe(entry) + ".");
      break;
    }
    prompts.push_back(tokens_of(reader, entry.get_array()));
    if (reader.error()) break;
  }
  return prompts;
}

}  // namespace

ApiResult<ChatRequest> parse_chat_request(std::string_view body,
                                          const model::SamplingParams& defaults,
                                          std::set<std::string>* seen) {
  auto object = parse_body(body);
  if (auto* error = std::get_if<ApiError>(&object)) return std::move(*error);
  FieldReader reader(std::get<json::object>(object), seen);
  ChatRequest request;
  request.generation.sampling = defaults;
  read_chat_fields(reader, request);
  refuse_unsupported(reader, kUnsupportedInChat);
  read_generation(reader, request.generation, 1);
  read_chat_logprobs(reader, request.generation.sampling);
  reader.ignore({"reasoning_effort", "prediction", "verbosity"});
  if (reader.error()) return *reader.error();
  request.generation.ignored_fields = reader.unknown_fields();
  return request;
}

ApiResult<CompletionRequest> parse_completion_request(std::string_view body,
                                                      const model::SamplingParams& defaults,
                                                      std::set<std::string>* seen) {
  auto object = parse_body(body);
  if (auto* error = std::get_if<ApiError>(&object)) return std::move(*error);
  FieldReader reader(std::get<json::object>(object), seen);
  CompletionRequest request;
  auto& generation = request.generation;
  generation.sampling = defaults;
  request.prompts = read_prompts(reader);
  reader.read("echo", request.echo);
  read_generation(reader, generation, request.echo ? 0 : 1);
  if (generation.max_tokens == 0) {
    request.echo_only = true;
    generation.max_tokens = 1;
  }
  int64_t count = 0;
  if (reader.read_integer("logprobs", 0, kMaxTopLogprobs, count)) {
    generation.sampling.want_logprobs = true;
    generation.sampling.num_top_logprobs = static_cast<uint32_t>(count);
  }
  if (request.echo && generation.sampling.want_logprobs) {
    auto& wanted = generation.sampling.num_prompt_logprobs;
    wanted = std::max(wanted.value_or(0), generation.sampling.num_top_logprobs);
  }
  refuse_unsupported(reader, kUnsupportedInCompletions);
  const size_t num_prompts =
      std::visit([](const auto& list) { return list.size(); }, request.prompts);
  if (num_prompts * generation.num_choices > kMaxPrompts) {
    reader.fail("prompt", "times `n` asks for " +
                              std::to_string(num_prompts * generation.num_choices) +
                              " answers; at most " + std::to_string(kMaxPrompts) + " are allowed.");
  }
  if (reader.error()) return *reader.error();
  generation.ignored_fields = reader.unknown_fields();
  return request;
}

ApiResult<TokenizeRequest> parse_tokenize_request(std::string_view body,
                                                  std::set<std::string>* seen) {
  auto object = parse_body(body);
  if (auto* error = std::get_if<ApiError>(&object)) return std::move(*error);
  FieldReader reader(std::get<json::object>(object), seen);
  TokenizeRequest request;
  reader.read("model", request.model);
  reader.read("return_token_strs", request.return_token_strs);
  if (reader.find("messages") != nullptr) {
    ChatRequest chat;
    read_chat_fields(reader, chat);
    refuse_unsupported(reader, kUnsupportedInChat);
    request.input = std::move(chat);
  } else {
    std::string prompt;
    reader.read("prompt", prompt);
    if (reader.find("prompt") == nullptr) reader.fail("prompt", "or `messages` must be given.");
    reader.read("add_special_tokens", request.add_special_tokens);
    request.input = std::move(prompt);
  }
  if (reader.error()) return *reader.error();
  return request;
}

ApiResult<DetokenizeRequest> parse_detokenize_request(std::string_view body,
                                                      std::set<std::string>* seen) {
  auto object = parse_body(body);
  if (auto* error = std::get_if<ApiError>(&object)) return std::move(*error);
  FieldReader reader(std::get<json::object>(object), seen);
  DetokenizeRequest request;
  reader.read("model", request.model);
  if (reader.find("tokens") == nullptr) reader.fail("tokens", "is missing.");
  reader.read_token_ids("tokens", kMaxTokensLimit, request.tokens);
  if (reader.error()) return *reader.error();
  return request;
}

ApiResult<DrainRequest> parse_drain_request(std::string_view body, std::set<std::string>* seen) {
  auto object = parse_body(body);
  if (auto* error = std::get_if<ApiError>(&object)) return std::move(*error);
  FieldReader reader(std::get<json::object>(object), seen);
  DrainRequest request;
  reader.read("node", request.node);
  if (request.node.empty()) reader.fail("node", "is missing: the name of a router.");
  reader.read("drained", request.drained);
  if (reader.error()) return *reader.error();
  return request;
}

}  // namespace troupe::gateway
