#include "cluster/config_schema.hpp"

#include <algorithm>
#include <array>

#include "base/parse.hpp"
#include "cluster/config_values.hpp"

namespace troupe::cluster {
namespace {

/// What a key with few values may say.
template <class T>
using Choice = std::pair<std::string_view, T>;
constexpr auto kWires = std::to_array<Choice<Wires>>(
    {{"auto", Wires::kAuto}, {"shm", Wires::kShm}, {"net", Wires::kNet}});
constexpr auto kKvDTypes =
    std::to_array<Choice<DType>>({{"f32", DType::kF32}, {"bf16", DType::kBF16}});
constexpr auto kPinThreads =
    std::to_array<Choice<PinThreads>>({{"auto", PinThreads::kAuto}, {"off", PinThreads::kOff}});

constexpr auto kOnOff = std::to_array<Choice<bool>>({{"on", true}, {"off", false}});

Error wrong(std::string_view name, const std::string& expected, const YamlNode& node) {
  return {Code::kInvalidArgument,
          std::string(name) + " must be " + expected + ", not " + found(node)};
}

bool is_plain_text(const YamlNode& node) {
  return node.kind == YamlNode::Kind::kText && !node.quoted;
}

Result<Duration> read_duration(const Setting& setting, const YamlNode& node) {
  const auto value = is_plain_text(node) ? parse_duration(node.text) : std::nullopt;
  const Duration least{setting.least}, most{setting.most};
  if (!value || *value < least || *value > most) {
    return wrong(setting.name(),
                 "a duration such as 200ms or 2s, from " + duration_text(least) + " to " +
                     duration_text(most),
                 node);
  }
  return *value;
}

Result<uint32_t> read_size(const Setting& setting, const YamlNode& node) {
  const auto value = is_plain_text(node) ? parse_size(node.text) : std::nullopt;
  const auto least = static_cast<uint64_t>(setting.least);
  const auto most = static_cast<uint64_t>(setting.most);
  if (!value || *value < least || *value > most) {
    return wrong(
        setting.name(),
        "a size such as 512KiB or 8MiB, from " + size_text(least) + " to " + size_text(most), node);
  }
  return static_cast<uint32_t>(*value);
}

template <class T, size_t kCount>
Result<T> read_choice(const Setting& setting, const std::array<Choice<T>, kCount>& choices,
                      const YamlNode& node) {
  std::string names;
  for (size_t i = 0; i < kCount; ++i) {
    const auto& [name, value] = choices[i];
    if (node.kind == YamlNode::Kind::kText && node.text == name) return value;
    names += (i == 0 ? "" : i + 1 < kCount ? ", " : " or ") + std::string(name);
  }
  return wrong(setting.name(), names, node);
}

template <class T, size_t kCount>
std::string show_choice(const std::array<Choice<T>, kCount>& choices, T value) {
  return std::string(std::ranges::find(choices, value, &Choice<T>::second)->first);
}

}  // namespace

std::string Setting::name() const {
  return section.empty() ? std::string(key) : std::string(section) + "." + std::string(key);
}

std::string found(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNothing: return "nothing";
    case YamlNode::Kind::kList: return "a list";
    case YamlNode::Kind::kMap: return "a map";
    case YamlNode::Kind::kText: break;
  }
  std::string text;
  for (const char c : node.text.substr(0, 64)) text += c >= ' ' && c <= '~' ? c : '?';
  return (node.quoted ? "the quoted '" : "'") + text + (node.text.size() > 64 ? "...'" : "'");
}

Result<uint64_t> read_number(std::string_view name, const YamlNode& node, uint64_t least,
                             uint64_t most) {
  const auto value = is_plain_text(node) ? parse_number<uint64_t>(node.text) : std::nullopt;
  if (!value || *value < least || *value > most) {
    return wrong(
        name, "a whole number from " + std::to_string(least) + " to " + std::to_string(most), node);
  }
  return *value;
}

Result<std::string> read_text(std::string_view name, const YamlNode& node) {
  const bool printable = std::ranges::none_of(
      node.text, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; });
  if (node.kind != YamlNode::Kind::kText || node.text.empty() || node.text.size() > 4'096 ||
      !printable) {
    return wrong(name, "a text without control characters, of 1 to 4096 bytes", node);
  }
  return node.text;
}

Result<std::string> read_word(std::string_view name, const YamlNode& node) {
  const bool fits = std::ranges::all_of(node.text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("._:/-").find(c) != std::string_view::npos;
  });
  if (node.kind != YamlNode::Kind::kText || node.text.empty() || node.text.size() > 255 || !fits) {
    return wrong(name, "a word of letters, digits and . _ : / -", node);
  }
  return node.text;
}

Result<void> read_setting(const Setting& setting, const YamlNode& node, ClusterConfig& config) {
  const auto number = [&] {
    return read_number(setting.name(), node, static_cast<uint64_t>(setting.least),
                       static_cast<uint64_t>(setting.most));
  };
  struct Reader {
    const Setting& setting;
    const YamlNode& node;
    ClusterConfig& config;
    decltype(number)& read;

    Result<void> operator()(Setting::Word to) {
      config.*to.field = TRY(read_word(setting.name(), node));
      return {};
    }
    Result<void> operator()(Setting::Text to) {
      config.*to.field = TRY(read_text(setting.name(), node));
      return {};
    }
    Result<void> operator()(uint16_t ClusterConfig::*to) {
      config.*to = static_cast<uint16_t>(TRY(read()));
      return {};
    }
    Result<void> operator()(uint32_t ClusterConfig::*to) {
      config.*to = static_cast<uint32_t>(TRY(read()));
      return {};
    }
    Result<void> operator()(Setting::Bytes to) {
      config.*to.field = TRY(read_size(setting, node));
      return {};
    }
    Result<void> operator()(Duration ClusterConfig::*to) {
      config.*to = TRY(read_duration(setting, node));
      return {};
    }
    Result<void> operator()(Wires ClusterConfig::*to) {
      config.*to = TRY(read_choice(setting, kWires, node));
      return {};
    }
    Result<void> operator()(DType ClusterConfig::*to) {
      config.*to = TRY(read_choice(setting, kKvDTypes, node));
      return {};
    }
    Result<void> operator()(PinThreads ClusterConfig::*to) {
      config.*to = TRY(read_choice(setting, kPinThreads, node));
      return {};
    }
    Result<void> operator()(bool ClusterConfig::*to) {
      config.*to = TRY(read_choice(setting, kOnOff, node));
      return {};
    }
  };
  return std::visit(Reader{setting, node, config, number}, setting.field);
}

std::string show_setting(const Setting& setting, const ClusterConfig& config) {
  struct Shower {
    const ClusterConfig& config;

    std::string operator()(Setting::Word from) { return quoted_text(config.*from.field); }
    std::string operator()(Setting::Text from) { return quoted_text(config.*from.field); }
    std::string operator()(uint16_t ClusterConfig::*from) { return std::to_string(config.*from); }
    std::string operator()(uint32_t ClusterConfig::*from) { return std::to_string(config.*from); }
    std::string operator()(Setting::Bytes from) { return size_text(config.*from.field); }
    std::string operator()(Duration ClusterConfig::*from) { return duration_text(config.*from); }
    std::string operator()(Wires ClusterConfig::*from) { return show_choice(kWires, config.*from); }
    std::string operator()(DType ClusterConfig::*from) {
      return show_choice(kKvDTypes, config.*from);
    }
    std::string operator()(PinThreads ClusterConfig::*from) {
      return show_choice(kPinThreads, config.*from);
    }
    std::string operator()(bool ClusterConfig::*from) { return show_choice(kOnOff, config.*from); }
  };
  return std::visit(Shower{config}, setting.field);
}

}  // namespace troupe::cluster
