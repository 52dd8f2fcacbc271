// What makes a `troupe` of apps/ compute on emulated GPUs, any number of them. This open_gpus()
// is linked instead of the product's; all else is the same.
//
// A device fails when a file with its name, "cuda:0", comes to be in $TROUPE_EMULATED_FAULTS: at
// the launch that is as many launches away as the file says. Who opened the device takes the file
// away, so the device is whole for the process that is started next. $TROUPE_EMULATED_MEMORY says
// how many bytes each device has, $TROUPE_EMULATED_FOR_OTHERS how many of them others take once a
// node has looked at what is free.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "apps/gpu_backend.hpp"
#include "base/check.hpp"
#include "base/parse.hpp"
#include "tests/simt/emulated_backend.hpp"

namespace troupe::apps {
namespace {

class FaultByFile {
 public:
  FaultByFile(const std::filesystem::path& folder, const Device& device)
      : device_(to_string(device)), file_(folder / device_) {}

  std::string operator()() {
    if (!launches_left_) look();
    if (!launches_left_ || (*launches_left_)-- > 0) return "";
    return "emulated " + device_ + ": an illegal memory access was encountered";
  }

 private:
  void look() {
    std::ifstream in(file_);
    uint64_t count = 0;
    if (!(in >> count)) return;
    launches_left_ = count;
    CHECK(std::filesystem::remove(file_));
  }

  std::string device_;
  std::filesystem::path file_;
  std::optional<uint64_t> launches_left_;
};

std::vector<kernels::EmulatedDevice> emulated(const Device& device) {
  CHECK(device.has_gpus());
  std::vector<kernels::EmulatedDevice> devices;
  for (const uint32_t gpu : device.gpus) {
    kernels::EmulatedDevice& one = devices.emplace_back();
    if (const char* folder = std::getenv("TROUPE_EMULATED_FAULTS"); folder != nullptr) {
      one.fault = FaultByFile(folder, Device{{gpu}});
    }
    if (const char* bytes = std::getenv("TROUPE_EMULATED_MEMORY"); bytes != nullptr) {
      one.memory_bytes = parse_number<uint64_t>(bytes).value();
    }
    if (const char* bytes = std::getenv("TROUPE_EMULATED_FOR_OTHERS"); bytes != nullptr) {
      one.bytes_for_others = parse_number<uint64_t>(bytes).value();
    }
  }
  return devices;
}

kernels::CudaOptions options(bool graphs) {
  return {.workspace_bytes = size_t{64} << 20U, .graphs = graphs};
}

}  // namespace

Result<kernels::Backend> open_gpus(const Device& device, bool graphs) {
  std::vector<kernels::EmulatedDevice> devices = emulated(device);
  if (devices.size() > 1) return kernels::make_emulated_group(options(graphs), std::move(devices));
  return kernels::make_emulated_backend(options(graphs), std::move(devices[0]));
}

Result<kernels::Backend> open_joined_gpus(const Device& device) {
  return kernels::make_emulated_group(options(/*graphs=*/false), emulated(device));
}

std::optional<kernels::CudaSystem> cuda_here(bool /*with_free_memory*/) { return {}; }

}  // namespace troupe::apps
