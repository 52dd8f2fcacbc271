// Which half of the staging memory is written when. Also compiled as C++ by the tests.

#include "kernels/cuda/runtime.hpp"

#include <cstring>

namespace troupe::kernels::cuda {

const void* Runtime::upload_bytes(const void* from, size_t bytes) {
  const size_t room = (bytes + kUploadAlignment - 1) / kUploadAlignment * kUploadAlignment;
  if (room > staging_.half_bytes - uploaded_) {
    keep_error(
        "an operation uploads more than half of CudaOptions::staging_bytes: raise it, or "
        "give it fewer rows");
  }
  if (failed() || bytes == 0) return nullptr;
  uploaded_ += room;
  if (room > staging_.half_bytes - used_) {
    send_uploads();
    mark(half_);
    half_ ^= 1U;
    used_ = 0;
    sent_ = 0;
    wait_for(half_);
  }
  const size_t at = half_ * staging_.half_bytes + used_;
  std::memcpy(staging_.host + at, from, bytes);
  used_ += room;
  return staging_.device + at;
}

void Runtime::send_uploads() {
  if (failed() || sent_ == used_) return;
  send(half_ * staging_.half_bytes + sent_, used_ - sent_);
  sent_ = used_;
}

}  // namespace troupe::kernels::cuda
