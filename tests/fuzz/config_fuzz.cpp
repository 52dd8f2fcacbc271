// The bytes are a config.json; what is accepted must be safe to compute with.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.hpp"
#include "model/config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config =
      troupe::model::parse_config(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!config.ok()) {
    CHECK(!config.error().message.empty());
    return 0;
  }
  CHECK(std::isfinite(config->softmax_scale()) && config->softmax_scale() > 0);
  CHECK(std::isfinite(config->rope_magnitude()) && config->rope_magnitude() > 0);
  for (const float frequency : config->inv_freq()) {
    CHECK(std::isfinite(frequency) && frequency >= 0);
  }
  if (config->num_routed_experts > 0) {
    CHECK_LE(config->num_experts_per_tok, config->num_routed_experts);
    CHECK_EQ(config->num_routed_experts % config->num_groups, 0U);
    CHECK_LE(config->topk_groups, config->num_groups);
  }
  return 0;
}
