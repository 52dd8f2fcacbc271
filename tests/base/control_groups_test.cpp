#include "base/control_groups.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

namespace troupe {
namespace {

namespace fs = std::filesystem;

/// A tree of control groups with a process in one of them.
class Groups : public testing::Test {
 protected:
  Groups() {
    std::string name = (fs::temp_directory_path() / "troupe-test-XXXXXX").string();
    root_ = mkdtemp(name.data());
    write("cgroup.controllers", "cpu memory");
    put_process_in("/a/b");
  }
  ~Groups() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  void put_process_in(const std::string& group) const {
    write("self", "1:name=systemd:/elsewhere\n0::" + group);
  }
  [[nodiscard]] Result<GroupLimits> limits() const {
    return control_group_limits(root_, root_ / "self");
  }

  fs::path root_;
};

TEST_F(Groups, AreUnlimitedWithoutFilesAndAtMax) {
  ASSERT_TRUE(limits().ok());
  EXPECT_EQ(limits()->cpus, 0);
  write("a/b/cpu.max", "max 100000");
  write("a/b/memory.max", "max");
  EXPECT_EQ(limits()->cpus, 0);
  EXPECT_EQ(limits()->memory_bytes, UINT64_MAX);
}

TEST_F(Groups, LimitByTheTightestOnTheWayUp) {
  write("a/cpu.max", "150000 100000");
  write("a/b/cpu.max", "400000 100000");
  write("a/memory.max", "8000");
  write("a/b/memory.max", "4000");
  write("a/c/memory.max", "1");  // another group
  EXPECT_DOUBLE_EQ(limits()->cpus, 1.5);
  EXPECT_EQ(limits()->memory_bytes, 4000U);
}

TEST_F(Groups, LeaveOfTheirMemoryWhatIsNotTakenAndWhatFilesTakeInTheCache) {
  EXPECT_EQ(limits()->memory_left, UINT64_MAX);
  write("a/memory.max", "8000");
  EXPECT_EQ(limits()->memory_left, 8000U) << "nothing tells what is taken";
  write("a/memory.current", "6000");
  write("a/memory.stat", "anon 3500\nfile 2500\nshmem 100\ninactive_file 1400\nactive_file 1000");
  EXPECT_EQ(limits()->memory_left, 4400U);
  write("a/b/memory.max", "4000");
  write("a/b/memory.current", "3000");
  EXPECT_EQ(limits()->memory_left, 1000U) << "the tightest counts, whichever has the smaller limit";
  write("a/memory.current", "9000");  // above its limit for a moment
  write("a/memory.stat", "inactive_file 0");
  EXPECT_EQ(limits()->memory_left, 0U);
}

TEST_F(Groups, OfAContainerCountFromWhatIsMounted) {
  write("cpu.max", "50000 100000");
  for (const char* group : {"/", "/not/visible/here", "/../../x"}) {
    put_process_in(group);
    ASSERT_TRUE(limits().ok());
    EXPECT_DOUBLE_EQ(limits()->cpus, 0.5) << group;
  }
}

TEST_F(Groups, AreUnsupportedInVersion1AndUnavailableWithoutProc) {
  EXPECT_EQ(control_group_limits(root_, root_ / "missing").error().code, Code::kUnavailable);
  fs::remove(root_ / "cgroup.controllers");
  EXPECT_EQ(limits().error().code, Code::kUnsupported);
}

TEST(ThreadsAtOnce, AreNoMoreThanCpusAndTheQuotaHaveTimeFor) {
  const struct {
    uint32_t num_allowed;
    double quota;
    uint32_t threads;
  } cases[] = {
      {8, 0, 8},                                                      // no quota
      {8, 2, 2}, {8, 1.5, 2}, {8, 0.25, 1}, {8, 7.5, 8}, {8, 64, 8},  // tighter or wider
      {1, 2, 1}, {0, 0, 1},   {0, 3, 1},                              // and never none
  };
  for (const auto& c : cases) {
    EXPECT_EQ(num_threads_at_once(c.num_allowed, c.quota), c.threads)
        << c.num_allowed << " CPUs, quota " << c.quota;
  }
}

}  // namespace
}  // namespace troupe
