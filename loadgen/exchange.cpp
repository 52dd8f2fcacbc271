#include "loadgen/exchange.hpp"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>

#include "base/parse.hpp"
#include "gateway/response_parser.hpp"
#include "loadgen/messages.hpp"

namespace troupe::loadgen {
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr Duration kConnectTimeout = seconds(10);
constexpr size_t kMaxBodyBytes = 1U << 20;
constexpr Duration kMaxRetryAfter = seconds(60);

}  // namespace

Instant now() {
  return {std::chrono::duration_cast<std::chrono::nanoseconds>(
              std::chrono::steady_clock::now().time_since_epoch())
              .count()};
}

Result<void> Exchanges::resolve(const std::string& host, const std::string& port) {
  error_code failed;
  addresses_ = tcp::resolver(io_).resolve(host, port, failed);
  if (failed) return Error{Code::kUnavailable, "cannot find " + host + ": " + failed.message()};
  return {};
}

/// Sends a request and reads its answer.
asio::awaitable<Answer> Exchanges::exchange(Active& active, const std::string& request,
                                            Record& record) {
  while (true) {
    Answer answer;
    const bool is_reused = !idle_.empty();
    if (is_reused) {
      active.connection = std::move(idle_.back());
      idle_.pop_back();
    } else if (!co_await connect(active, answer)) {
      active.connection.reset();
      co_return answer;
    }
    const bool is_stale = !co_await talk(active, request, record, answer, is_reused);
    if (!is_stale) co_return answer;
    active.connection.reset();
  }
}

asio::awaitable<bool> Exchanges::connect(Active& active, Answer& answer) {
  active.connection = std::make_unique<Connection>(io_);
  const Instant whole_deadline = active.deadline;
  active.deadline = std::min(active.deadline, now() + kConnectTimeout);
  error_code failed;
  co_await asio::async_connect(active.connection->socket, addresses_,
                               asio::redirect_error(asio::use_awaitable, failed));
  active.deadline = whole_deadline;
  if (failed) {
    answer.fail("no connection", failed.message());
    co_return false;
  }
  error_code ignored;
  active.connection->socket.set_option(tcp::no_delay(true), ignored);
  co_return true;
}

/// @returns false: the connection was an old one that the server had closed meanwhile
asio::awaitable<bool> Exchanges::talk(Active& active, const std::string& request, Record& record,
                                      Answer& answer, bool is_reused) {
  Connection& connection = *active.connection;
  error_code failed;
  co_await asio::async_write(connection.socket, asio::buffer(request),
                             asio::redirect_error(asio::use_awaitable, failed));
  Instant at;
  gateway::ResponseParser parser(kMaxBodyBytes, [&](std::string_view data) {
    return take_event(data, at, active, record, answer);
  });
  while (!failed && !parser.done()) {
    const size_t size = co_await connection.socket.async_read_some(
        asio::buffer(connection.buffer), asio::redirect_error(asio::use_awaitable, failed));
    at = now();
    if (failed) break;
    const auto taken = parser.feed({connection.buffer.data(), size});
    if (!taken.ok()) {
      answer.fail("broken answer", taken.error().message);
      co_return true;
    }
  }
  if (failed) {
    const auto ended = parser.end();
    if (!ended.ok() && !parser.begun() && is_reused && !active.timed_out && !active.interrupted) {
      co_return false;
    }
    if (!ended.ok() && !answer.finished) {
      answer.fail("connection cut", ended.error().message + " (" + failed.message() + ")");
      co_return true;
    }
  }
  const gateway::ClientResponse& response = parser.response();
  answer.status = response.status;
  if (response.status != 200) {
    const int64_t wait = parse_number<int64_t>(response.header("retry-after")).value_or(1);
    answer.retry_after =
        std::clamp(seconds(std::clamp<int64_t>(wait, 0, 3600)), milliseconds(100), kMaxRetryAfter);
    const auto words = server_words(response.body);
    answer.fail("HTTP " + std::to_string(response.status),
                report_line(words ? *words : response.body));
  } else if (answer.error_kind.empty() && !answer.finished) {
    answer.fail("stream cut", "the stream ended before the answer did");
  } else if (answer.error_kind.empty() && !answer.has_choice) {
    answer.fail("empty answer", "the stream ended without any event of the answer");
  }
  if (parser.keeps_alive()) idle_.push_back(std::move(active.connection));
  co_return true;
}

/// @returns false: there is nothing more to read
bool Exchanges::take_event(std::string_view data, Instant at, const Active& active, Record& record,
                           Answer& answer) {
  auto event = parse_event(data);
  if (!event.ok()) {
    answer.fail("broken event", event.error().message);
    return false;
  }
  if (event->error) {
    answer.fail("error event", report_line(*event->error));
    return false;
  }
  if (event->has_choice) {
    record.last = at;
    answer.has_choice = true;
  }
  if (event->has_output()) {
    record.tokens.push_back(at);
    ++num_events_;
  }
  if (active.keeps_text) answer.text += event->reasoning + event->content;
  if (event->usage) {
    record.has_usage = true;
    record.input_tokens = event->usage->prompt_tokens;
    record.output_tokens = event->usage->completion_tokens;
    record.cached_tokens = event->usage->cached_tokens;
  }
  answer.finished = answer.finished || event->is_end || !event->finish_reason.empty();
  return true;
}

}  // namespace troupe::loadgen
