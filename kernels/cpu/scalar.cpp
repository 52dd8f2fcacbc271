#include "kernels/cpu/scalar.hpp"

namespace troupe::kernels {

const KernelSet& scalar_kernels() {
  static constexpr KernelSet kSet = {
      .target = "scalar",
      .embed = scalar::embed,
      .gemm = scalar::gemm,
      .quantise = scalar::quantise,
      .quantised_gemm = scalar::quantised_gemm,
      .rms_norm = scalar::rms_norm,
      .rope = scalar::rope,
      .silu_mul = scalar::silu_mul,
      .add = scalar::add,
      .topk_gate = scalar::topk_gate,
      .store_kv = scalar::store_kv,
      .mla_absorbed = scalar::mla_absorbed,
      .mla_expanded = scalar::mla_expanded,
      .combine = scalar::combine,
      .float_peak = scalar::float_peak,
      .integer_peak = scalar::integer_peak,
  };
  return kSet;
}

}  // namespace troupe::kernels
