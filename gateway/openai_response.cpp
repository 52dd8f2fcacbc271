#include "gateway/openai_response.hpp"

#include <algorithm>
#include <cstdio>

#include "gateway/json_writer.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::gateway {
namespace {

constexpr float kLowestLogprob = -9999.0F;  // JSON has no -infinity; vLLM writes this

float json_logprob(float logprob) { return std::max(logprob, kLowestLogprob); }

void write_chat_token(JsonWriter& json, const model::Tokenizer& tokenizer, TokenId token,
                      float logprob) {
  json.field("token", token_text(tokenizer, token)).field("logprob", json_logprob(logprob));
  json.key("bytes").begin_array();
  for (const char byte : tokenizer.token_bytes(token)) {
    json.value(static_cast<unsigned>(static_cast<unsigned char>(byte)));
  }
  json.end_array();
}

std::string chat_logprobs(const model::Tokenizer& tokenizer,
                          std::span<const TokenLogprob> entries) {
  JsonWriter json;
  json.begin_object().key("content").begin_array();
  for (const auto& [token, offset, has_logprob] : entries) {
    json.begin_object();
    write_chat_token(json, tokenizer, token.token, token.logprob);
    json.key("top_logprobs").begin_array();
    for (const auto& [id, logprob] : token.top_logprobs) {
      json.begin_object();
      write_chat_token(json, tokenizer, id, logprob);
      json.end_object();
    }
    json.end_array().end_object();
  }
  json.end_array().field("refusal", nullptr).end_object();
  return json.take();
}

std::string text_logprobs(const model::Tokenizer& tokenizer,
                          std::span<const TokenLogprob> entries) {
  JsonWriter json;
  json.begin_object().key("text_offset").begin_array();
  for (const auto& entry : entries) json.value(entry.text_offset);
  json.end_array().key("token_logprobs").begin_array();
  for (const auto& entry : entries) {
    if (entry.has_logprob) {
      json.value(json_logprob(entry.token.logprob));
    } else {
      json.value(nullptr);
    }
  }
  json.end_array().key("tokens").begin_array();
  for (const auto& entry : entries) json.value(token_text(tokenizer, entry.token.token));
  json.end_array().key("top_logprobs").begin_array();
  for (const auto& [token, offset, has_logprob] : entries) {
    if (!has_logprob) {
      json.value(nullptr);
      continue;
    }
    // An object keyed by text: of tokens with the same text the likelier one stays.
    std::vector<std::string> seen;
    json.begin_object();
    const auto write_once = [&](TokenId id, float logprob) {
      std::string text = token_text(tokenizer, id);
      if (std::find(seen.begin(), seen.end(), text) != seen.end()) return;
      json.field(text, json_logprob(logprob));
      seen.push_back(std::move(text));
    };
    for (const auto& [id, logprob] : token.top_logprobs) write_once(id, logprob);
    write_once(token.token, token.logprob);
    json.end_object();
  }
  json.end_array().end_object();
  return json.take();
}

void write_head(JsonWriter& json, const ResponseHead& head, bool chunk) {
  const std::string_view object = head.kind == ResponseKind::kText ? "text_completion"
                                  : chunk                          ? "chat.completion.chunk"
                                                                   : "chat.completion";
  json.field("id", head.id).field("object", object);
  json.field("created", head.created).field("model", head.model);
}

/// Under both names that clients know: DeepSeek's and vLLM's newer one.
void write_reasoning(JsonWriter& json, std::string_view reasoning) {
  json.field("reasoning_content", reasoning).field("reasoning", reasoning);
}

void write_message(JsonWriter& json, const ChoiceResult& choice) {
  json.key("message").begin_object().field("role", "assistant").key("content");
  const bool has_more = !choice.reasoning.empty() || !choice.tool_calls.empty();
  if (choice.text.empty() && has_more) {
    json.value(nullptr);
  } else {
    json.value(choice.text);
  }
  json.field("refusal", nullptr);
  if (!choice.reasoning.empty()) write_reasoning(json, choice.reasoning);
  if (!choice.tool_calls.empty()) {  // an empty list would confuse agents
    json.key("tool_calls").begin_array();
    for (const auto& call : choice.tool_calls) {
      json.begin_object().field("id", call.id).field("type", "function").key("function");
      json.begin_object().field("name", call.name).field("arguments", call.arguments);
      json.end_object().end_object();
    }
    json.end_array();
  }
  json.end_object();
}

void write_tool_call_delta(JsonWriter& json, const ToolCallDelta& call) {
  json.key("tool_calls").begin_array().begin_object().field("index", call.index);
  if (!call.id.empty()) json.field("id", call.id).field("type", "function");
  json.key("function").begin_object();
  if (!call.id.empty()) json.field("name", call.name);
  json.field("arguments", call.arguments);
  json.end_object().end_object().end_array();
}

void write_raw_or_null(JsonWriter& json, std::string_view name,
                       const std::optional<std::string>& raw) {
  json.key(name).raw(raw ? std::string_view(*raw) : "null");
}

std::string_view role_name(cluster::Role role) {
  switch (role) {
    case cluster::Role::kRouter: return "router";
    case cluster::Role::kExperts: return "experts";
  }
  return "unknown";
}

std::string_view state_name(cluster::NodeState state) {
  switch (state) {
    case cluster::NodeState::kJoined: return "joined";
    case cluster::NodeState::kForming: return "forming";
    case cluster::NodeState::kReady: return "ready";
  }
  return "unknown";
}

/// Node ids use all 64 bits; as JSON numbers JavaScript would round them.
std::string hex_id(NodeId id) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(id.value));
  return text;
}

void write_node(JsonWriter& json, const actors::NodeStatus& node) {
  const cluster::NodeInfo& info = node.member.info;
  json.begin_object();
  json.field("id", hex_id(info.id)).field("name", info.name).field("role", role_name(info.role));
  json.field("state", state_name(node.member.state))
      .field("host", info.host)
      .field("pid", info.pid)
      .field("device", info.device)
      .field("cpus", info.cpus);
  json.field("version", info.version).field("arithmetic_class", info.arithmetic_class);
  json.field("num_experts_held", node.num_experts_held).field("experts", node.experts);
  json.field("kv_blocks_used", node.kv_blocks_used).field("kv_blocks_total", node.kv_blocks_total);
  json.field("kv_blocks_cached", node.prefix_cache.cached_blocks);
  json.field("kv_host_blocks_used", node.prefix_cache.host_blocks);
  json.field("prefix_cache_queries", node.prefix_cache.queried_tokens);
  json.field("prefix_cache_hits", node.prefix_cache.hit_tokens);
  json.field("preemptions", node.num_preempted).field("fetched_blocks", node.num_fetched_blocks);
  json.field("drained", node.drained).field("problem", node.problem);
  json.field("rows_computed", node.rows_computed);
  json.key("links").begin_array();
  for (const auto& link : node.links) {
    json.begin_object();
    json.field("peer", hex_id(link.peer)).field("transport", link.transport);
    json.field("frames_sent", link.frames_sent).field("frames_received", link.frames_received);
    json.field("bytes_sent", link.bytes_sent).field("bytes_received", link.bytes_received);
    json.field("frames_rejected", link.frames_rejected).end_object();
  }
  json.end_array().end_object();
}

}  // namespace

std::string usage_json(const Usage& usage) {
  JsonWriter json;
  json.begin_object().field("prompt_tokens", usage.prompt_tokens);
  json.field("completion_tokens", usage.completion_tokens);
  json.field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.key("prompt_tokens_details").begin_object();
  json.field("cached_tokens", usage.cached_tokens).end_object();
  json.key("completion_tokens_details")
      .begin_object()
      .field("reasoning_tokens", usage.reasoning_tokens)
      .end_object();
  json.end_object();
  return json.take();
}

std::string logprobs_json(ResponseKind kind, const model::Tokenizer& tokenizer,
                          std::span<const TokenLogprob> entries) {
  return kind == ResponseKind::kChat ? chat_logprobs(tokenizer, entries)
                                     : text_logprobs(tokenizer, entries);
}

std::string prompt_logprobs_json(const model::Tokenizer& tokenizer,
                                 std::span<const model::SampledToken> scored, uint32_t num_top) {
  JsonWriter json;
  json.begin_array().value(nullptr);
  for (const model::SampledToken& token : scored) {
    json.begin_object();
    const auto write = [&](TokenId id, float logprob) -> JsonWriter& {
      return json.key(std::to_string(id)).begin_object().field("logprob", json_logprob(logprob));
    };
    bool among_top = false;
    for (size_t i = 0; i < std::min<size_t>(num_top, token.top_logprobs.size()); ++i) {
      const auto& [id, logprob] = token.top_logprobs[i];
      write(id, logprob).field("rank", i + 1);
      json.field("decoded_token", token_text(tokenizer, id)).end_object();
      among_top = among_top || id == token.token;
    }
    if (!among_top) {
      write(token.token, token.logprob).field("rank", nullptr);
      json.field("decoded_token", token_text(tokenizer, token.token)).end_object();
    }
    json.end_object();
  }
  json.end_array();
  return json.take();
}

std::string response_json(const ResponseHead& head, std::span<const ChoiceResult> choices,
                          const Usage& usage) {
  JsonWriter json;
  json.begin_object();
  write_head(json, head, /*chunk=*/false);
  json.key("choices").begin_array();
  for (const auto& choice : choices) {
    json.begin_object().field("index", choice.index);
    if (head.kind == ResponseKind::kChat) {
      write_message(json, choice);
    } else {
      json.field("text", choice.text);
    }
    write_raw_or_null(json, "logprobs", choice.logprobs);
    json.field("finish_reason", choice.finish_reason).field("stop_reason", choice.stop_reason);
    if (head.kind == ResponseKind::kText && choice.prompt_logprobs) {
      json.key("prompt_logprobs").raw(*choice.prompt_logprobs);
    }
    json.end_object();
  }
  json.end_array();
  if (head.kind == ResponseKind::kChat && choices[0].prompt_logprobs) {
    json.key("prompt_logprobs").raw(*choices[0].prompt_logprobs);
  }
  json.key("usage").raw(usage_json(usage)).end_object();
  return json.take();
}

std::string chunk_json(const ResponseHead& head, const ChoiceDelta& delta, std::string_view usage) {
  JsonWriter json;
  json.begin_object();
  write_head(json, head, /*chunk=*/true);
  json.key("choices").begin_array().begin_object().field("index", delta.index);
  if (head.kind == ResponseKind::kChat) {
    json.key("delta").begin_object();
    if (delta.opens) json.field("role", "assistant");
    if (delta.opens || delta.text) json.field("content", delta.text.value_or(""));
    if (delta.reasoning) write_reasoning(json, *delta.reasoning);
    if (delta.tool_call) write_tool_call_delta(json, *delta.tool_call);
    json.end_object();
  } else {
    json.field("text", delta.text.value_or(""));
  }
  write_raw_or_null(json, "logprobs", delta.logprobs);
  json.field("finish_reason", delta.finish_reason);
  if (delta.finish_reason) json.field("stop_reason", delta.stop_reason);
  const bool is_chat = head.kind == ResponseKind::kChat;
  if (!is_chat && delta.prompt_logprobs) json.key("prompt_logprobs").raw(*delta.prompt_logprobs);
  json.end_object().end_array();
  if (is_chat && delta.prompt_logprobs) json.key("prompt_logprobs").raw(*delta.prompt_logprobs);
  if (!usage.empty()) json.key("usage").raw(usage);
  json.end_object();
  return json.take();
}

std::string usage_chunk_json(const ResponseHead& head, const Usage& usage) {
  JsonWriter json;
  json.begin_object();
  write_head(json, head, /*chunk=*/true);
  json.key("choices").begin_array().end_array().key("usage").raw(usage_json(usage)).end_object();
  return json.take();
}

std::string sse_event(std::string_view json) { return "data: " + std::string(json) + "\n\n"; }

std::string token_text(const model::Tokenizer& tokenizer, TokenId token) {
  std::string text;
  model::append_lossy_utf8(text, tokenizer.token_bytes(token));
  return text;
}

std::string model_card(std::string_view id, int64_t created, uint32_t max_context) {
  JsonWriter json;
  json.begin_object().field("id", id).field("object", "model").field("created", created);
  json.field("owned_by", "troupe").field("root", id).field("parent", nullptr);
  json.field("max_model_len", max_context).key("permission").begin_array().end_array().end_object();
  return json.take();
}

std::string status_json(const actors::ClusterStatus& status) {
  const auto& counts = status.counts;
  JsonWriter json;
  json.begin_object().field("checked", status.checked).field("problem", status.problem);
  json.field("serving", status.serving).field("condition", status.condition);
  json.field("epoch", status.epoch.value).key("requests").begin_object();
  json.field("queued", counts.queued).field("running", counts.running);
  json.field("admitted_total", counts.admitted_total).field("refused_total", counts.refused_total);
  json.field("finished_total", counts.finished_total).field("failed_total", counts.failed_total);
  json.field("cancelled_total", counts.cancelled_total);
  json.field("resumed_total", counts.resumed_total).field("moved_total", counts.moved_total);
  json.field("moved_to_begin_total", counts.moved_to_begin_total)
      .field("yielded_total", counts.yielded_total);
  json.field("prompt_tokens_total", counts.prompt_tokens_total);
  json.field("generated_tokens_total", counts.generated_tokens_total).end_object();
  json.key("nodes").begin_array();
  for (const auto& node : status.nodes) write_node(json, node);
  json.end_array().end_object();
  return json.take();
}

}  // namespace troupe::gateway
