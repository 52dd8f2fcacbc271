#pragma once

// Reads the fields of one JSON object, each with its type and limits, and keeps the first error.
// Sources only: Boost.JSON stays out of public headers.

#include <boost/json/value.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/api_error.hpp"

namespace troupe::gateway {

/// Parses a body that must be a JSON object in valid UTF-8.
ApiResult<boost::json::object> parse_body(std::string_view body);

/// After the first error every read does nothing, so that a parser reads as a list of fields.
/// A field that is absent or null leaves its target as it is.
class FieldReader {
 public:
  /// `object` must outlive the reader.
  /// @param seen gets the names of all fields that are looked for, if it is given
  explicit FieldReader(const boost::json::object& object, std::set<std::string>* seen = nullptr)
      : object_(object), seen_(seen) {}
  /// Reads an object inside `parent`'s, which keeps the errors. `prefix` comes before the names:
  /// "stream_options.", "messages[2].".
  FieldReader(const boost::json::object& object, FieldReader& parent, std::string prefix)
      : object_(object), parent_(&parent), prefix_(parent.prefix_ + prefix), seen_(parent.seen_) {}
  FieldReader(const FieldReader&) = delete;
  FieldReader& operator=(const FieldReader&) = delete;

  /// The value, or nullptr if absent or null or after an error. Marks the name as known.
  const boost::json::value* find(std::string_view name);
  /// As find(), of a field that is accepted only where it asks for nothing: not among `seen`.
  const boost::json::value* find_unsupported(std::string_view name);

  void read(std::string_view name, bool& out);
  void read(std::string_view name, std::string& out);
  void read(std::string_view name, std::optional<std::string>& out);
  void read_number(std::string_view name, double low, double high, float& out);
  /// `low_open`: low itself is outside.
  void read_number_above(std::string_view name, double low, double high, float& out);
  /// An integer, also written as 3.0. False if absent or wrong.
  bool read_integer(std::string_view name, int64_t low, int64_t high, int64_t& out);
  void read_token_ids(std::string_view name, size_t max_count, std::vector<int32_t>& out);

  /// A list of strings of 1 to max_bytes bytes, or one such string, which counts as a list of one.
  void read_strings(std::string_view name, size_t max_count, size_t max_bytes,
                    std::vector<std::string>& out);

  /// An object or nullptr.
  const boost::json::object* object(std::string_view name);
  /// Known and without effect here: accepted in any form.
  void ignore(std::initializer_list<std::string_view> names);

  /// The whole name of a field: "messages[2].role".
  [[nodiscard]] std::string path_of(std::string_view name) const {
    return prefix_ + std::string(name);
  }
  void fail(std::string_view name, std::string_view message);
  void fail_unsupported(std::string_view name, std::string_view message);
  void fail(ApiError error);
  [[nodiscard]] const std::optional<ApiError>& error() const {
    return parent_ == nullptr ? error_ : parent_->error();
  }
  /// Names that nothing has asked for, at most 16, each cut to 64 bytes.
  [[nodiscard]] std::vector<std::string> unknown_fields() const;

 private:
  void fail_type(std::string_view name, std::string_view wanted, const boost::json::value& found);

  const boost::json::object& object_;
  FieldReader* parent_ = nullptr;
  std::string prefix_;
  std::set<std::string>* seen_;
  std::set<std::string, std::less<>> known_;
  std::optional<ApiError> error_;
};

/// An integer value, also one written with a zero fraction.
std::optional<int64_t> as_integer(const boost::json::value& value);

}  // namespace troupe::gateway
