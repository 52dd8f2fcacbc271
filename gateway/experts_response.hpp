#pragma once

// The JSON of /v1/troupe/experts.

#include <string>

#include "actors/client.hpp"

namespace troupe::gateway {

/// Shards with their share of the load, and per layer with experts each expert's rows and holders.
std::string experts_json(const actors::ExpertsStatus& status);

}  // namespace troupe::gateway
