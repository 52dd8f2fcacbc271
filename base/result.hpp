#pragma once

// Expected failures travel as values: Result<T> holds a T or an Error. Nothing in Troupe throws;
// exceptions of libraries become Errors where they enter. Each layer that passes an Error on may
// add one line of context, so that a message reads from the general to the particular.

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace troupe {

/// What the receiver of an error may conclude and do.
enum class Code {
  kInvalidArgument,    ///< the input is wrong; the same call fails again
  kNotFound,           ///< a named thing does not exist
  kCorrupt,            ///< stored or received bytes contradict themselves
  kUnsupported,        ///< well formed, but outside what this build can do
  kResourceExhausted,  ///< a bound is reached; later may work
  kUnavailable,        ///< a peer or node is gone or not ready; later may work
  kDeadlineExceeded,   ///< the time allowed is over
  kCancelled,          ///< the caller gave up
  kInternal,           ///< a library or the system failed in an unforeseen way
};

/// The name of a code, as it appears in logs and messages: "invalid_argument".
constexpr std::string_view to_string(Code code) {
  switch (code) {
    case Code::kInvalidArgument: return "invalid_argument";
    case Code::kNotFound: return "not_found";
    case Code::kCorrupt: return "corrupt";
    case Code::kUnsupported: return "unsupported";
    case Code::kResourceExhausted: return "resource_exhausted";
    case Code::kUnavailable: return "unavailable";
    case Code::kDeadlineExceeded: return "deadline_exceeded";
    case Code::kCancelled: return "cancelled";
    case Code::kInternal: return "internal";
  }
  return "unknown";
}

/// A failure: what kind, and a sentence for the person who has to act on it.
struct Error {
  Code code = Code::kInternal;
  std::string message;

  /// The same error with one more line of context in front: "loading X: the cause".
  [[nodiscard]] Error with_context(std::string_view context) && {
    return Error{code, std::string(context) + ": " + std::move(message)};
  }
};

/// Either a T or an Error; must be looked at.
template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  /// REQUIRES: ok().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  /// REQUIRES: !ok().
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

/// Success without a value, or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit

  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  void value() const {}
  const Error& error() const& { return *error_; }
  Error&& error() && { return *std::move(error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace troupe

/// `auto x = TRY(f());` takes the value of a Result or returns its error from the enclosing
/// function. A statement expression, which g++ and clang both have.
#define TRY(...)                                                              \
  __extension__({                                                             \
    auto troupe_try_result = (__VA_ARGS__);                                   \
    if (!troupe_try_result.ok()) return std::move(troupe_try_result).error(); \
    std::move(troupe_try_result).value();                                     \
  })
