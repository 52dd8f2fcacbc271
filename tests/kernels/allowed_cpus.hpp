#pragma once

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdint>
#include <vector>

namespace troupe {

/// CPUs that this thread, and what it starts, may use.
inline std::vector<uint32_t> allowed_cpus() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  std::vector<uint32_t> cpus;
  for (uint32_t id = 0; id < CPU_SETSIZE; ++id) {
    if (CPU_ISSET(id, &set)) cpus.push_back(id);
  }
  return cpus;
}

}  // namespace troupe
