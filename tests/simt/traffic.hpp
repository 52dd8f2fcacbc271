#pragma once

// What the host asks of the emulated device, each of which costs some microseconds on a GPU.

#include <cstdint>

#include "kernels/memory.hpp"

namespace troupe::kernels {

struct Traffic {
  uint64_t launches = 0;  ///< one by one
  uint64_t graphs = 0;    ///< of launches
  uint64_t changes = 0;   ///< of launches in graphs
  uint64_t built = 0;     ///< graphs
  uint64_t uploads = 0;   ///< copies of staging memory before launches
  uint64_t uploaded_bytes = 0;
  uint64_t copies = 0;  ///< all others: in, out and within
};

/// So far. @param memory of make_test_backend()
Traffic traffic_of(const Memory& memory);

}  // namespace troupe::kernels
