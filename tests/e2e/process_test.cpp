// Real processes: what `troupe` does as its users run it. Everything here is started by the test,
// listens on 127.0.0.1 with ports of its own, and is gone when the test ends.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "actors/system.hpp"
#include "gateway/http_client.hpp"

namespace troupe {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using Clock = std::chrono::steady_clock;
using gateway::HttpClient;

const std::string kTroupe = std::string(TROUPE_BINARY_DIR) + "/troupe";
const std::string kDemo = std::string(TROUPE_SOURCE_DIR) + "/models/demo";
constexpr std::chrono::seconds kPatience{60};

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

bool wait_until(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = kPatience) {
  const auto deadline = Clock::now() + limit;
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

uint16_t free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

/// A directory that goes with the test.
class Scratch {
 public:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "troupe-test-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Scratch() { fs::remove_all(path_); }
  [[nodiscard]] fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

/// A child process with its output in a file; ended with the object.
class Process {
 public:
  Process(std::vector<std::string> words, fs::path output) : output_(std::move(output)) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    fs::remove(output_);  // nobody may read what an earlier process said
    pid_ = fork();
    if (pid_ == 0) {
      const int fd = open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      dup2(fd, STDOUT_FILENO);
      dup2(fd, STDERR_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Process() {
    if (!code_) {
      kill(pid_, SIGTERM);
      if (!wait_until([this] { return ended(); }, std::chrono::seconds(10))) {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
      }
    }
  }

  void signal(int number) const { kill(pid_, number); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  bool ended() {
    int status = 0;
    if (!code_ && waitpid(pid_, &status, WNOHANG) == pid_) {
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return code_.has_value();
  }
  /// The exit code; -1 if it does not end.
  int wait() {
    return wait_until([this] { return ended(); }) ? *code_ : -1;
  }
  [[nodiscard]] std::string output() const { return read_file(output_); }

 private:
  fs::path output_;
  pid_t pid_ = 0;
  std::optional<int> code_;
};

/// Output and exit code of a command that ends by itself.
struct Finished {
  int code;
  std::string output;
};
Finished troupe(std::vector<std::string> arguments) {
  const Scratch scratch;
  arguments.insert(arguments.begin(), kTroupe);
  Process process(std::move(arguments), scratch / "output");
  const int code = process.wait();
  return {code, process.output()};
}

/// pids of processes whose command line mentions `text`.
std::vector<pid_t> processes_with(const std::string& text) {
  std::vector<pid_t> pids;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), ::isdigit)) continue;
    std::string line = read_file(entry.path() / "cmdline");
    std::replace(line.begin(), line.end(), '\0', ' ');
    if (line.find(text) != std::string::npos && std::stoi(name) != getpid()) {
      pids.push_back(std::stoi(name));
    }
  }
  return pids;
}

class ClusterProcesses : public testing::Test {
 protected:
  void SetUp() override { configure(3, ""); }

  void configure(uint32_t num_shards, const std::string& more) {
    http_port_ = free_port();
    control_port_ = free_port();
    config_ = scratch_ / "cluster.yaml";
    std::ofstream out(config_);
    out << "name: test-" << getpid() << "\nmodel: " << kDemo << "\nserved_name: demo\n"
        << "http: {host: 127.0.0.1, port: " << http_port_ << "}\n"
        << "control: {host: 127.0.0.1, port: " << control_port_
        << "}\n"
        // A busy machine must not look like a lost node; an error still comes within two seconds.
        << "heartbeat: {interval: 200ms, timeout: 1500ms}\n"
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

  [[nodiscard]] HttpClient client() const {
    return *HttpClient::create("http://127.0.0.1:" + std::to_string(http_port_));
  }

  [[nodiscard]] json::value status() const {
    const auto response = client().get("/v1/troupe/status");
    EXPECT_TRUE(response.ok() && response->status == 200);
    return json::parse(response.ok() ? response->body : "{}");
  }

  [[nodiscard]] pid_t pid_of(const std::string& node) const {
    const json::value cluster = status();
    for (const json::value& entry : cluster.at("nodes").as_array()) {
      if (entry.at("name").as_string() == node) {
        return static_cast<pid_t>(entry.at("pid").to_number<int64_t>());
      }
    }
    return 0;
  }

  /// The text of a greedy completion.
  [[nodiscard]] std::string complete(const std::string& prompt, uint32_t max_tokens) const {
    const auto response =
        client().post("/v1/completions", json::serialize(json::object{{"model", "demo"},
                                                                      {"prompt", prompt},
                                                                      {"max_tokens", max_tokens},
                                                                      {"temperature", 0},
                                                                      {"ignore_eos", true}}));
    EXPECT_TRUE(response.ok()) << response.error().message;
    if (!response.ok() || response->status != 200) {
      ADD_FAILURE() << (response.ok() ? response->body : "");
      return "";
    }
    return json::parse(response->body).at("choices").at(0).at("text").as_string().c_str();
  }

  [[nodiscard]] bool healthy() const {
    const auto health = client().get("/health");
    return health.ok() && health->status == 200;
  }

  Scratch scratch_;
  fs::path config_;
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
    experts += node.at("num_experts_held").to_number<int64_t>();
    for (const json::value& link : node.at("links").as_array()) {
      EXPECT_GT(link.at("frames_sent").to_number<int64_t>(), 0);
      EXPECT_NE(std::string(link.at("transport").as_string()).find("ucx"), std::string::npos);
    }
  }
  EXPECT_EQ(experts, 3 * 16);  // three MoE layers of sixteen

  const Finished shown =
      troupe({"status", "--url", "http://127.0.0.1:" + std::to_string(http_port_)});
  EXPECT_EQ(shown.code, 0);
  for (const char* word : {"router-0", "shard-2", "ucx", "serving"}) {
    EXPECT_NE(shown.output.find(word), std::string::npos) << shown.output;
  }
  const Finished chat = troupe(
      {"chat", "--url", "http://127.0.0.1:" + std::to_string(http_port_), "What is Troupe?"});
  EXPECT_EQ(chat.code, 0) << chat.output;
  EXPECT_GT(chat.output.size(), 1U);
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

TEST_F(ClusterProcesses, AKilledShardEndsItsStreamsWithAnErrorAndComesBack) {
  start();
  const std::string before = complete("1 + 1 =", 16);
  const pid_t victim = pid_of("shard-1");
  ASSERT_GT(victim, 0);
  bool killed = false, errored = false, done = false;
  Clock::time_point killed_at, errored_at;
  const auto response = client().post_stream(
      "/v1/completions",
      R"({"model":"demo","prompt":"1","max_tokens":4000,"temperature":0,"ignore_eos":true,"stream":true})",
      [&](std::string_view data) {
        if (!killed) {
          killed = true;
          killed_at = Clock::now();
          kill(victim, SIGKILL);
        }
        if (data.find("\"error\"") != std::string_view::npos) {
          errored = true;
          errored_at = Clock::now();
        }
        done = data == "[DONE]";
        return true;
      });
  EXPECT_TRUE(response.ok()) << response.error().message;
  ASSERT_TRUE(errored);
  EXPECT_TRUE(done);
  EXPECT_LT(errored_at - killed_at, std::chrono::seconds(2));
  ASSERT_TRUE(wait_until([this] { return healthy() && pid_of("shard-1") > 0; }));
  EXPECT_NE(pid_of("shard-1"), victim);
  EXPECT_EQ(complete("1 + 1 =", 16), before);
}

TEST_F(ClusterProcesses, AStoppedShardIsNoticedByItsHeartbeat) {
  start();
  const pid_t victim = pid_of("shard-2");
  ASSERT_GT(victim, 0);
  bool stopped = false, errored = false;
  const auto response = client().post_stream(
      "/v1/completions",
      R"({"model":"demo","prompt":"1","max_tokens":4000,"temperature":0,"ignore_eos":true,"stream":true})",
      [&](std::string_view data) {
        if (!stopped) {
          stopped = true;
          kill(victim, SIGSTOP);
        }
        errored = errored || data.find("\"error\"") != std::string_view::npos;
        return true;
      });
  kill(victim, SIGCONT);
  EXPECT_TRUE(response.ok()) << response.error().message;
  EXPECT_TRUE(errored);
  EXPECT_TRUE(wait_until([this] { return healthy(); }));
}

TEST_F(ClusterProcesses, AKilledRouterOrHeadIsStartedAgain) {
  start();
  const std::string before = complete("1 + 1 =", 16);
  kill(pid_of("router-0"), SIGKILL);
  ASSERT_TRUE(wait_until([this] { return !healthy(); }));
  ASSERT_TRUE(wait_until([this] { return healthy(); }));
  EXPECT_EQ(complete("1 + 1 =", 16), before);
  for (const pid_t pid : processes_with("head --config " + config_.string())) kill(pid, SIGKILL);
  ASSERT_TRUE(wait_until([this] { return !healthy(); }));
  ASSERT_TRUE(wait_until([this] { return healthy(); }));
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

TEST_F(ClusterProcesses, PinsThatCannotBeMetAreAConfigurationError) {
  configure(2, "placement:\n  - {node: shard-0, layers: 1-1, experts: 50-60}\n");  // of 16
  const Finished head = troupe({"head", "--config", config_.string()});
  EXPECT_EQ(head.code, 2);
  EXPECT_NE(head.output.find("placement"), std::string::npos) << head.output;
}

TEST(CommandLine, HelpIsCompleteAndMistakesAreExplained) {
  const Finished help = troupe({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"up", "status", "chat", "head", "node", "generate", "logits", "eval",
                              "tokenize", "detokenize", "show", "config", "version"}) {
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

TEST(CommandLine, MissingModelsAndWrongInputAreUsageErrors) {
  EXPECT_EQ(troupe({"show", "/nonexistent"}).code, 2);
  EXPECT_EQ(troupe({"generate", "--model", kDemo}).code, 2);
  EXPECT_EQ(troupe({"generate", "--model", kDemo, "--tokens", "1,x"}).code, 2);
  EXPECT_EQ(troupe({"logits", "--model", kDemo, "--tokens", "99999999"}).code, 2);
  EXPECT_EQ(troupe({"config", "validate", "/nonexistent.yaml"}).code, 2);
  EXPECT_EQ(troupe({"status", "--url", "http://127.0.0.1:1"}).code, 3);
  EXPECT_EQ(
      troupe({"config", "validate", std::string(TROUPE_SOURCE_DIR) + "/deploy/demo.yaml"}).code, 0);
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
