#pragma once

// A YAML document as a small tree with line numbers, read under bounds. Built from yaml-cpp's
// events rather than its nodes, because nodes know no lines after copying, take the last of two
// equal keys and follow aliases.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::cluster {

struct YamlEntry;

struct YamlNode {
  enum class Kind : uint8_t { kNothing, kText, kList, kMap };

  Kind kind = Kind::kNothing;
  uint32_t line = 0;    ///< from 1
  bool quoted = false;  ///< text in quotes is never a number
  std::string text;
  std::vector<YamlNode> items;
  std::vector<YamlEntry> entries;  ///< in the file's order, keys distinct

  [[nodiscard]] const YamlNode* find(std::string_view key) const;
};

struct YamlEntry {
  std::string key;
  YamlNode node;
};

inline constexpr size_t kMaxYamlBytes = 1 << 20;
inline constexpr size_t kMaxYamlDepth = 16;
inline constexpr size_t kMaxYamlNodes = 20'000;

/// Reads the one document in `yaml`.
/// @param origin the file's name, for messages: "cluster.yaml:3: ..."
/// @errors kInvalidArgument: not YAML, too large or deep, anchors, aliases or tags, equal keys.
Result<YamlNode> parse_yaml(std::string_view yaml, const std::string& origin);

}  // namespace troupe::cluster
