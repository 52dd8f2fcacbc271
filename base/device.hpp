#pragma once

// What computes: the CPUs of a machine, or one of its GPUs.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/parse.hpp"

namespace troupe {

struct Device {
  std::optional<uint32_t> gpu = {};  ///< its number, as CUDA counts them; none: the CPUs
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr std::string_view kGpuPrefix = "cuda:";

/// "cpu", or "cuda:0" and so on. @returns nullopt for another text
inline std::optional<Device> parse_device(std::string_view text) {
  if (text == "cpu") return Device{};
  if (!text.starts_with(kGpuPrefix)) return std::nullopt;
  const auto gpu = parse_number<uint32_t>(text.substr(kGpuPrefix.size()));
  if (!gpu) return std::nullopt;
  return Device{gpu};
}

inline std::string to_string(const Device& device) {
  return device.gpu ? std::string(kGpuPrefix) + std::to_string(*device.gpu) : "cpu";
}

}  // namespace troupe
