#pragma once

// Files that are there whole or not at all: what an earlier run wrote stays until a new one has
// something to put in its place.

#include <filesystem>
#include <string>

#include "base/result.hpp"

namespace troupe::apps {

/// The file that a path names, there or not, behind all links: the same for each way to spell it.
std::filesystem::path file_of(const std::string& path);

/// Whether write_whole() could write there, for those who want to know before hours of work.
/// Changes nothing. @errors kInvalidArgument with the reason
Result<void> check_writable(const std::string& path);

/// Replaces a file at once, by a rename; links stay links. What no rename may replace is written
/// over as it is: a device, a pipe, a file that is mounted, another user's file in /tmp.
/// @errors kResourceExhausted with the reason; then the file is as it was, or the message names
///         the file that has the text instead
Result<void> write_whole(const std::string& path, const std::string& text);

}  // namespace troupe::apps
