#pragma once

#include <string_view>

namespace troupe::gateway {

/// The OpenAPI 3.1 description of this server: gateway/openapi.json, taken in at build time.
std::string_view openapi_document();

}  // namespace troupe::gateway
