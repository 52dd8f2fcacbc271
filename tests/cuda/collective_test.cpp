// How devices gather what each has: over NCCL on GPUs, one rank where there is one; in the emulator
// over the host's memory.

#include "kernels/collective.hpp"

#include <thread>
#include <vector>

#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

class CudaCollective : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    start_test_group({.workspace_bytes = size_t{1} << 20U}, GetParam(), group_);
  }

  /// In a thread for each rank, as a router's forward passes.
  template <class Task>
  void for_each(const Task& task) {
    std::vector<std::thread> threads;
    for (size_t k = 0; k < GetParam(); ++k) threads.emplace_back([&, k] { task(k); });
    for (std::thread& thread : threads) thread.join();
  }

  static float number(size_t rank, size_t round, size_t i) {
    return static_cast<float>(rank * 10'000 + round * 1000 + i);
  }

  Backend group_;
};

TEST_P(CudaCollective, CountsItsRanksInOrder) {
  ASSERT_EQ(group_.num_devices(), GetParam());
  for (size_t k = 0; k < GetParam(); ++k) {
    EXPECT_EQ(group_.of_rank(k).collective->rank(), k);
    EXPECT_EQ(group_.of_rank(k).collective->num_ranks(), GetParam());
  }
}

TEST_P(CudaCollective, GivesEachRankTheNumbersOfAllInOrderWhatTheyWereAtTheCall) {
  constexpr size_t kRounds = 3;
  constexpr size_t kCounts[kRounds] = {1, 257, 64};
  const size_t num_ranks = GetParam();
  std::vector<std::vector<float>> got(num_ranks);
  for_each([&](size_t k) {
    const Backend& here = group_.of_rank(k);
    Memory& memory = *here.memory;
    const size_t room = kCounts[1] * (1 + num_ranks);
    const OwnedMemory allocated = allocate(memory, room * sizeof(float)).value();
    auto* part = static_cast<float*>(allocated.get());
    float* parts = part + kCounts[1];
    got[k].resize(num_ranks * (kCounts[0] + kCounts[1] + kCounts[2]));
    size_t at = 0;
    for (size_t round = 0; round < kRounds; ++round) {  // one wait for all: in the stream's order
      std::vector<float> mine;
      for (size_t i = 0; i < kCounts[round]; ++i) mine.push_back(number(k, round, i));
      memory.copy_in(part, mine.data(), mine.size() * sizeof(float));
      here.collective->all_gather(part, mine.size(), parts);
      memory.copy_out(got[k].data() + at, parts, num_ranks * mine.size() * sizeof(float));
      at += num_ranks * mine.size();
    }
    const Result<void> done = memory.finish();
    EXPECT_TRUE(done.ok()) << done.error().message;
  });
  std::vector<float> want;
  for (size_t round = 0; round < kRounds; ++round) {
    for (size_t k = 0; k < num_ranks; ++k) {
      for (size_t i = 0; i < kCounts[round]; ++i) want.push_back(number(k, round, i));
    }
  }
  for (size_t k = 0; k < num_ranks; ++k) EXPECT_EQ(got[k], want) << "rank " << k;
}

INSTANTIATE_TEST_SUITE_P(Ranks, CudaCollective, testing::Values(1, 2, 4),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace troupe::kernels
