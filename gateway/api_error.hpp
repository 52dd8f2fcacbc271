#pragma once

// Errors as OpenAI's clients read them: {"error":{"message","type","param","code"}} with string
// codes, an HTTP status, and whether trying again can help. docs/http_api.md has the table.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.hpp"
#include "base/time.hpp"

namespace troupe::gateway {

struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  std::optional<std::string> code;
  std::optional<std::string> param;       ///< the request field at fault
  std::optional<uint32_t> retry_after_s;  ///< Retry-After, 1 .. 60
  bool retry_is_useless = false;          ///< sends x-should-retry: false
};

/// A T or the answer to a request that has none.
template <class T>
using ApiResult = std::variant<T, ApiError>;

ApiError invalid_json(std::string message);
ApiError invalid_value(std::string param, std::string message);
ApiError unsupported_parameter(std::string param, std::string message);
ApiError model_not_found(std::string_view model);
/// The sentence that clients look for when they shorten a prompt.
ApiError context_length_exceeded(uint64_t max_context, uint64_t num_prompt, uint64_t num_completion,
                                 std::string param);
/// A status without a more precise code: 404, 405, 413, 415, 431.
ApiError http_error(int status, std::string message);
ApiError loading(std::string_view condition);
ApiError draining();

/// What a Refused (with its retry_after) or Failed event means to an HTTP client.
ApiError from_error(const Error& error, Duration retry_after = seconds(1));

/// The body; also the payload of an error event in the middle of a stream.
std::string error_body(const ApiError& error);

}  // namespace troupe::gateway
