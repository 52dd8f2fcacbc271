#include "gateway/field_reader.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <span>

#include "model/json.hpp"

namespace troupe::gateway {
namespace json = boost::json;
namespace {

constexpr size_t kMaxDepth = 32;

std::string plain(double number) {
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, number).ptr};
}

/// "messages[2]." to "messages[].".
std::string without_indices(std::string_view path) {
  std::string out;
  for (const char c : path) {
    if (c < '0' || c > '9') out += c;
  }
  return out;
}

}  // namespace

ApiResult<json::object> parse_body(std::string_view body) {
  auto value = model::parse_json(body, kMaxDepth);
  if (!value.ok())
    return invalid_json("The request body is not valid JSON: " + value.error().message);
  if (!value->is_object()) {
    return invalid_json("The request body must be a JSON object, not " + model::describe(*value) +
                        ".");
  }
  return std::move(value->get_object());
}

std::optional<int64_t> as_integer(const json::value& value) {
  if (const auto* i = value.if_int64()) return *i;
  if (const auto* d = value.if_double();
      d != nullptr && std::trunc(*d) == *d && std::abs(*d) < 0x1p53) {
    return static_cast<int64_t>(*d);
  }
  return std::nullopt;
}

const json::value* FieldReader::find(std::string_view name) {
  if (seen_ != nullptr) seen_->insert(without_indices(prefix_) + std::string(name));
  return find_unsupported(name);
}

const json::value* FieldReader::find_unsupported(std::string_view name) {
  known_.emplace(name);
  if (error()) return nullptr;
  const auto* value = object_.if_contains(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

void FieldReader::read(std::string_view name, bool& out) {
  const auto* value = find(name);
  if (value == nullptr) return;
  if (!value->is_bool()) return fail_type(name, "true or false", *value);
  out = value->get_bool();
}

void FieldReader::read(std::string_view name, std::string& out) {
  const auto* value = find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return fail_type(name, "a string", *value);
  out = std::string_view(value->get_string());
}

void FieldReader::read(std::string_view name, std::optional<std::string>& out) {
  std::string text;
  const bool there = find(name) != nullptr;
  read(name, text);
  if (there && !error()) out = std::move(text);
}

void FieldReader::read_number(std::string_view name, double low, double high, float& out) {
  const auto* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number()) return fail_type(name, "a number", *value);
  const auto number = value->to_number<double>();
  if (!(number >= low && number <= high)) {
    return fail(name, "must be between " + plain(low) + " and " + plain(high) + ", not " +
                          model::describe(*value) + ".");
  }
  out = static_cast<float>(number);
}

void FieldReader::read_number_above(std::string_view name, double low, double high, float& out) {
  float number = out;
  read_number(name, low, high, number);
  if (error() || find(name) == nullptr) return;
  if (!(number > static_cast<float>(low))) {
    return fail(name, "must be greater than " + plain(low) + " and at most " + plain(high) + ".");
  }
  out = number;
}

bool FieldReader::read_integer(std::string_view name, int64_t low, int64_t high, int64_t& out) {
  const auto* value = find(name);
  if (value == nullptr) return false;
  const auto number = as_integer(*value);
  if (!value->is_number() || (value->is_double() && !number)) {
    fail_type(name, "an integer", *value);
    return false;
  }
  if (!number || *number < low || *number > high) {
    fail(name, "must be between " + std::to_string(low) + " and " + std::to_string(high) +
                   ", not " + model::describe(*value) + ".");
    return false;
  }
  out = *number;
  return true;
}

void FieldReader::read_token_ids(std::string_view name, size_t max_count,
                                 std::vector<int32_t>& out) {
  const auto* value = find(name);
  if (value == nullptr) return;
  if (!value->is_array()) return fail_type(name, "a list of token ids", *value);
  const auto& list = value->get_array();
  if (list.size() > max_count) {
    return fail(name, "must have at most " + std::to_string(max_count) + " entries, not " +
                          std::to_string(list.size()) + ".");
  }
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const auto& entry : list) {
    const auto id = as_integer(entry);
    if (!id || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      return fail(name, "must hold token ids; " + model::describe(entry) + " is none.");
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  out = std::move(ids);
}

void FieldReader::read_strings(std::string_view name, size_t max_count, size_t max_bytes,
                               std::vector<std::string>& out) {
  const auto* value = find(name);
  if (value == nullptr) return;
  if (!value->is_string() && !value->is_array()) {
    return fail_type(name, "a string or a list of strings", *value);
  }
  const std::span<const json::value> list =
      value->is_string() ? std::span(value, 1)
                         : std::span(value->get_array().data(), value->get_array().size());
  if (list.size() > max_count) {
    return fail(name, "must have at most " + std::to_string(max_count) + " entries, not " +
                          std::to_string(list.size()) + ".");
  }
  std::vector<std::string> strings;
  for (const auto& entry : list) {
    if (!entry.is_string() || entry.get_string().empty() || entry.get_string().size() > max_bytes) {
      return fail(name, "must hold strings of 1 to " + std::to_string(max_bytes) + " bytes; " +
                            model::describe(entry) + " is none.");
    }
    strings.emplace_back(std::string_view(entry.get_string()));
  }
  out = std::move(strings);
}

const json::object* FieldReader::object(std::string_view name) {
  const auto* value = find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) {
    fail_type(name, "an object", *value);
    return nullptr;
  }
  return &value->get_object();
}

void FieldReader::ignore(std::initializer_list<std::string_view> names) {
  for (const auto name : names) known_.emplace(name);
}

void FieldReader::fail(std::string_view name, std::string_view message) {
  const std::string param = path_of(name);
  fail(invalid_value(param, "`" + param + "` " + std::string(message)));
}

void FieldReader::fail_unsupported(std::string_view name, std::string_view message) {
  const std::string param = path_of(name);
  fail(unsupported_parameter(param, "`" + param + "` " + std::string(message)));
}

void FieldReader::fail(ApiError error) {
  if (parent_ != nullptr) return parent_->fail(std::move(error));
  if (!error_) error_ = std::move(error);
}

void FieldReader::fail_type(std::string_view name, std::string_view wanted,
                            const json::value& found) {
  fail(name, "must be " + std::string(wanted) + ", not " + model::describe(found) + ".");
}

std::vector<std::string> FieldReader::unknown_fields() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : object_) {
    if (names.size() == 16) break;
    if (!value.is_null() && !known_.contains(std::string_view(name))) {
      names.emplace_back(std::string_view(name).substr(0, 64));
    }
  }
  return names;
}

}  // namespace troupe::gateway
