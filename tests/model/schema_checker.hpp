#pragma once

// Other opinions than the grammar's: a plain reading of JSON Schema, and PCRE2.

#include <boost/json/value.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace troupe::model {

/// Whether a document is valid, by a plain reading of JSON Schema; knows the keywords that the
/// grammar knows. `format` is not checked. Returns "" or where and why it is not.
std::string schema_violation(const boost::json::value& schema, const boost::json::value& document);

/// Whether PCRE2 matches the whole text, or finds a match in it. nullopt: it gave up.
enum class Match { kWhole, kAnywhere };
std::optional<bool> pcre2_matches(std::string_view pattern, std::string_view text, Match match);

}  // namespace troupe::model
