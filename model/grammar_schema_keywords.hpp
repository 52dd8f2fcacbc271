#pragma once

// A schema's keywords one by one: which there are, and their values with their types checked.
// Included by the sources of grammar_schema only.

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/grammar_number.hpp"

namespace troupe::model {

/// A schema and where it stands in its document, as a JSON pointer.
struct SchemaNode {
  const boost::json::value* value;
  std::string path;

  [[nodiscard]] SchemaNode child(const boost::json::value& schema, std::string_view keyword,
                                 std::string_view name = {}) const;
  [[nodiscard]] Error error(std::string_view what) const;
  /// Null if the keyword is missing.
  [[nodiscard]] const boost::json::value* find(std::string_view keyword) const;
  /// REQUIRES: the keyword is there.
  [[nodiscard]] Result<std::string> string(std::string_view keyword) const;
  [[nodiscard]] Result<const boost::json::array*> array(std::string_view keyword) const;
  [[nodiscard]] Result<const boost::json::object*> object(std::string_view keyword) const;
};

enum class Type : uint8_t { kNull, kBoolean, kInteger, kNumber, kString, kArray, kObject };

/// @errors kInvalidArgument naming a keyword that is not supported
Result<void> check_keywords(const SchemaNode& node);

/// @errors kInvalidArgument naming a keyword beside `keyword` that says what is valid, except
///         `allowed`
Result<void> alone(const SchemaNode& node, std::string_view keyword, std::string_view allowed = {});

/// Those of `type`; where it is missing, those that other keywords speak of; empty: any.
Result<std::vector<Type>> types_of(const SchemaNode& node);

bool has_type(const boost::json::value& value, Type type);

/// minimum and its relatives. Bounds beyond int64 are moved to it, which allows less and not more.
/// @param of_integers bounds may have fractions, and excluded ones become included ones
/// @errors kInvalidArgument: not a number, or for numbers not a whole one; no integer between them
Result<NumberBounds> bounds_of(const SchemaNode& node, bool of_integers);

/// The regex of a `format`, for the whole text.
std::optional<std::string> regex_of_format(std::string_view format);

}  // namespace troupe::model
