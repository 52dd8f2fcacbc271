// The arithmetic peak: multiply-adds on registers alone, by the instructions that the products of
// this version multiply with.

#if defined(TROUPE_KERNELS_SIMD_PEAK_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_PEAK_INL
#undef TROUPE_KERNELS_SIMD_PEAK_INL
#else
#define TROUPE_KERNELS_SIMD_PEAK_INL
#endif

#include "kernels/cpu/scalar.hpp"
#include "kernels/simd/quantised-inl.hpp"

#if HWY_ARCH_X86
namespace troupe::kernels::N_AVX2 {  // which CPUs with AVX-512 use, too
uint64_t integer_peak(size_t rounds);
}  // namespace troupe::kernels::N_AVX2
#endif

#if TROUPE_AVX512_VNNI
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace troupe::kernels::HWY_NAMESPACE {

/// Sums in registers: enough that none waits for its last addition, on any CPU so far.
constexpr size_t kPeakSums = 12;
/// Additions to each sum in a round: all of them fit into a sum of 16 bits.
constexpr size_t kPeakAdditions = 1024;

/// What follows may not be computed before, nor once for all times. It costs no instruction.
template <class Raw>
HWY_INLINE void hide(Raw& value) {
#if HWY_ARCH_X86
  asm volatile("" : "+v"(value));
#else
  asm volatile("" : "+w"(value));
#endif
}

uint64_t float_peak(size_t rounds) {
  V one = hn::Set(kFloats, 1.0F);
  double total = 0;
  for (size_t round = 0; round < rounds; ++round) {
    V sums[kPeakSums];
    _Pragma("GCC unroll 16") for (V& sum : sums) sum = hn::Zero(kFloats);
    for (size_t i = 0; i < kPeakAdditions; ++i) {
      _Pragma("GCC unroll 16") for (V& sum : sums) {
        sum = hn::MulAdd(one, one, sum);
        hide(sum.raw);
      }
    }
    for (const V& sum : sums) {
      float lanes[kLanes];
      hn::StoreU(sum, kFloats, lanes);
      for (const float lane : lanes) total += lane;
    }
  }
  return static_cast<uint64_t>(total);
}

#if TROUPE_TILES

template <class Sums>
uint64_t tiled_integer_peak(size_t rounds) {
  uint64_t total = 0;
  for (size_t round = 0; round < rounds; ++round) {
    B w = hn::Set(kBytes, 1), x = hn::Set(kBytes, 1);
    typename Sums::I4 sums[kPeakSums];
    _Pragma("GCC unroll 16") for (auto& sum : sums) sum.begin(hn::Zero(kInts));
    for (size_t i = 0; i < kPeakAdditions; ++i) {
      _Pragma("GCC unroll 16") for (auto& sum : sums) {
        hide(w.raw);
        sum.add(w, x);
      }
    }
    for (const auto& sum : sums) {
      int32_t lanes[kLanes];
      hn::StoreU(sum.sum(), kInts, lanes);
      for (const int32_t lane : lanes) total += static_cast<uint64_t>(lane);
    }
  }
  return total;
}

#if TROUPE_AVX512_VNNI
using N_AVX2::integer_peak;  // without VNNI
#else
uint64_t integer_peak(size_t rounds) { return tiled_integer_peak<PlainSums>(rounds); }
#endif

#else

uint64_t integer_peak(size_t rounds) { return scalar::integer_peak(rounds); }

#endif

}  // namespace troupe::kernels::HWY_NAMESPACE
#if TROUPE_AVX512_VNNI
HWY_POP_ATTRIBUTES
#else
HWY_AFTER_NAMESPACE();
#endif

#endif
