// The backend of the tests that run on a GPU, too (tests/cuda), where there is none.

#include <vector>

#include "tests/cuda/backend.hpp"
#include "tests/simt/emulated_backend.hpp"

namespace troupe::kernels {

Result<Backend> make_test_backend(const CudaOptions& options) {
  return make_emulated_backend(options);
}

Result<Backend> make_test_group(const CudaOptions& options, size_t num_devices) {
  return make_emulated_group(options, std::vector<EmulatedDevice>(num_devices));
}

}  // namespace troupe::kernels
