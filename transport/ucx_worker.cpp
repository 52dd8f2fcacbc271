#include "transport/ucx_worker.hpp"

#include <cstdlib>
#include <string>

namespace troupe::transport {

Error ucx_error(const char* call, ucs_status_t status) {
  return Error{Code::kInternal, std::string(call) + " failed: " + ucs_status_string(status)};
}

Result<std::shared_ptr<UcxContext>> UcxContext::open(Wires wires, const std::string& net_devices) {
  ucp_config_t* raw = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &raw);
  if (status != UCS_OK) return ucx_error("ucp_config_read", status);
  const std::unique_ptr<ucp_config_t, void (*)(ucp_config_t*)> config(raw, &ucp_config_release);
  const auto set = [&](const char* name, const char* value) -> Result<void> {
    const ucs_status_t result = ucp_config_modify(config.get(), name, value);
    if (result == UCS_OK) return {};
    return ucx_error("ucp_config_modify", result).with_context(std::string(name) + "=" + value);
  };
  if (wires == Wires::kShm) {
    TRY(set("TLS", "posix,cma"));
    TRY(set("MM_ERROR_HANDLING", "y"));
    // Lets error mode PEER use CMA. UCX says it cannot stop a peer from reading memory that was
    // sent and then cancelled; such a frame fails its hash and is dropped.
    TRY(set("MEMORY_INVALIDATE", "y"));
    // Short frames are copied twice, through the receive queue, instead of being fetched: that
    // takes two messages more, and a sleeping sender wakes for the last of them.
    if (std::getenv("UCX_RNDV_THRESH") == nullptr) TRY(set("RNDV_THRESH", "64k"));
  } else {
    if (std::getenv("UCX_TLS") == nullptr) TRY(set("TLS", "^posix,sysv,cma,self"));
    if (!net_devices.empty() && std::getenv("UCX_NET_DEVICES") == nullptr) {
      TRY(set("NET_DEVICES", net_devices.c_str()));
    }
    // Blocking connects stop the driver for two minutes when a host swallows packets, and when the
    // peer's port closes at that moment, UCX aborts (assertion in tcp_ep.c:478).
    TRY(set("CONN_NB", "y"));
    // When a peer dies while a message is sent from where it lies, UCX's TCP tells its end twice
    // and aborts (assertion comp->count > 0 in uct_iface.h:884): 7 of 15 runs of eight killed
    // peers.
    if (std::getenv("UCX_ZCOPY_THRESH") == nullptr) TRY(set("ZCOPY_THRESH", "inf"));
  }

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 0;
  std::shared_ptr<UcxContext> context(new UcxContext());
  status = ucp_init(&params, config.get(), &context->context_);
  if (status == UCS_ERR_NO_DEVICE) {
    return Error{Code::kUnsupported,
                 std::string("UCX finds no device for ") +
                     (wires == Wires::kShm ? "shared memory" : "the network") +
                     (net_devices.empty() ? "" : " among " + net_devices) +
                     "; see `ucx_info -d` and the variables UCX_TLS and UCX_NET_DEVICES"};
  }
  if (status != UCS_OK) return ucx_error("ucp_init", status);
  return context;
}

Result<std::unique_ptr<UcxWorker>> UcxWorker::open(std::shared_ptr<UcxContext> context) {
  std::unique_ptr<UcxWorker> worker(new UcxWorker(std::move(context)));
  TRY(worker->create());
  return worker;
}

Result<void> UcxWorker::create() {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucs_status_t status = ucp_worker_create(context_->handle(), &params, &worker_);
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

Result<ucp_ep_h> UcxWorker::connect(const std::vector<std::byte>& address,
                                    ucp_err_handler_cb_t on_error, void* argument) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {.cb = on_error, .arg = argument};
  ucp_ep_h endpoint = nullptr;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint);
  if (status != UCS_OK) return ucx_error("ucp_ep_create", status);
  return endpoint;
}

void close_by_force(ucp_ep_h endpoint) {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &params);
  if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);  // freed when it completes
}

}  // namespace troupe::transport
