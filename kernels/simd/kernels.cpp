// The SIMD versions, compiled once for each Highway target; the best one for this CPU is chosen at
// run time. Only targets with a fused multiply-add have them: elsewhere Highway's MulAdd rounds
// twice, which would break the arithmetic contract, so those targets stand for the specification.

#include "kernels/kernel_set.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || \
    HWY_TARGET == HWY_NEON

#include "kernels/cpu/scalar.hpp"
#include "kernels/simd/attention-inl.hpp"
#include "kernels/simd/gemm-inl.hpp"
#include "kernels/simd/peak-inl.hpp"
#include "kernels/simd/quantised-inl.hpp"
#include "kernels/simd/rows-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

const KernelSet& target_kernels() {
  static constexpr KernelSet kSet = {
#if HWY_TARGET == HWY_AVX2
    .target = "avx2",
#elif HWY_TARGET == HWY_NEON
    .target = "neon",
#else
    .target = "avx3",
#endif
    .embed = embed,
    .gemm = gemm,
    .quantise = quantise,
    .quantised_gemm = quantised_gemm,
    .rms_norm = rms_norm,
    .rope = scalar::rope,  // a ten-thousandth of a step's time
    .silu_mul = silu_mul,
    .add = add,
    .topk_gate = scalar::topk_gate,  // branches, not arithmetic
    .store_kv = scalar::store_kv,    // rounds, by integers
    .mla_absorbed = mla_absorbed,
    .mla_expanded = mla_expanded,
    .combine = combine,
    .float_peak = float_peak,
    .integer_peak = integer_peak,
  };
#if TROUPE_VNNI
  if (__builtin_cpu_supports("avx512vnni") != 0) {
    static const KernelSet kWithVnni = [] {
      KernelSet set = kSet;
      set.target = "avx3-vnni";
      set.quantised_gemm = tiled_gemm;
      set.integer_peak = tiled_integer_peak;
      return set;
    }();
    return kWithVnni;
  }
#endif
  return kSet;
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#else

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

const KernelSet& target_kernels() { return scalar_kernels(); }

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE
namespace troupe::kernels {

HWY_EXPORT(target_kernels);

const KernelSet& simd_kernels() { return HWY_DYNAMIC_DISPATCH(target_kernels)(); }

}  // namespace troupe::kernels
#endif
