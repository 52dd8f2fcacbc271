#include "gateway/service.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "base/log.hpp"
#include "base/parse.hpp"
#include "gateway/experts_response.hpp"
#include "gateway/generation.hpp"
#include "gateway/json_writer.hpp"
#include "gateway/openai_request.hpp"
#include "gateway/openai_response.hpp"
#include "gateway/openapi.hpp"
#include "gateway/status_exchange.hpp"
#include "model/json.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::gateway {
namespace {

constexpr std::string_view kModelPrefix = "/v1/models/";
constexpr double kLeastTimeout = 0.001;  // seconds

HttpResponse json_response(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

std::string_view path_of(std::string_view target) { return target.substr(0, target.find('?')); }

/// "a%2Fb" to "a/b"; nothing for a broken escape or what is not UTF-8 then.
std::optional<std::string> percent_decoded(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = digit(text[i + 1]);
    const int low = digit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  if (model::valid_utf8_prefix(decoded) != decoded.size()) return std::nullopt;
  return decoded;
}

bool is_json(std::string_view content_type) {
  std::string type(content_type.substr(0, content_type.find(';')));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  for (char& c : type) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return type.empty() || type == "application/json" ||
         (type.starts_with("application/") && type.ends_with("+json"));
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::optional<ApiError> check_model(const std::optional<std::string>& asked,
                                    const std::string& id) {
  if (!asked || asked->empty() || *asked == id) return std::nullopt;
  return model_not_found(*asked);
}

HttpResponse preflight_response(const HttpRequest& request, std::string_view methods) {
  HttpResponse response;
  response.status = 204;
  response.content_type = "";
  // "*" would not cover Authorization, so what was asked for is echoed.
  response.headers = {{"Allow", std::string(methods)},
                      {"Access-Control-Allow-Methods", std::string(methods)},
                      {"Access-Control-Allow-Headers",
                       request.preflight_headers.empty() ? "*" : request.preflight_headers},
                      {"Access-Control-Max-Age", "86400"}};
  return response;
}

void log_ignored(const HttpRequest& request, const GenerationRequest& generation) {
  if (generation.ignored_fields.empty()) return;
  std::string names;
  for (const auto& name : generation.ignored_fields) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  log::info("request_fields_ignored", {{"id", request.request_id}, {"fields", names}});
}

}  // namespace

struct Service::Route {
  std::string_view path;
  bool takes_get;
  bool takes_post;
  Answer (Service::*handler)(const HttpRequest&);

  static constexpr size_t kCount = 15;
  static const std::array<Route, kCount> kAll;

  [[nodiscard]] std::string_view methods() const {
    if (takes_get && takes_post) return "GET, HEAD, POST, OPTIONS";
    return takes_get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  }
};

const std::array<Service::Route, Service::Route::kCount> Service::Route::kAll = {{
    {"/v1/chat/completions", false, true, &Service::chat_completions},
    {"/v1/completions", false, true, &Service::completions},
    {"/v1/models", true, false, &Service::list_models},
    {"/v1/models/{id}", true, false, &Service::get_model},
    {"/health", true, false, &Service::health},
    {"/metrics", true, false, &Service::metrics},
    {"/version", true, false, &Service::version},
    {"/openapi.json", true, false, &Service::openapi},
    {"/ping", true, true, &Service::ping},
    {"/tokenize", false, true, &Service::tokenize},
    {"/detokenize", false, true, &Service::detokenize},
    {"/v1/troupe/status", true, false, &Service::status},
    {"/v1/troupe/drain", false, true, &Service::drain},
    {"/v1/troupe/experts", true, false, &Service::experts},
    {"/v1/troupe/experts/rebalance", false, true, &Service::rebalance},
}};

std::vector<std::pair<std::string_view, std::string_view>> Service::routes() {
  std::vector<std::pair<std::string_view, std::string_view>> all;
  all.reserve(std::size(Route::kAll));
  for (const Route& route : Route::kAll) all.emplace_back(route.path, route.methods());
  return all;
}

Service::Service(ServiceOptions options, actors::ClusterClient& client, const GatewayModel& model,
                 Metrics& metrics)
    : options_(std::move(options)),
      client_(client),
      model_(model),
      metrics_(metrics),
      created_(unix_seconds()) {}

const Service::Route* Service::find_route(std::string_view path) {
  const bool names_a_model = path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size();
  for (const Route& route : Route::kAll) {
    if (route.path == (names_a_model ? "/v1/models/{id}" : path)) return &route;
  }
  return nullptr;
}

std::string_view Service::route_of(std::string_view target) {
  const Route* route = find_route(path_of(target));
  return route == nullptr ? "other" : route->path;
}

Answer Service::answer(const HttpRequest& request) {
  if (request.is_retry) metrics_.client_retried();
  const Route* route = find_route(path_of(request.target));
  if (route == nullptr) {
    if (request.method == "OPTIONS") return preflight_response(request, "GET, HEAD, POST, OPTIONS");
    return error_response(http_error(
        404, "There is nothing at this path. GET /openapi.json lists what this server answers."));
  }
  if (request.method == "OPTIONS") return preflight_response(request, route->methods());
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const bool writes = request.method == "POST";
  if (!(reads && route->takes_get) && !(writes && route->takes_post)) {
    HttpResponse response = error_response(
        http_error(405, "This path takes " + std::string(route->methods()) + " only."));
    response.headers.emplace_back("Allow", std::string(route->methods()));
    return response;
  }
  if (writes && !request.body.empty() && !is_json(request.content_type)) {
    return error_response(http_error(415,
                                     "The Content-Type must be application/json; with curl add "
                                     "-H 'Content-Type: application/json'."));
  }
  return (this->*route->handler)(request);
}

ApiResult<Duration> Service::timeout_of(const HttpRequest& request) const {
  if (request.timeout.empty()) return options_.request_timeout;
  const auto wanted = parse_number<double>(request.timeout);
  const double limit = to_seconds(options_.request_timeout);
  if (!wanted || *wanted < kLeastTimeout) {
    return invalid_value("X-Request-Timeout",
                         "The header `X-Request-Timeout` must be a number of seconds, at least "
                         "0.001, not " +
                             model::quoted(request.timeout) + "; above this server's limit of " +
                             std::to_string(options_.request_timeout.ns / milliseconds(1).ns) +
                             " ms the limit counts.");
  }
  if (*wanted >= limit) return options_.request_timeout;
  return Duration{static_cast<int64_t>(*wanted * 1e9)};
}

Answer Service::chat_completions(const HttpRequest& request) {
  const auto timeout = timeout_of(request);
  if (const auto* error = std::get_if<ApiError>(&timeout)) return error_response(*error);
  auto parsed = parse_chat_request(request.body, model_.defaults);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return error_response(*error);
  auto& chat = std::get<ChatRequest>(parsed);
  if (auto error = check_model(chat.generation.model, model_.id)) return error_response(*error);
  log_ignored(request, chat.generation);
  if (auto error = check_bytes(model_, chat)) return error_response(*error);
  auto prompt = prompt_of_chat(model_, chat);
  if (const auto* error = std::get_if<ApiError>(&prompt)) return error_response(*error);
  auto& [tokens, syntax] = std::get<model::ChatPrompt>(prompt);
  if (auto error = guide_chat(model_, syntax, chat)) return error_response(*error);
  syntax.guided_calls = guides_calls(chat);
  return generate({.kind = ResponseKind::kChat,
                   .prompts = {std::move(tokens)},
                   .request = std::move(chat.generation),
                   .syntax = syntax,
                   .parallel_tool_calls = chat.parallel_tool_calls,
                   .timeout = std::get<Duration>(timeout)},
                  request);
}

Answer Service::completions(const HttpRequest& request) {
  const auto timeout = timeout_of(request);
  if (const auto* error = std::get_if<ApiError>(&timeout)) return error_response(*error);
  auto parsed = parse_completion_request(request.body, model_.defaults);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return error_response(*error);
  auto& completion = std::get<CompletionRequest>(parsed);
  if (auto error = check_model(completion.generation.model, model_.id))
    return error_response(*error);
  log_ignored(request, completion.generation);
  if (auto error = check_bytes(model_, completion.prompts)) return error_response(*error);
  auto prompts = tokens_of_prompts(model_, completion.prompts);
  if (const auto* error = std::get_if<ApiError>(&prompts)) return error_response(*error);
  return generate({.kind = ResponseKind::kText,
                   .prompts = std::get<std::vector<std::vector<TokenId>>>(std::move(prompts)),
                   .request = std::move(completion.generation),
                   .echo = completion.echo,
                   .echo_only = completion.echo_only,
                   .timeout = std::get<Duration>(timeout)},
                  request);
}

Answer Service::generate(GenerationPlan plan, const HttpRequest& request) {
  // Not serving is no reason to refuse: the scheduler knows whether a new epoch is about to form.
  if (auto error = complete_plan(plan, model_)) return error_response(*error);
  plan.tenant = request.api_key;
  plan.request_id = request.request_id;
  plan.created = unix_seconds();
  plan.arrived = request.arrived;
  return make_generation(std::move(plan), client_, model_, metrics_);
}

Answer Service::list_models(const HttpRequest&) {
  JsonWriter json;
  json.begin_object().field("object", "list").key("data").begin_array();
  json.raw(model_card(model_.id, created_, model_.max_context));
  json.end_array().end_object();
  return json_response(json.take());
}

Answer Service::get_model(const HttpRequest& request) {
  const auto id = percent_decoded(path_of(request.target).substr(kModelPrefix.size()));
  if (!id) return error_response(http_error(404, "The model's name is not valid UTF-8."));
  if (*id != model_.id) return error_response(model_not_found(*id));
  return json_response(model_card(model_.id, created_, model_.max_context));
}

Answer Service::health(const HttpRequest&) {
  if (!client_.serving()) return error_response(loading(""));
  return json_response(R"({"status":"ok"})");
}

Answer Service::metrics(const HttpRequest&) {
  return make_status_exchange(client_, false, [this](const actors::ClusterStatus& status) {
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics_.render(status);
    return response;
  });
}

Answer Service::version(const HttpRequest&) {
  JsonWriter json;
  json.begin_object().field("version", options_.version).end_object();
  return json_response(json.take());
}

Answer Service::openapi(const HttpRequest&) {
  return json_response(std::string(openapi_document()));
}

Answer Service::ping(const HttpRequest&) { return json_response("{}"); }

Answer Service::tokenize(const HttpRequest& request) {
  auto parsed = parse_tokenize_request(request.body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return error_response(*error);
  const auto& tokenize = std::get<TokenizeRequest>(parsed);
  if (auto error = check_model(tokenize.model, model_.id)) return error_response(*error);
  std::vector<TokenId> tokens;
  if (const auto* chat = std::get_if<ChatRequest>(&tokenize.input)) {
    auto prompt = prompt_of_chat(model_, *chat);
    if (const auto* error = std::get_if<ApiError>(&prompt)) return error_response(*error);
    tokens = std::get<model::ChatPrompt>(std::move(prompt)).tokens;
  } else {
    auto encoded = model_.tokenizer.encode(std::get<std::string>(tokenize.input),
                                           {.add_special_tokens = tokenize.add_special_tokens});
    if (!encoded.ok()) return error_response(from_error(encoded.error()));
    tokens = std::move(encoded).value();
  }
  JsonWriter json;
  json.begin_object().field("count", tokens.size()).field("max_model_len", model_.max_context);
  json.key("tokens").begin_array();
  for (const TokenId token : tokens) json.value(token);
  json.end_array();
  if (tokenize.return_token_strs) {
    json.key("token_strs").begin_array();
    for (const TokenId token : tokens) json.value(token_text(model_.tokenizer, token));
    json.end_array();
  }
  json.end_object();
  return json_response(json.take());
}

Answer Service::detokenize(const HttpRequest& request) {
  auto parsed = parse_detokenize_request(request.body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return error_response(*error);
  const auto& detokenize = std::get<DetokenizeRequest>(parsed);
  if (auto error = check_model(detokenize.model, model_.id)) return error_response(*error);
  for (const TokenId token : detokenize.tokens) {
    if (static_cast<size_t>(token) >= model_.tokenizer.vocab_size()) {
      return error_response(invalid_value(
          "tokens", "`tokens` holds " + std::to_string(token) + "; ids of this model are below " +
                        std::to_string(model_.tokenizer.vocab_size()) + "."));
    }
  }
  JsonWriter json;
  json.begin_object();
  json.field("prompt", model_.tokenizer.decode(detokenize.tokens, /*skip_special=*/false));
  json.end_object();
  return json_response(json.take());
}

Answer Service::drain(const HttpRequest& request) {
  auto parsed = parse_drain_request(request.body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return error_response(*error);
  const auto drain = std::get<DrainRequest>(std::move(parsed));
  client_.drain(drain.node, drain.drained);
  return make_status_exchange(
      client_, false, [node = drain.node](const actors::ClusterStatus& status) {
        const auto routers = std::ranges::count_if(status.nodes, [&](const auto& member) {
          return member.member.info.name == node &&
                 member.member.info.role == cluster::Role::kRouter;
        });
        if (routers == 0) {
          return error_response({.status = 404,
                                 .type = "not_found_error",
                                 .message = "No router `" + node + "` is in the cluster.",
                                 .param = "node"});
        }
        return json_response(status_json(status));
      });
}

Answer Service::experts(const HttpRequest&) {
  return make_experts_exchange(client_, false, [](const actors::ExpertsStatus& status) {
    return json_response(experts_json(status));
  });
}

Answer Service::rebalance(const HttpRequest&) {
  return make_experts_exchange(client_, true, [](const actors::ExpertsStatus& status) {
    return json_response(experts_json(status));
  });
}

Answer Service::status(const HttpRequest& request) {
  const bool check = request.target.ends_with("?check=1");
  return make_status_exchange(client_, check, [](const actors::ClusterStatus& status) {
    return json_response(status_json(status));
  });
}

}  // namespace troupe::gateway
