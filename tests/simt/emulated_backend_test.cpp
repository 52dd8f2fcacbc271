// The emulated backend is as late as a GPU may be, so that the tests over it find who does not
// wait.

#include <string>
#include <thread>
#include <vector>

#include "kernels/array.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/simt/emulated_backend.hpp"

namespace troupe::kernels {
namespace {

using EmulatedBackend = Cuda;

TEST_F(EmulatedBackend, CopiesOutArriveAtFinishAndNotBefore) {
  const float* on_device = put(std::vector<float>{7});
  float value = 1;
  memory().copy_out(&value, on_device, sizeof value);
  EXPECT_EQ(value, 1);
  ASSERT_TRUE(memory().finish().ok());
  EXPECT_EQ(value, 7);
}

TEST_F(EmulatedBackend, CopiesInTakeWhatIsThereAtTheCall) {
  float value = 7;
  float* on_device = put(&value, 1);
  value = 1;
  EXPECT_EQ(get(on_device, 1), std::vector<float>{7});
}

TEST_F(EmulatedBackend, CopiesInFromPinnedMemoryTakeWhatIsThereWhenTheyAreDone) {
  const OwnedMemory pinned = allocate_on_host(memory(), sizeof(float)).value();
  auto* value = static_cast<float*>(pinned.get());
  *value = 7;
  float* on_device = room<float>(1);
  memory().copy_in(on_device, value, sizeof(float));
  *value = 1;
  EXPECT_EQ(get(on_device, 1), std::vector<float>{1});
}

/// One rank gathers from itself, so a thread can show what a stream has to do.
class EmulatedGather : public testing::Test {
 protected:
  float* put(float value) {
    held_.push_back(allocate(memory(), sizeof value).value());
    memory().copy_in(held_.back().get(), &value, sizeof value);
    return static_cast<float*>(held_.back().get());
  }
  Memory& memory() { return *group_.memory; }

  Backend group_ =
      make_emulated_group({.workspace_bytes = size_t{1} << 20U}, std::vector<EmulatedDevice>(1))
          .value();
  std::vector<OwnedMemory> held_;
};

TEST_F(EmulatedGather, IsDoneInTheOrderOfTheStreamAndNotBeforeSomebodyWaits) {
  float *part = put(7), *parts = put(1);
  float before = 0, after = 0;
  memory().copy_out(&before, parts, sizeof before);
  group_.collective->all_gather(part, 1, parts);
  memory().copy_out(&after, parts, sizeof after);
  EXPECT_EQ(after, 0);
  ASSERT_TRUE(memory().finish().ok());
  EXPECT_EQ(before, 1);
  EXPECT_EQ(after, 7);
}

TEST_F(EmulatedGather, FindsWhoAllocatesWhileOneIsUnderWay) {
  float *part = put(7), *parts = put(1);
  group_.collective->all_gather(part, 1, parts);
  ASSERT_TRUE(memory().finish().ok());
  put(2);
  ASSERT_TRUE(memory().finish().ok()) << "it is done";
  group_.collective->all_gather(part, 1, parts);
  put(3);
  const Result<void> done = memory().finish();
  ASSERT_FALSE(done.ok());
  EXPECT_NE(done.error().message.find("allocated while a gather is under way"), std::string::npos);
}

TEST(EmulatedGathers, FindRanksThatGatherDifferentCounts) {
  const Backend group =
      make_emulated_group({.workspace_bytes = size_t{1} << 20U}, std::vector<EmulatedDevice>(2))
          .value();
  std::vector<std::string> said(2);
  std::vector<std::thread> threads;
  for (size_t k = 0; k < 2; ++k) {
    threads.emplace_back([&, k] {
      Memory& memory = *group.of_rank(k).memory;
      const OwnedMemory room = allocate(memory, 64).value();
      auto* part = static_cast<float*>(room.get());
      group.of_rank(k).collective->all_gather(part, 1 + k, part + 2);
      const Result<void> done = memory.finish();
      said[k] = done.ok() ? "" : done.error().message;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(said[0], "rank 0 gathers 1 numbers and rank 1 2");
  EXPECT_EQ(said[1], "rank 1 gathers 2 numbers and rank 0 1");
}

TEST(EmulatedDevices, ThatHaveNoRoomToChooseTokensAreNotOpened) {
  const CudaOptions options{.workspace_bytes = size_t{1} << 20U, .staging_bytes = size_t{1} << 20U};
  const uint64_t reserved = options.workspace_bytes + options.staging_bytes;
  // Workspace, staging memory and what is between take less than the sampler's arrays.
  for (const uint64_t more : {64U << 10U, 512U << 10U}) {
    const auto refused = make_emulated_backend(options, {.memory_bytes = reserved + more});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
    EXPECT_EQ(
        refused.error().message.rfind("memory for choosing tokens: the emulated device has ", 0),
        0U)
        << refused.error().message;
  }
  EXPECT_TRUE(make_emulated_backend(options, {.memory_bytes = reserved + (2U << 20U)}).ok());
}

}  // namespace
}  // namespace troupe::kernels
