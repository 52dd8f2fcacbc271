#include "tests/e2e/hosts.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <sstream>

#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

constexpr int kKinds = CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNS;

/// The life of a host's pid 1. Never returns.
[[noreturn]] void hold_namespaces(const std::string& name, int ready) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGCHLD, SIG_IGN);  // orphans inside need no wait
  const bool made =
      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
      mount("proc", "/proc", "proc", 0, nullptr) == 0 &&
      mount("sysfs", "/sys", "sysfs", 0, nullptr) == 0 &&  // it lists the network's devices
      mount("tmpfs", "/dev/shm", "tmpfs", 0, nullptr) == 0 &&
      sethostname(name.data(), name.size()) == 0;
  const int problem = made ? 0 : errno;
  if (write(ready, &problem, sizeof problem) != sizeof problem) _exit(1);
  close(ready);
  for (;;) pause();
}

int open_namespace(pid_t pid, const char* kind) {
  return open(("/proc/" + std::to_string(pid) + "/ns/" + kind).c_str(), O_RDONLY | O_CLOEXEC);
}

bool enter(pid_t pid, const char* kind) {
  const int fd = open_namespace(pid, kind);
  const bool entered = fd >= 0 && setns(fd, 0) == 0;
  close(fd);
  return entered;
}

}  // namespace

Host::Host(const std::string& name, std::string& problem) {
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) {
    problem = "no pipe";
    return;
  }
  pid_ = static_cast<pid_t>(syscall(SYS_clone, kKinds | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (pid_ == 0) hold_namespaces(name, ready[1]);
  int code = pid_ < 0 ? errno : EPIPE;
  close(ready[1]);
  if (pid_ > 0 && read(ready[0], &code, sizeof code) != sizeof code) code = EPIPE;
  close(ready[0]);
  if (code != 0) problem = std::string("cannot make namespaces: ") + std::strerror(code);
}

Host::~Host() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);  // after all that lived inside
}

pid_t Host::fork_inside() const {
  const int home = open_namespace(getpid(), "pid");
  // A pid namespace is entered by children only.
  const bool entered = enter(pid_, "pid");
  const pid_t child = entered ? fork() : -1;
  if (child == 0) {
    for (const char* kind : {"net", "uts", "ipc", "mnt"}) {
      if (!enter(pid_, kind)) _exit(126);
    }
    return 0;
  }
  EXPECT_TRUE(entered && child > 0 && setns(home, 0) == 0) << std::strerror(errno);
  close(home);
  return child;
}

pid_t Host::fork_in_network() const {
  const pid_t child = fork();
  if (child == 0 && !enter(pid_, "net")) _exit(126);
  return child;
}

Visit::Visit(const Host& host) : home_(open_namespace(getpid(), "net")) {
  EXPECT_TRUE(home_ >= 0 && enter(host.pid(), "net")) << std::strerror(errno);
}

Visit::~Visit() {
  EXPECT_EQ(setns(home_, 0), 0) << std::strerror(errno);
  close(home_);
}

std::string run_ip(const Host& host, const std::string& words) {
  std::vector<std::string> command{"/sbin/ip"};
  std::istringstream in(words);
  for (std::string word; in >> word;) command.push_back(word);
  const Finished done = finish(command, [&host] { return host.fork_in_network(); });
  return done.code == 0 ? "" : "ip " + words + ": " + done.output;
}

Hosts::Hosts(size_t count, bool same_mac) {
  if (geteuid() != 0) {
    problem_ = "several hosts need root";
    return;
  }
  fabric_ = std::make_unique<Host>("fabric", problem_);
  if (!problem_.empty()) return;
  const Finished forwarding = finish({"/bin/sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"},
                                     [this] { return fabric_->fork_in_network(); });
  if (forwarding.code != 0) problem_ = "no forwarding: " + forwarding.output;
  for (size_t number = 1; number <= count && problem_.empty(); ++number) {
    add_host(number, same_mac);
  }
}

void Hosts::add_host(size_t number, bool same_mac) {
  const std::string n = std::to_string(number);
  hosts_.push_back(std::make_unique<Host>("host-" + n, problem_));
  const Host& host = *hosts_.back();
  const auto ip = [this](const Host& on, const std::string& words) {
    if (problem_.empty()) problem_ = run_ip(on, words);
  };
  ip(*fabric_,
     "link add name f" + n + " type veth peer name eth0 netns " + std::to_string(host.pid()));
  ip(*fabric_, "address add 198.18." + n + ".1/24 dev f" + n);
  ip(*fabric_, "link set dev f" + n + " up");
  ip(host, "link set dev lo up");
  if (same_mac) ip(host, "link set dev eth0 address 02:00:00:00:00:01");
  ip(host, "address add " + address(number) + "/24 dev eth0");
  ip(host, "link set dev eth0 up");
  ip(host, "route add default via 198.18." + n + ".1");
}

std::string Hosts::rule(const std::string& verb, size_t from, size_t to) {
  return "rule " + verb + " from " + address(from) + " to " + address(to) + " blackhole";
}

void Hosts::isolate(size_t number) {
  for (size_t other = 1; other <= hosts_.size(); ++other) {
    if (other == number) continue;
    drop(number, other);
    drop(other, number);
  }
}

void Hosts::rejoin(size_t number) {
  for (size_t other = 1; other <= hosts_.size(); ++other) {
    if (other == number) continue;
    stop_dropping(number, other);
    stop_dropping(other, number);
  }
}

void Hosts::expect_ip(const std::string& words) { EXPECT_EQ(run_ip(*fabric_, words), ""); }

}  // namespace troupe
