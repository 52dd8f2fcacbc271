#pragma once

// One client connection. Private to server.cpp and connection.cpp: includes Asio.

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <memory>
#include <optional>
#include <string>

#include "gateway/exchange.hpp"
#include "gateway/refusal_log.hpp"
#include "gateway/server.hpp"
#include "gateway/service.hpp"

namespace troupe::gateway {

namespace asio = boost::asio;

/// What the connections of a server share.
struct ServerState {
  const ServerOptions& options;
  Service& service;
  Metrics& metrics;
  asio::thread_pool& long_work;  ///< for requests that take long to read, apart from the IO threads
  std::atomic<bool> draining = false;
  RefusalLog refusals = {};
};

/// Reads requests one after the other, answers each before the next is looked at. Runs on its
/// socket's strand.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(asio::ip::tcp::socket socket, ServerState& state);

  /// Serves until the client or the server has enough.
  asio::awaitable<void> run();

  /// From any thread: ends now if idle, else after the answer in progress.
  void drain();
  /// From any thread: ends the answer in progress with an error.
  void interrupt();
  /// From any thread: cuts the connection.
  void abort();

 private:
  asio::awaitable<bool> wait_for_first_byte();
  asio::awaitable<std::optional<HttpRequest>> read_request();
  asio::awaitable<void> answer(HttpRequest request);
  asio::awaitable<Answer> begin_answer(const HttpRequest& request);
  asio::awaitable<int> serve_exchange(const HttpRequest& request, Exchange& exchange);
  asio::awaitable<void> watch_client();
  asio::awaitable<void> end_watch();
  asio::awaitable<void> refuse(ApiError error);
  asio::awaitable<bool> send_response(const HttpResponse& response);
  asio::awaitable<bool> open_stream();
  asio::awaitable<bool> send_events(std::string events);
  asio::awaitable<bool> end_stream();
  asio::awaitable<bool> write(std::string bytes);
  asio::awaitable<void> linger();

  /// Cancels what the socket does after `limit`, again and again until disarm().
  void arm(Duration limit);
  void disarm();
  void bark(uint64_t round);
  void wake();
  [[nodiscard]] std::string head_of(const HttpResponse& response, std::string_view framing) const;

  asio::ip::tcp::socket socket_;
  asio::steady_timer watchdog_;    ///< cancels socket operations that take too long
  asio::steady_timer wake_timer_;  ///< its cancellation wakes serve_exchange
  ServerState& state_;
  boost::beast::flat_buffer buffer_;

  // Of the request being answered.
  std::string request_id_;
  bool head_only_ = false;
  bool http_1_0_ = false;
  bool keep_alive_ = true;

  uint64_t watchdog_round_ = 0;  ///< tells a late bark of an earlier arm()
  bool timed_out_ = false;       ///< the watchdog has barked since arm()
  bool refused_ = false;         ///< the last answer was given before its request was read
  bool idle_ = false;            ///< waiting for a first byte
  bool client_gone_ = false;
  bool watching_ = false;  ///< watch_client() runs
  bool stop_watching_ = false;
  bool interrupted_ = false;
};

}  // namespace troupe::gateway
