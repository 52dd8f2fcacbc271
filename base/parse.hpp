#pragma once

// Reading numbers and lists in what people and other programs write.

#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <type_traits>
#include <vector>

namespace troupe {

/// All of the text as a number: nothing stands before or behind it, no plus sign, no overflow, and
/// for an unsigned type no minus sign. "inf" is a floating-point number, "nan" is none.
template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(value)) return std::nullopt;
  }
  return value;
}

/// What stands between the separators: one part more than there are separators.
inline std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

}  // namespace troupe
