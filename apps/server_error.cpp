#include "apps/server_error.hpp"

#include <string>

#include "loadgen/messages.hpp"

namespace troupe::apps {

Error server_error(int status, std::string_view body) {
  const bool clients_fault = status >= 400 && status < 500 && status != 429;
  const Code code = clients_fault ? Code::kInvalidArgument : Code::kUnavailable;
  if (auto words = loadgen::server_words(body)) return {code, *std::move(words)};
  return {code, "the server answered HTTP status " + std::to_string(status)};
}

Error gateway_error(int status, std::string_view body) {
  Error error = server_error(status, body);
  if (loadgen::server_words(body)) return error;
  return {Code::kUnavailable, error.message + "; is it a Troupe gateway?"};
}

}  // namespace troupe::apps
