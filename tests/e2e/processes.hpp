#pragma once

// What tests of real processes share: starting them, waiting for them, and asking their cluster.
// Nothing that is started here outlives its object.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/prctl.h>
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
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/kernel_file.hpp"
#include "base/parse.hpp"
#include "gateway/http_client.hpp"
#include "tests/kernels/allowed_cpus.hpp"

namespace troupe {

using Clock = std::chrono::steady_clock;

inline const std::string kTroupe = std::string(TROUPE_BINARY_DIR) + "/troupe";
inline const std::string kDemo = std::string(TROUPE_SOURCE_DIR) + "/models/demo";
inline constexpr std::chrono::seconds kPatience{60};
/// How soon a client hears of a loss: heartbeat.timeout + heartbeat.interval and some slack.
inline constexpr std::chrono::seconds kLossIsTold{2};

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

inline bool wait_until(const std::function<bool()>& condition,
                       std::chrono::milliseconds limit = kPatience) {
  const auto deadline = Clock::now() + limit;
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

/// A port of 127.0.0.1 that nobody listened on a moment ago, each time another one.
inline uint16_t free_port() {
  static std::set<uint16_t> given;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  const uint16_t port = ntohs(address.sin_port);
  return given.insert(port).second ? port : free_port();
}

/// The loopback interface has the address ::1.
inline bool has_ipv6() {
  return read_file("/proc/net/if_inet6").find("00000000000000000000000000000001 ") !=
         std::string::npos;
}

/// A directory that goes with the test.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "troupe-test-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// A child process with its output in a file; ended with the object, and with the test.
class Process {
 public:
  /// @param fork_child as fork(); another one may put the child elsewhere (hosts.hpp)
  Process(std::vector<std::string> words, std::filesystem::path output,
          const std::function<pid_t()>& fork_child = fork)
      : output_(std::move(output)) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    std::filesystem::remove(output_);  // nobody may read what an earlier process said
    pid_ = fork_child();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
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
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

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
  std::filesystem::path output_;
  pid_t pid_ = 0;
  std::optional<int> code_;
};

/// Output and exit code of a command that ends by itself.
struct Finished {
  int code;
  std::string output;
};
inline Finished finish(std::vector<std::string> words,
                       const std::function<pid_t()>& fork_child = fork) {
  const Scratch scratch;
  Process process(std::move(words), scratch / "output", fork_child);
  const int code = process.wait();
  return {code, process.output()};
}
inline Finished troupe(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), kTroupe);
  return finish(std::move(arguments));
}

/// pids of processes whose command line mentions `text`.
inline std::vector<pid_t> processes_with(const std::string& text) {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
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

/// CPU time that a process has used so far, in user and system mode together.
inline std::chrono::milliseconds cpu_time(pid_t pid) {
  const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
  std::istringstream fields(stat.substr(stat.rfind(')') + 2));  // the name may hold anything
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  int64_t user = 0, system = 0;
  fields >> user >> system;
  return std::chrono::milliseconds((user + system) * 1000 / sysconf(_SC_CLK_TCK));
}

/// CPUs to which single threads of a process are pinned, each for itself, as the kernel says. Where
/// this process may use one CPU only, so may all threads of all its children.
inline std::vector<uint32_t> pinned_cpus(pid_t pid) {
  std::vector<uint32_t> cpus;
  std::error_code ended;
  const std::filesystem::path tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks, ended)) {
    const auto list = line_of(task.path() / "status", "Cpus_allowed_list");
    const auto only = list.ok() ? parse_number<uint32_t>(*list) : std::nullopt;
    if (only) cpus.push_back(*only);
  }
  return cpus;
}

/// A cluster that serves the model "demo", as its clients see it.
class ClusterView {
 public:
  explicit ClusterView(const std::string& url) : client_(*gateway::HttpClient::create(url)) {}

  [[nodiscard]] const gateway::HttpClient& client() const { return client_; }

  [[nodiscard]] bool healthy() const {
    const auto health = client_.get("/health");
    return health.ok() && health->status == 200;
  }

  /// All of so many nodes have their part in what is served. Until then, taking in a node may stop
  /// the service for a moment.
  [[nodiscard]] bool serves_with(size_t num_nodes) const {
    const auto response = client_.get("/v1/troupe/status");
    if (!response.ok()) return false;  // the head starts
    const boost::json::value cluster = boost::json::parse(response->body);
    const boost::json::array& nodes = cluster.at("nodes").as_array();
    return cluster.at("serving").as_bool() && nodes.size() == num_nodes &&
           std::ranges::all_of(nodes, [](const boost::json::value& node) {
             return node.at("state").as_string() == "ready";
           });
  }

  [[nodiscard]] boost::json::value status() const {
    const auto response = client_.get("/v1/troupe/status");
    EXPECT_TRUE(response.ok() && response->status == 200);
    return boost::json::parse(response.ok() ? response->body : "{}");
  }

  /// What the head says of a node; null if it is no member.
  [[nodiscard]] boost::json::value node(const std::string& name) const {
    const boost::json::value cluster = status();
    for (const boost::json::value& entry : cluster.at("nodes").as_array()) {
      if (entry.at("name").as_string() == name) return entry;
    }
    return nullptr;
  }

  /// The text of a greedy completion.
  [[nodiscard]] std::string complete(const std::string& prompt, uint32_t max_tokens) const {
    const boost::json::object body{{"model", "demo"},
                                   {"prompt", prompt},
                                   {"max_tokens", max_tokens},
                                   {"temperature", 0},
                                   {"ignore_eos", true}};
    const auto response = client_.post("/v1/completions", boost::json::serialize(body));
    EXPECT_TRUE(response.ok()) << response.error().message;
    if (!response.ok() || response->status != 200) {
      ADD_FAILURE() << (response.ok() ? response->body : "");
      return "";
    }
    return boost::json::parse(response->body).at("choices").at(0).at("text").as_string().c_str();
  }

  /// What became of a stream that was harmed on its way.
  struct HarmedStream {
    std::string text;                    ///< all of it
    std::string error;                   ///< the error event; "" if none came
    std::chrono::milliseconds after{0};  ///< from the harm to that event
    bool done = false;                   ///< [DONE] came
  };
  /// Streams a long answer, does `harm` at its first token, and reads on until the stream ends.
  [[nodiscard]] HarmedStream harm_a_stream(const std::function<void()>& harm,
                                           uint32_t max_tokens = 2000) const {
    HarmedStream result;
    std::optional<Clock::time_point> harmed_at;
    const auto response = client_.post_stream(
        "/v1/completions",
        R"({"model":"demo","prompt":"1","temperature":0,"ignore_eos":true,"stream":true,)"
        R"("max_tokens":)" +
            std::to_string(max_tokens) + "}",
        [&](std::string_view data) {
          if (!harmed_at) {
            harmed_at = Clock::now();
            harm();
          }
          if (data.find("\"error\"") != std::string_view::npos) {
            result.error = data;
            result.after =
                std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - *harmed_at);
          } else if (data != "[DONE]") {
            result.text += boost::json::parse(data).at("choices").at(0).at("text").as_string();
          }
          result.done = data == "[DONE]";
          return true;
        });
    EXPECT_TRUE(response.ok()) << response.error().message;
    return result;
  }

 private:
  gateway::HttpClient client_;
};

}  // namespace troupe
