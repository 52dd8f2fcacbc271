#include "gateway/api_error.hpp"

#include <algorithm>

#include "gateway/json_writer.hpp"

namespace troupe::gateway {
namespace {

uint32_t retry_seconds(Duration wait) {
  // openai-node ignores values above 60 s, and 0 would invite a busy loop.
  return static_cast<uint32_t>(std::clamp<int64_t>((wait.ns + 999'999'999) / 1'000'000'000, 1, 60));
}

ApiError bad_request(ErrorCode code, std::optional<std::string> param, std::string message) {
  ApiError error;
  error.message = std::move(message);
  error.code = code;
  error.param = std::move(param);
  return error;
}

ApiError unavailable(ErrorCode code, std::string message, Duration retry_after) {
  ApiError error;
  error.status = 503;
  error.type = "unavailable_error";
  error.code = code;
  error.message = std::move(message);
  error.retry_after_s = retry_seconds(retry_after);
  return error;
}

}  // namespace

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidJson: return "invalid_json";
    case ErrorCode::kInvalidValue: return "invalid_value";
    case ErrorCode::kUnsupportedParameter: return "unsupported_parameter";
    case ErrorCode::kContextLengthExceeded: return "context_length_exceeded";
    case ErrorCode::kModelNotFound: return "model_not_found";
    case ErrorCode::kRequestTimeout: return "request_timeout";
    case ErrorCode::kQueueFull: return "queue_full";
    case ErrorCode::kDeadlineExceeded: return "deadline_exceeded";
    case ErrorCode::kTimeoutTooShort: return "timeout_too_short";
    case ErrorCode::kTooManyConnections: return "too_many_connections";
    case ErrorCode::kInternalError: return "internal_error";
    case ErrorCode::kCancelled: return "cancelled";
    case ErrorCode::kNotImplemented: return "not_implemented";
    case ErrorCode::kLoading: return "loading";
    case ErrorCode::kNoCapacity: return "no_capacity";
    case ErrorCode::kDraining: return "draining";
  }
  return "unknown";
}

ApiError invalid_json(std::string message) {
  return bad_request(ErrorCode::kInvalidJson, std::nullopt, std::move(message));
}

ApiError invalid_value(std::string param, std::string message) {
  return bad_request(ErrorCode::kInvalidValue, std::move(param), std::move(message));
}

ApiError unsupported_parameter(std::string param, std::string message) {
  return bad_request(ErrorCode::kUnsupportedParameter, std::move(param), std::move(message));
}

ApiError model_not_found(std::string_view model) {
  ApiError error = bad_request(ErrorCode::kModelNotFound, "model",
                               "The model `" + std::string(model) + "` does not exist.");
  error.status = 404;
  error.type = "not_found_error";
  return error;
}

ApiError context_length_exceeded(uint64_t max_context, uint64_t num_prompt, uint64_t num_completion,
                                 std::string param) {
  return bad_request(
      ErrorCode::kContextLengthExceeded, std::move(param),
      "This model's maximum context length is " + std::to_string(max_context) +
          " tokens. However, you requested " + std::to_string(num_prompt + num_completion) +
          " tokens (" + std::to_string(num_prompt) + " in the messages, " +
          std::to_string(num_completion) +
          " in the completion). Please reduce the length of the messages or completion.");
}

ApiError prompt_too_long(uint64_t max_context, uint64_t fewest_tokens, std::string param) {
  const std::string fewest = std::to_string(fewest_tokens);
  return bad_request(ErrorCode::kContextLengthExceeded, std::move(param),
                     "This model's maximum context length is " + std::to_string(max_context) +
                         " tokens. However, you requested at least " + fewest +
                         " tokens (at least " + fewest +
                         " in the messages). Please reduce the length of the messages.");
}

ApiError http_error(int status, std::string message) {
  ApiError error;
  error.status = status;
  error.message = std::move(message);
  if (status == 404) error.type = "not_found_error";
  if (status == 408) {
    error.type = "timeout_error";
    error.code = ErrorCode::kRequestTimeout;
  }
  return error;
}

ApiError loading(std::string_view condition) {
  std::string message = "The cluster is not ready to serve";
  if (!condition.empty()) message += ": " + std::string(condition);
  return unavailable(ErrorCode::kLoading,
                     message + ". Try again in a moment; GET /health tells when.", seconds(2));
}

ApiError draining() {
  return unavailable(ErrorCode::kDraining, "This server is stopping and takes no new requests.",
                     seconds(5));
}

ApiError too_many_connections() {
  ApiError error = from_error({Code::kResourceExhausted, "Too many connections are open."});
  error.code = ErrorCode::kTooManyConnections;
  return error;
}

ApiError from_error(const Error& error, Duration retry_after) {
  ApiError answer;
  answer.message = error.message;
  switch (error.code) {
    case Code::kInvalidArgument: answer.code = ErrorCode::kInvalidValue; return answer;
    case Code::kNotFound:
      answer.status = 404;
      answer.type = "not_found_error";
      return answer;
    case Code::kUnsupported:
      answer.status = 501;
      answer.type = "not_supported_error";
      answer.code = ErrorCode::kNotImplemented;
      answer.retry_is_useless = true;
      return answer;
    case Code::kResourceExhausted:
      answer.status = 429;
      answer.type = "rate_limit_error";
      answer.code = ErrorCode::kQueueFull;
      answer.retry_after_s = retry_seconds(retry_after);
      return answer;
    case Code::kUnavailable: return unavailable(ErrorCode::kNoCapacity, error.message, retry_after);
    case Code::kDeadlineExceeded:
      answer.status = 408;
      answer.type = "timeout_error";
      answer.code = ErrorCode::kRequestTimeout;
      return answer;
    case Code::kCorrupt:
    case Code::kCancelled:
    case Code::kInternal: break;
  }
  // The same tokens always: what failed by itself once fails again.
  answer.status = 500;
  answer.type = "server_error";
  answer.code = error.code == Code::kCancelled ? ErrorCode::kCancelled : ErrorCode::kInternalError;
  answer.retry_is_useless = true;
  return answer;
}

ApiError from_refusal(const Error& error, std::optional<Duration> retry_after) {
  if (error.code != Code::kDeadlineExceeded) {
    return from_error(error, retry_after.value_or(seconds(1)));
  }
  if (!retry_after) {
    ApiError answer = bad_request(ErrorCode::kTimeoutTooShort, std::nullopt, error.message);
    answer.retry_is_useless = true;
    return answer;
  }
  ApiError answer = from_error({Code::kResourceExhausted, error.message}, *retry_after);
  answer.code = ErrorCode::kDeadlineExceeded;
  return answer;
}

std::string error_body(const ApiError& error) {
  JsonWriter json;
  json.begin_object().key("error").begin_object();
  json.field("message", error.message).field("type", error.type);
  json.field("param", error.param).key("code");
  if (error.code) {
    json.value(to_string(*error.code));
  } else {
    json.value(nullptr);
  }
  json.end_object().end_object();
  return json.take();
}

}  // namespace troupe::gateway
