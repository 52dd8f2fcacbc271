#include "loadgen/messages.hpp"

#include <array>
#include <boost/json.hpp>

#include "gateway/json_writer.hpp"

namespace troupe::loadgen {
namespace json = boost::json;
using gateway::JsonWriter;

namespace {

/// Everything but the prompt, and the end of the object.
std::string finish(JsonWriter& body, const BodyOptions& options, uint32_t max_tokens) {
  const auto field = [&](const char* name, const auto& value) {
    if (!options.extra.contains(name)) body.field(name, value);
  };
  field("model", options.model);
  field("max_tokens", max_tokens);
  field("temperature", options.temperature);
  field("stream", true);
  if (!options.extra.contains("stream_options")) {
    body.key("stream_options").raw(R"({"include_usage":true})");
  }
  if (options.ignore_eos) {
    field("ignore_eos", true);
    // An end token in the middle of an answer is a token like any other: it shall give an event.
    field("skip_special_tokens", false);
  }
  if (options.priority) field("priority", *options.priority);
  for (const auto& [name, value] : options.extra) {
    body.key({name.data(), name.size()}).raw(json::serialize(value));
  }
  body.end_object();
  return body.take();
}

const json::value* member(const json::value& value, const char* key) {
  return value.is_object() ? value.get_object().if_contains(key) : nullptr;
}

std::string_view text_of(const json::value* value) {
  if (value == nullptr || !value->is_string()) return {};
  return {value->get_string().data(), value->get_string().size()};
}

std::optional<uint32_t> count_of(const json::value* value) {
  if (value == nullptr) return std::nullopt;
  boost::system::error_code failed;
  const auto count = value->to_number<uint32_t>(failed);
  return failed ? std::nullopt : std::optional(count);
}

std::optional<Usage> usage_of(const json::value* value) {
  if (value == nullptr) return std::nullopt;
  const auto prompt = count_of(member(*value, "prompt_tokens"));
  const auto completion = count_of(member(*value, "completion_tokens"));
  if (!prompt || !completion) return std::nullopt;
  Usage usage{.prompt_tokens = *prompt, .completion_tokens = *completion, .cached_tokens = {}};
  if (const json::value* details = member(*value, "prompt_tokens_details")) {
    usage.cached_tokens = count_of(member(*details, "cached_tokens"));
  }
  return usage;
}

void take_choice(AnswerEvent& event, const json::value& choice) {
  event.has_choice = true;
  event.content = text_of(member(choice, "text"));
  if (const json::value* delta = member(choice, "delta")) {
    // Servers that know both names of reasoning send it under both.
    const std::string_view reasoning = text_of(member(*delta, "reasoning_content"));
    event.reasoning = reasoning.empty() ? text_of(member(*delta, "reasoning")) : reasoning;
    event.content += text_of(member(*delta, "content"));
    const json::value* calls = member(*delta, "tool_calls");
    event.has_tool_call = calls != nullptr && calls->is_array() && !calls->get_array().empty();
  }
  event.finish_reason = text_of(member(choice, "finish_reason"));
}

}  // namespace

std::string completion_body(const BodyOptions& options, const std::vector<TokenId>& prompt,
                            uint32_t max_tokens) {
  JsonWriter body;
  body.begin_object().key("prompt").begin_array();
  for (const TokenId token : prompt) body.value(token);
  body.end_array();
  return finish(body, options, max_tokens);
}

std::string text_body(const BodyOptions& options, const std::vector<Message>& messages,
                      uint32_t max_tokens) {
  JsonWriter body;
  body.begin_object();
  if (options.is_chat) {
    body.key("messages").begin_array();
    for (const auto& [role, content] : messages) {
      body.begin_object().field("role", role).field("content", content).end_object();
    }
    body.end_array();
  } else {
    std::string prompt;
    for (const auto& [role, content] : messages) prompt += content;
    body.field("prompt", prompt);
  }
  return finish(body, options, max_tokens);
}

Result<AnswerEvent> parse_event(std::string_view data) {
  AnswerEvent event;
  if (data == "[DONE]") {
    event.is_end = true;
    return event;
  }
  // Most events are small: no heap for them.
  std::array<unsigned char, 4096> buffer;
  json::monotonic_resource memory(buffer.data(), buffer.size());
  boost::system::error_code failed;
  const json::value value =
      json::parse(json::string_view(data.data(), data.size()), failed, &memory);
  if (failed || !value.is_object()) {
    return Error{Code::kCorrupt, "an event is no JSON object: " + report_line(data)};
  }
  if (const json::value* error = member(value, "error"); error != nullptr && !error->is_null()) {
    event.error = server_words(data).value_or(std::string(data));
    return event;
  }
  event.usage = usage_of(member(value, "usage"));
  const json::value* choices = member(value, "choices");
  if (choices != nullptr && choices->is_array() && !choices->get_array().empty()) {
    take_choice(event, choices->get_array().front());
  }
  return event;
}

std::optional<std::string> server_words(std::string_view body) {
  boost::system::error_code failed;
  const json::value value = json::parse(json::string_view(body.data(), body.size()), failed);
  if (failed) return std::nullopt;
  const json::value* error = member(value, "error");
  const json::value* of_error = error == nullptr ? nullptr : member(*error, "message");
  for (const json::value* place : {of_error, member(value, "message"), error}) {
    if (const std::string_view words = text_of(place); !words.empty()) return std::string(words);
  }
  return std::nullopt;
}

std::string report_line(std::string_view text) {
  constexpr std::string_view kCut = "...";
  std::string line(text.substr(0, kMaxReportLine));
  for (char& c : line) {
    if (c < ' ' || c > '~') c = '?';
  }
  if (text.size() > kMaxReportLine) line.replace(kMaxReportLine - kCut.size(), kCut.size(), kCut);
  return line;
}

}  // namespace troupe::loadgen
