#pragma once

// SIGINT and SIGTERM as something to wait for, instead of handlers.

#include "base/time.hpp"

namespace troupe::apps {

/// Blocks SIGINT, SIGTERM and SIGCHLD in this thread and those it starts; ignores SIGPIPE. Call it
/// first thing, before any thread exists.
void block_signals();

/// Waits for one of the blocked signals; 0 when `limit` is over first.
int wait_for_signal(Duration limit);

}  // namespace troupe::apps
