#pragma once

namespace troupe::apps {

/// Nodes of different versions refuse to work together. Set by CMakeLists.txt.
inline constexpr const char* kVersion = TROUPE_VERSION;

}  // namespace troupe::apps
