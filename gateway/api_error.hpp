#pragma once

// Errors as OpenAI's clients read them: {"error":{"message","type","param","code"}} with string
// codes, an HTTP status, and whether trying again can help. docs/http_api.md has the table.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.hpp"
#include "base/time.hpp"

namespace troupe::gateway {

/// What programs branch on: `code` of the body.
enum class ErrorCode : uint8_t {
  kInvalidJson,
  kInvalidValue,
  kUnsupportedParameter,
  kContextLengthExceeded,
  kModelNotFound,
  kRequestTimeout,
  kQueueFull,
  kDeadlineExceeded,
  kTimeoutTooShort,
  kTooManyConnections,
  kInternalError,
  kCancelled,
  kNotImplemented,
  kLoading,
  kNoCapacity,
  kDraining,
};
inline constexpr std::array kErrorCodes = {
    ErrorCode::kInvalidJson,
    ErrorCode::kInvalidValue,
    ErrorCode::kUnsupportedParameter,
    ErrorCode::kContextLengthExceeded,
    ErrorCode::kModelNotFound,
    ErrorCode::kRequestTimeout,
    ErrorCode::kQueueFull,
    ErrorCode::kDeadlineExceeded,
    ErrorCode::kTimeoutTooShort,
    ErrorCode::kTooManyConnections,
    ErrorCode::kInternalError,
    ErrorCode::kCancelled,
    ErrorCode::kNotImplemented,
    ErrorCode::kLoading,
    ErrorCode::kNoCapacity,
    ErrorCode::kDraining,
};
/// "invalid_json"
std::string_view to_string(ErrorCode code);

struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  std::optional<ErrorCode> code;
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
/// The same of a prompt that was not tokenized, because its bytes alone say that it has too many.
ApiError prompt_too_long(uint64_t max_context, uint64_t fewest_tokens, std::string param);
/// What the server finds wrong before any field is read: 400, 404, 405, 408, 413, 415, 431.
ApiError http_error(int status, std::string message);
ApiError loading(std::string_view condition);
ApiError draining();
ApiError too_many_connections();

/// What a Failed event means to an HTTP client.
ApiError from_error(const Error& error, Duration retry_after = seconds(1));
/// What a Refused event means: as from_error(), but a deadline that could not be met is overload,
/// told before anything was computed, or without `retry_after` a time that is too short for what is
/// asked, which is the request's fault.
ApiError from_refusal(const Error& error, std::optional<Duration> retry_after);

/// The body; also the payload of an error event in the middle of a stream.
std::string error_body(const ApiError& error);

}  // namespace troupe::gateway
