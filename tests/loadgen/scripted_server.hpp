#pragma once

// A server whose answers a test writes: a thread per connection, on a port of its own.

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace troupe::loadgen {

/// Bytes to send, and whether the connection stays open behind them.
struct Scripted {
  std::string bytes;
  bool closes = false;
};

class ScriptedServer {
 public:
  /// @param answer gets each whole request, head and body; requests are numbered from 0. Called
  ///        from the connections' threads, one call at a time.
  explicit ScriptedServer(std::function<Scripted(const std::string& request, int number)> answer);
  ~ScriptedServer();
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  [[nodiscard]] std::string port() const { return std::to_string(port_); }
  [[nodiscard]] int num_connections() const { return num_connections_; }
  [[nodiscard]] int num_requests() const { return num_requests_; }

 private:
  void accept_all();
  void serve(int fd);

  std::function<Scripted(const std::string&, int)> answer_;
  int fd_ = -1;
  uint16_t port_ = 0;
  std::atomic<int> num_connections_ = 0;
  std::atomic<int> num_requests_ = 0;
  std::mutex mutex_;  ///< of the two below, and of calls of answer_
  std::vector<int> open_;
  std::vector<std::thread> connections_;
  std::thread acceptor_;
};

/// A streamed completion of so many events, with usage, in one chunk.
Scripted streamed(int num_events, const std::string& text = "x");

/// An answer with a JSON body.
Scripted plain(int status, const std::string& headers, const std::string& body);

}  // namespace troupe::loadgen
