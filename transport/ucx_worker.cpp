#include "transport/ucx_worker.hpp"

#include <cstdlib>
#include <string>

namespace troupe::transport {

Error ucx_error(const char* call, ucs_status_t status) {
  return Error{Code::kInternal, std::string(call) + " failed: " + ucs_status_string(status)};
}

Result<std::unique_ptr<UcxWorker>> UcxWorker::open(Wires wires) {
  std::unique_ptr<UcxWorker> worker(new UcxWorker(wires));
  TRY(worker->open_context());
  TRY(worker->open_worker());
  return worker;
}

UcxWorker::~UcxWorker() {
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

Result<void> UcxWorker::open_context() {
  ucp_config_t* raw = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &raw);
  if (status != UCS_OK) return ucx_error("ucp_config_read", status);
  const std::unique_ptr<ucp_config_t, void (*)(ucp_config_t*)> config(raw, &ucp_config_release);
  const auto set = [&](const char* name, const char* value) -> Result<void> {
    const ucs_status_t result = ucp_config_modify(config.get(), name, value);
    if (result == UCS_OK) return {};
    return ucx_error("ucp_config_modify", result).with_context(std::string(name) + "=" + value);
  };
  if (wires_ == Wires::kShm) {
    TRY(set("TLS", "posix,cma"));
    TRY(set("MM_ERROR_HANDLING", "y"));
    TRY(set("MEMORY_INVALIDATE", "y"));
    // Without a socket only a look at the peer's pid tells that it died; its default is 20 s.
    TRY(set("KEEPALIVE_INTERVAL", "500ms"));
  } else {
    if (std::getenv("UCX_TLS") == nullptr) TRY(set("TLS", "^posix,sysv,cma,self"));
    // Blocking connects stop the driver for two minutes when a host swallows packets, and when the
    // peer's port closes at that moment, UCX aborts (assertion in tcp_ep.c:478).
    TRY(set("CONN_NB", "y"));
  }

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 0;
  status = ucp_init(&params, config.get(), &context_);
  if (status == UCS_ERR_NO_DEVICE) {
    return Error{Code::kUnsupported, "UCX finds no device for the transport " +
                                         std::string(transport_name()) +
                                         "; see `ucx_info -d` and the variable UCX_TLS"};
  }
  if (status != UCS_OK) return ucx_error("ucp_init", status);
  return {};
}

Result<void> UcxWorker::open_worker() {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucs_status_t status = ucp_worker_create(context_, &params, &worker_);
  if (status != UCS_OK) return ucx_error("ucp_worker_create", status);

  status = ucp_worker_get_efd(worker_, &event_fd_);
  if (status != UCS_OK) return ucx_error("ucp_worker_get_efd", status);

  ucp_address_t* address = nullptr;
  size_t length = 0;
  status = ucp_worker_get_address(worker_, &address, &length);
  if (status != UCS_OK) return ucx_error("ucp_worker_get_address", status);
  const auto* bytes = reinterpret_cast<const std::byte*>(address);
  address_.assign(bytes, bytes + length);
  ucp_worker_release_address(worker_, address);
  return {};
}

Result<void> UcxWorker::on_message(unsigned id, ucp_am_recv_callback_t callback, void* argument) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = callback;
  params.arg = argument;
  const ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &params);
  if (status != UCS_OK) return ucx_error("ucp_worker_set_am_recv_handler", status);
  return {};
}

}  // namespace troupe::transport
