#include "base/check.hpp"

#include <cstdio>
#include <cstdlib>

namespace troupe::internal {

void check_failed(const char* file, int line, const char* what, const std::string& operands) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s%s\n", file, line, what, operands.c_str());
  std::abort();
}

}  // namespace troupe::internal
