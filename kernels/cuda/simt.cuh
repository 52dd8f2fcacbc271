#pragma once

// What kernels use of a GPU, and nothing else of it: thread numbers, barriers, shuffles, shared
// memory, asynchronous copies, matrix products of BF16. Kernels include only this, so that the same
// text compiles twice:
//
// - with nvcc, for sm_80 and later: the functions below are CUDA and PTX, none newer than sm_80;
// - with a C++ compiler, for tests: they are only declared here; tests/simt/emulator.cpp defines
//   them, runs every thread of a block and reports misuse.
//
// A kernel is a struct that holds its parameters and is called once by every thread:
//
//   struct Twice {
//     static constexpr unsigned kThreads = 256;           // of a block; a multiple of 32
//     static constexpr unsigned kBlocksPerSm = 2;         // bounds the registers
//     size_t shared_bytes() const { return 0; }           // of a block
//     SIMT_DEVICE void operator()() const;
//     ...
//   };
//
// Blocks are independent and have one dimension of threads; a barrier must be reached by all
// threads of its block or warp, none having ended.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")
#else
#define SIMT_DEVICE inline
#define SIMT_UNROLL
#endif

namespace troupe::kernels::simt {

inline constexpr unsigned kWarp = 32;
inline constexpr size_t kDefaultShared = 48U << 10U;  ///< a block has so much without asking

/// A BF16 number; arithmetic is done in pairs or in float32.
struct Bf16 {
  uint16_t bits;
};

/// Registers that are loaded together: 4 * N bytes, from an address that is a multiple of that.
template <unsigned N>
struct alignas(4 * N) Words {
  uint32_t w[N];
};

/// Blocks of a launch. What may be many lies along x.
struct Grid {
  unsigned x = 1;  ///< below 2^31
  unsigned y = 1;  ///< below 2^16
  friend bool operator==(const Grid&, const Grid&) = default;
};

#ifdef __CUDACC__

SIMT_DEVICE unsigned thread() { return threadIdx.x; }
SIMT_DEVICE unsigned block_x() { return blockIdx.x; }
SIMT_DEVICE unsigned block_y() { return blockIdx.y; }

SIMT_DEVICE void block_barrier() { __syncthreads(); }
SIMT_DEVICE void warp_barrier() { __syncwarp(); }

SIMT_DEVICE float shuffle_xor(float value, unsigned mask) {
  return __shfl_xor_sync(~0U, value, static_cast<int>(mask));
}
SIMT_DEVICE uint32_t shuffle_xor(uint32_t value, unsigned mask) {
  return __shfl_xor_sync(~0U, value, static_cast<int>(mask));
}

SIMT_DEVICE std::byte* shared_memory() {
  extern __shared__ uint4 simt_shared_memory[];
  return reinterpret_cast<std::byte*>(simt_shared_memory);
}

/// Elements of shared memory.
template <class T>
class Shared {
 public:
  SIMT_DEVICE Shared(std::byte* first, unsigned) : data_(reinterpret_cast<T*>(first)) {}
  SIMT_DEVICE T& operator[](unsigned i) const { return data_[i]; }
  /// The elements at [i, i + count), at once.
  SIMT_DEVICE T* span(unsigned i, unsigned) const { return data_ + i; }

 private:
  T* data_;
};

template <unsigned N>
SIMT_DEVICE Words<N> load(const void* from) {
  return *static_cast<const Words<N>*>(from);
}
template <unsigned N>
SIMT_DEVICE void store(void* to, const Words<N>& words) {
  *static_cast<Words<N>*>(to) = words;
}

/// Two floats to BF16, ties to even; `low` into the low half.
SIMT_DEVICE uint32_t to_bf16x2(float low, float high) {
  uint32_t pair = 0;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
/// a * b + c in both halves, each rounded once.
SIMT_DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/// c += a b: a [16, 16], b [16, 8] BF16, c [16, 8] float32, spread over the warp as the PTX ISA has
/// it for mma.m16n8k16. With g = lane / 4, t = lane % 4: c = rows g (0, 1) and g + 8 (2, 3),
/// columns 2t, 2t + 1; a = rows g, g + 8 at k = 2t, 2t + 1 (0, 1), then at k + 8 (2, 3); b = column
/// g at the same k (0), then at k + 8 (1).
SIMT_DEVICE void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                     uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Four matrices [8, 8] of 16 bits from shared memory, transposed: lane i names row i % 8 of matrix
/// i / 8 (16 bytes); word m of a lane gets rows 2t, 2t + 1 of column g of matrix m.
SIMT_DEVICE Words<4> load_transposed(const Bf16* row) {
  Words<4> r;
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3])
               : "r"(address)
               : "memory");
  return r;
}

/// 16 bytes from global into shared memory, or zeros unless `wanted`; there once waited for.
SIMT_DEVICE void copy_async(void* to, const void* from, bool wanted) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const unsigned bytes = wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
}
/// Ends a group of this thread's copies.
SIMT_DEVICE void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until all but the last `N` groups of this thread are there; other threads' need a barrier after.
template <unsigned N>
SIMT_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

using Stream = cudaStream_t;

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm)
    run_kernel(const __grid_constant__ Kernel kernel) {
  kernel();
}

/// What a kernel is called by, whatever its parameters are.
using Entry = const void*;
template <class Kernel>
Entry entry_of() {
  return reinterpret_cast<Entry>(run_kernel<Kernel>);
}

#else  // declared for tests/simt/emulator.cpp; what each does is said above

unsigned thread();
unsigned block_x();
unsigned block_y();
void block_barrier();
void warp_barrier();
float shuffle_xor(float value, unsigned mask);
uint32_t shuffle_xor(uint32_t value, unsigned mask);
std::byte* shared_memory();

/// Ends the block with a report unless 0 <= first, first + bytes <= the block's shared memory.
void check_shared(const void* first, size_t bytes);
void check_index(unsigned i, unsigned count, unsigned size);
void check_aligned(const void* address, size_t bytes);

template <class T>
class Shared {
 public:
  Shared(std::byte* first, unsigned size) : data_(reinterpret_cast<T*>(first)), size_(size) {
    check_shared(first, size * sizeof(T));
  }
  T& operator[](unsigned i) const { return *span(i, 1); }
  T* span(unsigned i, unsigned count) const {
    check_index(i, count, size_);
    return data_ + i;
  }

 private:
  T* data_;
  unsigned size_;
};

template <unsigned N>
Words<N> load(const void* from) {
  check_aligned(from, sizeof(Words<N>));
  Words<N> words;
  std::memcpy(&words, from, sizeof(words));
  return words;
}
template <unsigned N>
void store(void* to, const Words<N>& words) {
  check_aligned(to, sizeof(Words<N>));
  std::memcpy(to, &words, sizeof(words));
}

uint32_t to_bf16x2(float low, float high);
uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c);
void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
         uint32_t b1);
Words<4> load_transposed(const Bf16* row);
void copy_async(void* to, const void* from, bool wanted);
void end_copies();
void wait_copies(unsigned still_open);
template <unsigned N>
void wait_copies() {
  wait_copies(N);
}

class EmulatedStream;
using Stream = EmulatedStream*;

/// Called by every thread with the kernel's parameters.
using Entry = void (*)(const void* parameters);
template <class Kernel>
Entry entry_of() {
  return [](const void* parameters) { (*static_cast<const Kernel*>(parameters))(); };
}

#endif

/// All that starts a kernel but its parameters.
struct Launch {
  Entry entry = {};
  Grid grid = {};
  unsigned threads = 0;  ///< of a block
  size_t shared_bytes = 0;
};

template <class Kernel>
Launch launch_of(const Kernel& kernel, Grid grid) {
  static_assert(std::is_trivially_copyable_v<Kernel>, "parameters go to the device as bytes");
  return {entry_of<Kernel>(), grid, Kernel::kThreads, kernel.shared_bytes()};
}
template <class Kernel>
std::span<const std::byte> parameters_of(const Kernel& kernel) {
  return std::as_bytes(std::span(&kernel, 1));
}

/// Starts a kernel. @param parameters the kernel's own bytes; may change when the call returns
/// @returns nullptr, or what is wrong
#ifdef __CUDACC__
inline const char* start(Stream stream, const Launch& launch,
                         std::span<const std::byte> parameters) {
  void* arguments[] = {const_cast<std::byte*>(parameters.data())};
  const cudaError_t error =
      cudaLaunchKernel(launch.entry, dim3(launch.grid.x, launch.grid.y), dim3(launch.threads),
                       arguments, launch.shared_bytes, stream);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#else
const char* start(Stream stream, const Launch& launch, std::span<const std::byte> parameters);
#endif

SIMT_DEVICE unsigned lane() { return thread() % kWarp; }
SIMT_DEVICE unsigned warp() { return thread() / kWarp; }

/// Cuts a block's shared memory into arrays, each at a multiple of 16 bytes.
class SharedMemory {
 public:
  template <class T>
  SIMT_DEVICE Shared<T> take(unsigned count) {
    const Shared<T> part(shared_memory() + used_, count);
    used_ += static_cast<unsigned>((count * sizeof(T) + 15) / 16 * 16);
    return part;
  }

 private:
  unsigned used_ = 0;
};

/// The sum over the lanes of a warp: lane i + lane (i ^ 16), then 8, 4, 2, 1; in every lane.
SIMT_DEVICE float warp_sum(float value) {
  SIMT_UNROLL for (unsigned mask = kWarp / 2; mask > 0; mask /= 2) {
    value += shuffle_xor(value, mask);
  }
  return value;
}

}  // namespace troupe::kernels::simt
