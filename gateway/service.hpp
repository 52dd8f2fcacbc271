#pragma once

// Decides what each HTTP request gets: routes, checks, answers. Knows no sockets, so that every
// rule can be tested by a function call.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/client.hpp"
#include "base/time.hpp"
#include "gateway/exchange.hpp"
#include "gateway/gateway_model.hpp"
#include "gateway/generation_plan.hpp"
#include "gateway/metrics.hpp"

namespace troupe::gateway {

struct ServiceOptions {
  std::string version;
  Duration request_timeout = seconds(300);  ///< also the most that a client may ask for
};

/// Thread-safe. The referenced objects must outlive it and its exchanges.
class Service {
 public:
  Service(ServiceOptions options, actors::ClusterClient& client, const GatewayModel& model,
          Metrics& metrics);

  /// Never waits, but works: about 0.1 s per megabyte of a prompt, to tokenize it. A prompt whose
  /// bytes say that it is too long is not tokenized.
  Answer answer(const HttpRequest& request);

  /// The route of a target, of a fixed list: "/v1/models/{id}"; "other" if it is none.
  static std::string_view route_of(std::string_view target);
  /// Every path with its methods: {"/health", "GET, HEAD, OPTIONS"}.
  static std::vector<std::pair<std::string_view, std::string_view>> routes();

 private:
  struct Route;
  static const Route* find_route(std::string_view path);

  Answer chat_completions(const HttpRequest& request);
  Answer completions(const HttpRequest& request);
  /// From submission to the last token, as the client wants it (X-Request-Timeout) within limits.
  [[nodiscard]] ApiResult<Duration> timeout_of(const HttpRequest& request) const;
  Answer generate(GenerationPlan plan, const HttpRequest& request);
  Answer list_models(const HttpRequest& request);
  Answer get_model(const HttpRequest& request);
  Answer health(const HttpRequest& request);
  Answer metrics(const HttpRequest& request);
  Answer version(const HttpRequest& request);
  Answer openapi(const HttpRequest& request);
  Answer ping(const HttpRequest& request);
  Answer tokenize(const HttpRequest& request);
  Answer detokenize(const HttpRequest& request);
  Answer status(const HttpRequest& request);
  Answer drain(const HttpRequest& request);
  Answer experts(const HttpRequest& request);
  Answer rebalance(const HttpRequest& request);

  ServiceOptions options_;
  actors::ClusterClient& client_;
  const GatewayModel& model_;
  Metrics& metrics_;
  int64_t created_;  ///< of the model card: when this gateway started
};

}  // namespace troupe::gateway
