#include "apps/server_error.hpp"

#include <boost/json.hpp>
#include <string>

namespace troupe::apps {
namespace json = boost::json;

Error server_error(int status, std::string_view body) {
  const bool clients_fault = status >= 400 && status < 500 && status != 429;
  const Code code = clients_fault ? Code::kInvalidArgument : Code::kUnavailable;
  boost::system::error_code failed;
  const json::value answer = json::parse(body, failed);
  const json::value* message = failed ? nullptr : answer.find_pointer("/error/message", failed);
  if (message != nullptr && message->is_string()) {
    return {code, std::string(message->get_string())};
  }
  return {code, "the server answered HTTP status " + std::to_string(status) +
                    "; is it a Troupe gateway?"};
}

}  // namespace troupe::apps
