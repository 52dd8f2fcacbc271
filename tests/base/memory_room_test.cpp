#include "base/memory_room.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

namespace troupe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class MemoryRoom : public testing::Test {
 protected:
  MemoryRoom() {
    std::string name = (fs::temp_directory_path() / "troupe-test-XXXXXX").string();
    root_ = mkdtemp(name.data());
    std::ofstream(root_ / "meminfo") << "MemTotal:  8000 kB\nMemAvailable:  4000 kB\n";
  }
  ~MemoryRoom() override { fs::remove_all(root_); }

  fs::path root_;
};

TEST_F(MemoryRoom, IsWhatTheMachineHasOrLessByItsControlGroups) {
  const fs::path meminfo = root_ / "meminfo";
  EXPECT_EQ(*available_memory(meminfo, GroupLimits{}), 4000U * 1024);
  EXPECT_EQ(*available_memory(meminfo, GroupLimits{.memory_bytes = 900, .memory_left = 500}), 500U);
  EXPECT_EQ(*available_memory(meminfo, GroupLimits{.memory_left = 5000U << 10}), 4000U * 1024);
  EXPECT_EQ(*available_memory(meminfo, Error{Code::kUnsupported, "version 1"}), 4000U * 1024);
  EXPECT_EQ(available_memory(root_ / "none", GroupLimits{}).error().code, Code::kUnavailable);
}

TEST(MemoryCheck, RefusesByBothSizesWhatCannotFitAndNothingElse) {
  EXPECT_TRUE(check_memory_room("it needs", 100, 100U, "").ok());
  EXPECT_TRUE(check_memory_room("it needs", 100, Error{Code::kUnavailable, "no /proc"}, "").ok());
  const auto refused =
      check_memory_room("the model needs", 3U << 20, uint64_t{2} << 20, "fewer bits need less");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(refused.error().message,
            "the model needs 3.00 MiB of memory, and 2.00 MiB are available; fewer bits need less");
}

}  // namespace
}  // namespace troupe
