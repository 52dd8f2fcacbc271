#include "kernels/cpu_claims.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#include "kernels/thread_pool.hpp"
#include "tests/kernels/allowed_cpus.hpp"

namespace troupe::kernels {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CpuClaimsTest : public ::testing::Test {
 protected:
  CpuClaimsTest() { options_.directory = make_directory(); }
  ~CpuClaimsTest() override {
    EXPECT_TRUE(run_this_thread_on(allowed_).ok());  // as it was before
    fs::remove_all(options_.directory);
  }
  static fs::path make_directory() {
    std::string name = (fs::temp_directory_path() / "troupe-test-XXXXXX").string();
    return mkdtemp(name.data());
  }
  /// A machine with one node of memory for each CPU.
  void give_each_cpu_a_memory() {
    options_.system = options_.directory / "sys";
    fs::create_directories(options_.system / "node");
    std::ofstream(options_.system / "node/online") << "0-" << allowed_.size() - 1 << "\n";
    for (size_t i = 0; i < allowed_.size(); ++i) {
      const fs::path node = options_.system / "node" / ("node" + std::to_string(i));
      fs::create_directories(node);
      std::ofstream(node / "cpulist") << allowed_[i] << "\n";
    }
  }
  auto claim(size_t num_threads) { return CpuClaims::claim(num_threads, options_); }

  const std::vector<uint32_t> allowed_ = allowed_cpus();
  CpuClaimsOptions options_;
};

TEST_F(CpuClaimsTest, WhatOneHasNoOtherGetsUntilItIsReleased) {
  auto all = claim(allowed_.size());
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_EQ(std::set((*all)->cpus().begin(), (*all)->cpus().end()),
            std::set(allowed_.begin(), allowed_.end()));
  const auto other = claim(1);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, Code::kResourceExhausted);
  EXPECT_THAT(other.error().message, HasSubstr("0 are free"));
  all->reset();
  EXPECT_TRUE(claim(1).ok());
}

TEST_F(CpuClaimsTest, ClaimsAreDisjointAndThoseThatFailTakeNothing) {
  if (allowed_.size() < 2) GTEST_SKIP() << "needs two CPUs";
  const auto first = claim(1);
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(claim(allowed_.size()).ok());
  const auto rest = claim(allowed_.size() - 1);
  ASSERT_TRUE(rest.ok()) << rest.error().message;
  EXPECT_THAT((*rest)->cpus(), ::testing::Not(::testing::Contains((*first)->cpus()[0])));
}

TEST_F(CpuClaimsTest, NobodyClaimsWhereThereAreTooFewForAll) {
  options_.num_threads_together = allowed_.size() + 1;
  const auto refused = claim(1);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_THAT(refused.error().message, HasSubstr("more than the"));
  options_.num_threads_together = allowed_.size();
  EXPECT_TRUE(claim(1).ok());
}

TEST_F(CpuClaimsTest, AProcessThatIsKilledReleasesItsClaims) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto all = claim(allowed_.size());
    const char said = all.ok() ? 'y' : 'n';
    if (write(ready[1], &said, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char said = 0;
  ASSERT_EQ(read(ready[0], &said, 1), 1);
  EXPECT_EQ(said, 'y');
  EXPECT_FALSE(claim(1).ok());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(claim(allowed_.size()).ok());
  close(ready[0]);
  close(ready[1]);
}

TEST_F(CpuClaimsTest, OnlyCpusThatTheProcessMayUseAreChosen) {
  ASSERT_TRUE(run_this_thread_on({&allowed_.back(), 1}).ok());
  EXPECT_FALSE(claim(2).ok());
  const auto one = claim(1);
  ASSERT_TRUE(one.ok()) << one.error().message;
  EXPECT_THAT((*one)->cpus(), ::testing::ElementsAre(allowed_.back()));
}

TEST_F(CpuClaimsTest, StaysAtTheMemoryOfItsCpus) {
  if (allowed_.size() < 2) GTEST_SKIP() << "needs two CPUs";
  give_each_cpu_a_memory();
  const auto first = claim(1);
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(allowed_cpus(), (*first)->cpus());
}

TEST_F(CpuClaimsTest, PagesTakeTurnsAmongSeveralMemories) {
  if (allowed_.size() < 2) GTEST_SKIP() << "needs two CPUs";
  if (syscall(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0) != 0) GTEST_SKIP() << "not allowed";
  give_each_cpu_a_memory();
  const auto policy_with = [&](size_t num_threads) {
    int policy = -1;
    std::thread([&] {  // which takes its policy with it
      const auto claims = claim(num_threads);
      EXPECT_TRUE(claims.ok());
      EXPECT_EQ(syscall(SYS_get_mempolicy, &policy, nullptr, 0, nullptr, 0), 0);
    })
        .join();
    return policy;
  };
  EXPECT_EQ(policy_with(1), MPOL_DEFAULT);
  EXPECT_EQ(policy_with(2), MPOL_INTERLEAVE);
}

TEST_F(CpuClaimsTest, EveryUserCanOpenTheFilesWhateverTheUmask) {
  const mode_t umask_before = umask(0077);
  EXPECT_TRUE(claim(1).ok());
  umask(umask_before);
  size_t num_files = 0;
  for (const auto& entry : fs::directory_iterator(options_.directory)) {
    EXPECT_EQ(entry.status().permissions(), fs::perms{0644}) << entry.path();
    ++num_files;
  }
  EXPECT_EQ(num_files, allowed_.size() + 1);
}

TEST_F(CpuClaimsTest, SaysWhichDirectoryCannotBeUsed) {
  fs::remove_all(options_.directory);
  const auto refused = claim(1);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_THAT(refused.error().message, HasSubstr(options_.directory.string()));
}

TEST_F(CpuClaimsTest, APoolsThreadsRunOnTheirCpus) {
  ThreadPool pool(allowed_.size(), allowed_);
  pool.pin_caller();
  std::barrier all_there(static_cast<ptrdiff_t>(allowed_.size()));
  std::vector<std::vector<uint32_t>> on(allowed_.size());
  pool.parallel_for(allowed_.size(), [&](size_t i) {
    all_there.arrive_and_wait();  // so that each thread has one of the tasks
    on[i] = allowed_cpus();
  });
  std::vector<uint32_t> seen;
  for (const auto& cpus : on) {
    ASSERT_EQ(cpus.size(), 1U);
    seen.push_back(cpus[0]);
  }
  EXPECT_THAT(seen, ::testing::UnorderedElementsAreArray(allowed_));
}

TEST(CpuList, JoinsNeighbours) {
  EXPECT_EQ(cpu_list({}), "");
  EXPECT_EQ(cpu_list({3}), "3");
  EXPECT_EQ(cpu_list({0, 1}), "0-1");
  EXPECT_EQ(cpu_list({9, 2, 0, 8, 1, 5}), "0-2,5,8-9");
}

}  // namespace
}  // namespace troupe::kernels
