// A device fails while a whole cluster computes on emulated ones (tests/simt/emulated_gpus.cpp), in
// processes that `troupe up` started: the node ends its own, its requests lose nothing, and what is
// started in its place computes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

using ::testing::HasSubstr;
namespace json = boost::json;

const std::string kTroupeOfThese = std::string(TROUPE_BINARY_DIR) + "/emulated_troupe";
constexpr uint32_t kAnswer = 8;
constexpr int kLaunches = 20;  ///< to come before a device fails: fewer than a token takes

/// Two routers on cuda:0 and cuda:1, two shards on cuda:2 and cuda:3.
class EmulatedDevices : public testing::Test {
 protected:
  void SetUp() override { configure("cuda:0", "cuda:1"); }
  void configure(const std::string& router_0, const std::string& router_1) {
    const uint16_t http_port = free_port();
    // One CPU may have all processes to emulate: nobody is silent for as long as that takes.
    std::ofstream(config_) << "name: test-" << getpid() << "\nmodel: " << kDemo
                           << "\nserved_name: demo\nhttp: {port: " << http_port
                           << "}\ncontrol: {port: " << free_port()
                           << "}\nheartbeat: {interval: 1s, timeout: 30s}\nnodes:\n"
                              "  - {name: router-0, role: router, device: \""
                           << router_0
                           << "\"}\n"
                              "  - {name: router-1, role: router, device: \""
                           << router_1
                           << "\"}\n"
                              "  - {name: shard-0, role: experts, device: cuda:2}\n"
                              "  - {name: shard-1, role: experts, device: cuda:3}\n";
    url_ = "http://127.0.0.1:" + std::to_string(http_port);
    view_ = std::make_unique<ClusterView>(url_);
  }

  void start() {
    ASSERT_EQ(setenv("TROUPE_EMULATED_FAULTS", scratch_.path().c_str(), 1), 0);
    up_ = std::make_unique<Process>(std::vector<std::string>{kTroupeOfThese, "up", "--config",
                                                             config_, "--logs", scratch_.path()},
                                    scratch_ / "up");
    ASSERT_TRUE(wait_until([&] { return up_->ended() || view_->serves_with(4); }));
    ASSERT_FALSE(up_->ended()) << up_->output();
  }

  /// In the middle of an answer the device of a node fails, which `chosen` names then.
  void expect_the_same_tokens_when_it_fails(const std::function<std::string()>& chosen) {
    const ClusterView::HarmedStream whole = view_->harm_a_stream([] {}, kAnswer);
    ASSERT_TRUE(whole.done && whole.error.empty()) << whole.error;
    json::value victim;
    const ClusterView::HarmedStream harmed = view_->harm_a_stream(
        [&] {
          victim = view_->node(chosen());
          std::ofstream(scratch_ / last_of(victim)) << kLaunches;
        },
        kAnswer);
    EXPECT_EQ(harmed.error, "") << read_file(scratch_ / "head.log");
    EXPECT_TRUE(harmed.done);
    EXPECT_EQ(harmed.text, whole.text);
    const std::string name(victim.at("name").as_string());
    EXPECT_THAT(read_file(scratch_ / (name + ".log")),
                HasSubstr("device_failed reason=\"emulated " + last_of(victim) +
                          ": an illegal memory access was encountered\""));
    // Started again, with a device that is whole.
    ASSERT_TRUE(wait_until([&] { return view_->serves_with(4); })) << up_->output();
    EXPECT_THAT(up_->output(), HasSubstr("process_ended name=" + name + " how=\"exit code 1\""));
    EXPECT_NE(view_->node(name).at("pid"), victim.at("pid"));
    EXPECT_EQ(view_->node(name).at("device"), victim.at("device"));
    // Once: what is started again waits until no request runs.
    EXPECT_EQ(view_->status().at("requests").at("resumed_total").to_number<int64_t>(), 1);
    restarted_ = name;
    expected_ = whole.text;
  }

  /// The last device of a node: "cuda:5" of "cuda:1,5".
  static std::string last_of(const json::value& node) {
    const std::string devices(node.at("device").as_string());
    return "cuda:" + devices.substr(devices.find_last_of(":,") + 1);
  }

  void expect_it_computes_again() {
    const int64_t before = rows_computed(restarted_);
    EXPECT_EQ(view_->complete("1", kAnswer), expected_);
    EXPECT_TRUE(wait_until([&] { return rows_computed(restarted_) > before; }));
  }

  void expect_the_router_that_computes_may_fail() {
    ASSERT_NO_FATAL_FAILURE(start());
    ASSERT_NO_FATAL_FAILURE(expect_the_same_tokens_when_it_fails([&] {
      return rows_computed("router-0") > rows_computed("router-1") ? "router-0" : "router-1";
    }));
    const std::string other = restarted_ == "router-0" ? "router-1" : "router-0";
    const Finished drained = finish({kTroupeOfThese, "drain", other, "--url", url_});
    ASSERT_EQ(drained.code, 0) << drained.output;
    expect_it_computes_again();
  }

  [[nodiscard]] int64_t rows_computed(const std::string& node) const {
    return view_->node(node).at("rows_computed").to_number<int64_t>();
  }

  Scratch scratch_;
  const std::filesystem::path config_ = scratch_ / "cluster.yaml";
  std::string url_;
  std::unique_ptr<Process> up_;
  std::unique_ptr<ClusterView> view_;
  std::string restarted_, expected_;
};

TEST_F(EmulatedDevices, AShardWhoseDeviceFailsChangesNoTokenAndIsStartedAgain) {
  ASSERT_NO_FATAL_FAILURE(start());
  ASSERT_NO_FATAL_FAILURE(expect_the_same_tokens_when_it_fails([] { return "shard-1"; }));
  expect_it_computes_again();
}

TEST_F(EmulatedDevices, ARouterWhoseDeviceFailsChangesNoTokenAndIsStartedAgain) {
  expect_the_router_that_computes_may_fail();
}

TEST_F(EmulatedDevices, ARouterOneOfWhoseDevicesFailsChangesNoTokenAndIsStartedAgain) {
  configure("cuda:0,4", "cuda:1,5");
  expect_the_router_that_computes_may_fail();
}

TEST_F(EmulatedDevices, OfDevicesThatCannotShareTheModelNothingIsLoaded) {
  configure("cuda:0,1,4,5", "cuda:6");
  const Finished node = finish({kTroupeOfThese, "node", "--config", config_, "--name", "router-0"});
  EXPECT_EQ(node.code, 1) << node.output;
  EXPECT_THAT(node.output, HasSubstr("num_attention_heads is 6, and 4 devices cannot share it"));
}

TEST_F(EmulatedDevices, GenerateTheSameTokensTogether) {
  const auto generated = [&](const std::string& device) {
    return finish({kTroupeOfThese, "generate", "--model", kDemo, "--device", device, "--chat",
                   "What is 12 + 30?", "--temperature", "0", "-n", "4"});
  };
  const Finished alone = generated("cuda:0"), together = generated("cuda:0,1");
  EXPECT_EQ(alone.code, 0) << alone.output;
  EXPECT_EQ(together.code, 0) << together.output;
  EXPECT_EQ(together.output, alone.output);
  EXPECT_THAT(generated("cuda:0,0").output, HasSubstr("--device must be cpu or cuda:"));
}

TEST_F(EmulatedDevices, GatherInBenchKernels) {
  const auto measured = [&](const std::string& device) {
    return finish({kTroupeOfThese, "bench", "kernels", "--device", device, "--shape", "tiny",
                   "--rows", "3", "--filter", "all_gather heads", "--time", "0", "-o", "csv"});
  };
  const Finished alone = measured("cuda:0"), together = measured("cuda:0,1");
  EXPECT_EQ(alone.code, 0) << alone.output;
  EXPECT_THAT(alone.output, HasSubstr("heads 128 ranks 1"));
  EXPECT_EQ(together.code, 0) << together.output;
  EXPECT_THAT(together.output, HasSubstr("heads 128 ranks 2"));
  EXPECT_THAT(measured("cuda:0,1,4").output, HasSubstr("3 devices cannot share it"));
}

TEST_F(EmulatedDevices, AreComparedWithCpusByEval) {
  const Finished compared = finish({kTroupeOfThese, "eval", kDemo, "--device", "cuda:0",
                                    "--against", kDemo, "--positions", "16"});
  EXPECT_EQ(compared.code, 0) << compared.output;
  EXPECT_THAT(compared.output, HasSubstr("positions            16"));
  EXPECT_THAT(compared.output, Not(HasSubstr("error        0.00 %"))) << "they round differently";
}

TEST_F(EmulatedDevices, ARouterThatDoesNotFitOnItsDeviceSaysWhatItNeedsAndIsNotStarted) {
  ASSERT_EQ(setenv("TROUPE_EMULATED_MEMORY", std::to_string(120U << 20U).c_str(), 1), 0);
  const Finished node = finish({kTroupeOfThese, "node", "--config", config_, "--name", "router-0"});
  unsetenv("TROUPE_EMULATED_MEMORY");
  EXPECT_EQ(node.code, 1) << node.output;
  EXPECT_THAT(
      node.output,
      HasSubstr("on the device, beside 96.00 MiB that operations have reserved, weights ("));
  EXPECT_THAT(node.output,
              HasSubstr("), KV blocks (20.00 MiB) and activations of the largest step"));
  EXPECT_THAT(node.output, HasSubstr(" and 22.75 MiB are available; lower limits.kv_blocks"));
}

TEST_F(EmulatedDevices, ARouterWhoseRoomOthersTakeWhenItWasCountedSaysSoAndIsNotStarted) {
  const uint64_t all = 512U << 20U;  // enough, and 96 MiB are reserved
  ASSERT_EQ(setenv("TROUPE_EMULATED_MEMORY", std::to_string(all).c_str(), 1), 0);
  ASSERT_EQ(setenv("TROUPE_EMULATED_FOR_OTHERS", std::to_string(all - (120U << 20U)).c_str(), 1),
            0);
  const Finished node = finish({kTroupeOfThese, "node", "--config", config_, "--name", "router-0"});
  unsetenv("TROUPE_EMULATED_MEMORY");
  unsetenv("TROUPE_EMULATED_FOR_OTHERS");
  EXPECT_EQ(node.code, 1) << node.output;
  EXPECT_THAT(node.output, HasSubstr("troupe: taking memory for "));
  EXPECT_THAT(node.output, HasSubstr("; another process may have taken it since it was counted: "));
  EXPECT_THAT(node.output, HasSubstr("lower limits.kv_blocks"));
  EXPECT_THAT(node.output, Not(HasSubstr("device_failed")));
}

}  // namespace
}  // namespace troupe
