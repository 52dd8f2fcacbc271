// The cluster's configuration: never a crash, and what is accepted is shown so that it reads back.

#include <cstdint>
#include <string_view>

#include "base/check.hpp"
#include "cluster/config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace troupe::cluster;
  const std::string_view yaml(reinterpret_cast<const char*>(data), size);
  const auto config = parse_cluster_config(yaml, "c.yaml");
  if (!config.ok()) {
    CHECK(!config.error().message.empty());
    return 0;
  }
  const std::string shown = describe(*config, yaml, "c.yaml");
  const auto again = parse_cluster_config(shown, "shown.yaml");
  CHECK(again.ok());
  CHECK_EQ(describe(*again, yaml, "c.yaml"), shown);
  return 0;
}
