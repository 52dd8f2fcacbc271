#pragma once

// UCX contexts and workers with the settings Troupe relies on. Only ucx_*.cpp may include this: UCX
// types stay behind the Link seam.

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"

namespace troupe::transport {

/// kInternal naming the call and UCX's word for the status.
Error ucx_error(const char* call, ucs_status_t status);

/// One kind of wire: settings and devices. Workers keep it alive.
///
/// A peer that dies or stops must never leave anything behind that cannot be closed, and UCX
/// promises that only in its error mode PEER. In that mode it refuses shared memory unless POSIX
/// error handling is on, which kShm sets; a network worker must not see that transport.
class UcxContext {
 public:
  enum class Wires { kNet, kShm };

  /// @param net_devices for kNet, as in UcxOptions
  /// @errors kUnsupported if UCX has no such transport here; kInternal if it fails otherwise.
  static Result<std::shared_ptr<UcxContext>> open(Wires wires, const std::string& net_devices = {});
  ~UcxContext() {
    if (context_ != nullptr) ucp_cleanup(context_);
  }
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  [[nodiscard]] ucp_context_h handle() const { return context_; }

 private:
  UcxContext() = default;
  ucp_context_h context_ = nullptr;
};

/// A worker in wakeup mode. Used by one thread at a time.
class UcxWorker {
 public:
  static Result<std::unique_ptr<UcxWorker>> open(std::shared_ptr<UcxContext> context);
  ~UcxWorker() {
    if (worker_ != nullptr) ucp_worker_destroy(worker_);
  }
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  [[nodiscard]] ucp_worker_h handle() const { return worker_; }
  /// Readable when arm()ed and something happened.
  [[nodiscard]] int event_fd() const { return event_fd_; }
  /// Bytes that lead a peer here.
  [[nodiscard]] const std::vector<std::byte>& address() const { return address_; }

  Result<void> on_message(unsigned id, ucp_am_recv_callback_t callback, void* argument);

  /// An endpoint in error mode PEER.
  Result<ucp_ep_h> connect(const std::vector<std::byte>& address, ucp_err_handler_cb_t on_error,
                           void* argument);

  /// Does UCX's work until there is none, at most `rounds` times; false if there was none.
  bool progress(int rounds) {
    int done = 0;
    while (done < rounds && ucp_worker_progress(worker_) != 0) ++done;
    return done > 0;
  }

 private:
  explicit UcxWorker(std::shared_ptr<UcxContext> context) : context_(std::move(context)) {}
  Result<void> create();

  const std::shared_ptr<UcxContext> context_;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  std::vector<std::byte> address_;
};

/// Ends an endpoint at once, whatever its peer does; what was being sent is cancelled.
void close_by_force(ucp_ep_h endpoint);

}  // namespace troupe::transport
