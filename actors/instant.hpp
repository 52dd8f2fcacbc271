#pragma once

// The actors' clock: the actor system's own, so that tests run in virtual time.

#include <caf/all.hpp>

#include "base/time.hpp"

namespace troupe::actors {

inline Instant now(const caf::actor_clock& clock) {
  return {
      std::chrono::duration_cast<std::chrono::nanoseconds>(clock.now().time_since_epoch()).count()};
}
inline Instant now(const caf::local_actor* self) { return now(self->clock()); }

}  // namespace troupe::actors
