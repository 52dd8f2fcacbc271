// glibc's check of longjmp knows one stack only, not those of fibers.
#undef _FORTIFY_SOURCE

#include "tests/simt/emulator.hpp"

#include <ucontext.h>
#include <csetjmp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/bfloat16.hpp"
#include "base/random.hpp"
#include "kernels/cuda/devices.hpp"
#include "kernels/cuda/simt.cuh"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace troupe::kernels::simt {
namespace {

constexpr size_t kStackBytes = 128U << 10U;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostBlocksX = (1U << 31U) - 1;
constexpr unsigned kMostBlocksY = (1U << 16U) - 1;

/// What all threads of a warp do together: computes it for all of them once the last one arrives.
using Collective = void (*)(std::array<void*, kWarp>& arguments);

enum class State : uint8_t { kReady, kAtBlockBarrier, kInWarp, kEnded };

struct Copy {
  void* to;
  const void* from;
  bool wanted;
};

/// Memory for a fiber's stack, kept from block to block.
struct Stack {
  std::unique_ptr<std::byte[]> bytes = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
};

struct Fiber {
  ucontext_t begin;
  std::jmp_buf at;
  bool begun = false;
  State state = State::kReady;
  Collective collective = nullptr;
  void* arguments = nullptr;
  std::vector<std::vector<Copy>> copies{1};  // by group; the last one is open
};

class Block {
 public:
  /// @param call outlives the object
  Block(Grid at, unsigned threads, size_t shared_bytes, const std::function<void()>& call)
      : at_(at), call_(call), shared_bytes_(shared_bytes), fibers_(threads) {
    shared_.resize(shared_bytes / sizeof(Words<4>) + 1);
    std::fill_n(reinterpret_cast<unsigned char*>(shared_.data()), shared_bytes, 0xff);
  }

  /// @returns "" or a report.
  std::string run(ThreadOrder order, std::vector<Stack>& stacks, uint64_t& draws);

  void yield(State state) {
    Fiber& fiber = fibers_[current_];
    fiber.state = state;
    leave(fiber, false);
  }
  void collective(Collective what, void* arguments) {
    fibers_[current_].collective = what;
    fibers_[current_].arguments = arguments;
    yield(State::kInWarp);
  }
  /// Ends the block: the thread that is running never goes on.
  [[noreturn]] void fail(std::string report) {
    if (report_.empty()) report_ = std::move(report);
    leave(fibers_[current_], true);
    std::abort();
  }

  [[nodiscard]] unsigned current() const { return current_; }
  [[nodiscard]] Grid at() const { return at_; }
  [[nodiscard]] Fiber& fiber() { return fibers_[current_]; }
  std::byte* shared() { return reinterpret_cast<std::byte*>(shared_.data()); }
  [[nodiscard]] size_t shared_bytes() const { return shared_bytes_; }
  [[nodiscard]] std::string place() const {
    return "block (" + std::to_string(at_.x) + ", " + std::to_string(at_.y) + ") thread " +
           std::to_string(current_);
  }

  void begin_fiber() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &main_stack_, &main_stack_bytes_);
#endif
    call_();
    fibers_[current_].state = State::kEnded;
    leave(fibers_[current_], true);
  }

 private:
  void enter(Fiber& fiber, Stack& stack);
  void leave(Fiber& fiber, bool forever);
  void finish_collective(unsigned warp);
  std::string why_stuck() const;

  Grid at_;
  const std::function<void()>& call_;
  size_t shared_bytes_;
  std::vector<Words<4>> shared_;
  std::vector<Fiber> fibers_;
  unsigned current_ = 0;
  ucontext_t main_{};
  std::jmp_buf main_at_{};
  std::string report_;
  const void* main_stack_ = nullptr;
  size_t main_stack_bytes_ = 0;
};

// Of each thread that runs kernels: a cluster of emulated devices has several.
thread_local Block* the_block = nullptr;
thread_local ThreadOrder the_order;
thread_local std::string the_report;

void fiber_entry() { the_block->begin_fiber(); }

#ifdef __SANITIZE_ADDRESS__

void Block::enter(Fiber& fiber, Stack& stack) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack.bytes.get(), kStackBytes);
  swapcontext(&main_, &fiber.begin);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void Block::leave(Fiber& fiber, bool forever) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(forever ? nullptr : &fake_stack, main_stack_, main_stack_bytes_);
  swapcontext(&fiber.begin, &main_);
  __sanitizer_finish_switch_fiber(fake_stack, &main_stack_, &main_stack_bytes_);
}

#else

// A switch of contexts asks the kernel for signal masks; a jump is ten times as fast.
void Block::enter(Fiber& fiber, Stack&) {
  if (_setjmp(main_at_) != 0) return;
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  setcontext(&fiber.begin);
}

void Block::leave(Fiber& fiber, bool) {
  if (_setjmp(fiber.at) == 0) _longjmp(main_at_, 1);
}

#endif

void Block::finish_collective(unsigned warp) {
  const unsigned first = warp * kWarp;
  std::array<void*, kWarp> arguments{};
  for (unsigned i = 0; i < kWarp; ++i) {
    const Fiber& fiber = fibers_[first + i];
    if (fiber.state != State::kInWarp) return;
    if (fiber.collective != fibers_[first].collective) {
      report_ = "threads " + std::to_string(first) + " and " + std::to_string(first + i) +
                " of a warp wait in different operations";
      return;
    }
    arguments[i] = fiber.arguments;
  }
  fibers_[first].collective(arguments);
  for (unsigned i = 0; i < kWarp; ++i) fibers_[first + i].state = State::kReady;
}

std::string Block::why_stuck() const {
  std::array<unsigned, 4> counts{};
  for (const Fiber& fiber : fibers_) ++counts[static_cast<size_t>(fiber.state)];
  return std::to_string(counts[1]) + " threads wait at the block's barrier, " +
         std::to_string(counts[2]) + " for their warp, " + std::to_string(counts[3]) +
         " have ended";
}

std::string Block::run(ThreadOrder order, std::vector<Stack>& stacks, uint64_t& draws) {
  the_block = this;
  const auto num_threads = static_cast<unsigned>(fibers_.size());
  while (stacks.size() < fibers_.size()) stacks.emplace_back();
  for (unsigned i = 0; i < num_threads; ++i) {
    ucontext_t& context = fibers_[i].begin;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[i].bytes.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, fiber_entry, 0);
  }
  std::vector<unsigned> turns(num_threads);
  std::iota(turns.begin(), turns.end(), 0U);
  if (order.falling) std::reverse(turns.begin(), turns.end());
  const auto all_in = [&](State state) {
    return std::all_of(fibers_.begin(), fibers_.end(),
                       [&](const Fiber& fiber) { return fiber.state == state; });
  };
  while (!all_in(State::kEnded)) {
    if (order.shuffle_seed != 0) {
      for (unsigned i = num_threads - 1; i > 0; --i) {
        std::swap(turns[i], turns[random_bits(order.shuffle_seed, draws++) % (i + 1)]);
      }
    }
    bool moved = false;
    for (const unsigned turn : turns) {
      if (fibers_[turn].state != State::kReady) continue;
      moved = true;
      current_ = turn;
      enter(fibers_[turn], stacks[turn]);
      if (report_.empty() && fibers_[turn].state == State::kInWarp) finish_collective(turn / kWarp);
      if (!report_.empty()) return place() + ": " + report_;
    }
    if (all_in(State::kAtBlockBarrier)) {
      for (Fiber& fiber : fibers_) fiber.state = State::kReady;
    } else if (!moved) {
      return place() + ": " + why_stuck();
    }
  }
  return "";
}

/// As the PTX ISA has it: every NaN becomes one and the same.
uint16_t round_to_bf16(float value) { return std::isnan(value) ? 0x7fffU : to_bf16(value); }

uint16_t bf16_bits(double value) {
  // To odd first, so that the second rounding sees what the first one dropped.
  auto narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value && std::isfinite(narrow)) {
    if (std::abs(static_cast<double>(narrow)) > std::abs(value)) {
      narrow = std::nextafter(narrow, 0.0F);
    }
    narrow = std::bit_cast<float>(std::bit_cast<uint32_t>(narrow) | 1U);
  }
  return round_to_bf16(narrow);
}

float half(uint32_t pair, unsigned which) {
  return from_bf16(static_cast<uint16_t>(pair >> (16U * which)));
}

struct Shuffle {
  uint32_t value;
  unsigned mask;
};

void shuffle_all(std::array<void*, kWarp>& arguments) {
  std::array<uint32_t, kWarp> values{};
  for (unsigned i = 0; i < kWarp; ++i) {
    values[i] = static_cast<const Shuffle*>(arguments[i])->value;
  }
  for (unsigned i = 0; i < kWarp; ++i) {
    auto& shuffle = *static_cast<Shuffle*>(arguments[i]);
    shuffle.value = values[i ^ shuffle.mask];
  }
}

struct Product {
  float* c;
  std::array<uint32_t, 4> a;
  std::array<uint32_t, 2> b;
};

void multiply_all(std::array<void*, kWarp>& arguments) {
  float a[16][16];
  float b[16][8];
  for (unsigned i = 0; i < kWarp; ++i) {
    const auto& p = *static_cast<const Product*>(arguments[i]);
    const unsigned g = i / 4;
    const unsigned t = i % 4;
    for (unsigned h = 0; h < 2; ++h) {
      const unsigned k = 2 * t + h;
      a[g][k] = half(p.a[0], h);
      a[g + 8][k] = half(p.a[1], h);
      a[g][k + 8] = half(p.a[2], h);
      a[g + 8][k + 8] = half(p.a[3], h);
      b[k][g] = half(p.b[0], h);
      b[k + 8][g] = half(p.b[1], h);
    }
  }
  for (unsigned i = 0; i < kWarp; ++i) {
    const auto& p = *static_cast<const Product*>(arguments[i]);
    for (unsigned e = 0; e < 4; ++e) {
      const unsigned row = i / 4 + 8 * (e / 2);
      const unsigned column = i % 4 * 2 + e % 2;
      float sum = p.c[e];
      for (unsigned k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];  // the product is exact
      p.c[e] = sum;
    }
  }
}

struct Transposed {
  const Bf16* row;
  Words<4> out;
};

void load_all_transposed(std::array<void*, kWarp>& arguments) {
  for (unsigned i = 0; i < kWarp; ++i) {
    auto& mine = *static_cast<Transposed*>(arguments[i]);
    for (unsigned m = 0; m < 4; ++m) {
      const auto element = [&](unsigned row) -> uint32_t {
        return static_cast<const Transposed*>(arguments[8 * m + row])->row[i / 4].bits;
      };
      mine.out.w[m] = element(i % 4 * 2) | element(i % 4 * 2 + 1) << 16U;
    }
  }
}

}  // namespace

void set_thread_order(ThreadOrder order) { the_order = order; }

unsigned thread() { return the_block->current(); }
unsigned block_x() { return the_block->at().x; }
unsigned block_y() { return the_block->at().y; }
void block_barrier() { the_block->yield(State::kAtBlockBarrier); }
void warp_barrier() {
  the_block->collective([](std::array<void*, kWarp>&) {}, nullptr);
}

uint32_t shuffle_xor(uint32_t value, unsigned mask) {
  Shuffle shuffle{value, mask};
  the_block->collective(shuffle_all, &shuffle);
  return shuffle.value;
}
float shuffle_xor(float value, unsigned mask) {
  return std::bit_cast<float>(shuffle_xor(std::bit_cast<uint32_t>(value), mask));
}

std::byte* shared_memory() { return the_block->shared(); }

void check_shared(const void* first, size_t bytes) {
  const std::byte* begin = the_block->shared();
  const auto* at = static_cast<const std::byte*>(first);
  if (at < begin || at + bytes > begin + the_block->shared_bytes()) {
    the_block->fail("takes " + std::to_string(bytes) + " bytes of shared memory at " +
                    std::to_string(at - begin) + " of " +
                    std::to_string(the_block->shared_bytes()));
  }
}

void check_index(unsigned i, unsigned count, unsigned size) {
  if (i > size || count > size - i) {
    the_block->fail("elements [" + std::to_string(i) + ", +" + std::to_string(count) +
                    ") of shared memory, which has " + std::to_string(size));
  }
}

void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    the_block->fail("an address is not a multiple of " + std::to_string(bytes));
  }
}

uint32_t to_bf16x2(float low, float high) {
  return round_to_bf16(low) | uint32_t{round_to_bf16(high)} << 16U;
}

uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (unsigned h = 0; h < 2; ++h) {
    // Products are exact in double; so is the sum of all that kernels add here.
    const double sum = static_cast<double>(half(a, h)) * half(b, h) + half(c, h);
    d |= uint32_t{bf16_bits(sum)} << (16U * h);
  }
  return d;
}

void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
         uint32_t b1) {
  Product product{c, {a0, a1, a2, a3}, {b0, b1}};
  the_block->collective(multiply_all, &product);
}

Words<4> load_transposed(const Bf16* row) {
  check_aligned(row, sizeof(Words<4>));
  check_shared(row, sizeof(Words<4>));
  Transposed transposed{row, {}};
  the_block->collective(load_all_transposed, &transposed);
  return transposed.out;
}

void copy_async(void* to, const void* from, bool wanted) {
  check_aligned(to, sizeof(Words<4>));
  check_aligned(from, wanted ? sizeof(Words<4>) : 1);
  check_shared(to, sizeof(Words<4>));
  the_block->fiber().copies.back().push_back({to, from, wanted});
}
void end_copies() { the_block->fiber().copies.emplace_back(); }
void wait_copies(unsigned still_open) {
  std::vector<std::vector<Copy>>& groups = the_block->fiber().copies;
  while (groups.size() > still_open + 1) {
    for (const Copy& copy : groups.front()) {
      if (copy.wanted) {
        std::memcpy(copy.to, copy.from, sizeof(Words<4>));
      } else {
        std::memset(copy.to, 0, sizeof(Words<4>));
      }
    }
    groups.erase(groups.begin());
  }
}

namespace {

/// @returns "" or a report
std::string run_blocks(ThreadOrder order, Grid grid, unsigned threads, size_t shared_bytes,
                       const std::function<void()>& call) {
  thread_local std::vector<Stack> stacks;
  uint64_t draws = 0;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      Block block({x, y}, threads, shared_bytes, call);
      std::string report = block.run(order, stacks, draws);
      if (!report.empty()) return report;
    }
  }
  return "";
}

}  // namespace

const char* start(Stream stream, const Launch& launch, std::span<const std::byte> parameters) {
  const auto& [entry, grid, threads, shared_bytes] = launch;
  if (threads == 0 || threads % kWarp != 0 || threads > kMostThreads ||
      shared_bytes > kBlockSharedBytes || grid.x == 0 || grid.x > kMostBlocksX || grid.y == 0 ||
      grid.y > kMostBlocksY) {
    the_report = std::to_string(grid.x) + " x " + std::to_string(grid.y) + " blocks of " +
                 std::to_string(threads) + " threads and " + std::to_string(shared_bytes) +
                 " bytes of shared memory cannot be launched";
    return the_report.c_str();
  }
  const auto run = [launch, kept = std::vector<std::byte>(parameters.begin(), parameters.end())](
                       ThreadOrder order) {
    return run_blocks(order, launch.grid, launch.threads, launch.shared_bytes,
                      [&] { launch.entry(kept.data()); });
  };
  if (stream == nullptr) {
    the_report = run(the_order);
    return the_report.empty() ? nullptr : the_report.c_str();
  }
  stream->add([order = stream->next_order(), run] { return run(order); });
  return nullptr;
}

void EmulatedStream::add(std::function<std::string()> work) { work_.push_back(std::move(work)); }

void EmulatedStream::add_silent(std::function<void()> work) {
  add([work = std::move(work)] {
    work();
    return std::string();
  });
}

std::string EmulatedStream::run_until(uint64_t position) {
  std::string report;
  for (; done_ < position && report.empty(); ++done_) {
    report = work_.front()();
    work_.pop_front();
  }
  return report;
}

ThreadOrder EmulatedStream::next_order() {
  const uint64_t turn = ++launches_ % 3;
  return {.falling = turn == 1, .shuffle_seed = turn == 2 ? launches_ : 0};
}

}  // namespace troupe::kernels::simt
