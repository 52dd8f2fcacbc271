#include "kernels/memory.hpp"

#include <cstdio>
#include <cstdlib>

#include "base/log.hpp"

namespace troupe::kernels {

void end_process(const Error& device_failed) {
  log::error("device_failed", {{"reason", device_failed.message}});
  std::fflush(nullptr);
  std::_Exit(EXIT_FAILURE);  // nothing is torn down: a device that failed may never let go
}

void finish_or_end(Memory& memory) {
  if (const Result<void> done = memory.finish(); !done.ok()) end_process(done.error());
}

}  // namespace troupe::kernels
