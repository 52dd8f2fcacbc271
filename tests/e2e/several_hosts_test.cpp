// A cluster over several hosts: what one host cannot show. hosts.hpp makes the hosts.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <boost/json.hpp>
#include <csignal>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "tests/e2e/hosts.hpp"
#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

namespace json = boost::json;
using std::chrono::milliseconds;

constexpr size_t kHead = 1, kRouter = 2, kShard0 = 3, kShard1 = 4;
const std::map<std::string, size_t> kPlaces = {
    {"head", kHead}, {"router-0", kRouter}, {"shard-0", kShard0}, {"shard-1", kShard1}};

/// What a service manager does for a node: starts it again after a failure.
constexpr const char* kServiceManager =
    R"(until "$@"; do echo "ended with exit code $?"; sleep 0.2; done)";

using Transports = std::map<std::string, std::string>;

int64_t number_at(const json::value& object, const char* key) {
  return object.at(key).to_number<int64_t>();
}

class SeveralHosts : public testing::Test {
 protected:
  void SetUp() override {
    hosts_ = std::make_unique<Hosts>(4, /*same_mac=*/true);
    if (!hosts_->problem().empty()) GTEST_SKIP() << hosts_->problem();
    visit_ = std::make_unique<Visit>(hosts_->fabric());
    configure("");
  }

  void configure(const std::string& more) {
    std::ofstream(config()) << "name: test\nmodel: " << kDemo << "\nserved_name: demo\n"
                            << "http: {host: 0.0.0.0, port: 8000}\n"
                            << "control: {host: " << Hosts::address(kHead) << ", port: 7600}\n"
                            << "nodes:\n  - {name: router-0, role: router}\n"
                            << "  - {name: shard-0, role: experts}\n"
                            << "  - {name: shard-1, role: experts}\n"
                            << more;
  }
  [[nodiscard]] std::string config() const { return (scratch_ / "cluster.yaml").string(); }

  void start(const std::string& name, size_t host) {
    std::vector<std::string> words{"/bin/sh", "-c", kServiceManager, "sh", kTroupe};
    if (name == "head") {
      words.insert(words.end(), {"head", "--config", config()});
    } else {
      words.insert(words.end(), {"node", "--config", config(), "--name", name});
    }
    processes_[name] = std::make_unique<Process>(words, scratch_ / name,
                                                 [&] { return hosts_->host(host).fork_inside(); });
  }
  void start(const std::string& name) { start(name, kPlaces.at(name)); }
  void start_all() {
    for (const auto& [name, host] : kPlaces) start(name);
    expect_serving();
  }

  void expect_serving() const {
    ASSERT_TRUE(wait_until([this] { return view_.serves_with(3); })) << outputs();
  }
  /// Nodes that lose the head end with an error and are started again; nothing else may happen.
  void expect_no_crash() const {
    for (const auto& [name, process] : processes_) {
      std::istringstream lines(process->output());
      for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("ended with")) continue;
        EXPECT_EQ(line, "ended with exit code 3") << name << "\n" << process->output();
      }
    }
  }
  [[nodiscard]] std::string output(const std::string& name) const {
    return processes_.at(name)->output();
  }
  [[nodiscard]] std::string outputs() const {
    std::string text;
    for (const auto& [name, process] : processes_) text += name + "\n" + process->output() + "\n";
    return text;
  }
  /// By what the router's links go, by the shard's name.
  [[nodiscard]] std::map<std::string, std::string> transports() const {
    const json::value cluster = view_.status();
    std::map<json::string, std::string> names;
    for (const json::value& node : cluster.at("nodes").as_array()) {
      names[node.at("id").as_string()] = node.at("name").as_string();
    }
    std::map<std::string, std::string> result;
    const json::value router = view_.node("router-0");
    for (const json::value& link : router.at("links").as_array()) {
      result[names[link.at("peer").as_string()]] = link.at("transport").as_string();
    }
    return result;
  }

  Scratch scratch_;
  std::unique_ptr<Hosts> hosts_;
  std::unique_ptr<Visit> visit_;
  const ClusterView view_{"http://" + Hosts::address(kHead) + ":8000"};
  std::map<std::string, std::unique_ptr<Process>> processes_;
};

TEST_F(SeveralHosts, GiveTheTokensOfOneProcess) {
  start_all();
  const Finished alone =
      troupe({"generate", "--model", kDemo, "--prompt", "What is Troupe?", "--max-tokens", "48",
              "--temperature", "0", "--ignore-eos", "--json"});
  ASSERT_EQ(alone.code, 0) << alone.output;
  EXPECT_EQ(view_.complete("What is Troupe?", 48),
            json::parse(alone.output).at("text").as_string());

  // Hosts that look alike: with one MAC address, and mostly the same pids.
  std::set<std::string> names;
  const json::value cluster = view_.status();
  for (const json::value& node : cluster.at("nodes").as_array()) {
    names.emplace(node.at("host").as_string());
    EXPECT_LT(number_at(node, "pid"), 20);
  }
  EXPECT_EQ(names, (std::set<std::string>{"host-2", "host-3", "host-4"}));
  EXPECT_EQ(transports(), (Transports{{"shard-0", "ucx:net"}, {"shard-1", "ucx:net"}}));
}

TEST_F(SeveralHosts, ShareMemoryWithinEachHostOnly) {
  start("head");
  start("router-0");
  start("shard-0", kRouter);
  start("shard-1");
  expect_serving();
  EXPECT_EQ(transports(), (Transports{{"shard-0", "ucx:shm"}, {"shard-1", "ucx:net"}}));
  EXPECT_FALSE(view_.complete("1 + 1 =", 16).empty());
}

TEST_F(SeveralHosts, LeaveInterfacesAloneThatLeadElsewhere) {
  // The bridge that container tools set up: up, and of the same address on every host.
  for (const auto& [name, host] : kPlaces) {
    for (const char* words :
         {"link add name docker0 type veth peer name container", "link set dev container up",
          "address add 172.17.0.1/16 dev docker0", "link set dev docker0 up"}) {
      ASSERT_EQ(run_ip(hosts_->host(host), words), "");
    }
  }
  start_all();
  EXPECT_FALSE(view_.complete("1 + 1 =", 16).empty());
}

struct Cut {
  const char* name;
  void (*make)(Hosts&);
  void (*mend)(Hosts&);
  const char* told;                  ///< in the error that the client gets; nullptr: it gets none
  std::vector<std::string> started;  ///< nodes that lose the head and are started again
};
std::ostream& operator<<(std::ostream& out, const Cut& cut) { return out << cut.name; }

class SilentCut : public SeveralHosts, public testing::WithParamInterface<Cut> {};

TEST_P(SilentCut, ChangesNoTokenOrIsToldWithinTwoSecondsAndIsForgottenOnceMended) {
  start_all();
  if (HasFatalFailure()) return;
  const std::string before = view_.complete("1", 2000);
  const auto stream = view_.harm_a_stream([this] { GetParam().make(*hosts_); });
  EXPECT_TRUE(stream.done);
  if (GetParam().told == nullptr) {
    EXPECT_EQ(stream.error, "") << outputs();
    EXPECT_EQ(stream.text, before);
  } else {
    EXPECT_NE(stream.error.find(GetParam().told), std::string::npos) << stream.error << outputs();
    EXPECT_LT(stream.after, kLossIsTold);
    RecordProperty("told_after_ms", static_cast<int>(stream.after.count()));
  }
  for (const std::string& name : GetParam().started) {
    EXPECT_TRUE(wait_until([&] { return output(name).find("ended with") != std::string::npos; }))
        << name << " has not noticed";
  }
  GetParam().mend(*hosts_);
  expect_serving();
  EXPECT_EQ(view_.complete("1", 2000), before);
  expect_no_crash();
}

const Cut kCuts[] = {
    {"CableOfAShard",
     [](Hosts& h) { h.unplug(kShard1); },
     [](Hosts& h) { h.plug(kShard1); },
     nullptr,
     {"shard-1"}},
    {"CableOfTheRouter",
     [](Hosts& h) { h.unplug(kRouter); },
     [](Hosts& h) { h.plug(kRouter); },
     "router-0",
     {"router-0"}},
    {"AllOfAShard",
     [](Hosts& h) { h.isolate(kShard1); },
     [](Hosts& h) { h.rejoin(kShard1); },
     nullptr,
     {"shard-1"}},
    {"AllOfTheHead",
     [](Hosts& h) { h.isolate(kHead); },
     [](Hosts& h) { h.rejoin(kHead); },
     "no_capacity",
     {"router-0", "shard-0", "shard-1"}},
    {"HeadToShard",
     [](Hosts& h) { h.drop(kHead, kShard1); },
     [](Hosts& h) { h.stop_dropping(kHead, kShard1); },
     nullptr,
     {"shard-1"}},
    {"ShardToHead",
     [](Hosts& h) { h.drop(kShard1, kHead); },
     [](Hosts& h) { h.stop_dropping(kShard1, kHead); },
     nullptr,
     {"shard-1"}},
    // The head hears both of these: the router finds out by itself.
    {"RouterToShard",
     [](Hosts& h) { h.drop(kRouter, kShard1); },
     [](Hosts& h) { h.stop_dropping(kRouter, kShard1); },
     nullptr,
     {}},
    {"ShardToRouter",
     [](Hosts& h) { h.drop(kShard1, kRouter); },
     [](Hosts& h) { h.stop_dropping(kShard1, kRouter); },
     nullptr,
     {}},
};
INSTANTIATE_TEST_SUITE_P(SeveralHosts, SilentCut, testing::ValuesIn(kCuts),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(SeveralHosts, RideOutACutShorterThanTheTimeout) {
  start_all();
  const std::string before = view_.complete("Sort these words:", 400);
  std::string text;
  size_t num_events = 0;
  const auto response = view_.client().post_stream(
      "/v1/completions",
      R"({"model":"demo","prompt":"Sort these words:","max_tokens":400,"temperature":0,)"
      R"("ignore_eos":true,"stream":true})",
      [&](std::string_view data) {
        if (++num_events == 20) {
          hosts_->drop(kRouter, kShard1);
          hosts_->drop(kShard1, kRouter);
          std::this_thread::sleep_for(milliseconds(300));  // the length of the cut
          hosts_->stop_dropping(kRouter, kShard1);
          hosts_->stop_dropping(kShard1, kRouter);
        }
        if (data == "[DONE]") return true;
        text += json::parse(data).at("choices").at(0).at("text").as_string();
        return true;
      });
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(text, before);
}

TEST_F(SeveralHosts, LoseANodeWhileTheyAssembleAndTakeItInLater) {
  for (const char* name : {"head", "router-0", "shard-0"}) start(name);
  const auto num_nodes = [this] { return view_.status().at("nodes").as_array().size(); };
  ASSERT_TRUE(wait_until([this] { return view_.client().get("/health").ok(); }));
  ASSERT_TRUE(wait_until([&] { return num_nodes() == 2; })) << outputs();
  hosts_->isolate(kShard0);
  ASSERT_TRUE(wait_until([&] { return output("head").find("node_lost") != std::string::npos; },
                         kLossIsTold))
      << outputs();
  start("shard-1");
  ASSERT_TRUE(wait_until([&] { return num_nodes() == 2; })) << outputs();
  EXPECT_FALSE(view_.healthy()) << "a shard is missing";
  hosts_->rejoin(kShard0);
  expect_serving();
  EXPECT_FALSE(view_.complete("1 + 1 =", 16).empty());
  expect_no_crash();
}

TEST_F(SeveralHosts, ServeOnlyOverLinksThatCarryBothWays) {
  hosts_->drop(kShard1, kRouter);
  for (const auto& [name, host] : kPlaces) start(name);
  ASSERT_TRUE(wait_until([this] {
    return output("router-0").find("no sign of life") != std::string::npos;
  })) << outputs();
  EXPECT_FALSE(view_.healthy());
  hosts_->stop_dropping(kShard1, kRouter);
  expect_serving();
  EXPECT_FALSE(view_.complete("1 + 1 =", 16).empty());
  expect_no_crash();
}

TEST_F(SeveralHosts, AreNotBlockedByAHeadThatSwallowsPackets) {
  configure("assemble_timeout: 2s\n");
  hosts_->drop(kShard0, kHead);
  const std::vector<std::string> words{kTroupe, "node", "--config", config(), "--name", "shard-0"};
  const auto fork_there = [this] { return hosts_->host(kShard0).fork_inside(); };
  const auto began = Clock::now();
  const Finished node = finish(words, fork_there);
  EXPECT_EQ(node.code, 3);
  EXPECT_NE(node.output.find("cannot connect to " + Hosts::address(kHead)), std::string::npos)
      << node.output;
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(4));

  Process interrupted(words, scratch_ / "interrupted", fork_there);
  ASSERT_TRUE(wait_until([&] { return cpu_time(interrupted.pid()).count() > 0; }));
  interrupted.signal(SIGTERM);
  EXPECT_TRUE(wait_until([&] { return interrupted.ended(); }, std::chrono::seconds(2)));
}

/// TCP ports that something listens on, on a host.
std::set<uint16_t> listening_ports(const Host& host) {
  std::set<uint16_t> ports;
  std::istringstream lines(read_file("/proc/" + std::to_string(host.pid()) + "/net/tcp"));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string number, local, remote, state;
    fields >> number >> local >> remote >> state;
    if (state != "0A") continue;
    ports.insert(static_cast<uint16_t>(std::stoul(local.substr(local.find(':') + 1), nullptr, 16)));
  }
  return ports;
}

TEST_F(SeveralHosts, AreNotHurtByGarbageOnAnyPort) {
  start_all();
  const std::string before = view_.complete("1 + 1 =", 16);
  // A node that lost the head while all were starting has ended and come again: not by garbage.
  std::map<std::string, std::string> logs;
  for (const auto& [name, process] : processes_) logs[name] = process->output();
  const std::string inputs[] = {"", std::string(64, '\xff'), std::string(64, '\0'),
                                "GET / HTTP/1.1\r\nHost: x\r\n\r\n", std::string(100'000, 'A')};
  size_t num_ports = 0;
  for (const auto& [name, host] : kPlaces) {
    for (const uint16_t port : listening_ports(hosts_->host(host))) {
      ++num_ports;
      for (const std::string& input : inputs) {
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port)};
        inet_pton(AF_INET, Hosts::address(host).c_str(), &to.sin_addr);
        ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0)
            << name << " " << port;
        (void)!send(fd, input.data(), input.size(), MSG_NOSIGNAL);
        close(fd);
      }
    }
  }
  EXPECT_EQ(num_ports, 5U) << "HTTP, control, and a UCX data port of each node";
  EXPECT_EQ(view_.complete("1 + 1 =", 16), before);
  for (const auto& [name, process] : processes_) {
    EXPECT_EQ(process->output().find("ended with", logs[name].size()), std::string::npos)
        << process->output();
  }
  expect_no_crash();
}

}  // namespace
}  // namespace troupe
