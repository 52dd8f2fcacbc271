#include "cluster/config_values.hpp"

#include <array>
#include <limits>
#include <span>

#include "base/parse.hpp"

namespace troupe::cluster {
namespace {

struct Unit {
  std::string_view name;
  uint64_t factor;
  bool used_in_text = true;
};

constexpr std::array<Unit, 6> kTimeUnits = {{{"s", 1'000'000'000},
                                             {"ms", 1'000'000},
                                             {"us", 1'000},
                                             {"ns", 1},
                                             {"m", 60'000'000'000, false},
                                             {"h", 3'600'000'000'000, false}}};
constexpr std::array<Unit, 4> kSizeUnits = {
    {{"GiB", 1U << 30}, {"MiB", 1U << 20}, {"KiB", 1U << 10}, {"B", 1}}};

/// A number with a unit, as a multiple of the smallest one; at most INT64_MAX.
std::optional<uint64_t> parse_with_unit(std::string_view text, std::span<const Unit> units) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = parse_number<uint64_t>(text.substr(0, digits));
  if (!number) return std::nullopt;
  for (const Unit& unit : units) {
    if (text.substr(digits) != unit.name) continue;
    if (*number > std::numeric_limits<int64_t>::max() / unit.factor) return std::nullopt;
    return *number * unit.factor;
  }
  return std::nullopt;
}

/// REQUIRES: the units that are used in texts stand from large to small.
std::string text_with_unit(uint64_t value, std::span<const Unit> units) {
  for (const Unit& unit : units) {
    if (unit.used_in_text && value % unit.factor == 0) {
      return std::to_string(value / unit.factor) + std::string(unit.name);
    }
  }
  return std::to_string(value);
}

}  // namespace

std::optional<Duration> parse_duration(std::string_view text) {
  const auto ns = parse_with_unit(text, kTimeUnits);
  if (!ns) return std::nullopt;
  return Duration{static_cast<int64_t>(*ns)};
}

std::optional<uint64_t> parse_size(std::string_view text) {
  return parse_with_unit(text, kSizeUnits);
}

std::optional<std::pair<uint32_t, uint32_t>> parse_range(std::string_view text) {
  const size_t dash = text.find('-');
  const auto first = parse_number<uint32_t>(text.substr(0, dash));
  const auto last = dash == text.npos ? first : parse_number<uint32_t>(text.substr(dash + 1));
  if (!first || !last || *first > *last) return std::nullopt;
  return std::pair(*first, *last);
}

std::string duration_text(Duration duration) {
  return text_with_unit(static_cast<uint64_t>(duration.ns), kTimeUnits);
}

std::string size_text(uint64_t bytes) { return text_with_unit(bytes, kSizeUnits); }

std::string range_text(uint32_t first, uint32_t last) {
  return first == last ? std::to_string(first) : std::to_string(first) + "-" + std::to_string(last);
}

std::string quoted_text(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

}  // namespace troupe::cluster
