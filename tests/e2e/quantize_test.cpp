// What fewer bits cost on the tasks that the demo model was trained for, as `troupe quantize` and
// `troupe eval` tell.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>

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

}  // namespace
}  // namespace troupe
