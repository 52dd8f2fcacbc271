#include "base/kernel_file.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

namespace troupe {
namespace {

namespace fs = std::filesystem;

class KernelFile : public testing::Test {
 protected:
  KernelFile() {
    std::string name = (fs::temp_directory_path() / "troupe-test-XXXXXX").string();
    directory_ = mkdtemp(name.data());
  }
  ~KernelFile() override { fs::remove_all(directory_); }
  [[nodiscard]] fs::path file(const std::string& text) const {
    std::ofstream(directory_ / "file") << text;
    return directory_ / "file";
  }
  fs::path directory_;
};

TEST_F(KernelFile, GivesItsFirstLine) {
  EXPECT_EQ(*first_line(file("one\ntwo\n")), "one");
  EXPECT_EQ(*first_line(file("without an end")), "without an end");
  EXPECT_EQ(*first_line(file("\n")), "");
  EXPECT_EQ(first_line(file("")).error().code, Code::kUnavailable);
}

TEST_F(KernelFile, GivesTheLineOfAName) {
  const fs::path status =
      file("MemTotal:       16 kB\nmodel name\t: A CPU: fast \nCapEff:\t0f\nX:\n");
  EXPECT_EQ(*line_of(status, "MemTotal"), "16 kB");
  EXPECT_EQ(*line_of(status, "model name"), "A CPU: fast");
  EXPECT_EQ(*line_of(status, "CapEff"), "0f");
  EXPECT_EQ(*line_of(status, "X"), "");
  for (const char* missing : {"Mem", "MemTotal:", "16 kB", ""}) {
    EXPECT_EQ(line_of(status, missing).error().code, Code::kUnavailable) << missing;
  }
}

TEST_F(KernelFile, CountsBytes) {
  const fs::path status = file("A:  16 kB\nB: 16\nC: -1 kB\nD: x kB\nE: 16 MB\n");
  EXPECT_EQ(*bytes_of(status, "A"), 16384U);
  for (const char* other : {"B", "C", "D", "E", "F"}) {
    const auto bytes = bytes_of(status, other);
    ASSERT_FALSE(bytes.ok()) << other;
    EXPECT_NE(bytes.error().message.find(status.string() + " has no " + other), std::string::npos)
        << bytes.error().message;
  }
}

TEST_F(KernelFile, ThatIsMissingIsNamed) {
  const fs::path missing = directory_ / "missing";
  for (const Error& error : {first_line(missing).error(), line_of(missing, "A").error(),
                             bytes_of(missing, "A").error()}) {
    EXPECT_EQ(error.code, Code::kUnavailable);
    EXPECT_EQ(error.message, "cannot read " + missing.string() + ": No such file or directory");
  }
}

TEST(ProcFiles, ReadAsTheyAre) {
  EXPECT_GT(*bytes_of("/proc/meminfo", "MemTotal"), *bytes_of("/proc/self/status", "VmRSS"));
}

}  // namespace
}  // namespace troupe
