#include "apps/threads_option.hpp"

#include <algorithm>

#include "base/control_groups.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

constexpr uint32_t kMaxThreads = 1024;

}  // namespace

void add_threads_option(Options& options, const char* text) {
  options.add_options()(
      "threads", po::value<uint32_t>()->default_value(std::min(num_threads_at_once(), kMaxThreads)),
      text);
}

Result<uint32_t> read_threads(const Values& values) {
  const auto num_threads = values["threads"].as<uint32_t>();
  if (num_threads < 1 || num_threads > kMaxThreads) {
    return Error{Code::kInvalidArgument,
                 "--threads must be between 1 and " + std::to_string(kMaxThreads)};
  }
  return num_threads;
}

}  // namespace troupe::apps
