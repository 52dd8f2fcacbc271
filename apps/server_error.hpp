#pragma once

// What a server's error means to a command.

#include <string_view>

#include "base/result.hpp"

namespace troupe::apps {

/// The server's own words for what went wrong, or its status if it has none: kInvalidArgument if
/// the request is at fault, else kUnavailable.
/// @param body of the answer
Error server_error(int status, std::string_view body);

/// The same from a path below /v1/troupe/, which Troupe's gateways alone have: without words it is
/// another server, so kUnavailable.
Error gateway_error(int status, std::string_view body);

}  // namespace troupe::apps
