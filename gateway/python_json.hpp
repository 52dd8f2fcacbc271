#pragma once

// Sources only: Boost.JSON stays out of public headers.

#include <boost/json/value.hpp>
#include <string>

namespace troupe::gateway {

/// A value as Python's json.dumps(ensure_ascii=False) writes it, keys in the client's order: what
/// chat templates get from `tojson`, and so what models have seen of tools' schemas.
std::string python_json(const boost::json::value& value);

}  // namespace troupe::gateway
