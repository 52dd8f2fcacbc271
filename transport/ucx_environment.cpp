#include <cstdlib>

#include "transport/ports.hpp"

namespace troupe::transport {

bool prepare_ucx_environment() {
  constexpr struct {
    const char* name;
    const char* value;
  } kSettings[] = {
      {"UCX_HANDLE_ERRORS", "none"},  // else UCX takes SIGSEGV, SIGBUS, SIGILL and SIGFPE
      {"UCX_ERROR_SIGNALS", ""},      // at library load
      {"UCX_TCP_CM_REUSEADDR", "y"},  // else a restarted port is "busy" for a minute
      {"UCX_WARN_UNUSED_ENV_VARS", "n"},
      {"UCX_LOG_FILE", "stderr"},  // the default, standard output, carries our results
  };
  bool changed = false;
  for (const auto& setting : kSettings) {
    if (std::getenv(setting.name) != nullptr) continue;
    setenv(setting.name, setting.value, 0);
    changed = true;
  }
  return changed;
}

}  // namespace troupe::transport
