#pragma once

// JSON from outside, parsed with bounds. Included by sources only: Boost.JSON stays out of the
// public headers of model/.

#include <boost/json/value.hpp>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::model {

/// Parses one JSON document. Nesting deeper than `max_depth` and a key that occurs twice in one
/// object are errors: two readers could otherwise see two different files.
/// @errors kCorrupt with the byte offset, or naming the repeated key.
Result<boost::json::value> parse_json(std::string_view text, size_t max_depth = 32);

/// `text` for an error message: in quotes, unprintable bytes escaped, long text cut.
std::string quoted(std::string_view text);

/// What a value is, for an error message: "an array", "the string \"x\"", "2.5".
std::string describe(const boost::json::value& value);

}  // namespace troupe::model
