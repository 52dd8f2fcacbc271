#pragma once

// Several hosts on this machine, for tests: network, hostname, IPC, pid and mount namespaces of
// their own, joined by a fabric that can be cut. Each host has one cable (a veth pair) to the
// fabric, which routes between them, so that even hosts of the same MAC address can talk. Needs
// root, as CI has.
//
//   fabric 198.18.N.1 ---- 198.18.N.2 host N
//
// The namespaces have no names: they live as long as the processes in them, and the kernel ends
// those with this process. Nothing is left behind, whatever happens to the test, and the machine's
// own network is never touched. The addresses are those set aside for testing devices (RFC 2544).

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace troupe {

/// Namespaces and the process that holds them open, pid 1 among those inside.
class Host {
 public:
  /// @errors "" or why there is none, in `problem`
  Host(const std::string& name, std::string& problem);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  /// As fork(), but the child lives on this host. It ends with the host.
  [[nodiscard]] pid_t fork_inside() const;
  /// As fork(), but the child has this host's network; all else is ours.
  [[nodiscard]] pid_t fork_in_network() const;
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

/// While it lives, sockets that this thread opens are on that host's network.
class Visit {
 public:
  explicit Visit(const Host& host);
  ~Visit();
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

 private:
  int home_;
};

/// An `ip` command on a host's network. @returns "" or its complaint.
std::string run_ip(const Host& host, const std::string& words);

/// Hosts number 1 to n and the fabric between them.
class Hosts {
 public:
  /// All hosts get the same MAC address if `same_mac`, as containers of careless tools do.
  explicit Hosts(size_t count, bool same_mac = false);

  /// Why there are no hosts here, for GTEST_SKIP: no root, no namespaces, no veth.
  [[nodiscard]] const std::string& problem() const { return problem_; }
  [[nodiscard]] const Host& fabric() const { return *fabric_; }
  [[nodiscard]] const Host& host(size_t number) const { return *hosts_.at(number - 1); }
  [[nodiscard]] static std::string address(size_t number) {
    return "198.18." + std::to_string(number) + ".2";
  }

  /// Packets from one host to another vanish silently, in this direction only.
  void drop(size_t from, size_t to) { expect_ip(rule("add", from, to)); }
  void stop_dropping(size_t from, size_t to) { expect_ip(rule("del", from, to)); }
  /// Packets to and from all other hosts vanish; clients in the fabric still reach the host.
  void isolate(size_t number);
  void rejoin(size_t number);
  /// Pulls the cable out of the fabric, or puts it back.
  void unplug(size_t number) { expect_ip("link set dev f" + std::to_string(number) + " down"); }
  void plug(size_t number) { expect_ip("link set dev f" + std::to_string(number) + " up"); }

 private:
  void add_host(size_t number, bool same_mac);
  void expect_ip(const std::string& words);
  static std::string rule(const std::string& verb, size_t from, size_t to);

  std::string problem_;
  std::unique_ptr<Host> fabric_;
  std::vector<std::unique_ptr<Host>> hosts_;
};

}  // namespace troupe
