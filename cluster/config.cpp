#include "cluster/config.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <span>

#include "base/parse.hpp"
#include "cluster/config_schema.hpp"
#include "cluster/config_values.hpp"
#include "cluster/yaml_tree.hpp"

namespace troupe::cluster {
namespace {

constexpr size_t kMaxNodes = 1'024;
constexpr size_t kMaxPins = 4'096;
constexpr size_t kMaxTenants = 1'024;
constexpr uint32_t kMaxWeight = 1'000;
constexpr uint32_t kMaxThreads = 1'024;

uint64_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<uint64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    uint64_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const uint64_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

bool is_address(const std::string& text) {
  in6_addr room{};  // for either kind
  return inet_pton(AF_INET, text.c_str(), &room) == 1 ||
         inet_pton(AF_INET6, text.c_str(), &room) == 1;
}

/// One reading of one document; every error names the file and the line.
class Reader {
 public:
  Reader(const YamlNode& root, const std::string& origin) : root_(root), origin_(origin) {}

  Result<ClusterConfig> read() {
    if (root_.kind != YamlNode::Kind::kMap) {
      return at(root_, "the configuration must be a map of keys, not " + found(root_));
    }
    ClusterConfig config;
    for (const auto& [key, node] : root_.entries) {
      if (key == "nodes") {
        TRY(read_nodes(node, config));
      } else if (key == "placement") {
        TRY(read_pins(node, config));
      } else if (key == "tenants") {
        TRY(read_tenants(node, config));
      } else if (is_section(key)) {
        TRY(read_section(key, node, config));
      } else {
        TRY(read_key("", key, node, config));
      }
    }
    TRY(check(config));
    return config;
  }

 private:
  Error at(const YamlNode& node, const std::string& message) const {
    return {Code::kInvalidArgument, origin_ + ":" + std::to_string(node.line) + ": " + message};
  }
  /// At the first of these keys that is in the file.
  Error at_key(std::initializer_list<std::string_view> paths, const std::string& message) const {
    for (const std::string_view path : paths) {
      const YamlNode* node = &root_;
      for (size_t start = 0; node != nullptr && start < path.size();) {
        const size_t dot = std::min(path.find('.', start), path.size());
        node = node->find(path.substr(start, dot - start));
        start = dot + 1;
      }
      if (node != nullptr) return at(*node, message);
    }
    return {Code::kInvalidArgument, origin_ + ": " + message};
  }

  static bool is_section(std::string_view key) {
    return !key.empty() && std::ranges::count(kSettings, key, &Setting::section) != 0;
  }

  Error unknown_key(const std::string& key, const YamlNode& node,
                    std::span<const std::string_view> known) const {
    std::string_view nearest;
    uint64_t least = 3;  // two slips of the finger; more is another word
    for (const std::string_view name : known) {
      if (key.size() > 64 || name.size() < 3) continue;
      if (const uint64_t distance = edit_distance(key, name); distance < least) {
        nearest = name;
        least = distance;
      }
    }
    std::string hint = "did you mean '" + std::string(nearest) + "'?";
    if (nearest.empty()) {
      hint = "known here are";
      for (const std::string_view name : known) hint += " " + std::string(name);
    }
    YamlNode text{.kind = YamlNode::Kind::kText};
    text.text = key;
    return at(node, "unknown key " + found(text) + "; " + hint);
  }

  Result<void> read_section(std::string_view section, const YamlNode& node,
                            ClusterConfig& config) const {
    if (node.kind == YamlNode::Kind::kNothing) return {};
    if (node.kind != YamlNode::Kind::kMap) {
      return at(node, std::string(section) + " must be a map of keys, not " + found(node));
    }
    for (const auto& [key, value] : node.entries) TRY(read_key(section, key, value, config));
    return {};
  }

  Result<void> read_key(std::string_view section, const std::string& key, const YamlNode& node,
                        ClusterConfig& config) const {
    std::vector<std::string_view> known;
    for (const Setting& setting : kSettings) {
      if (setting.section == section) known.push_back(setting.key);
      if (setting.section != section || setting.key != key) continue;
      const Result<void> done = read_setting(setting, node, config);
      return done.ok() ? Result<void>() : at(node, done.error().message);
    }
    if (section.empty()) {
      known.insert(known.end(), {"control", "http", "nodes", "placement", "tenants", "limits",
                                 "heartbeat", "transport", "experts"});
    }
    return unknown_key(key, node, known);
  }

  Result<void> read_nodes(const YamlNode& list, ClusterConfig& config) const {
    static constexpr std::string_view kKnown[] = {"name", "role", "threads", "device"};
    if (list.kind != YamlNode::Kind::kList || list.items.size() > kMaxNodes) {
      return at(list, "nodes must be a list of at most " + std::to_string(kMaxNodes) + " nodes");
    }
    std::set<std::string> names;
    for (const YamlNode& item : list.items) {
      TRY(expect_quoted_devices(item));
      TRY(expect_keys(item, "a node", kKnown));
      const YamlNode* name = item.find("name");
      const YamlNode* role = item.find("role");
      const YamlNode* threads = item.find("threads");
      const YamlNode* device = item.find("device");
      if (name == nullptr || role == nullptr) return at(item, "a node needs a name and a role");
      NodeConfig node;
      node.name = TRY(located(*name, read_word("name", *name)));
      if (!names.insert(node.name).second) {
        return at(*name, "two nodes are named " + node.name + "; names must differ");
      }
      if (role->text != to_string(Role::kRouter) && role->text != to_string(Role::kExperts)) {
        return at(*role, "role must be router or experts, not " + found(*role));
      }
      node.role = role->text == to_string(Role::kRouter) ? Role::kRouter : Role::kExperts;
      if (threads != nullptr) {
        node.threads = static_cast<uint32_t>(
            TRY(located(*threads, read_number("threads", *threads, 1, kMaxThreads))));
      }
      if (device != nullptr) {
        const auto named = parse_device(device->text);
        if (!named) {
          return at(
              *device,
              "device must be cpu or cuda: and numbers, each once, as cuda:0 or \"cuda:0,1\", "
              "not " +
                  found(*device));
        }
        if (named->gpus.size() > 1 && node.role == Role::kExperts) {
          return at(*device, node.name + " has " + std::to_string(named->gpus.size()) +
                                 " devices; only routers share one node among several: have one "
                                 "node of role experts per device");
        }
        node.device = *named;
      }
      if (!config.nodes.empty() && node.device.has_gpus() != config.nodes[0].device.has_gpus()) {
        return at(item, node.name + " computes on " + to_string(node.device) + " and " +
                            config.nodes[0].name + " on " + to_string(config.nodes[0].device) +
                            "; CPUs and GPUs round differently, so all nodes of a cluster need "
                            "the same kind");
      }
      config.nodes.push_back(std::move(node));
    }
    return {};
  }

  Result<void> read_pins(const YamlNode& list, ClusterConfig& config) const {
    static constexpr std::string_view kKnown[] = {"node", "layers", "experts"};
    if (list.kind == YamlNode::Kind::kNothing) return {};
    if (list.kind != YamlNode::Kind::kList || list.items.size() > kMaxPins) {
      return at(list, "placement must be a list of at most " + std::to_string(kMaxPins) + " pins");
    }
    for (const YamlNode& item : list.items) {
      TRY(expect_keys(item, "a pin", kKnown));
      const YamlNode* node = item.find("node");
      if (node == nullptr) return at(item, "a pin needs a node");
      PinConfig pin;
      pin.node = TRY(located(*node, read_word("node", *node)));
      for (const auto& [key, first, last] :
           {std::tuple("layers", &pin.first_layer, &pin.last_layer),
            std::tuple("experts", &pin.first_expert, &pin.last_expert)}) {
        const YamlNode* text = item.find(key);
        if (text == nullptr) continue;
        const auto range = parse_range(text->text);
        if (!range) {
          return at(*text, std::string(key) + " must be a number or a range such as 0-7, not " +
                               found(*text));
        }
        std::tie(*first, *last) = *range;
      }
      config.pins.push_back(std::move(pin));
    }
    return {};
  }

  Result<void> read_tenants(const YamlNode& list, ClusterConfig& config) const {
    static constexpr std::string_view kKnown[] = {"key", "weight"};
    if (list.kind == YamlNode::Kind::kNothing) return {};
    if (list.kind != YamlNode::Kind::kList || list.items.size() > kMaxTenants) {
      return at(list,
                "tenants must be a list of at most " + std::to_string(kMaxTenants) + " tenants");
    }
    std::set<std::string> keys;
    for (const YamlNode& item : list.items) {
      TRY(expect_keys(item, "a tenant", kKnown));
      const YamlNode* key = item.find("key");
      const YamlNode* weight = item.find("weight");
      if (key == nullptr || weight == nullptr) return at(item, "a tenant needs a key and a weight");
      TenantConfig tenant;
      tenant.key = TRY(located(*key, read_text("key", *key)));
      tenant.weight = static_cast<uint32_t>(
          TRY(located(*weight, read_number("weight", *weight, 1, kMaxWeight))));
      if (!keys.insert(tenant.key).second) return at(*key, "two tenants have this key");
      config.tenants.push_back(std::move(tenant));
    }
    return {};
  }

  /// {device: cuda:0,1} is a map with a key 1 to YAML.
  Result<void> expect_quoted_devices(const YamlNode& item) const {
    const YamlNode* device = item.find("device");
    if (device == nullptr || !parse_device(device->text)) return {};
    for (const auto& [key, node] : item.entries) {
      if (!parse_number<uint32_t>(key) || node.kind != YamlNode::Kind::kNothing) continue;
      return at(node, "several devices need quotes within braces: device: \"" + device->text + "," +
                          key + "\"");
    }
    return {};
  }

  Result<void> expect_keys(const YamlNode& item, const std::string& what,
                           std::span<const std::string_view> known) const {
    if (item.kind != YamlNode::Kind::kMap) {
      return at(item, what + " must be a map such as {" + std::string(known[0]) + ": ...}, not " +
                          found(item));
    }
    for (const auto& [key, node] : item.entries) {
      if (std::ranges::count(known, key) == 0) return unknown_key(key, node, known);
    }
    return {};
  }

  template <class T>
  Result<T> located(const YamlNode& node, Result<T> result) const {
    if (result.ok()) return result;
    return at(node, result.error().message);
  }

  /// What a key's type does not say, and no key alone.
  Result<void> check(const ClusterConfig& config) const {
    if (config.model.empty()) {
      return at_key({}, "'model' is missing: the checkpoint's directory, relative to this file");
    }
    for (const Role role : {Role::kRouter, Role::kExperts}) {
      if (std::ranges::count(config.nodes, role, &NodeConfig::role) == 0) {
        return at_key({"nodes"}, "no node has the role " + std::string(to_string(role)) +
                                     "; a cluster needs at least one of each");
      }
    }
    if (!is_address(http_address(config))) {
      return at_key({"http.host"},
                    "http.host must be an IP address of the head or localhost, not '" +
                        config.http_host +
                        "'; 127.0.0.1 serves the head's machine only, 0.0.0.0 "
                        "every network");
    }
    if (config.heartbeat_timeout < config.heartbeat_interval * 2) {
      return at_key({"heartbeat.timeout", "heartbeat.interval"},
                    "heartbeat.timeout (" + duration_text(config.heartbeat_timeout) +
                        ") must be at least twice heartbeat.interval (" +
                        duration_text(config.heartbeat_interval) +
                        "), or one late heartbeat ends a node");
    }
    if (config.control_port != 0 && config.control_port == config.http_port &&
        config.control_host == config.http_host) {
      return at_key({"http.port", "control.port"}, "control and http have the same host and port " +
                                                       std::to_string(config.http_port) +
                                                       "; give them different ports");
    }
    if (config.max_running > config.max_step_tokens) {
      return at_key({"limits.max_running", "limits.max_step_tokens"},
                    "limits.max_running (" + std::to_string(config.max_running) +
                        ") must be at most limits.max_step_tokens (" +
                        std::to_string(config.max_step_tokens) +
                        "): each running request takes a row of every step");
    }
    const uint64_t kv_tokens = uint64_t{config.kv_blocks} * config.kv_block_tokens;
    if (config.max_context > kv_tokens) {
      return at_key(
          {"limits.max_context", "limits.kv_blocks", "limits.kv_block_tokens"},
          "limits.max_context (" + std::to_string(config.max_context) + ") exceeds the " +
              std::to_string(kv_tokens) +
              " tokens that kv_blocks blocks of kv_block_tokens tokens hold; such a request "
              "could never run");
    }
    return check_pins(config);
  }

  Result<void> check_pins(const ClusterConfig& config) const {
    for (size_t i = 0; i < config.pins.size(); ++i) {
      const PinConfig& pin = config.pins[i];
      const YamlNode& here = root_.find("placement")->items[i];
      const auto node = std::ranges::find(config.nodes, pin.node, &NodeConfig::name);
      if (node == config.nodes.end() || node->role != Role::kExperts) {
        return at(here, "the pin names " + pin.node + ", which is no node of role experts");
      }
      for (size_t j = 0; j < i; ++j) {
        const PinConfig& other = config.pins[j];
        if (pin.first_layer <= other.last_layer && other.first_layer <= pin.last_layer &&
            pin.first_expert <= other.last_expert && other.first_expert <= pin.last_expert) {
          return at(here, "the pin overlaps the one in line " +
                              std::to_string(root_.find("placement")->items[j].line) +
                              "; an expert is pinned to one shard");
        }
      }
    }
    return {};
  }

  const YamlNode& root_;
  const std::string& origin_;
};

/// @param folder of the file; "" leaves `model` as it stands
Result<ClusterConfig> read_config(std::string_view yaml, const std::string& origin,
                                  const std::filesystem::path& folder) {
  const YamlNode root = TRY(parse_yaml(yaml, origin));
  ClusterConfig config = TRY(Reader(root, origin).read());
  if (!folder.empty()) config.model = (folder / config.model).lexically_normal().string();
  if (config.served_name.empty()) {
    auto model = std::filesystem::path(config.model).lexically_normal();
    if (!model.has_filename()) model = model.parent_path();  // "models/demo/"
    const std::string last = model.filename().string();
    config.served_name = last.empty() || last == "." || last == ".." ? config.name : last;
  }
  return config;
}

}  // namespace

Result<ClusterConfig> parse_cluster_config(std::string_view yaml, const std::string& origin) {
  return read_config(yaml, origin, {});
}

std::string http_address(const ClusterConfig& config) {
  return config.http_host == "localhost" ? "127.0.0.1" : config.http_host;
}

bool is_on_one_machine(const ClusterConfig& config) {
  const std::string& host = config.control_host;
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

uint32_t num_busy_threads(const ClusterConfig& config) {
  uint32_t num_threads = 0;
  for (const NodeConfig& node : config.nodes) {
    const auto num_gpus = static_cast<uint32_t>(node.device.gpus.size());
    num_threads += node.threads + 1 + (num_gpus > 1 ? num_gpus - 1 : 0);
  }
  return num_threads;
}

Result<ClusterConfig> load_cluster_config(const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, error)) {
    return Error{Code::kNotFound, "cannot read the configuration " + path +
                                      "; name an existing YAML file with --config"};
  }
  std::string yaml(kMaxYamlBytes + 1, '\0');
  file.read(yaml.data(), static_cast<std::streamsize>(yaml.size()));
  yaml.resize(static_cast<size_t>(file.gcount()));
  auto folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  return read_config(yaml, path, folder);
}

std::string describe(const ClusterConfig& config, std::string_view yaml,
                     const std::string& origin) {
  const Result<YamlNode> parsed = parse_yaml(yaml, origin);
  const YamlNode root = parsed.ok() ? *parsed : YamlNode{};
  const auto comment = [&](const YamlNode* node) {
    return "  # " + (node == nullptr ? "default" : origin + ":" + std::to_string(node->line)) +
           "\n";
  };
  std::string text;
  std::string_view section;
  for (const Setting& setting : kSettings) {
    if (setting.section != section && !setting.section.empty()) {
      text += std::string(setting.section) + ":\n";
    }
    section = setting.section;
    const YamlNode* parent = section.empty() ? &root : root.find(section);
    text += std::string(section.empty() ? "" : "  ") + std::string(setting.key) + ": " +
            show_setting(setting, config) +
            comment(parent == nullptr ? nullptr : parent->find(setting.key));
  }
  // The list items are in the file's order, so the i-th of each belongs together.
  const auto item = [&](std::string_view list, size_t i) -> const YamlNode* {
    const YamlNode* node = root.find(list);
    return node != nullptr && i < node->items.size() ? &node->items[i] : nullptr;
  };
  text += "nodes:\n";
  for (size_t i = 0; i < config.nodes.size(); ++i) {
    const NodeConfig& node = config.nodes[i];
    text += "  - {name: " + quoted_text(node.name) +
            ", role: " + std::string(to_string(node.role)) +
            ", threads: " + std::to_string(node.threads) + ", device: " +
            (node.device.gpus.size() > 1 ? quoted_text(to_string(node.device))
                                         : to_string(node.device)) +
            "}" + comment(item("nodes", i));
  }
  text += config.pins.empty() ? "placement: []  # default\n" : "placement:\n";
  for (size_t i = 0; i < config.pins.size(); ++i) {
    const PinConfig& pin = config.pins[i];
    text += "  - {node: " + quoted_text(pin.node) +
            ", layers: " + range_text(pin.first_layer, pin.last_layer) +
            ", experts: " + range_text(pin.first_expert, pin.last_expert) + "}" +
            comment(item("placement", i));
  }
  text += config.tenants.empty() ? "tenants: []  # default\n" : "tenants:\n";
  for (size_t i = 0; i < config.tenants.size(); ++i) {
    const TenantConfig& tenant = config.tenants[i];
    text += "  - {key: " + quoted_text(tenant.key) + ", weight: " + std::to_string(tenant.weight) +
            "}" + comment(item("tenants", i));
  }
  return text;
}

}  // namespace troupe::cluster
