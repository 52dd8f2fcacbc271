#include "apps/server_error.hpp"

#include <string>

#include "loadgen/messages.hpp"

namespace troupe::apps {

Error server_error(int status, std::string_view body) {
  const bool clients_fault = status >= 400 && status < 500 && status != 429;
  const Code code = clients_fault ? Code::kInvalidArgument : Code::kUnavailable;
  std::string message = loadgen::error_message(body);
  if (message.empty()) {
    message =
        "the server answered HTTP status " + std::to_string(status) + "; is it a Troupe gateway?";
  }
  return {code, std::move(message)};
}

}  // namespace troupe::apps
