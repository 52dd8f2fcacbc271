#include "apps/device_option.hpp"

#include "apps/gpu_backend.hpp"

namespace troupe::apps {
namespace po = boost::program_options;

Result<Device> read_device(const Values& values) {
  const auto name = values.count("device") != 0 ? values["device"].as<std::string>() : "cpu";
  if (const auto device = parse_device(name)) return *device;
  return Error{
      Code::kInvalidArgument,
      "--device must be cpu or cuda: and numbers, each once, as cuda:0 or cuda:0,1, not '" + name +
          "'"};
}

void add_device_option(Options& options) {
  options.add_options()(
      "device", po::value<std::string>()->default_value("cpu"),
      "what computes: cpu, cuda:0 and so on, or GPUs together: cuda:0,1; CPUs and GPUs "
      "round differently");
}

void add_cuda_graphs_option(Options& options) {
  options.add_options()("cuda-graphs", po::value<std::string>()->default_value("on"),
                        "on or off: whether launches of a GPU that come again in each step start "
                        "together; the tokens are the same");
}

Result<kernels::Backend> open_device(const Values& values) {
  const Device device = TRY(read_device(values));
  const auto graphs =
      values.count("cuda-graphs") != 0 ? values["cuda-graphs"].as<std::string>() : "on";
  if (graphs != "on" && graphs != "off") {
    return Error{Code::kInvalidArgument, "--cuda-graphs must be on or off, not '" + graphs + "'"};
  }
  if (!device.has_gpus()) return kernels::Backend();
  return open_gpus(device, graphs == "on");
}

}  // namespace troupe::apps
