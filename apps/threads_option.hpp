#pragma once

// --threads of the commands that compute in their own process.

#include "apps/command.hpp"

namespace troupe::apps {

/// Unless given, as many as this process can have computing at once (base/control_groups.hpp).
/// @param text what they do
void add_threads_option(Options& options, const char* text);

/// @errors kInvalidArgument unless it is between 1 and 1024
Result<uint32_t> read_threads(const Values& values);

}  // namespace troupe::apps
