#pragma once

// What computes: the CPUs of a machine, one of its GPUs, or several together.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/parse.hpp"

namespace troupe {

struct Device {
  std::vector<uint32_t> gpus = {};  ///< as CUDA numbers them, each once; none: the CPUs
  [[nodiscard]] bool has_gpus() const { return !gpus.empty(); }
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr std::string_view kGpuPrefix = "cuda:";

/// "cpu", "cuda:0", "cuda:0,1" and so on. @returns nullopt for another text
inline std::optional<Device> parse_device(std::string_view text) {
  if (text == "cpu") return Device{};
  if (!text.starts_with(kGpuPrefix)) return std::nullopt;
  Device device;
  for (const std::string_view number : split(text.substr(kGpuPrefix.size()), ',')) {
    const auto gpu = parse_number<uint32_t>(number);
    if (!gpu || std::ranges::count(device.gpus, *gpu) != 0) return std::nullopt;
    device.gpus.push_back(*gpu);
  }
  return device;
}

inline std::string to_string(const Device& device) {
  if (!device.has_gpus()) return "cpu";
  std::string text(kGpuPrefix);
  for (const uint32_t gpu : device.gpus) {
    text += (text.ends_with(':') ? "" : ",") + std::to_string(gpu);
  }
  return text;
}

}  // namespace troupe
