#include "model/tokenizer_json.hpp"

#include <algorithm>
#include <boost/json.hpp>

namespace troupe::model {
namespace json = boost::json;

Result<JsonObject> JsonObject::at(const json::value& value, std::string path) {
  JsonObject out;
  out.object_ = value.if_object();
  out.path_ = std::move(path);
  if (out.object_ == nullptr) {
    return Error{Code::kInvalidArgument, out.path_ + " has to be an object"};
  }
  return out;
}

Result<void> JsonObject::allow_only(std::initializer_list<std::string_view> known) const {
  for (const auto& [key, value] : *object_) {
    if (std::find(known.begin(), known.end(), std::string_view(key)) == known.end()) {
      return Error{Code::kUnsupported, path_of(key) + " is not a key that Troupe knows"};
    }
  }
  return {};
}

const json::value* JsonObject::find(std::string_view key) const {
  const json::value* value = object_->if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<const json::value*> JsonObject::require(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr) return Error{Code::kInvalidArgument, path_of(key) + " is missing"};
  return value;
}

Result<std::string_view> JsonObject::string(std::string_view key) const {
  const json::value* value = TRY(require(key));
  if (!value->is_string()) {
    return Error{Code::kInvalidArgument, path_of(key) + " has to be a string"};
  }
  return std::string_view(value->get_string());
}

Result<bool> JsonObject::boolean(std::string_view key, bool fallback) const {
  const json::value* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) {
    return Error{Code::kInvalidArgument, path_of(key) + " has to be true or false"};
  }
  return value->get_bool();
}

Result<void> JsonObject::require_absent_or_false(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr || (value->is_bool() && !value->get_bool())) return {};
  return Error{Code::kUnsupported, path_of(key) + " is set; Troupe supports only its absence"};
}

Result<void> JsonObject::require_absent_or_empty(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr || (value->is_string() && value->get_string().empty())) return {};
  return Error{Code::kUnsupported, path_of(key) + " is set; Troupe supports only its absence"};
}

std::string JsonObject::path_of(std::string_view key) const {
  // A hostile key may be long; a message has to stay readable.
  return path_ + (path_.empty() ? "" : ".") + std::string(key.substr(0, 100));
}

}  // namespace troupe::model
