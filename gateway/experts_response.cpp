#include "gateway/experts_response.hpp"

#include <cmath>
#include <vector>

#include "gateway/json_writer.hpp"

namespace troupe::gateway {
namespace {

/// Three digits after the point: rows that decayed have no end of them.
double rounded(double number) { return std::round(number * 1e3) / 1e3; }

/// @param first index of the layer's first expert
void write_layer(JsonWriter& json, const actors::ExpertsStatus& status, uint32_t layer,
                 size_t first) {
  json.begin_object().field("layer", layer);
  json.key("experts").begin_array();
  for (uint32_t expert = 0; expert < status.num_experts; ++expert) {
    const std::vector<uint32_t>& holders = status.holders[first + expert];
    json.begin_object().field("expert", expert);
    json.field("rows", rounded(status.rows[first + expert]));
    json.key("holders").begin_array();
    for (const uint32_t shard : holders) json.value(status.shards[shard].name);
    json.end_array().end_object();
  }
  json.end_array().field("balancedness", rounded(status.layer_balancedness[layer]));
  json.end_object();
}

}  // namespace

std::string experts_json(const actors::ExpertsStatus& status) {
  JsonWriter json;
  json.begin_object().field("epoch", status.epoch.value);
  json.field("balancedness", rounded(status.balancedness));
  json.field("changing", status.changing).field("changes_total", status.num_changes);
  json.field("last_change", status.last_change);
  json.key("shards").begin_array();
  for (const auto& shard : status.shards) {
    json.begin_object().field("name", shard.name).field("replicas", shard.num_replicas);
    json.field("rows", rounded(shard.rows)).end_object();
  }
  json.end_array().key("layers").begin_array();
  for (uint32_t layer = 0; layer < status.num_layers; ++layer) {
    const size_t first = size_t{layer} * status.num_experts;
    // Dense layers have no holders; before the first epoch no layer has.
    if (first < status.holders.size() && !status.holders[first].empty()) {
      write_layer(json, status, layer, first);
    }
  }
  json.end_array().end_object();
  return json.take();
}

}  // namespace troupe::gateway
