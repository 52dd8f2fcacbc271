#include "gateway/exchange.hpp"

namespace troupe::gateway {

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = error_body(error);
  if (error.retry_after_s) {
    response.headers.emplace_back("Retry-After", std::to_string(*error.retry_after_s));
  }
  if (error.retry_is_useless) response.headers.emplace_back("x-should-retry", "false");
  return response;
}

}  // namespace troupe::gateway
