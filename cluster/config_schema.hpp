#pragma once

// The keys of the configuration that hold one value, in the order in which they are shown. Reading,
// checking and showing all follow this one table; `nodes`, `placement` and `tenants` are lists and
// stand apart.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.hpp"
#include "cluster/config.hpp"
#include "cluster/yaml_tree.hpp"

namespace troupe::cluster {

struct Setting {
  struct Word {  ///< letters, digits and . _ : / -, at most 255
    std::string ClusterConfig::*field;
  };
  struct Text {  ///< anything without control characters, at most 4,096 bytes
    std::string ClusterConfig::*field;
  };
  struct Bytes {
    uint32_t ClusterConfig::*field;
  };
  using Field =
      std::variant<Word, Text, uint16_t ClusterConfig::*, uint32_t ClusterConfig::*, Bytes,
                   Duration ClusterConfig::*, Wires ClusterConfig::*, DType ClusterConfig::*,
                   PinThreads ClusterConfig::*, bool ClusterConfig::*>;

  std::string_view section;  ///< "" at the top level
  std::string_view key;
  Field field;
  int64_t least = 0, most = 0;  ///< of numbers, bytes and nanoseconds

  [[nodiscard]] std::string name() const;  ///< "limits.max_queued"
};

// Upper bounds are far above sense; they keep products of two settings within their types.
inline constexpr auto kSettings = std::to_array<Setting>({
    {"", "name", Setting::Word{&ClusterConfig::name}},
    {"", "model", Setting::Text{&ClusterConfig::model}},
    {"", "served_name", Setting::Text{&ClusterConfig::served_name}},
    {"control", "host", Setting::Word{&ClusterConfig::control_host}},
    {"control", "port", &ClusterConfig::control_port, 0, 65'535},
    {"http", "host", Setting::Word{&ClusterConfig::http_host}},
    {"http", "port", &ClusterConfig::http_port, 0, 65'535},
    {"limits", "max_queued", &ClusterConfig::max_queued, 0, 65'536},
    {"limits", "max_queued_per_tenant", &ClusterConfig::max_queued_per_tenant, 0, 65'536},
    {"limits", "max_running", &ClusterConfig::max_running, 1, 4'096},
    {"limits", "max_step_tokens", &ClusterConfig::max_step_tokens, 1, 65'536},
    {"limits", "step_target", &ClusterConfig::step_target, 0, seconds(60).ns},
    {"limits", "micro_batches", &ClusterConfig::micro_batches, 0, 2},
    {"limits", "max_context", &ClusterConfig::max_context, 0, 1 << 24},
    {"limits", "kv_blocks", &ClusterConfig::kv_blocks, 1, 1 << 20},
    {"limits", "kv_host_blocks", &ClusterConfig::kv_host_blocks, 0, 1 << 24},
    {"limits", "kv_block_tokens", &ClusterConfig::kv_block_tokens, 1, 1'024},
    {"limits", "kv_dtype", &ClusterConfig::kv_dtype},
    {"limits", "request_timeout", &ClusterConfig::request_timeout, milliseconds(1).ns,
     seconds(86'400).ns},
    {"limits", "max_body", Setting::Bytes{&ClusterConfig::max_body_bytes}, 1 << 10, 1 << 30},
    {"limits", "max_connections", &ClusterConfig::max_connections, 1, 65'536},
    {"heartbeat", "interval", &ClusterConfig::heartbeat_interval, milliseconds(10).ns,
     seconds(60).ns},
    {"heartbeat", "timeout", &ClusterConfig::heartbeat_timeout, milliseconds(20).ns,
     seconds(600).ns},
    {"", "assemble_timeout", &ClusterConfig::assemble_timeout, milliseconds(1).ns,
     seconds(3'600).ns},
    {"", "restart_budget", &ClusterConfig::restart_budget, 0, 1'000},
    {"", "pin_threads", &ClusterConfig::pin_threads},
    {"", "cuda_graphs", &ClusterConfig::cuda_graphs},
    {"transport", "wires", &ClusterConfig::wires},
    {"experts", "redundant", &ClusterConfig::redundant_experts, 0, 65'536},
    {"experts", "rebalance_interval", &ClusterConfig::rebalance_interval, 0, seconds(86'400).ns},
    {"experts", "min_gain", &ClusterConfig::rebalance_min_gain, 0, 90},
    {"experts", "half_life", &ClusterConfig::load_half_life, seconds(1).ns, seconds(86'400).ns},
});

/// Puts the value of `node` into the configuration. @errors kInvalidArgument without the place.
Result<void> read_setting(const Setting& setting, const YamlNode& node, ClusterConfig& config);
/// The value as YAML.
std::string show_setting(const Setting& setting, const ClusterConfig& config);

/// "'abc'", "a list": what stands in the file, fit for a message.
std::string found(const YamlNode& node);
/// @errors kInvalidArgument "threads must be a whole number from 1 to 1024, not 'x'"
Result<uint64_t> read_number(std::string_view name, const YamlNode& node, uint64_t least,
                             uint64_t most);
Result<std::string> read_word(std::string_view name, const YamlNode& node);
Result<std::string> read_text(std::string_view name, const YamlNode& node);

}  // namespace troupe::cluster
