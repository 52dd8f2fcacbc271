#pragma once

// What `troupe up --ask` and `troupe chat` have in common: asking a running cluster and showing the
// answer as it streams.

#include <string>
#include <vector>

#include "base/result.hpp"
#include "gateway/http_client.hpp"
#include "loadgen/messages.hpp"

namespace troupe::apps {

struct AskOptions {
  std::string model;
  uint32_t max_tokens = 512;
  double temperature = 0;
};

struct Answer {
  std::string text;  ///< without the reasoning
  std::string finish_reason;
  double ttft_ms = 0;  ///< to the first non-empty text
  double tpot_ms = 0;  ///< mean gap of the following events
};

/// Asks and prints the answer to standard output while it comes.
/// @errors those of the client; kUnavailable or kInvalidArgument with the server's message.
Result<Answer> ask(const gateway::HttpClient& client, const std::vector<loadgen::Message>& messages,
                   const AskOptions& options);

/// The first model that the server lists. @errors as ask()
Result<std::string> first_model(const gateway::HttpClient& client);

}  // namespace troupe::apps
