#include "apps/own_process.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <sstream>

#include "base/check_ok.hpp"
#include "base/kernel_file.hpp"

namespace troupe::apps {

const char* own_executable() {
  const char* named = std::getenv("TROUPE_EXECUTABLE");
  return named != nullptr ? named : "/proc/self/exe";
}

double process_age_s() {
  const std::string stat = CHECK_OK(first_line("/proc/self/stat"));
  std::istringstream fields(stat.substr(stat.rfind(')') + 2));  // the name may hold anything
  std::string skipped;
  for (int i = 3; i < 22; ++i) fields >> skipped;
  double started = 0;
  fields >> started;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 -
         started / static_cast<double>(sysconf(_SC_CLK_TCK));
}

uint64_t process_memory(const std::string& name) {
  const auto bytes = bytes_of("/proc/self/status", name);
  return bytes.ok() ? *bytes : 0;
}

uint64_t read_from_disk() {
  constexpr uint64_t kBlockBytes = 512;  // getrusage(2)
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_inblock) * kBlockBytes;
}

}  // namespace troupe::apps
