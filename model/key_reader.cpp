#include "model/key_reader.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <cmath>
#include <utility>

#include "model/json.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

std::optional<double> to_number(const json::value& value) {
  switch (value.kind()) {
    case json::kind::int64: return static_cast<double>(value.get_int64());
    case json::kind::uint64: return static_cast<double>(value.get_uint64());
    case json::kind::double_: return value.get_double();
    default: return std::nullopt;
  }
}

std::string shown(double number) { return describe(json::value(number)); }

std::string text_of(const json::string& text) { return {text.data(), text.size()}; }

}  // namespace

KeyReader::KeyReader(const json::object& object, std::string path)
    : object_(object), path_(std::move(path)) {}

const json::value* KeyReader::find(std::string_view name) {
  seen_.insert(name);
  const json::value* value = object_.if_contains(name);
  return value != nullptr && !value->is_null() ? value : nullptr;
}

Error KeyReader::error(Code code, std::string_view name, const std::string& what) const {
  return Error{code, path_ + std::string(name) + " " + what};
}

Error KeyReader::lacks(std::string_view name) const {
  return error(Code::kInvalidArgument, name, "is missing, and no default would be sensible");
}

Result<std::optional<uint32_t>> KeyReader::optional_size(Names names, uint32_t min, uint32_t max) {
  std::optional<uint32_t> found;
  for (const std::string_view name : names) {
    const json::value* value = find(name);
    if (value == nullptr) {
      continue;
    }
    const std::optional<double> number = to_number(*value);
    if (!number || *number != std::floor(*number) || *number < min || *number > max) {
      return error(Code::kInvalidArgument, name,
                   "is " + describe(*value) + "; it must be an integer from " +
                       std::to_string(min) + " to " + std::to_string(max));
    }
    const auto size = static_cast<uint32_t>(*number);
    if (found && *found != size) {
      return error(Code::kInvalidArgument, name,
                   "is " + std::to_string(size) + ", but another spelling of it says " +
                       std::to_string(*found));
    }
    found = size;
  }
  return found;
}

Result<uint32_t> KeyReader::size(Names names, uint32_t min, uint32_t max) {
  const std::optional<uint32_t> found = TRY(optional_size(names, min, max));
  if (!found) {
    return lacks(*names.begin());
  }
  return *found;
}

Result<uint32_t> KeyReader::size_or(Names names, uint32_t min, uint32_t max, uint32_t fallback) {
  return TRY(optional_size(names, min, max)).value_or(fallback);
}

Result<std::optional<double>> KeyReader::optional_number(std::string_view name, double min,
                                                         double max) {
  const json::value* value = find(name);
  if (value == nullptr) {
    return std::optional<double>();
  }
  const std::optional<double> number = to_number(*value);
  if (!number || !(*number >= min && *number <= max)) {
    return error(Code::kInvalidArgument, name,
                 "is " + describe(*value) + "; it must be a number from " + shown(min) + " to " +
                     shown(max));
  }
  return number;
}

Result<double> KeyReader::number_or(std::string_view name, double min, double max,
                                    double fallback) {
  return TRY(optional_number(name, min, max)).value_or(fallback);
}

Result<bool> KeyReader::flag_or(std::string_view name, bool fallback) {
  const json::value* value = find(name);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_bool()) {
    return error(Code::kInvalidArgument, name,
                 "is " + describe(*value) + "; it must be true or false");
  }
  return value->get_bool();
}

Result<std::optional<std::string>> KeyReader::optional_text(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) {
    return std::optional<std::string>();
  }
  if (!value->is_string()) {
    return error(Code::kInvalidArgument, name, "is " + describe(*value) + "; it must be a string");
  }
  return std::optional(text_of(value->get_string()));
}

Result<std::optional<std::vector<std::string>>> KeyReader::optional_texts(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) {
    return std::optional<std::vector<std::string>>();
  }
  if (!value->is_array()) {
    return error(Code::kInvalidArgument, name, "is " + describe(*value) + ", not a list");
  }
  std::vector<std::string> texts;
  for (const json::value& item : value->get_array()) {
    if (!item.is_string()) {
      return error(Code::kInvalidArgument, name,
                   "holds " + describe(item) + "; its entries must be strings");
    }
    texts.push_back(text_of(item.get_string()));
  }
  return std::optional(std::move(texts));
}

Result<void> KeyReader::only_text(std::string_view name, std::string_view only) {
  const std::string text = TRY(optional_text(name)).value_or(std::string(only));
  if (text != only) {
    return error(Code::kUnsupported, name,
                 "is " + quoted(text) + "; only " + quoted(only) + " is supported here");
  }
  return {};
}

Result<void> KeyReader::only_flag(std::string_view name, bool only) {
  if (TRY(flag_or(name, only)) != only) {
    return error(Code::kUnsupported, name,
                 std::string("is ") + (only ? "false" : "true") + "; only " +
                     (only ? "true" : "false") + " is supported");
  }
  return {};
}

Result<void> KeyReader::refuse_unread(std::span<const std::string_view> harmless) const {
  for (const json::key_value_pair& entry : object_) {
    const std::string_view name(entry.key().data(), entry.key().size());
    if (seen_.contains(name) || name.starts_with('_') || entry.value().is_null() ||
        std::find(harmless.begin(), harmless.end(), name) != harmless.end()) {
      continue;
    }
    return Error{Code::kUnsupported,
                 path_ + quoted(name) + " is " + describe(entry.value()) +
                     ", a feature Troupe does not know; if it does not change what the model "
                     "computes, remove the key"};
  }
  return {};
}

}  // namespace troupe::model
