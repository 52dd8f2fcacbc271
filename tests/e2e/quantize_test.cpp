// `troupe quantize` as its users run it: what fewer bits cost on the tasks that the demo model was
// trained for, as `troupe eval` tells, and what becomes of runs that are ended half-way or refused.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

/// Some held-out examples of each task; those with long prompts take too long here.
size_t write_examples(const std::filesystem::path& path) {
  constexpr size_t kOfTask = 20;
  std::ifstream all(kDemo + "/eval.jsonl");
  std::ofstream some(path);
  std::map<std::string, size_t> taken;
  size_t count = 0;
  for (std::string line; std::getline(all, line);) {
    const boost::json::value example = boost::json::parse(line);
    const std::string task(example.at("task").as_string());
    if (task.starts_with("lookup") || taken[task]++ >= kOfTask) continue;
    some << line << "\n";
    ++count;
  }
  return count;
}

/// How many of `total` examples a model answers right.
size_t right_answers(const std::string& model, const std::string& examples, size_t total) {
  const Finished eval = troupe({"eval", model, "--examples", examples});
  EXPECT_EQ(eval.code, 0) << eval.output;
  size_t right = 0, asked = 0;
  const size_t at = eval.output.rfind("\nall ");
  EXPECT_NE(at, std::string::npos) << eval.output;
  if (at == std::string::npos) return 0;
  EXPECT_EQ(std::sscanf(eval.output.c_str() + at, " all %*f%% %zu/%zu", &right, &asked), 2);
  EXPECT_EQ(asked, total) << eval.output;
  return right;
}

TEST(Quantize, LosesNothingOnTheDemosTasksInInt8AndAtMostTwoPointsInInt4) {
  const Scratch scratch;
  const std::string examples = (scratch / "examples.jsonl").string();
  const size_t total = write_examples(examples);
  ASSERT_GE(total, 140U);
  const size_t original = right_answers(kDemo, examples, total);
  EXPECT_GE(original, total * 98 / 100);
  const auto quantised = [&](const std::string& scheme, const std::string& experts) {
    const std::string model = (scratch / (scheme + "+" + experts)).string();
    const Finished done =
        troupe({"quantize", kDemo, model, "--scheme", scheme, "--experts", experts});
    EXPECT_EQ(done.code, 0) << done.output;
    return right_answers(model, examples, total);
  };
  // Every machine computes the same bits, so these are counts without noise. But a change of the
  // arithmetic may turn an answer that hangs on two nearly equal logits. INT8 turned none of all
  // 950 examples: it is fewer than 3 in 950 of any like them (with 95 % confidence), 0.4 of these
  // 140. So one may be lost, and two are a loss.
  EXPECT_GE(quantised("int8", "int8") + 1, original);
  const size_t two_points = total * 2 / 100;
  EXPECT_GE(quantised("int8", "int4-g32") + two_points, original);
  EXPECT_GE(quantised("int4-g128", "int4-g128") + two_points, original);
}

/// How many files of weights are complete.
size_t num_complete(const std::string& directory) {
  size_t count = 0;
  std::error_code not_made_yet;
  for (const auto& entry : std::filesystem::directory_iterator(directory, not_made_yet)) {
    if (entry.path().extension() == ".safetensors") ++count;
  }
  return count;
}

std::map<std::string, std::string> files_of(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files[entry.path().filename()] = read_file(entry.path());
  }
  return files;
}

TEST(Quantize, KilledOrInterruptedHalfWayGoesOnToTheSameBytes) {
  const Scratch scratch;
  const std::string source = (scratch / "source").string(), whole = (scratch / "whole").string(),
                    ended = (scratch / "ended").string();
  // Of 98 million parameters: more than a second for one thread, and a dozen files.
  const Finished made =
      troupe({"make-model", source, "--shape", "tiny", "--layers", "200", "--scheme", "bf16"});
  ASSERT_EQ(made.code, 0) << made.output;
  const auto quantize_to = [&](const std::string& directory) {
    return std::vector<std::string>{kTroupe,    "quantize",   source, directory,   "--scheme",
                                    "int4-g32", "--file-mib", "4",    "--threads", "1"};
  };
  const Finished uninterrupted = finish(quantize_to(whole));
  ASSERT_EQ(uninterrupted.code, 0) << uninterrupted.output;

  const auto end_after_another_file = [&](int signal) {
    const size_t before = num_complete(ended);
    Process run(quantize_to(ended), scratch / "output");
    EXPECT_TRUE(wait_until([&] { return num_complete(ended) > before || run.ended(); }));
    run.signal(signal);
    const int code = run.wait();
    EXPECT_FALSE(std::filesystem::exists(ended + "/config.json")) << "ended too late";
    return Finished{code, run.output()};
  };
  EXPECT_EQ(end_after_another_file(SIGKILL).code, 128 + SIGKILL);
  const Finished interrupted = end_after_another_file(SIGINT);
  EXPECT_EQ(interrupted.code, 130);
  EXPECT_NE(interrupted.output.find("troupe: interrupted; the same command goes on"),
            std::string::npos)
      << interrupted.output;
  const Finished half = troupe({"show", ended});
  EXPECT_EQ(half.code, 2);
  EXPECT_NE(half.output.find("is not complete"), std::string::npos) << half.output;

  const size_t kept = num_complete(ended);
  EXPECT_GE(kept, 2U);
  const Finished resumed = finish(quantize_to(ended));
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_NE(
      resumed.output.find(std::to_string(kept) + " files were complete from an interrupted run"),
      std::string::npos)
      << resumed.output;
  EXPECT_TRUE(files_of(ended) == files_of(whole)) << "not byte for byte";
}

TEST(Quantize, NamesEverySchemeThatThereIsWhereOneIsUnknown) {
  const Scratch scratch;
  const std::string out = (scratch / "out").string();
  const std::string schemes =
      "bf16, fp8, int8, int8-g128, int4-g32, int4-g32-asym, int4-g128, int4-g128-asym";
  const auto expect_refused = [&](std::vector<std::string> arguments, const std::string& message) {
    const Finished refused = troupe(std::move(arguments));
    EXPECT_EQ(refused.code, 2);
    EXPECT_EQ(refused.output, "troupe: " + message + "\n");
    EXPECT_FALSE(std::filesystem::exists(out));
  };
  expect_refused({"quantize", kDemo, out, "--scheme", "int3"},
                 "--scheme must be one of " + schemes + ", keep, not 'int3'");
  expect_refused({"quantize", kDemo, out, "--scheme", "int8", "--experts", "keep"},
                 "--experts must be one of " + schemes + ", not 'keep'");
  expect_refused({"make-model", out, "--shape", "tiny", "--scheme", "keep"},
                 "--scheme must be one of " + schemes + ", not 'keep'");
  expect_refused({"quantize", kDemo, out, "--scheme", "int8", "--file-mib", "0"},
                 "--file-mib must be between 1 and 1048576");
}

}  // namespace
}  // namespace troupe
