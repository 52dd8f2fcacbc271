// The SIMD versions, compiled once for each Highway target. Only targets with a fused multiply-add
// have them: elsewhere Highway's MulAdd rounds twice, which would break the arithmetic contract.

#include <array>
#include <span>
#include <vector>

#include "kernels/cpu/scalar.hpp"
#include "kernels/kernel_set.hpp"

namespace troupe::kernels {
// Of this CPU, whatever a target assumes.
bool has_avx_vnni();
bool has_avx512_vnni();
bool has_neon_dotprod();
}  // namespace troupe::kernels

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || \
    HWY_TARGET == HWY_NEON

#include "kernels/simd/attention-inl.hpp"
#include "kernels/simd/gemm-inl.hpp"
#include "kernels/simd/peak-inl.hpp"
#include "kernels/simd/quantised-inl.hpp"
#include "kernels/simd/rows-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

/// With an instruction that adds four products of bytes, if this CPU has it, and without.
std::span<const KernelSet> target_kernels() {
  static constexpr KernelSet kPlain = {
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
#if TROUPE_TILES
#if HWY_TARGET == HWY_AVX2
  constexpr const char* kTarget = "avx2-vnni";
  const bool has_quads = has_avx_vnni();
#elif HWY_TARGET == HWY_NEON
  constexpr const char* kTarget = "neon-dotprod";
  const bool has_quads = has_neon_dotprod();
#else
  constexpr const char* kTarget = "avx3-vnni";
  const bool has_quads = has_avx512_vnni();
#endif
  if (has_quads) {
    static const std::array<KernelSet, 2> kBoth = [] {
      KernelSet quads = kPlain;
      quads.target = kTarget;
      quads.quantised_gemm = tiled_gemm<QuadSums>;
      quads.integer_peak = tiled_integer_peak<QuadSums>;
      return std::array{quads, kPlain};
    }();
    return kBoth;
  }
#endif
  return {&kPlain, 1};
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE

#if HWY_ARCH_X86
#include <cpuid.h>
#elif HWY_ARCH_ARM_A64
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace troupe::kernels {

#if HWY_ARCH_X86
/// VNNI on 256 bits, by a question that all compilers know. It needs no more of the system than
/// AVX2 does.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4U & 1U) != 0;
}

bool has_avx512_vnni() { return __builtin_cpu_supports("avx512vnni") != 0; }
#elif HWY_ARCH_ARM_A64
bool has_neon_dotprod() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
#endif

std::span<const KernelSet* const> cpu_kernels() {
  static const std::vector<const KernelSet*> kAll = [] {
    std::vector<const KernelSet*> all;
    [[maybe_unused]] const auto add = [&](int64_t target, std::span<const KernelSet> (*sets)()) {
      if ((hwy::SupportedTargets() & target) == 0) return;
      for (const KernelSet& set : sets()) all.push_back(&set);
    };
#if HWY_TARGETS & HWY_AVX3_DL
    add(HWY_AVX3_DL, N_AVX3_DL::target_kernels);
#endif
#if HWY_TARGETS & HWY_AVX3
    add(HWY_AVX3, N_AVX3::target_kernels);
#endif
#if HWY_TARGETS & HWY_AVX2
    add(HWY_AVX2, N_AVX2::target_kernels);
#endif
#if HWY_TARGETS & HWY_NEON
    add(HWY_NEON, N_NEON::target_kernels);
#endif
    all.push_back(&scalar_kernels());
    return all;
  }();
  return kAll;
}

}  // namespace troupe::kernels
#endif
