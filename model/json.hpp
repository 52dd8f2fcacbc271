#pragma once

// JSON from outside, parsed with bounds. Included by sources only: Boost.JSON stays out of the
// public headers of model/.

#include <boost/json/value.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::model {

/// What a key that occurs twice in one object is.
enum class RepeatedKey : uint8_t {
  kError,      ///< two readers could see two different documents
  kLastCounts  ///< of texts that are only looked at and passed on
};

/// Parses one JSON document. Nesting deeper than `max_depth` is an error.
/// @errors kCorrupt with the byte offset, or naming the repeated key.
Result<boost::json::value> parse_json(std::string_view text, size_t max_depth = 32,
                                      RepeatedKey repeated = RepeatedKey::kError);

/// `text` for an error message: in quotes, unprintable bytes escaped, long text cut.
std::string quoted(std::string_view text);

/// What a value is, for an error message: "an array", "the string \"x\"", "2.5".
std::string describe(const boost::json::value& value);

}  // namespace troupe::model
