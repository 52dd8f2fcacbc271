#pragma once

// What GET /metrics shows: vLLM's names for the tools that know them, troupe_ names beside them.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "actors/client.hpp"
#include "base/time.hpp"

namespace troupe::gateway {

/// Thread-safe. Observing costs some tens of nanoseconds; rendering a millisecond.
class Metrics {
 public:
  Metrics(std::string_view model_name, std::string_view version);
  ~Metrics();

  /// One HTTP exchange ended. `route` is of the fixed list of routes, or "other".
  void http_request(std::string_view route, std::string_view method, int status, Duration took);
  void client_disconnected();
  void client_retried();

  /// One choice: its first token came `since_arrival` after the request.
  void first_token(Duration since_arrival);
  /// `count` tokens came together, `gap` after those before them: one gap, one observation.
  void next_tokens(uint64_t count, Duration gap);
  /// One choice ended. `reason`: stop, length, abort or error.
  void choice_ended(std::string_view reason, uint64_t num_prompt, uint64_t num_generated,
                    Duration took);
  /// Requests that passed the parser and were not answered yet.
  void in_flight(int change);

  /// The text exposition; `status` fills the gauges of the cluster.
  [[nodiscard]] std::string render(const actors::ClusterStatus& status);

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace troupe::gateway
