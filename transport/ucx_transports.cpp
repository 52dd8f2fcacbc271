#include "transport/ucx_transports.hpp"

#include <uct/api/uct.h>

#include <memory>

#include "base/check.hpp"
#include "transport/ucx_worker.hpp"

namespace troupe::transport {
namespace {

/// Adds what one memory domain of a component leads to. One that cannot be opened, such as that of
/// a device without permission, leads nowhere.
Result<void> add_transports(uct_component_h component, const char* domain,
                            std::vector<UcxTransport>& transports) {
  uct_md_config_t* raw_config = nullptr;
  ucs_status_t status = uct_md_config_read(component, nullptr, nullptr, &raw_config);
  if (status != UCS_OK) return ucx_error("uct_md_config_read", status);
  const std::unique_ptr<void, void (*)(void*)> config(raw_config, &uct_config_release);
  uct_md_h raw_md = nullptr;
  if (uct_md_open(component, domain, raw_config, &raw_md) != UCS_OK) return {};
  const std::unique_ptr<uct_md, void (*)(uct_md_h)> md(raw_md, &uct_md_close);
  uct_tl_resource_desc_t* resources = nullptr;
  unsigned num_resources = 0;
  status = uct_md_query_tl_resources(md.get(), &resources, &num_resources);
  if (status != UCS_OK) return ucx_error("uct_md_query_tl_resources", status);
  for (unsigned i = 0; i < num_resources; ++i) {
    transports.push_back({.name = resources[i].tl_name, .device = resources[i].dev_name});
  }
  uct_release_tl_resource_list(resources);
  return {};
}

Result<void> add_transports(uct_component_h component, std::vector<UcxTransport>& transports) {
  uct_component_attr_t attributes{};
  attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT;
  ucs_status_t status = uct_component_query(component, &attributes);
  if (status != UCS_OK) return ucx_error("uct_component_query", status);
  if (attributes.md_resource_count == 0) return {};
  std::vector<uct_md_resource_desc_t> domains(attributes.md_resource_count);
  attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCES;
  attributes.md_resources = domains.data();
  status = uct_component_query(component, &attributes);
  if (status != UCS_OK) return ucx_error("uct_component_query", status);
  for (const uct_md_resource_desc_t& domain : domains) {
    TRY(add_transports(component, domain.md_name, transports));
  }
  return {};
}

}  // namespace

std::string ucx_version() {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
}

Result<std::vector<UcxTransport>> ucx_transports() {
  uct_component_h* raw = nullptr;
  unsigned num_components = 0;
  const ucs_status_t status = uct_query_components(&raw, &num_components);
  if (status != UCS_OK) return ucx_error("uct_query_components", status);
  const std::unique_ptr<uct_component_h, void (*)(uct_component_h*)> components(
      raw, &uct_release_component_list);
  std::vector<UcxTransport> transports;
  for (unsigned i = 0; i < num_components; ++i) {
    TRY(add_transports(components.get()[i], transports));
  }
  return transports;
}

Result<void> try_ucx_wires(UcxWires wires, const std::string& net_devices) {
  CHECK(wires != UcxWires::kAuto);
  auto context = TRY(UcxContext::open(
      wires == UcxWires::kShm ? UcxContext::Wires::kShm : UcxContext::Wires::kNet, net_devices));
  TRY(UcxWorker::open(std::move(context)));
  return {};
}

}  // namespace troupe::transport
