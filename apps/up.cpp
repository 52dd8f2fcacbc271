// troupe up: a whole cluster on this machine, one process each, started, watched and ended
// together.

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <optional>

#include "actors/memory_of_nodes.hpp"
#include "apps/ask.hpp"
#include "apps/command.hpp"
#include "apps/own_process.hpp"
#include "apps/signals.hpp"
#include "base/log.hpp"
#include "base/memory_room.hpp"
#include "cluster/config.hpp"
#include "cluster/memory_needs.hpp"
#include "gateway/http_client.hpp"
#include "model/weights.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

constexpr Duration kPoll = milliseconds(50);
constexpr Duration kStopPatience = seconds(5);  ///< between SIGTERM and SIGKILL
constexpr Duration kRestartWindow = seconds(60);
constexpr Duration kFirstBackoff = milliseconds(250);

Instant monotonic_now() {
  return {std::chrono::duration_cast<std::chrono::nanoseconds>(
              std::chrono::steady_clock::now().time_since_epoch())
              .count()};
}

struct Child {
  std::string name;
  Arguments arguments;
  pid_t pid = 0;                    ///< 0: not running
  std::deque<Instant> starts;       ///< within the restart window
  std::optional<Instant> start_at;  ///< waits out its back-off
};

/// The processes of one cluster. Whatever happens, none outlives this object; and should this
/// process be killed, the kernel ends them (PR_SET_PDEATHSIG).
class Children {
 public:
  Children(std::string config_path, uint32_t restart_budget, std::string log_directory)
      : config_path_(std::move(config_path)),
        restart_budget_(restart_budget),
        log_directory_(std::move(log_directory)) {}
  ~Children() { stop(); }
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;

  Result<void> start(const std::string& name, Arguments arguments) {
    children_.push_back({.name = name, .arguments = std::move(arguments)});
    return spawn(children_.back());
  }

  /// From now on no child's end is the end of the others: what they serve goes on.
  void serving() { serving_ = true; }

  /// Looks for ended children and starts them again within their budget; beyond it, once a minute.
  /// @errors until serving(): kUnavailable when one ended too often, with its exit code.
  Result<void> supervise() {
    for (Child& child : children_) {
      int status = 0;
      if (child.pid != 0 && waitpid(child.pid, &status, WNOHANG) == child.pid) {
        child.pid = 0;
        TRY(on_ended(child, status));
      }
      if (child.start_at && *child.start_at <= monotonic_now()) {
        child.start_at.reset();
        TRY(spawn(child));
      }
    }
    return {};
  }

  void stop() {
    for (const Child& child : children_) {
      if (child.pid != 0) kill(child.pid, SIGTERM);
    }
    const Instant limit = monotonic_now() + kStopPatience;
    for (Child& child : children_) {
      while (child.pid != 0 && waitpid(child.pid, nullptr, WNOHANG) == 0) {
        if (monotonic_now() > limit) {
          kill(child.pid, SIGKILL);
          waitpid(child.pid, nullptr, 0);
          break;
        }
        wait_for_signal(milliseconds(10));  // SIGCHLD ends the wait early
      }
      child.pid = 0;
    }
    children_.clear();
  }

 private:
  Result<void> spawn(Child& child) {
    Arguments words{"troupe"};
    words.insert(words.end(), child.arguments.begin(), child.arguments.end());
    words.insert(words.end(), {"--config", config_path_});
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string log_path = log_directory_ + "/" + child.name + ".log";
    const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0) {
      return Error{Code::kInternal, "cannot write " + log_path + ": " + std::strerror(errno)};
    }
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(kFailure);  // the parent ended before prctl
      setpgid(0, 0);  // Ctrl-C in the terminal reaches the parent alone, which ends us in order
      dup2(log, STDOUT_FILENO);
      dup2(log, STDERR_FILENO);
      execv(own_executable(), argv.data());
      _exit(kFailure);
    }
    close(log);
    if (pid < 0) return Error{Code::kInternal, std::string("cannot fork: ") + std::strerror(errno)};
    child.pid = pid;
    child.starts.push_back(monotonic_now());
    return {};
  }

  Result<void> on_ended(Child& child, int status) {
    const std::string how = WIFEXITED(status) ? "exit code " + std::to_string(WEXITSTATUS(status))
                                              : "signal " + std::to_string(WTERMSIG(status));
    const Instant now = monotonic_now();
    while (!child.starts.empty() && now - child.starts.front() > kRestartWindow) {
      child.starts.pop_front();
    }
    const bool usage = WIFEXITED(status) && WEXITSTATUS(status) == kUsage;
    const bool too_often = child.starts.size() > restart_budget_;
    if (serving_ && (usage || too_often)) {
      log::error("process_keeps_ending", {{"name", child.name},
                                          {"how", how},
                                          {"last_words", last_words(child)},
                                          {"restart_in_ms", kRestartWindow.ns / 1'000'000}});
      child.start_at = now + kRestartWindow;
      return {};
    }
    if (usage) {
      return Error{Code::kInvalidArgument,
                   child.name + " refused to start (" + how + "): " + last_words(child)};
    }
    if (too_often) {
      return Error{Code::kUnavailable,
                   child.name + " ended " + std::to_string(child.starts.size()) +
                       " times within a minute, lastly with " + how + ": " + last_words(child)};
    }
    const Duration backoff = kFirstBackoff * (int64_t{1} << (child.starts.size() - 1));
    log::warning("process_ended",
                 {{"name", child.name}, {"how", how}, {"restart_in_ms", backoff.ns / 1'000'000}});
    child.start_at = now + backoff;
    return {};
  }

  /// The last line of a child's log, where it says why it ended.
  std::string last_words(const Child& child) const {
    std::ifstream in(log_directory_ + "/" + child.name + ".log");
    std::string line, last = "no output";
    while (std::getline(in, line)) {
      if (!line.empty()) last = line;
    }
    return last + " (" + log_directory_ + "/" + child.name + ".log)";
  }

  std::string config_path_;
  uint32_t restart_budget_;
  std::string log_directory_;
  bool serving_ = false;
  std::vector<Child> children_;
};

Result<std::string> make_log_directory(const Values& values) {
  if (values.count("logs") != 0) {
    const auto directory = values["logs"].as<std::string>();
    if (access(directory.c_str(), W_OK) != 0) {
      return Error{Code::kInvalidArgument,
                   "cannot write to --logs " + directory + ": " + std::strerror(errno)};
    }
    return directory;
  }
  std::string directory = "/tmp/troupe-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) {
    return Error{Code::kInternal,
                 std::string("cannot make a log directory: ") + std::strerror(errno)};
  }
  return directory;
}

Error interrupted() { return {Code::kCancelled, "interrupted"}; }

bool stop_signal(int signal) { return signal == SIGINT || signal == SIGTERM; }

Result<void> wait_until_ready(Children& children, const gateway::HttpClient& client,
                              Duration limit) {
  const Instant deadline = monotonic_now() + limit;
  std::string condition = "the gateway does not answer";
  for (;;) {
    TRY(children.supervise());
    const auto health = client.get("/health");
    if (health.ok() && health->status == 200) return {};
    if (health.ok()) condition = "it answers /health with " + health->body;
    if (monotonic_now() > deadline) {
      return Error{Code::kDeadlineExceeded, "the cluster is not ready in time: " + condition};
    }
    if (stop_signal(wait_for_signal(kPoll))) return interrupted();
  }
}

Result<void> ask_all(const gateway::HttpClient& client, const std::string& path,
                     const std::string& model) {
  std::ifstream in(path);
  if (!in) return Error{Code::kNotFound, "cannot read the questions in " + path};
  std::string question;
  while (std::getline(in, question)) {
    if (question.empty()) continue;
    std::printf("\n> %s\n", question.c_str());
    const Answer answer = TRY(ask(client, {{"user", question}}, {.model = model}));
    std::printf("\n  (first token after %.1f ms, then %.2f ms each)\n", answer.ttft_ms,
                answer.tpot_ms);
    if (stop_signal(wait_for_signal(nanoseconds(0)))) return interrupted();
  }
  return {};
}

void print_banner(const cluster::ClusterConfig& config, const std::string& url,
                  const std::string& logs, Duration took) {
  std::printf(
      "\nTroupe serves %s (%s) on %s after %.1f s\n"
      "  1 head, %zu nodes; logs in %s\n\n"
      "  curl %s/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": \"What is "
      "Troupe?\"}]}'\n",
      config.served_name.c_str(), config.model.c_str(), url.c_str(), to_seconds(took),
      config.nodes.size(), logs.c_str(), url.c_str(), config.served_name.c_str());
  std::fflush(stdout);
}

/// Whether the nodes fit together, which none of them can see when all start at the same time.
Result<void> check_memory(const cluster::ClusterConfig& config) {
  const auto checkpoint = TRY(model::Checkpoint::open(config.model));
  const auto needs = TRY(actors::memory_of_nodes(config, config.nodes, checkpoint));
  return cluster::check_memory_needs(config, needs, available_memory());
}

Result<int> run(const Values& values) {
  const auto path = values["config"].as<std::string>();
  const cluster::ClusterConfig config = TRY(cluster::load_cluster_config(path));
  log::configure(log::Level::kInfo, "up");
  const std::string url =
      "http://" + gateway::authority(config.http_host, std::to_string(config.http_port));
  const auto client = TRY(gateway::HttpClient::create(url));
  TRY(check_memory(config));
  const std::string logs = TRY(make_log_directory(values));
  const Instant began = monotonic_now();
  Children children(path, config.restart_budget, logs);
  TRY(children.start("head", {"head"}));
  for (const cluster::NodeConfig& node : config.nodes) {
    TRY(children.start(node.name, {"node", "--name", node.name}));
  }
  TRY(wait_until_ready(children, client, config.assemble_timeout + seconds(60)));
  children.serving();
  print_banner(config, url, logs, monotonic_now() - began);
  if (values.count("ask") != 0) {
    TRY(ask_all(client, values["ask"].as<std::string>(), config.served_name));
  }
  if (values.count("once") != 0) return kSuccess;
  std::printf("\nServing until Ctrl-C.\n");
  std::fflush(stdout);
  for (;;) {
    TRY(children.supervise());
    if (stop_signal(wait_for_signal(milliseconds(500)))) return kSuccess;
  }
}

}  // namespace

int run_up(const Arguments& arguments) {
  CommandLine line{.usage = "troupe up --config FILE",
                   .text =
                       "Starts the head and every node of a configuration as processes of this "
                       "machine, waits until\nthey serve, starts again what ends (within "
                       "restart_budget), and ends all on Ctrl-C.\n\n"
                       "  troupe up --config deploy/demo.yaml",
                   .positional = {"config"}};
  line.options.add_options()("config", po::value<std::string>()->required(),
                             "cluster configuration")(
      "ask", po::value<std::string>(), "ask the questions in this file, one per line, when ready")(
      "once", "end when ready and the questions are answered")(
      "logs", po::value<std::string>(), "directory for the processes' logs; default: a new one");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  block_signals();
  const auto done = run(values);
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
