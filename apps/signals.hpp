#pragma once

// SIGINT and SIGTERM as something to wait for, instead of handlers; or as the end of work that may
// stop anywhere.

#include "base/time.hpp"

namespace troupe::apps {

/// Blocks SIGINT, SIGTERM and SIGCHLD in this thread and those it starts; ignores SIGPIPE. Call it
/// first thing, before any thread exists.
void block_signals();

/// Waits for one of the blocked signals; 0 when `limit` is over first.
int wait_for_signal(Duration limit);

/// From now on SIGINT and SIGTERM end the process at once, with kInterrupted and a last line on
/// standard error. For a process that may be killed at any time, too, and does not block them.
/// @param last_words a literal
void end_when_interrupted(const char* last_words);

}  // namespace troupe::apps
