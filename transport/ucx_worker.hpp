#pragma once

// One UCX worker with the settings Troupe relies on. Only ucx_*.cpp may include this: UCX types
// stay behind the Link seam.

#include <ucp/api/ucp.h>

#include <memory>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"

namespace troupe::transport {

/// kInternal naming the call and UCX's word for the status.
Error ucx_error(const char* call, ucs_status_t status);

/// A context and its single worker, in wakeup mode. Used by one thread at a time.
///
/// Shared memory and network are two workers, because a peer that dies or stops must never leave
/// anything behind that cannot be closed, and UCX promises that only in its error mode PEER. In
/// that mode it refuses shared memory unless UCX_POSIX_ERROR_HANDLING is on, which the kShm worker
/// sets; the network worker must not see that transport.
class UcxWorker {
 public:
  enum class Wires { kNet, kShm };

  /// @errors kUnsupported if UCX has no such transport here; kInternal if it fails otherwise.
  static Result<std::unique_ptr<UcxWorker>> open(Wires wires);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  [[nodiscard]] ucp_worker_h handle() const { return worker_; }
  [[nodiscard]] Wires wires() const { return wires_; }
  [[nodiscard]] const char* transport_name() const {
    return wires_ == Wires::kShm ? "ucx:shm" : "ucx:net";
  }
  /// Readable when arm()ed and something happened.
  [[nodiscard]] int event_fd() const { return event_fd_; }
  /// Bytes that lead a peer here.
  [[nodiscard]] const std::vector<std::byte>& address() const { return address_; }

  Result<void> on_message(unsigned id, ucp_am_recv_callback_t callback, void* argument);

 private:
  explicit UcxWorker(Wires wires) : wires_(wires) {}
  Result<void> open_context();
  Result<void> open_worker();

  const Wires wires_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  std::vector<std::byte> address_;
};

}  // namespace troupe::transport
