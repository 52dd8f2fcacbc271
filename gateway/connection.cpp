#include "gateway/connection.hpp"

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <charconv>
#include <chrono>
#include <ctime>
#include <random>

#include "base/log.hpp"

namespace troupe::gateway {
namespace http = boost::beast::http;
using boost::system::error_code;
using std::chrono::steady_clock;

namespace {

constexpr size_t kReadBytes = 4096;
constexpr size_t kLongBodyBytes = 16U
                                  << 10;  // about 2 ms to tokenize, on a thread that also writes
constexpr size_t kMaxPipelinedBytes = 64U << 10;  // read ahead while an answer is in progress
constexpr size_t kMaxLingerBytes = 1U << 20;      // swallowed after a refusal, so that it is read
constexpr Duration kLingerTimeout = seconds(2);
constexpr auto kBarkAgain = std::chrono::milliseconds(100);

Instant now() {
  return {
      std::chrono::duration_cast<std::chrono::nanoseconds>(steady_clock::now().time_since_epoch())
          .count()};
}

std::string http_date() {
  const std::time_t seconds = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[40];
  return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts)};
}

std::string random_hex() {
  thread_local std::mt19937_64 engine(std::random_device{}());
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(engine()),
                static_cast<unsigned long long>(engine()));
  return text;
}

/// A client's own id, if it is fit for headers and logs.
std::string request_id_from(std::string_view offered) {
  const bool fit = !offered.empty() && offered.size() <= 128 &&
                   offered.find_first_not_of(
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                       "0123456789-_.:") == std::string_view::npos;
  return fit ? std::string(offered) : random_hex();
}

/// A label of bounded variety: clients may send any word as their method.
std::string_view method_label(std::string_view method) {
  for (const std::string_view known :
       {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"}) {
    if (method == known) return known;
  }
  return "other";
}

ApiError parse_failure(const error_code& ec, const ServerOptions& options) {
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return http_error(431, "The request header is longer than " +
                               std::to_string(options.max_header_bytes) + " bytes.");
  }
  if (ec == http::error::body_limit) {
    return http_error(413, "The request body is longer than " +
                               std::to_string(options.max_body_bytes) + " bytes.");
  }
  if (ec == http::error::partial_message) {
    return http_error(400, "The connection was closed before the end of the request.");
  }
  return http_error(400, "This is not an HTTP/1.1 request: " + ec.message() + ".");
}

/// True for errors of the parser, after which the socket can still carry an answer.
bool is_parse_error(const error_code& ec) {
  return ec.category() == http::make_error_code(http::error::body_limit).category();
}

/// A short body takes long, too, if it may have a grammar, which is compiled: a regex of 30 bytes
/// can take 60 ms. A name may also be written with escapes.
bool takes_long_to_read(std::string_view body) {
  constexpr std::array kSigns{"response_format", "structured_outputs", "guided_", "tools", "\\u"};
  return body.size() > kLongBodyBytes || std::ranges::any_of(kSigns, [&](const char* sign) {
           return body.find(sign) != std::string_view::npos;
         });
}

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, ServerState& state)
    : socket_(std::move(socket)),
      watchdog_(socket_.get_executor()),
      wake_timer_(socket_.get_executor()),
      state_(state) {}

void Connection::arm(Duration limit) {
  timed_out_ = false;
  const uint64_t round = ++watchdog_round_;
  watchdog_.expires_after(std::chrono::nanoseconds(limit.ns));
  watchdog_.async_wait([self = shared_from_this(), round](const error_code& ec) {
    if (!ec) self->bark(round);
  });
}

void Connection::bark(uint64_t round) {
  if (round != watchdog_round_) return;
  timed_out_ = true;
  error_code ignored;
  socket_.cancel(ignored);
  // An operation of several reads may be between two of them just now: it is cancelled next time.
  watchdog_.expires_after(kBarkAgain);
  watchdog_.async_wait([self = shared_from_this(), round](const error_code& ec) {
    if (!ec) self->bark(round);
  });
}

void Connection::disarm() {
  ++watchdog_round_;
  watchdog_.cancel();
}

void Connection::wake() { wake_timer_.cancel(); }

void Connection::drain() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    error_code ignored;
    self->keep_alive_ = false;
    if (self->idle_) self->socket_.cancel(ignored);
  });
}

void Connection::interrupt() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->interrupted_ = true;
    self->wake();
  });
}

void Connection::abort() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    error_code ignored;
    self->interrupted_ = true;
    self->client_gone_ = true;
    self->socket_.close(ignored);
    self->wake();
  });
}

asio::awaitable<void> Connection::run() {
  while (keep_alive_ && !interrupted_) {
    if (!co_await wait_for_first_byte()) break;
    std::optional<HttpRequest> request = co_await read_request();
    if (!request) break;
    co_await answer(std::move(*request));
  }
  if (refused_) co_await linger();
}

asio::awaitable<bool> Connection::wait_for_first_byte() {
  if (buffer_.size() > 0) co_return true;
  if (state_.draining) co_return false;
  error_code ec;
  idle_ = true;
  arm(state_.options.idle_timeout);
  const size_t count = co_await socket_.async_read_some(
      buffer_.prepare(kReadBytes), asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  idle_ = false;
  buffer_.commit(count);
  co_return !ec;
}

asio::awaitable<std::optional<HttpRequest>> Connection::read_request() {
  const ServerOptions& options = state_.options;
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(options.max_header_bytes));
  parser.body_limit(options.max_body_bytes);
  request_id_ = random_hex();
  head_only_ = false;
  http_1_0_ = false;
  HttpRequest request;
  request.arrived = now();

  error_code ec;
  arm(options.header_timeout);
  co_await http::async_read_header(socket_, buffer_, parser,
                                   asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  const auto& message = parser.get();
  if (!ec) {
    request_id_ = request_id_from(message["X-Request-Id"]);
    head_only_ = message.method() == http::verb::head;
    http_1_0_ = message.version() < 11;
    if (boost::beast::iequals(message[http::field::expect], "100-continue") && !parser.is_done()) {
      if (!co_await write("HTTP/1.1 100 Continue\r\n\r\n")) co_return std::nullopt;
    }
    arm(options.body_timeout);
    co_await http::async_read(socket_, buffer_, parser,
                              asio::redirect_error(asio::use_awaitable, ec));
    disarm();
  }
  if (ec) {
    if (timed_out_) {
      co_await refuse(http_error(408, "The request did not arrive within its time."));
    } else if (is_parse_error(ec) && ec != http::error::end_of_stream) {
      co_await refuse(parse_failure(ec, options));
    } else {
      keep_alive_ = false;
    }
    co_return std::nullopt;
  }

  keep_alive_ = keep_alive_ && message.keep_alive();
  request.method = std::string_view(message.method_string());
  request.target = std::string_view(message.target());
  request.content_type = std::string_view(message[http::field::content_type]);
  request.request_id = request_id_;
  const std::string_view authorization = message[http::field::authorization];
  constexpr std::string_view kBearer = "Bearer ";
  if (authorization.starts_with(kBearer)) request.api_key = authorization.substr(kBearer.size());
  request.timeout = std::string_view(message["X-Request-Timeout"]);
  request.preflight_headers = std::string_view(message["Access-Control-Request-Headers"]);
  const auto retries = message["X-Stainless-Retry-Count"];
  request.is_retry = !retries.empty() && retries != "0";
  request.body = std::move(parser.get().body());
  co_return request;
}

asio::awaitable<void> Connection::answer(HttpRequest request) {
  int status = 0;
  if (state_.draining) keep_alive_ = false;
  Answer answer = co_await begin_answer(request);
  if (auto* response = std::get_if<HttpResponse>(&answer)) {
    status = response->status;
    if (!co_await send_response(*response)) keep_alive_ = false;
  } else {
    status = co_await serve_exchange(request, *std::get<std::unique_ptr<Exchange>>(answer));
  }
  const Duration took = now() - request.arrived;
  const std::string_view route = Service::route_of(request.target);
  state_.metrics.http_request(route, method_label(request.method), status, took);
  if (status == 429 || status == 503) {
    const auto num_left_out = state_.refusals.next(now());
    if (!num_left_out) co_return;
    if (*num_left_out > 0) log::info("http_refusals_left_out", {{"count", *num_left_out}});
  }
  const bool is_probe = route == "/health" || route == "/metrics" || route == "/ping";
  log::write(is_probe ? log::Level::kDebug : log::Level::kInfo, "http_request",
             {{"id", request.request_id},
              {"method", request.method},
              {"route", route},
              {"status", status},
              {"ms", took.ns / 1'000'000}});
}

/// Reading such a request would keep the streams waiting that are written on the same thread.
asio::awaitable<Answer> Connection::begin_answer(const HttpRequest& request) {
  if (!takes_long_to_read(request.body)) co_return state_.service.answer(request);
  co_return co_await asio::co_spawn(
      state_.long_work,
      [&]() -> asio::awaitable<Answer> { co_return state_.service.answer(request); },
      asio::use_awaitable);
}

asio::awaitable<int> Connection::serve_exchange(const HttpRequest& request, Exchange& exchange) {
  client_gone_ = false;
  stop_watching_ = false;
  watching_ = true;
  asio::co_spawn(
      socket_.get_executor(), [self = shared_from_this()] { return self->watch_client(); },
      asio::detached);
  exchange.start([self = shared_from_this()] {
    asio::post(self->socket_.get_executor(), [self] { self->wake(); });
  });
  int status = 200;
  bool streaming = false;
  while (true) {
    if (client_gone_) {
      exchange.abandon(now());
      state_.metrics.client_disconnected();
      log::info("client_gone", {{"id", request.request_id}});
      status = 499;
      break;
    }
    Exchange::Progress progress =
        interrupted_ ? exchange.interrupt(draining(), now()) : exchange.poll(now());
    if (progress.response) {
      status = progress.response->status;
      if (co_await send_response(*progress.response)) break;
      client_gone_ = true;
      continue;
    }
    if (!progress.events.empty()) {
      // The watch may find the client gone during a write that succeeds: only ever set
      // client_gone_.
      if (!streaming && !co_await open_stream()) client_gone_ = true;
      streaming = true;
      if (!client_gone_ && !co_await send_events(std::move(progress.events))) client_gone_ = true;
      // What happened while this was written woke nobody: look again before waiting.
      if (client_gone_ || !progress.done) continue;
    }
    if (progress.done) {
      if (co_await end_stream()) break;
      client_gone_ = true;
      continue;
    }
    error_code ec;
    wake_timer_.expires_after(std::chrono::nanoseconds(state_.options.ping_interval.ns));
    co_await wake_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    if (!ec && streaming && !co_await send_events(": ping\n\n")) client_gone_ = true;
  }
  if (client_gone_) keep_alive_ = false;
  co_await end_watch();
  co_return status;
}

/// Reads ahead, for the sake of the end of file that tells that the client is gone.
asio::awaitable<void> Connection::watch_client() {
  while (!stop_watching_ && buffer_.size() < kMaxPipelinedBytes) {
    error_code ec;
    const size_t count = co_await socket_.async_read_some(
        buffer_.prepare(kReadBytes), asio::redirect_error(asio::use_awaitable, ec));
    buffer_.commit(count);
    if (!ec) continue;
    if (!stop_watching_) client_gone_ = true;
    break;
  }
  watching_ = false;
  wake();
}

asio::awaitable<void> Connection::end_watch() {
  stop_watching_ = true;
  error_code ignored;
  socket_.cancel(ignored);
  while (watching_) {
    wake_timer_.expires_at(steady_clock::time_point::max());
    co_await wake_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
}

asio::awaitable<void> Connection::refuse(ApiError error) {
  keep_alive_ = false;
  refused_ = true;
  log::info("http_refused", {{"id", request_id_}, {"status", error.status}});
  state_.metrics.http_request("other", "other", error.status, seconds(0));
  co_await send_response(error_response(error));
}

std::string Connection::head_of(const HttpResponse& response, std::string_view framing) const {
  std::string head = http_1_0_ ? "HTTP/1.0 " : "HTTP/1.1 ";
  head += std::to_string(response.status) + ' ';
  head += std::string_view(http::obsolete_reason(static_cast<http::status>(response.status)));
  head += "\r\nDate: " + http_date();
  head += "\r\nx-request-id: " + request_id_;
  head += "\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: *";
  head += keep_alive_ ? "\r\nConnection: keep-alive" : "\r\nConnection: close";
  if (!response.content_type.empty()) head += "\r\nContent-Type: " + response.content_type;
  for (const auto& [name, value] : response.headers) {
    head.append("\r\n").append(name).append(": ").append(value);
  }
  head += framing;
  head += "\r\n\r\n";
  return head;
}

asio::awaitable<bool> Connection::send_response(const HttpResponse& response) {
  const bool has_body = response.status != 204;
  std::string bytes = head_of(
      response, has_body ? "\r\nContent-Length: " + std::to_string(response.body.size()) : "");
  if (has_body && !head_only_) bytes += response.body;
  co_return co_await write(std::move(bytes));
}

asio::awaitable<bool> Connection::open_stream() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  if (http_1_0_) keep_alive_ = false;  // no chunks: the end of the connection ends the answer
  co_return co_await write(head_of(head, http_1_0_ ? "" : "\r\nTransfer-Encoding: chunked"));
}

asio::awaitable<bool> Connection::send_events(std::string events) {
  if (http_1_0_) co_return co_await write(std::move(events));
  char size[20];
  const auto end = std::to_chars(size, size + sizeof size, events.size(), 16).ptr;
  std::string chunk(size, end);
  chunk += "\r\n";
  chunk += events;
  chunk += "\r\n";
  co_return co_await write(std::move(chunk));
}

asio::awaitable<bool> Connection::end_stream() {
  if (http_1_0_) co_return true;
  co_return co_await write("0\r\n\r\n");
}

asio::awaitable<bool> Connection::write(std::string bytes) {
  error_code ec;
  arm(state_.options.write_timeout);
  co_await asio::async_write(socket_, asio::buffer(bytes),
                             asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  co_return !ec;
}

/// Ends the connection so that a refusal arrives: closing a socket with unread bytes would
/// send a reset, and the client's kernel would throw the answer away.
asio::awaitable<void> Connection::linger() {
  error_code ec;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ec);
  std::string swallowed(kReadBytes, '\0');
  arm(kLingerTimeout);
  for (size_t total = 0; !ec && !timed_out_ && total < kMaxLingerBytes;) {
    total += co_await socket_.async_read_some(asio::buffer(swallowed),
                                              asio::redirect_error(asio::use_awaitable, ec));
  }
  disarm();
}

}  // namespace troupe::gateway
