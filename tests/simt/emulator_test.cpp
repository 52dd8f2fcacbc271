// The emulator itself: it computes what the PTX ISA says of mma and ldmatrix, and finds what it is
// there to find.

#include "tests/simt/emulator.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/bfloat16.hpp"
#include "kernels/cuda/devices.hpp"
#include "kernels/cuda/simt.cuh"

namespace troupe::kernels::simt {
namespace {

template <class Body>
struct Kernel {
  static constexpr unsigned kThreads = 64;
  static constexpr unsigned kBlocksPerSm = 1;
  Body body;
  size_t bytes = 0;
  [[nodiscard]] size_t shared_bytes() const { return bytes; }
  void operator()() const { body(); }
};

template <class Kernel>
const char* launch(Stream stream, const Kernel& kernel, Grid grid) {
  return start(stream, launch_of(kernel, grid), parameters_of(kernel));
}

/// What one block of 64 threads reports, in each order of threads.
template <class Body>
std::string report_of(const Body& body, size_t shared_bytes = 0) {
  std::string first;
  for (const ThreadOrder order :
       {ThreadOrder{}, ThreadOrder{.falling = true}, ThreadOrder{false, 7}}) {
    set_thread_order(order);
    const char* report = launch(nullptr, Kernel<Body>{body, shared_bytes}, {1, 1});
    if (report != nullptr && first.empty()) first = report;
  }
  set_thread_order({});
  return first;
}

float number(uint32_t pair, unsigned half) {
  return from_bf16(static_cast<uint16_t>(pair >> (16 * half)));
}

TEST(Emulator, RunsEveryThreadOfEveryBlock) {
  std::vector<int> calls(6 * 64);
  const auto body = [&] { ++calls[(block_y() * 3 + block_x()) * 64 + thread()]; };
  ASSERT_EQ(launch(nullptr, Kernel<decltype(body)>{body}, {3, 2}), nullptr);
  EXPECT_EQ(calls, std::vector<int>(6 * 64, 1));
}

TEST(Emulator, HoldsThreadsAtABarrierUntilAllAreThere) {
  std::vector<unsigned> seen(64);
  const auto body = [&] {
    SharedMemory memory;
    const auto numbers = memory.take<unsigned>(64);
    numbers[thread()] = thread() + 1;
    block_barrier();
    seen[thread()] = numbers[63 - thread()];
  };
  EXPECT_EQ(report_of(body, 256), "");
  for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(seen[i], 64 - i);
}

TEST(Emulator, ReportsABarrierThatSomeThreadsDoNotReach) {
  const auto body = [] {
    if (thread() < 63) block_barrier();
  };
  EXPECT_NE(report_of(body).find("63 threads wait at the block's barrier"), std::string::npos);
}

TEST(Emulator, ReportsLanesThatWaitInDifferentOperations) {
  const auto body = [] {
    if (lane() == 3) {
      warp_barrier();
    } else {
      (void)shuffle_xor(1.0F, 1);
    }
  };
  EXPECT_NE(report_of(body).find("different operations"), std::string::npos);
}

TEST(Emulator, ReportsIndicesOutsideSharedMemory) {
  const auto beyond = [] {
    SharedMemory memory;
    memory.take<float>(16)[thread()] = 1;
  };
  EXPECT_NE(report_of(beyond, 64).find("which has 16"), std::string::npos);
  const auto too_much = [] { SharedMemory().take<float>(17); };
  EXPECT_NE(report_of(too_much, 64).find("takes 68 bytes"), std::string::npos);
}

TEST(Emulator, ReportsLoadsThatAreNotAligned) {
  const std::array<uint32_t, 8> words{};
  const auto body = [&] { (void)load<4>(words.data() + 1); };
  EXPECT_NE(report_of(body).find("not a multiple of 16"), std::string::npos);
}

TEST(Emulator, BringsOutAMissingBarrierByTheOrderOfThreads) {
  // Without a barrier a thread reads what its neighbour may not have written: NaN from the start.
  bool always_there = true;
  const auto body = [&] {
    SharedMemory memory;
    const auto numbers = memory.take<float>(64);
    numbers[thread()] = 1;
    if (std::isnan(numbers[(thread() + 1) % 64])) always_there = false;
  };
  EXPECT_EQ(report_of(body, 256), "");
  EXPECT_FALSE(always_there);
}

TEST(Emulator, CopiesArriveWhenTheyAreWaitedFor) {
  alignas(16) const std::array<float, 8> from = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<float> before(64), first(64), second(64), zero(64);
  const auto body = [&] {
    SharedMemory memory;
    const auto to = memory.take<float>(64 * 12);
    const unsigned at = thread() * 12;
    copy_async(to.span(at, 4), from.data(), true);
    end_copies();
    copy_async(to.span(at + 4, 4), from.data() + 4, true);
    copy_async(to.span(at + 8, 4), from.data(), false);
    end_copies();
    before[thread()] = to[at];
    wait_copies<1>();
    first[thread()] = to[at];
    const bool early = !std::isnan(to[at + 4]);
    wait_copies<0>();
    second[thread()] = early ? -1 : to[at + 7];
    zero[thread()] = to[at + 8];
  };
  EXPECT_EQ(report_of(body, 64 * 48), "");
  for (unsigned i = 0; i < 64; ++i) {
    EXPECT_TRUE(std::isnan(before[i]));
    EXPECT_EQ(first[i], 1);
    EXPECT_EQ(second[i], 8);
    EXPECT_EQ(zero[i], 0);
  }
}

/// The fragments' tables of the PTX ISA (mma.m16n8k16, 16-bit types), element by element.
unsigned row_of_a(unsigned lane, unsigned i) { return lane / 4 + ((i / 2) % 2 == 1 ? 8 : 0); }
unsigned column_of_a(unsigned lane, unsigned i) { return lane % 4 * 2 + i % 2 + (i >= 4 ? 8 : 0); }
unsigned row_of_b(unsigned lane, unsigned i) { return lane % 4 * 2 + i % 2 + (i >= 2 ? 8 : 0); }
unsigned row_of_c(unsigned lane, unsigned i) { return lane / 4 + (i >= 2 ? 8 : 0); }

TEST(Emulator, MultipliesMatricesInTheFragmentsOfThePtxIsa) {
  std::array<std::array<float, 16>, 16> a{};
  std::array<std::array<float, 8>, 16> b{};
  for (unsigned i = 0; i < 16; ++i) {
    for (unsigned k = 0; k < 16; ++k) a[i][k] = static_cast<float>((i * 5 + k * 3) % 17) - 8;
    for (unsigned n = 0; n < 8; ++n) b[i][n] = static_cast<float>((i * 7 + n * 11) % 13) - 6;
  }
  std::array<std::array<float, 8>, 16> c{};
  const auto body = [&] {
    std::array<uint32_t, 4> fa{};
    std::array<uint32_t, 2> fb{};
    for (unsigned i = 0; i < 8; i += 2) {
      fa[i / 2] = to_bf16x2(a[row_of_a(lane(), i)][column_of_a(lane(), i)],
                            a[row_of_a(lane(), i + 1)][column_of_a(lane(), i + 1)]);
    }
    for (unsigned i = 0; i < 4; i += 2) {
      fb[i / 2] =
          to_bf16x2(b[row_of_b(lane(), i)][lane() / 4], b[row_of_b(lane(), i + 1)][lane() / 4]);
    }
    float fc[4] = {1, 1, 1, 1};
    mma(fc, fa[0], fa[1], fa[2], fa[3], fb[0], fb[1]);
    for (unsigned i = 0; i < 4; ++i) c[row_of_c(lane(), i)][lane() % 4 * 2 + i % 2] = fc[i];
  };
  EXPECT_EQ(report_of(body), "");
  for (unsigned i = 0; i < 16; ++i) {
    for (unsigned n = 0; n < 8; ++n) {
      float want = 1;
      for (unsigned k = 0; k < 16; ++k) want += a[i][k] * b[k][n];
      EXPECT_EQ(c[i][n], want) << i << " " << n;
    }
  }
}

TEST(Emulator, LoadsMatricesTransposed) {
  std::array<Words<4>, 64> words{};
  const auto body = [&] {
    SharedMemory memory;
    const auto rows = memory.take<Bf16>(32 * 8);  // element: 8 * row + column
    for (unsigned i = thread(); i < 32 * 8; i += 64) rows[i].bits = static_cast<uint16_t>(i);
    block_barrier();
    words[thread()] = load_transposed(rows.span(lane() * 8, 8));
  };
  EXPECT_EQ(report_of(body, 512), "");
  for (unsigned i = 0; i < 32; ++i) {
    for (unsigned m = 0; m < 4; ++m) {
      const uint32_t low = 8 * (8 * m + i % 4 * 2) + i / 4;
      EXPECT_EQ(words[i].w[m], low | (low + 8) << 16) << i << " " << m;
    }
  }
}

TEST(Emulator, RoundsToBf16TiesToEven) {
  EXPECT_EQ(number(to_bf16x2(1.00390625F, -1.01171875F), 0), 1.0F);
  EXPECT_EQ(number(to_bf16x2(1.00390625F, -1.01171875F), 1), -1.015625F);
  EXPECT_EQ(to_bf16x2(NAN, INFINITY), 0x7f807fffU);
  // 8 * 2^-133 is a subnormal BF16 number; 2^120 makes it 2^-10.
  EXPECT_EQ(number(fma_bf16x2(0x0008U, 0x7b80U, 0x8000U), 0), 0x1p-10F);
  EXPECT_EQ(number(fma_bf16x2(0x43ff0000U, 0x3f800000U, 0xc3800000U), 1), 254.0F);
}

template <unsigned kNumThreads>
struct Empty {
  static constexpr unsigned kThreads = kNumThreads;
  static constexpr unsigned kBlocksPerSm = 1;
  [[nodiscard]] size_t shared_bytes() const { return bytes; }
  void operator()() const {}
  size_t bytes = 0;
};

TEST(Emulator, RefusesWhatADeviceRefusesToLaunch) {
  EXPECT_EQ(launch(nullptr, Empty<1024>{kBlockSharedBytes}, {}), nullptr);
  const auto refused = [](const char* report) {
    return report != nullptr && std::string(report).find("cannot be launched") != std::string::npos;
  };
  EXPECT_TRUE(refused(launch(nullptr, Empty<1056>{}, {})));
  EXPECT_TRUE(refused(launch(nullptr, Empty<48>{}, {})));
  EXPECT_TRUE(refused(launch(nullptr, Empty<32>{kBlockSharedBytes + 1}, {})));
  EXPECT_TRUE(refused(launch(nullptr, Empty<32>{}, {1, 65'536})));
  EXPECT_TRUE(refused(launch(nullptr, Empty<32>{}, {1U << 31U, 1})));
}

TEST(Emulator, DoesTheWorkOfAStreamWhenItIsWaitedFor) {
  EmulatedStream stream;
  std::vector<int> done;
  stream.add_silent([&] { done.push_back(1); });
  const uint64_t mark = stream.position();
  const auto body = [&] {
    if (thread() == 0) done.push_back(2);
  };
  ASSERT_EQ(launch(&stream, Kernel<decltype(body)>{body}, {}), nullptr);
  EXPECT_TRUE(done.empty());
  EXPECT_EQ(stream.run_until(mark), "");
  EXPECT_EQ(done, std::vector<int>{1});
  stream.add([] { return std::string("wrong"); });
  stream.add_silent([&] { done.push_back(3); });
  EXPECT_EQ(stream.run(), "wrong");
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
}

}  // namespace
}  // namespace troupe::kernels::simt
