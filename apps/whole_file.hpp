#pragma once

// Files that are there whole or not at all: what an earlier run wrote stays until a new one has
// something to put in its place.

#include <string>

#include "base/result.hpp"

namespace troupe::apps {

/// Whether write_whole() could write there, for those who want to know before hours of work.
/// Changes nothing. @errors kInvalidArgument with the reason
Result<void> check_writable(const std::string& path);

/// Replaces a file at once, by a rename; a device or a pipe is written to as it is.
/// @errors kResourceExhausted with the reason; then the file is as it was
Result<void> write_whole(const std::string& path, const std::string& text);

}  // namespace troupe::apps
