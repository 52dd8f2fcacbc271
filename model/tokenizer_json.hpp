#pragma once

// Reading tokenizer.json strictly: a key that is missing, of another type or unknown is an Error
// that names its path, since a silently ignored key would change the tokens.

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::model {

/// An object of a JSON document together with where it stands, for messages.
class JsonObject {
 public:
  /// @errors kInvalidArgument if `value` is not an object
  static Result<JsonObject> at(const boost::json::value& value, std::string path);

  /// @errors kUnsupported naming the first key outside `known`
  Result<void> allow_only(std::initializer_list<std::string_view> known) const;

  /// The value of a key; null counts as absent.
  [[nodiscard]] const boost::json::value* find(std::string_view key) const;
  Result<const boost::json::value*> require(std::string_view key) const;
  Result<std::string_view> string(std::string_view key) const;
  Result<bool> boolean(std::string_view key, bool fallback) const;

  /// @errors kUnsupported unless the key is absent, null, or equal to one of the harmless values
  Result<void> require_absent_or_false(std::string_view key) const;
  Result<void> require_absent_or_empty(std::string_view key) const;

  [[nodiscard]] std::string path_of(std::string_view key) const;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  const boost::json::object* object_ = nullptr;
  std::string path_;
};

}  // namespace troupe::model
