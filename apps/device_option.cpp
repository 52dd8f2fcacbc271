#include "apps/device_option.hpp"

#include <algorithm>
#include <charconv>
#include <string_view>

#ifdef TROUPE_CUDA
#include "kernels/cuda/cuda_ops.hpp"
#endif

namespace troupe::apps {
namespace po = boost::program_options;

void add_device_option(Options& options) {
  options.add_options()("device", po::value<std::string>()->default_value("cpu"),
                        "what computes: cpu, or cuda:0 and so on; they round differently");
}

Result<kernels::Backend> open_device(const Values& values) {
  const auto name = values.count("device") != 0 ? values["device"].as<std::string>() : "cpu";
  if (name == "cpu") return kernels::Backend();
  constexpr std::string_view kPrefix = "cuda:";
  int device = -1;
  const char* end = name.data() + name.size();
  const char* number = name.data() + std::min(name.size(), kPrefix.size());
  const auto [rest, error] = std::from_chars(number, end, device);
  if (!name.starts_with(kPrefix) || error != std::errc() || rest != end || device < 0) {
    return Error{Code::kInvalidArgument,
                 "--device must be cpu or cuda: and a number, as cuda:0, not '" + name + "'"};
  }
#ifdef TROUPE_CUDA
  return kernels::make_cuda_backend({.device = device});
#else
  return Error{Code::kUnsupported, "--device " + name +
                                       ": this troupe has no CUDA backend; build one with "
                                       "./run build cuda, or use --device cpu"};
#endif
}

}  // namespace troupe::apps
