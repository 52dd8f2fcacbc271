#include "kernels/kernel_set.hpp"

namespace troupe::kernels {

const KernelSet& simd_kernels() { return scalar_kernels(); }

}  // namespace troupe::kernels
