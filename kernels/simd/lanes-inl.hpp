// The 16 partial sums of the arithmetic contract in vector registers, and exp on them. Compiled
// once per Highway target, hence no #pragma once.

#if defined(TROUPE_KERNELS_SIMD_LANES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_LANES_INL
#undef TROUPE_KERNELS_SIMD_LANES_INL
#else
#define TROUPE_KERNELS_SIMD_LANES_INL
#endif

#include <hwy/highway.h>

#if HWY_ARCH_X86
#include <immintrin.h>
#endif

#include "kernels/cpu/exp.hpp"
#include "kernels/cpu/sum16.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that kVecs vectors are exactly the 16 partial sums.
using Floats = hn::CappedTag<float, kNumPartialSums>;
using V = hn::Vec<Floats>;
constexpr Floats kFloats;
constexpr size_t kLanes = hn::MaxLanes(kFloats);
constexpr size_t kVecs = kNumPartialSums / kLanes;

/// The tree of rule 1 over the lanes of one vector: i + (i + n / 2), and so on.
template <size_t kNumLanes>
HWY_INLINE float add_lanes(hn::Vec<hn::FixedTag<float, kNumLanes>> v) {
  if constexpr (kNumLanes == 4) {
    v = hn::Add(v, hn::Shuffle1032(v));
    return hn::GetLane(hn::Add(v, hn::Shuffle0321(v)));
  } else {
    const hn::FixedTag<float, kNumLanes / 2> half;
    return add_lanes<kNumLanes / 2>(hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

/// The tree of rule 1 over 16 lanes in one, two or four vectors.
template <size_t kNumVecs>
HWY_INLINE float add_tree(const V (&sums)[kNumVecs]) {
  if constexpr (kNumVecs == 1) {
    return add_lanes<kLanes>(sums[0]);
  } else if constexpr (kNumVecs == 2) {
    return add_lanes<kLanes>(hn::Add(sums[0], sums[1]));
  } else {
    return add_lanes<kLanes>(hn::Add(hn::Add(sums[0], sums[2]), hn::Add(sums[1], sums[3])));
  }
}

/// out[i] = add_tree(sums[i]). Where a vector has 16 lanes the levels of the 16 trees are added
/// together, by a third of the instructions.
HWY_INLINE void add_16_trees(const PartialSums* sums, float* out) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_AVX2
  // Each level halves what is left of a tree and puts two of them into a vector; the order at first
  // makes the one at last.
  __m512 level[16];
  for (size_t i = 0; i < 16; ++i) level[i] = _mm512_loadu_ps(sums[i % 4 * 4 + i / 4].data());
  for (size_t i = 0; i < 8; ++i) {  // lane i + lane (i + 8)
    const __m512 a = level[2 * i], b = level[2 * i + 1];
    level[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  for (size_t i = 0; i < 4; ++i) {  // i + 4
    const __m512 a = level[2 * i], b = level[2 * i + 1];
    level[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  for (size_t i = 0; i < 2; ++i) {  // i + 2
    const __m512 a = level[2 * i], b = level[2 * i + 1];
    level[i] = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
  }
  const __m512 a = level[0], b = level[1];  // i + 1
  _mm512_storeu_ps(out,
                   _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)));
#else
  for (size_t i = 0; i < 16; ++i) {
    V lanes[kVecs];
    for (size_t v = 0; v < kVecs; ++v) lanes[v] = hn::LoadU(kFloats, sums[i].data() + v * kLanes);
    out[i] = add_tree(lanes);
  }
#endif
}

/// exp_f32 of each lane, operation by operation.
HWY_INLINE V exp_lanes(V x) {
  const hn::RebindToUnsigned<Floats> bits;
  const V high = hn::Set(kFloats, kExpHigh);
  const V clamped = hn::IfThenElse(hn::Gt(x, high), high, x);
  const V magic = hn::Set(kFloats, kRoundMagic);
  const V shifted = hn::MulAdd(clamped, hn::Set(kFloats, kLog2E), magic);
  const V n = hn::Sub(shifted, magic);
  const V r = hn::MulAdd(n, hn::Set(kFloats, -kLn2Low),
                         hn::MulAdd(n, hn::Set(kFloats, -kLn2High), clamped));
  V p = hn::Set(kFloats, kExpP[4]);
  p = hn::MulAdd(p, r, hn::Set(kFloats, kExpP[3]));
  p = hn::MulAdd(p, r, hn::Set(kFloats, kExpP[2]));
  p = hn::MulAdd(p, r, hn::Set(kFloats, kExpP[1]));
  p = hn::MulAdd(p, r, hn::Set(kFloats, kExpP[0]));
  const V e_r = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(kFloats, 1.0F));
  const auto scale = hn::ShiftLeft<23>(hn::Add(hn::BitCast(bits, shifted), hn::Set(bits, 127U)));
  const V result = hn::Mul(e_r, hn::BitCast(kFloats, scale));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(kFloats, kExpLow)), result);
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
