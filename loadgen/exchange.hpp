#pragma once

// One request and its answer over HTTP, on connections that are kept for the next request. Private
// to load.cpp and exchange.cpp: includes Asio.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/time.hpp"
#include "loadgen/record.hpp"

namespace troupe::loadgen {

namespace asio = boost::asio;

/// The monotonic clock that all records are of.
Instant now();

/// A connection and its buffer; kept for the next request where the server allows.
struct Connection {
  explicit Connection(asio::io_context& io) : socket(io), buffer(16384) {}
  asio::ip::tcp::socket socket;
  std::vector<char> buffer;
};

/// A request in flight, as the watchdog sees it.
struct Active {
  explicit Active(asio::io_context& io) : pause(io) {}
  std::unique_ptr<Connection> connection;
  asio::steady_timer pause;  ///< before a refused request is sent again
  Instant deadline;
  bool timed_out = false;
  bool interrupted = false;
  bool keeps_text = false;  ///< the answer's text is wanted: another turn will send it

  void cut() {
    boost::system::error_code ignored;
    if (connection) connection->socket.close(ignored);
    pause.cancel();
  }
};

/// What was read of one answer.
struct Answer {
  bool has_choice = false;  ///< an event was about the answer
  bool finished = false;    ///< a finish_reason or [DONE] came
  std::string text;
  std::string error_kind;
  std::string error;
  int status = 0;
  Duration retry_after = seconds(1);

  void fail(std::string kind, std::string message) {
    error_kind = std::move(kind);
    error = std::move(message);
  }
  [[nodiscard]] bool refused() const { return status == 429 || status == 503; }
};

/// Sends requests and reads answers, any number at a time, all on the context's one thread.
class Exchanges {
 public:
  explicit Exchanges(asio::io_context& io) : io_(io) {}

  /// Looks the host up, once for all requests. @errors kUnavailable if it has no address
  Result<void> resolve(const std::string& host, const std::string& port);

  /// Sends the bytes of a request, head and body, and notes in `record` when which event came.
  /// Ends soon after active.cut(). What went wrong is in the answer.
  asio::awaitable<Answer> exchange(Active& active, const std::string& request, Record& record);

  /// Events with text, of all answers so far.
  [[nodiscard]] uint64_t num_events() const { return num_events_; }

  void close_idle() { idle_.clear(); }

 private:
  asio::awaitable<bool> connect(Active& active, Answer& answer);
  asio::awaitable<bool> talk(Active& active, const std::string& request, Record& record,
                             Answer& answer, bool is_reused);
  bool take_event(std::string_view data, Instant at, const Active& active, Record& record,
                  Answer& answer);

  asio::io_context& io_;
  asio::ip::tcp::resolver::results_type addresses_;
  std::vector<std::unique_ptr<Connection>> idle_;
  uint64_t num_events_ = 0;
};

}  // namespace troupe::loadgen
