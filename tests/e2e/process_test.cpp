// Real processes: what `troupe` does as its users run it. Everything here is started by the test,
// listens on 127.0.0.1 with ports of its own, and is gone when the test ends.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <csignal>
#include <fstream>
#include <future>
#include <map>
#include <memory>
#include <set>
#include <span>

#include "actors/messages.hpp"
#include "actors/node_actor.hpp"
#include "actors/system.hpp"
#include "base/memory_room.hpp"
#include "kernels/cpu_claims.hpp"
#include "model/weights.hpp"
#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

class ClusterProcesses : public testing::Test {
 protected:
  void SetUp() override { configure(3, ""); }

  void configure(uint32_t num_shards, const std::string& more) {
    http_port_ = free_port();
    control_port_ = free_port();
    config_ = scratch_ / "cluster.yaml";
    std::ofstream out(config_);
    out << "name: test-" << getpid() << "\nmodel: " << model_ << "\nserved_name: demo\n"
        << "http: {host: \"" << http_host_ << "\", port: " << http_port_ << "}\n"
        << "control: {host: " << control_host_ << ", port: " << control_port_ << "}\n"
        << "nodes:\n  - {name: router-0, role: router}\n";
    for (uint32_t s = 0; s < num_shards; ++s) {
      out << "  - {name: shard-" << s << ", role: experts}\n";
    }
    out << more;
  }

  void TearDown() override {
    up_.reset();
    EXPECT_TRUE(wait_until([this] { return processes_with(config_.string()).empty(); },
                           std::chrono::seconds(5)))
        << "processes were left behind";
  }

  void start() {
    up_ = std::make_unique<Process>(
        std::vector<std::string>{kTroupe, "up", "--config", config_.string(), "--logs",
                                 config_.parent_path().string()},
        scratch_ / "up");
    const bool ready = wait_until([this] {
      return up_->ended() || up_->output().find("Serving until Ctrl-C") != std::string::npos;
    });
    ASSERT_TRUE(ready && !up_->ended()) << up_->output();
  }

  [[nodiscard]] std::string url() const {
    return "http://" + gateway::authority(http_host_, std::to_string(http_port_));
  }
  [[nodiscard]] ClusterView view() const { return ClusterView(url()); }
  [[nodiscard]] bool healthy() const { return view().healthy(); }
  [[nodiscard]] std::string log_of(const std::string& name) const {
    return read_file(config_.parent_path() / (name + ".log"));
  }
  [[nodiscard]] json::value status() const { return view().status(); }
  [[nodiscard]] std::string complete(const std::string& prompt, uint32_t max_tokens) const {
    return view().complete(prompt, max_tokens);
  }
  /// 0 if it is no member.
  [[nodiscard]] pid_t pid_of(const std::string& name) const {
    const json::value node = view().node(name);
    return node.is_null() ? 0 : static_cast<pid_t>(node.at("pid").to_number<int64_t>());
  }

  Scratch scratch_;
  fs::path config_;
  std::string model_ = kDemo;
  std::string http_host_ = "127.0.0.1", control_host_ = "127.0.0.1";
  uint16_t http_port_ = 0;
  uint16_t control_port_ = 0;
  std::unique_ptr<Process> up_;
};

TEST_F(ClusterProcesses, ServesTheTokensOfOneProcessAndShowsItself) {
  start();
  const Finished alone =
      troupe({"generate", "--model", kDemo, "--prompt", "What is Troupe?", "--max-tokens", "48",
              "--temperature", "0", "--ignore-eos", "--json"});
  ASSERT_EQ(alone.code, 0) << alone.output;
  EXPECT_EQ(complete("What is Troupe?", 48), json::parse(alone.output).at("text").as_string());

  const json::value cluster = status();
  EXPECT_TRUE(cluster.at("serving").as_bool());
  ASSERT_EQ(cluster.at("nodes").as_array().size(), 4U);
  int64_t experts = 0;
  for (const json::value& node : cluster.at("nodes").as_array()) {
    EXPECT_EQ(node.at("cpus").as_string(), "");
    experts += node.at("num_experts_held").to_number<int64_t>();
    for (const json::value& link : node.at("links").as_array()) {
      EXPECT_GT(link.at("frames_sent").to_number<int64_t>(), 0);
      EXPECT_NE(std::string(link.at("transport").as_string()).find("ucx"), std::string::npos);
    }
  }
  EXPECT_EQ(experts, 3 * 16);  // three MoE layers of sixteen

  const Finished shown = troupe({"status", "--url", url()});
  EXPECT_EQ(shown.code, 0);
  for (const char* word : {"router-0", "shard-2", "ucx", "serving"}) {
    EXPECT_NE(shown.output.find(word), std::string::npos) << shown.output;
  }
  const Finished chat = troupe({"chat", "--url", url(), "What is Troupe?"});
  EXPECT_EQ(chat.code, 0) << chat.output;
  EXPECT_GT(chat.output.size(), 1U);
}

TEST_F(ClusterProcesses, ServesTheTokensOfOneProcessWithAQuantisedModel) {
  model_ = scratch_ / "quantised";
  const Finished quantised =
      troupe({"quantize", kDemo, model_, "--scheme", "int8", "--experts", "int4-g32"});
  ASSERT_EQ(quantised.code, 0) << quantised.output;
  configure(3, "");
  start();
  bool differs_from_the_original = false;
  for (const std::string prompt : {"What is Troupe?", "Sort these words:", "1"}) {
    const auto alone = [&](const std::string& model) {
      const Finished done =
          troupe({"generate", "--model", model, "--prompt", prompt, "--max-tokens", "200",
                  "--temperature", "0", "--ignore-eos", "--json"});
      EXPECT_EQ(done.code, 0) << done.output;
      return done.code == 0 ? std::string(json::parse(done.output).at("text").as_string()) : "";
    };
    const std::string text = alone(model_);
    EXPECT_EQ(complete(prompt, 200), text) << prompt;
    differs_from_the_original = differs_from_the_original || text != alone(kDemo);
  }
  EXPECT_TRUE(differs_from_the_original) << "else nobody computed with integers";
}

TEST_F(ClusterProcesses, NodesPinTheirThreadsToDifferentCpusOrSayWhyNot) {
  if (allowed_cpus().size() < 2) GTEST_SKIP() << "needs two CPUs";
  start();
  const std::string not_pinned = complete("What is Troupe?", 16);
  EXPECT_THAT(pinned_cpus(pid_of("router-0")), testing::IsEmpty());
  up_.reset();
  control_host_ = "0.0.0.0";  // says nothing about who shares the machine, so nobody counts CPUs
  configure(1, "pin_threads: auto\n");
  start();
  EXPECT_EQ(complete("What is Troupe?", 16), not_pinned);
  std::set<uint32_t> taken;
  for (const char* name : {"router-0", "shard-0"}) {
    const std::vector<uint32_t> pinned = pinned_cpus(pid_of(name));
    EXPECT_EQ(view().node(name).at("cpus").as_string(), kernels::cpu_list(pinned)) << name;
    if (pinned.empty()) {
      EXPECT_THAT(log_of(name), testing::HasSubstr("are free of other processes of Troupe"));
    } else {
      EXPECT_EQ(pinned.size(), 1U) << "of " << name << " its one compute thread alone";
      EXPECT_TRUE(taken.insert(pinned[0]).second) << "both have CPU " << pinned[0];
      EXPECT_THAT(log_of(name), testing::Not(testing::HasSubstr("threads_not_pinned")));
    }
  }
}

TEST_F(ClusterProcesses, NodesOfOneMachineAreNotPinnedIfTheirOtherThreadsLackCpus) {
  const std::vector<uint32_t> allowed = allowed_cpus();
  if (allowed.size() < 2) GTEST_SKIP() << "needs two CPUs";
  configure(1, "pin_threads: auto\n");  // a compute thread for each of two CPUs
  ASSERT_TRUE(kernels::run_this_thread_on(std::span(allowed).first(2)).ok());
  start();
  EXPECT_TRUE(kernels::run_this_thread_on(allowed).ok());
  for (const char* name : {"router-0", "shard-0"}) {
    EXPECT_THAT(pinned_cpus(pid_of(name)), testing::IsEmpty());
    EXPECT_EQ(view().node(name).at("cpus").as_string(), "");
    EXPECT_THAT(log_of(name), testing::HasSubstr("4 busy threads together, more than the 2 CPUs"));
  }
}

TEST_F(ClusterProcesses, ServesAtAnAddressOfIpv6) {
  if (!has_ipv6()) GTEST_SKIP() << "needs the address ::1";
  http_host_ = "::1";
  configure(1, "");
  start();
  EXPECT_TRUE(healthy());
}

TEST_F(ClusterProcesses, TheCheckOfItsIntegrityNamesWhoDoesNotAnswer) {
  configure(3, "heartbeat: {interval: 1s, timeout: 20s}\n");
  start();
  const Finished whole = troupe({"status", "--check", "--url", url()});
  EXPECT_EQ(whole.code, 0) << whole.output;
  EXPECT_NE(whole.output.find("integrity: nothing wrong"), std::string::npos) << whole.output;
  const pid_t victim = pid_of("shard-1");
  ASSERT_GT(victim, 0);
  kill(victim, SIGSTOP);
  const Finished table = troupe({"status", "--check", "--url", url()});
  const Finished raw = troupe({"status", "--check", "--json", "--url", url()});
  kill(victim, SIGCONT);
  for (const Finished& shown : {table, raw}) {
    EXPECT_NE(shown.code, 0) << shown.output;
    EXPECT_NE(shown.output.find("shard-1: it did not answer"), std::string::npos) << shown.output;
  }
}

TEST_F(ClusterProcesses, WorksOverTcpAsOverSharedMemory) {
  start();
  const std::string shared_memory = complete("Sort these words:", 32);
  up_.reset();
  configure(2, "transport: {wires: net}\n");
  start();
  EXPECT_EQ(complete("Sort these words:", 32), shared_memory);
  const json::value cluster = status();
  for (const json::value& node : cluster.at("nodes").as_array()) {
    for (const json::value& link : node.at("links").as_array()) {
      EXPECT_EQ(std::string(link.at("transport").as_string()).find("shm"), std::string::npos);
    }
  }
}

TEST_F(ClusterProcesses, AKilledShardChangesNoTokenAndComesBack) {
  start();
  const std::string unharmed = complete("1", 2000);
  const pid_t victim = pid_of("shard-1");
  ASSERT_GT(victim, 0);
  const auto stream = view().harm_a_stream([&] { kill(victim, SIGKILL); });
  EXPECT_EQ(stream.error, "");
  EXPECT_TRUE(stream.done);
  EXPECT_EQ(stream.text, unharmed);
  ASSERT_TRUE(wait_until([this] { return view().serves_with(4); }));
  EXPECT_NE(pid_of("shard-1"), victim);
  EXPECT_EQ(complete("1", 2000), unharmed);
}

TEST_F(ClusterProcesses, AShardThatKeepsDyingIsLeftOutAndTheOthersServe) {
  start();
  const std::string before = complete("1 + 1 =", 16);
  const auto given_up = [&] {
    return up_->output().find("process_keeps_ending") != std::string::npos;
  };
  pid_t killed = 0;
  for (int i = 0; i < 4; ++i) {  // one more than the budget
    pid_t victim = 0;
    ASSERT_TRUE(wait_until([&] {
      if (given_up()) return true;  // a life of its own accord was too short to be killed
      const pid_t pid = pid_of("shard-1");
      if (pid == 0 || pid == killed || !view().serves_with(4)) return false;
      victim = pid;
      return true;
    })) << i;
    if (victim == 0) break;
    kill(victim, SIGKILL);
    killed = victim;
  }
  ASSERT_TRUE(wait_until(given_up)) << up_->output();
  const std::string log = up_->output();
  const size_t end = log.find("process_keeps_ending");
  int num_ends = 0;
  for (size_t at = 0; (at = log.find("process_ended name=shard-1 ", at)) < end; ++at) {
    ++num_ends;
  }
  EXPECT_GE(num_ends, 3) << log;
  ASSERT_TRUE(wait_until([this] { return view().serves_with(3); }));
  EXPECT_EQ(complete("1 + 1 =", 16), before);
  EXPECT_FALSE(up_->ended());
}

TEST_F(ClusterProcesses, AStoppedShardIsNoticedByItsHeartbeatAndChangesNoToken) {
  start();
  const std::string unharmed = complete("1", 2000);
  const pid_t victim = pid_of("shard-2");
  ASSERT_GT(victim, 0);
  const auto stream = view().harm_a_stream([&] { kill(victim, SIGSTOP); });
  kill(victim, SIGCONT);
  EXPECT_EQ(stream.error, "");
  EXPECT_EQ(stream.text, unharmed);
  EXPECT_TRUE(wait_until([this] { return view().serves_with(4); }));
}

TEST_F(ClusterProcesses, AStoppedRouterEndsItsStreamsWithAnErrorWithinTwoSeconds) {
  start();
  const pid_t victim = pid_of("router-0");
  ASSERT_GT(victim, 0);
  const auto stream = view().harm_a_stream([&] { kill(victim, SIGSTOP); });
  kill(victim, SIGCONT);
  EXPECT_NE(stream.error.find("router-0"), std::string::npos) << stream.error;
  EXPECT_TRUE(stream.done);
  EXPECT_LT(stream.after, kLossIsTold);
  RecordProperty("told_after_ms", static_cast<int>(stream.after.count()));
  EXPECT_TRUE(wait_until([this] { return view().serves_with(4); }));
}

TEST_F(ClusterProcesses, AKilledRouterThatIsStartedAgainGoesOnWithItsStreams) {
  start();
  const std::string unharmed = complete("1", 2000);
  const pid_t victim = pid_of("router-0");
  const auto stream = view().harm_a_stream([&] { kill(victim, SIGKILL); });
  EXPECT_TRUE(stream.done);
  if (stream.error.empty()) {
    EXPECT_EQ(stream.text, unharmed);
  } else {  // a busy machine starts it too late
    EXPECT_LT(stream.after, kLossIsTold);
  }
  EXPECT_TRUE(wait_until([this] { return view().serves_with(4); }));
}

TEST_F(ClusterProcesses, AKilledRouterOrHeadIsStartedAgain) {
  start();
  const std::string before = complete("1 + 1 =", 16);
  kill(pid_of("router-0"), SIGKILL);
  ASSERT_TRUE(wait_until([this] { return !healthy(); }));
  ASSERT_TRUE(wait_until([this] { return view().serves_with(4); }));
  EXPECT_EQ(complete("1 + 1 =", 16), before);
  for (const pid_t pid : processes_with("head --config " + config_.string())) kill(pid, SIGKILL);
  ASSERT_TRUE(wait_until([this] { return !healthy(); }));
  ASSERT_TRUE(wait_until([this] { return view().serves_with(4); }));
  EXPECT_EQ(complete("1 + 1 =", 16), before);
}

TEST_F(ClusterProcesses, InterruptingEndsEveryProcess) {
  start();
  EXPECT_EQ(processes_with(config_.string()).size(), 6U);
  up_->signal(SIGINT);
  EXPECT_EQ(up_->wait(), 0) << up_->output();
  EXPECT_TRUE(processes_with(config_.string()).empty());
}

TEST_F(ClusterProcesses, KillingTheLauncherEndsEveryProcess) {
  start();
  up_->signal(SIGKILL);
  up_->wait();
  EXPECT_TRUE(wait_until([this] { return processes_with(config_.string()).empty(); }));
}

TEST_F(ClusterProcesses, ABusyPortIsSaidAndLeavesNothing) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{
      .sin_family = AF_INET, .sin_port = htons(http_port_), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  const Finished head = troupe({"head", "--config", config_.string()});
  close(fd);
  EXPECT_NE(head.code, 0);
  EXPECT_NE(head.output.find(std::to_string(http_port_)), std::string::npos) << head.output;
}

TEST_F(ClusterProcesses, NodesThatFitOnlyAloneAreRefusedBeforeAnyIsStarted) {
  const auto available = available_memory();
  ASSERT_TRUE(available.ok()) << available.error().message;
  // Pages of KV are touched when they are used, so that one such router starts.
  const model::ModelConfig model = model::Checkpoint::open(kDemo)->config();
  const uint64_t block_bytes = uint64_t{1024} * model.num_layers * model.kv_dim() * sizeof(float);
  const std::string limits = "limits: {kv_block_tokens: 1024, kv_blocks: " +
                             std::to_string(*available / 5 * 3 / block_bytes) + "}\n";
  configure(1, limits);
  start();
  EXPECT_TRUE(healthy());
  up_.reset();
  configure(1, "  - {name: router-1, role: router}\n" + limits);
  const fs::path logs = scratch_ / "logs";
  fs::create_directory(logs);
  const Finished up = troupe({"up", "--config", config_.string(), "--logs", logs.string()});
  EXPECT_EQ(up.code, 1) << up.output;
  EXPECT_TRUE(fs::is_empty(logs));
  for (const char* words :
       {"together need", "are available; lower limits.kv_blocks", "fewer nodes on this machine",
        "\n  router-0: ", "\n  router-1: ", "\n  shard-0: 0 B\n"}) {
    EXPECT_NE(up.output.find(words), std::string::npos) << words << "\n" << up.output;
  }
}

TEST_F(ClusterProcesses, GarbageOnTheControlPortHurtsNobody) {
  start();
  const std::string before = complete("1 + 1 =", 16);
  for (int i = 0; i < 20; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{.sin_family = AF_INET,
                        .sin_port = htons(control_port_),
                        .sin_addr = {htonl(INADDR_LOOPBACK)}};
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::string junk = i % 2 == 0 ? std::string(64, '\xff') : "GET / HTTP/1.1\r\n\r\n";
    EXPECT_GT(send(fd, junk.data(), junk.size(), MSG_NOSIGNAL), 0);
    close(fd);
  }
  EXPECT_EQ(complete("1 + 1 =", 16), before);
}

TEST_F(ClusterProcesses, ANodeThatTheConfigurationDoesNotNameIsRefused) {
  start();
  // Another configuration of the same cluster, with one node more than the head knows.
  const fs::path other = scratch_ / "other.yaml";
  std::ofstream(other) << read_file(config_) << "  - {name: stranger, role: experts}\n";
  const Finished node = troupe({"node", "--config", other.string(), "--name", "stranger"});
  EXPECT_NE(node.code, 0);
  EXPECT_NE(node.output.find("stranger"), std::string::npos) << node.output;
  EXPECT_TRUE(healthy());
}

/// A stream of greedy text, and how long its longest gap was.
struct TimedStream {
  std::string text;
  std::chrono::microseconds longest_gap{0};
};
TimedStream timed_stream(const ClusterView& view, const std::function<void()>& at_first = {},
                         uint32_t max_tokens = 2000) {
  TimedStream stream;
  std::optional<Clock::time_point> last;
  const auto response = view.client().post_stream(
      "/v1/completions",
      R"({"model":"demo","prompt":"1","temperature":0,"ignore_eos":true,"stream":true,)"
      R"("max_tokens":)" +
          std::to_string(max_tokens) + "}",
      [&](std::string_view data) {
        const auto now = Clock::now();
        if (last) {
          stream.longest_gap =
              std::max(stream.longest_gap,
                       std::chrono::duration_cast<std::chrono::microseconds>(now - *last));
        } else if (at_first) {
          at_first();
        }
        last = now;
        if (data == "[DONE]") return true;
        const json::value event = json::parse(data);
        EXPECT_TRUE(event.at("choices").is_array()) << data;
        stream.text += event.at("choices").at(0).at("text").as_string();
        return true;
      });
  EXPECT_TRUE(response.ok()) << response.error().message;
  return stream;
}

TEST_F(ClusterProcesses, ThePlacementChangesWhileAStreamGoesOnAsIfNothingHappened) {
  configure(3, "experts: {redundant: 2, rebalance_interval: 0s, half_life: 1s}\n");
  start();
  (void)timed_stream(view());  // the shards report what it asked of them
  const TimedStream undisturbed = timed_stream(view());
  std::atomic<bool> done = false;
  std::vector<std::string> changes;
  std::thread changing;
  const TimedStream stream = timed_stream(view(), [&] {
    changing = std::thread([&] {
      while (!done) {
        const Finished change = troupe({"experts", "rebalance", "--url", url()});
        EXPECT_EQ(change.code, 0) << change.output;
        changes.push_back(change.output);
      }
    });
  });
  done = true;
  changing.join();
  EXPECT_EQ(stream.text, undisturbed.text);
  const auto changed = std::ranges::count_if(
      changes, [](const auto& text) { return text.find("changed without") != text.npos; });
  EXPECT_GE(changed, 1) << changes.front();
  const json::value cluster = status();
  EXPECT_EQ(cluster.at("requests").at("resumed_total").to_number<int64_t>(), 0);
  EXPECT_GE(cluster.at("epoch").to_number<int64_t>(), 1 + changed);
  int64_t held = 0;
  for (const json::value& node : cluster.at("nodes").as_array()) {
    held += node.at("num_experts_held").to_number<int64_t>();
  }
  EXPECT_EQ(held, 3 * (16 + 2)) << "what is old was dropped";
  std::printf("%td changes; longest gap %.1f ms, undisturbed %.1f ms\n", changed,
              static_cast<double>(stream.longest_gap.count()) / 1e3,
              static_cast<double>(undisturbed.longest_gap.count()) / 1e3);
  EXPECT_LT(stream.longest_gap, std::chrono::seconds(1)) << "as if an epoch had been formed";

  const Finished shown = troupe({"experts", "--url", url(), "--all"});
  EXPECT_EQ(shown.code, 0) << shown.output;
  for (const char* word : {"balancedness", "shard-2", "HOLDERS"}) {
    EXPECT_NE(shown.output.find(word), std::string::npos) << shown.output;
  }
  const Finished raw = troupe({"experts", "--url", url(), "--json"});
  EXPECT_EQ(json::parse(raw.output).at("layers").as_array().size(), 3U);
  EXPECT_EQ(troupe({"experts", "shuffle", "--url", url()}).code, 2);
}

TEST_F(ClusterProcesses, RoutersAreDrainedByTurnsWhileAStreamGoesOnWithTheSameTokens) {
  constexpr uint32_t kMaxTokens = 1500;
  configure(2, "  - {name: router-1, role: router}\n");
  start();
  const Finished alone =
      troupe({"generate", "--model", kDemo, "--prompt", "1", "--max-tokens",
              std::to_string(kMaxTokens), "--temperature", "0", "--ignore-eos", "--json"});
  ASSERT_EQ(alone.code, 0) << alone.output;
  const TimedStream undisturbed = timed_stream(view(), {}, kMaxTokens);
  std::jthread draining;
  const auto drain_by_turns = [&] {
    draining = std::jthread([&](const std::stop_token& stop) {
      for (size_t i = 0; !stop.stop_requested(); ++i) {
        const std::string router = "router-" + std::to_string(i % 2);
        for (const char* command : {"drain", "undrain"}) {
          const Finished said = troupe({command, router, "--url", url()});
          EXPECT_EQ(said.code, 0) << said.output;
        }
      }
    });
  };
  const TimedStream stream = timed_stream(view(), drain_by_turns, kMaxTokens);
  draining = {};
  EXPECT_EQ(stream.text, json::parse(alone.output).at("text").as_string());
  const auto num_moves = status().at("requests").at("resumed_total").to_number<int64_t>();
  EXPECT_GE(num_moves, 2) << "there and back";
  RecordProperty("moves", std::to_string(num_moves));
  RecordProperty("longest_gap_us", std::to_string(stream.longest_gap.count()));
  RecordProperty("undisturbed_longest_gap_us", std::to_string(undisturbed.longest_gap.count()));
  std::printf("%td moves; longest gap %.1f ms, undisturbed %.1f ms\n",
              static_cast<ptrdiff_t>(num_moves),
              static_cast<double>(stream.longest_gap.count()) / 1e3,
              static_cast<double>(undisturbed.longest_gap.count()) / 1e3);
}

TEST_F(ClusterProcesses, AChangeOfPlacementThatCannotBeginIsAnErrorWithItsCause) {
  Process head({kTroupe, "head", "--config", config_.string()}, scratch_ / "head");
  ASSERT_TRUE(wait_until([&] { return head.ended() || view().client().get("/ping").ok(); }));
  ASSERT_FALSE(head.ended()) << head.output();
  const Finished change = troupe({"experts", "rebalance", "--url", url()});
  EXPECT_EQ(change.code, 3) << change.output;
  EXPECT_NE(change.output.find("waiting for router-0"), std::string::npos) << change.output;
  EXPECT_EQ(troupe({"experts", "--url", url()}).code, 0) << "who asks only is told";
}

TEST_F(ClusterProcesses, ANodeWithAnotherCheckpointIsRefused) {
  start();
  std::string other = read_file(config_);
  const std::string model = std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models/v3-fp8";
  other.replace(other.find(kDemo), kDemo.size(), model);
  std::ofstream(scratch_ / "other.yaml") << other;
  const Finished node =
      troupe({"node", "--config", (scratch_ / "other.yaml").string(), "--name", "shard-0"});
  EXPECT_EQ(node.code, 2) << "starting it again would not help";
  EXPECT_NE(node.output.find("give both the same checkpoint"), std::string::npos) << node.output;
  EXPECT_TRUE(healthy());
}

TEST_F(ClusterProcesses, ANodeOfAnotherVersionIsRefused) {
  start();
  // This process plays the node; there is no binary of another version to start.
  actors::SystemConfig system_config(
      {.network = true, .cluster = "test-" + std::to_string(getpid())});
  caf::actor_system system(system_config);
  const auto head = system.middleman().remote_actor("127.0.0.1", control_port_);
  ASSERT_TRUE(head) << system.render(head.error());
  std::promise<Error> end;
  const auto worker = system.spawn([]() -> caf::behavior { return {[](int) {}}; });
  system.spawn(actors::node_actor, *head, worker,
               actors::NodeActorOptions{.info = {.id = actors::fresh_node_id(),
                                                 .name = "shard-0",
                                                 .role = cluster::Role::kExperts,
                                                 .version = "0.0.1-other"},
                                        .on_end = [&](const Error& e) { end.set_value(e); },
                                        .on_accepted = [] { ADD_FAILURE(); }});
  auto ended = end.get_future();
  ASSERT_EQ(ended.wait_for(kPatience), std::future_status::ready);
  const Error reason = ended.get();
  EXPECT_EQ(reason.code, Code::kInvalidArgument);
  EXPECT_NE(reason.message.find("'0.0.1-other'"), std::string::npos) << reason.message;
  EXPECT_NE(reason.message.find("install the same version"), std::string::npos) << reason.message;
  caf::anon_send_exit(worker, caf::exit_reason::kill);
  EXPECT_TRUE(healthy());
}

TEST_F(ClusterProcesses, IdleProcessesUseNextToNoCpu) {
  start();
  EXPECT_FALSE(complete("1 + 1 =", 16).empty());  // every thread has been awake
  std::map<pid_t, std::chrono::milliseconds> before;
  for (const pid_t pid : processes_with(config_.string())) before[pid] = cpu_time(pid);
  ASSERT_EQ(before.size(), 6U);
  constexpr std::chrono::milliseconds kIdle{3000};
  std::this_thread::sleep_for(kIdle);  // what is measured is this time
  for (const auto& [pid, used] : before) {
    EXPECT_LT(cpu_time(pid) - used, kIdle / 20)
        << read_file("/proc/" + std::to_string(pid) + "/cmdline");
  }
}

TEST_F(ClusterProcesses, PinsThatCannotBeMetAreAConfigurationError) {
  configure(2, "placement:\n  - {node: shard-0, layers: 1-1, experts: 50-60}\n");  // of 16
  const Finished head = troupe({"head", "--config", config_.string()});
  EXPECT_EQ(head.code, 2);
  EXPECT_NE(head.output.find("placement"), std::string::npos) << head.output;
}

TEST(CommandLine, HelpIsCompleteAndMistakesAreExplained) {
  const Finished help = troupe({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* command :
       {"up", "status", "experts", "chat", "head", "node", "generate", "logits", "eval", "tokenize",
        "detokenize", "show", "config", "version"}) {
    EXPECT_NE(help.output.find(std::string("  ") + command + " "), std::string::npos) << command;
    if (std::string(command) == "version") continue;
    const Finished one = troupe({command, "--help"});
    EXPECT_EQ(one.code, 0) << command;
    EXPECT_NE(one.output.find("usage: troupe " + std::string(command)), std::string::npos);
  }
  EXPECT_EQ(troupe({}).code, 2);
  const Finished typo = troupe({"genrate"});
  EXPECT_EQ(typo.code, 2);
  EXPECT_NE(typo.output.find("did you mean 'generate'"), std::string::npos) << typo.output;
  const Finished option = troupe({"show", "--modle", kDemo});
  EXPECT_EQ(option.code, 2);
  EXPECT_NE(option.output.find("did you mean '--model'"), std::string::npos) << option.output;
}

TEST(CommandLine, EvalComparesAModelWithAnother) {
  const Finished same =
      troupe({"eval", kDemo, "--against", kDemo, "--positions", "50", "--threads", "1"});
  EXPECT_EQ(same.code, 0) << same.output;
  EXPECT_NE(same.output.find("positions            50\n"), std::string::npos) << same.output;
  EXPECT_NE(same.output.find("top-1 agreement      100.00 %\n"), std::string::npos);
  EXPECT_NE(same.output.find("logits' error        0.00 %\n"), std::string::npos);
  const std::string coarse = ::testing::TempDir() + "coarse-" + std::to_string(getpid());
  ASSERT_EQ(troupe({"quantize", kDemo, coarse, "--scheme", "int4-g128"}).code, 0);
  const Finished other =
      troupe({"eval", coarse, "--against", kDemo, "--positions", "50", "--threads", "1"});
  std::filesystem::remove_all(coarse);
  EXPECT_EQ(other.code, 0) << other.output;
  double error = 0;
  const size_t at = other.output.find("logits' error");
  ASSERT_NE(at, std::string::npos) << other.output;
  ASSERT_EQ(std::sscanf(other.output.c_str() + at, "logits' error %lf", &error), 1);
  EXPECT_GT(error, 1);  // percent
  EXPECT_LT(error, 60);
  EXPECT_EQ(troupe({"eval", kDemo, "--against", kDemo, "--positions", "0"}).code, 2);
  EXPECT_EQ(troupe({"eval", kDemo, "--against", "/nonexistent"}).code, 2);
}

TEST(CommandLine, MissingModelsAndWrongInputAreUsageErrors) {
  EXPECT_EQ(troupe({"show", "/nonexistent"}).code, 2);
  EXPECT_EQ(troupe({"generate", "--model", kDemo}).code, 2);
  EXPECT_EQ(troupe({"generate", "--model", kDemo, "--tokens", "1,x"}).code, 2);
  for (const char* device : {"gpu", "cuda", "cuda:", "cuda:x", "cuda:-1"}) {
    const Finished refused =
        troupe({"generate", "--model", kDemo, "--tokens", "1", "--device", device});
    EXPECT_EQ(refused.code, 2) << device;
    EXPECT_NE(refused.output.find("--device must be cpu or cuda:"), std::string::npos) << device;
  }
  EXPECT_EQ(troupe({"logits", "--model", kDemo, "--tokens", "99999999"}).code, 2);
  EXPECT_EQ(troupe({"config", "validate", "/nonexistent.yaml"}).code, 2);
  EXPECT_EQ(troupe({"status", "--url", "http://127.0.0.1:1"}).code, 3);
  for (const char* config : {"demo.yaml", "several_machines.yaml"}) {
    const std::string path = std::string(TROUPE_SOURCE_DIR) + "/deploy/" + config;
    EXPECT_EQ(troupe({"config", "validate", path}).code, 0) << config;
  }
}

TEST(CommandLine, ANodeSaysWhyItCannotComputeOnItsGpu) {
  const std::string path = ::testing::TempDir() + "gpus-" + std::to_string(getpid()) + ".yaml";
  std::ofstream(path) << "model: " << kDemo << "\nnodes:\n"
                      << "  - {name: r, role: router, device: cuda:99}\n"
                      << "  - {name: s, role: experts, device: cuda:99}\n";
  for (const char* node : {"r", "s"}) {
    const Finished refused = troupe({"node", "--config", path, "--name", node});
    EXPECT_NE(refused.code, 0);
    const bool without_cuda =
        refused.output.find("cuda:99: this troupe has no CUDA backend") != std::string::npos;
    const bool without_gpu = refused.output.find("GPU 99") != std::string::npos;
    EXPECT_TRUE(without_cuda || without_gpu) << refused.output;
  }
  std::filesystem::remove(path);
}

TEST(CommandLine, TokenizeAndDetokenizeAreInverse) {
  const std::string text = "What is 12 + 30? 三百";
  const Finished ids = troupe({"tokenize", "--model", kDemo, text});
  ASSERT_EQ(ids.code, 0) << ids.output;
  const Finished back =
      troupe({"detokenize", "--model", kDemo, ids.output.substr(0, ids.output.size() - 1)});
  EXPECT_EQ(back.output, text + "\n");
}

TEST(ProbeTcp, FailsAtOnceWhereNobodyListens) {
  const auto probed = actors::probe_tcp("127.0.0.1", free_port(), seconds(1));
  ASSERT_FALSE(probed.ok());
  EXPECT_EQ(probed.error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace troupe
