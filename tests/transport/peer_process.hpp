#pragma once

// The other end of a link in a process of its own (transport_test_peer), so that tests can kill and
// stop it. Started with posix_spawn: a fork after UCX has been initialised is not safe.

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

extern char** environ;  // NOLINT: POSIX

namespace troupe::transport {

class PeerProcess {
 public:
  /// @param wire "net" or "shm"
  /// @param mode "echo": answers each ping by a pong with its payload; "flood": sends pings of
  ///        `size` bytes without end
  PeerProcess(const std::string& wire, const std::string& mode, size_t size = 0) {
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) std::abort();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from[1], 1);
    for (const int fd : {to[0], to[1], from[0], from[1]}) {
      posix_spawn_file_actions_addclose(&actions, fd);
    }
    std::string arguments[] = {TROUPE_TEST_PEER, wire, mode, std::to_string(size)};
    char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                    arguments[3].data(), nullptr};
    if (posix_spawn(&pid_, argv[0], &actions, nullptr, argv, environ) != 0) std::abort();
    posix_spawn_file_actions_destroy(&actions);
    ::close(to[0]);
    ::close(from[1]);
    in_ = fdopen(to[1], "w");
    out_ = fdopen(from[0], "r");
    address_ = read_line();
  }
  ~PeerProcess() {
    if (in_ != nullptr) fclose(in_);
    fclose(out_);
    if (pid_ > 0) end(SIGKILL);
  }
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  [[nodiscard]] const std::string& address() const { return address_; }

  /// Gives it our address and waits until it has connected.
  void meet(const std::string& our_address) {
    fprintf(in_, "%s\n", our_address.c_str());
    fflush(in_);
    if (read_line() != "connected") std::abort();
  }

  void signal(int number) const { kill(pid_, number); }

  /// Lets it end by itself.
  void finish() {
    fclose(in_);
    in_ = nullptr;
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
  }

  /// Sends the signal and waits for the end.
  void end(int number) {
    kill(pid_, number);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
  }

 private:
  std::string read_line() {
    std::string line;
    for (int c = fgetc(out_); c != EOF && c != '\n'; c = fgetc(out_)) line += static_cast<char>(c);
    return line;
  }

  pid_t pid_ = -1;
  FILE* in_ = nullptr;
  FILE* out_ = nullptr;
  std::string address_;
};

}  // namespace troupe::transport
