#include "gateway/http_client.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

namespace troupe::gateway {
namespace {

constexpr size_t kMaxHeadBytes = 64U << 10;
constexpr size_t kMaxLineBytes = 16U << 20;  // of one event

Error system_error(const std::string& what) {
  return Error{Code::kUnavailable, what + ": " + std::strerror(errno)};
}

int milliseconds_of(Duration d) {
  return static_cast<int>(std::clamp<int64_t>(d.ns / 1'000'000, 1, INT32_MAX));
}

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }

  /// Waits until the socket can read or write.
  [[nodiscard]] Result<void> wait(short events, Duration limit) const {
    pollfd entry{fd_, events, 0};
    while (true) {
      const int ready = ::poll(&entry, 1, milliseconds_of(limit));
      if (ready > 0) return {};
      if (ready == 0) return Error{Code::kDeadlineExceeded, "the server did not answer in time"};
      if (errno != EINTR) return system_error("poll");
    }
  }

  [[nodiscard]] Result<void> send_all(std::string_view bytes, Duration limit) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent >= 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
      } else if (errno == EAGAIN) {
        TRY(wait(POLLOUT, limit));
      } else if (errno != EINTR) {
        return system_error("sending the request");
      }
    }
    return {};
  }

  /// 1 or more bytes, or 0 at the end.
  [[nodiscard]] Result<size_t> receive(char* to, size_t size, Duration limit) const {
    while (true) {
      const ssize_t got = ::recv(fd_, to, size, 0);
      if (got >= 0) return static_cast<size_t>(got);
      if (errno == EAGAIN) {
        TRY(wait(POLLIN, limit));
      } else if (errno != EINTR) {
        return system_error("reading the answer");
      }
    }
  }

  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

Result<Socket> connect_to_address(const addrinfo& address, Duration limit) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.fd() < 0) return system_error("socket");
  if (::connect(socket.fd(), address.ai_addr, address.ai_addrlen) == 0) return socket;
  if (errno != EINPROGRESS) return system_error("connect");
  TRY(socket.wait(POLLOUT, limit));
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error == 0) return socket;
  errno = error;
  return system_error("connect");
}

Result<Socket> connect_to(const std::string& host, const std::string& port, Duration limit) {
  const std::string context = "cannot reach http://" + host + ":" + port;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); code != 0) {
    return Error{Code::kUnavailable, context + ": " + ::gai_strerror(code)};
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(found, ::freeaddrinfo);
  Error last{Code::kUnavailable, "no address"};
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    auto socket = connect_to_address(*address, limit);
    if (socket.ok()) return socket;
    last = std::move(socket).error();
  }
  return std::move(last).with_context(context);
}

/// Buffered reading of an answer's parts.
class Reader {
 public:
  Reader(const Socket& socket, Duration limit) : socket_(socket), limit_(limit) {}

  /// Up to and without CRLF or LF.
  Result<std::string> line(size_t max_bytes) {
    while (true) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        std::string text = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        if (text.ends_with('\r')) text.pop_back();
        return text;
      }
      if (buffer_.size() > max_bytes)
        return Error{Code::kCorrupt, "the answer's header is too long"};
      if (TRY(fill()) == 0) return Error{Code::kCorrupt, "the answer ended in the middle"};
    }
  }

  /// 1 to max_bytes bytes; empty at the end.
  Result<std::string> some(size_t max_bytes) {
    if (buffer_.empty() && TRY(fill()) == 0) return std::string();
    std::string bytes = buffer_.substr(0, max_bytes);
    buffer_.erase(0, bytes.size());
    return bytes;
  }

 private:
  Result<size_t> fill() {
    char bytes[16384];
    const size_t count = TRY(socket_.receive(bytes, sizeof bytes, limit_));
    buffer_.append(bytes, count);
    return count;
  }

  const Socket& socket_;
  Duration limit_;
  std::string buffer_;
};

/// Cuts a stream into the data of its events.
class EventSplitter {
 public:
  explicit EventSplitter(const HttpClient::EventHandler& on_event) : on_event_(on_event) {}

  /// False: the handler has enough.
  Result<bool> take(std::string_view bytes) {
    pending_ += bytes;
    size_t begin = 0;
    for (size_t end; (end = pending_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      std::string_view line = std::string_view(pending_).substr(begin, end - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!take_line(line)) return false;
    }
    pending_.erase(0, begin);
    if (pending_.size() + data_.size() > kMaxLineBytes) {
      return Error{Code::kCorrupt, "an event of the stream is too long"};
    }
    return true;
  }

 private:
  bool take_line(std::string_view line) {
    if (line.empty()) {
      if (!has_data_) return true;
      has_data_ = false;
      return on_event_(std::exchange(data_, {}));
    }
    if (!line.starts_with("data:")) return true;  // comments and fields that nobody needs here
    line.remove_prefix(5);
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += line;
    has_data_ = true;
    return true;
  }

  const HttpClient::EventHandler& on_event_;
  std::string pending_;
  std::string data_;
  bool has_data_ = false;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::optional<uint64_t> number(std::string_view text, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

Result<ClientResponse> read_head(Reader& reader) {
  ClientResponse response;
  const std::string status = TRY(reader.line(kMaxHeadBytes));
  const auto code = status.size() >= 12 && status.starts_with("HTTP/1.")
                        ? number(std::string_view(status).substr(9, 3), 10)
                        : std::nullopt;
  if (!code) return Error{Code::kCorrupt, "the answer is no HTTP"};
  response.status = static_cast<int>(*code);
  size_t total = 0;
  while (true) {
    const std::string line = TRY(reader.line(kMaxHeadBytes));
    if (line.empty()) return response;
    total += line.size();
    const size_t colon = line.find(':');
    if (colon == std::string::npos || total > kMaxHeadBytes) {
      return Error{Code::kCorrupt, "the answer has a broken header"};
    }
    response.headers.emplace_back(lower(std::string_view(line).substr(0, colon)),
                                  trimmed(std::string_view(line).substr(colon + 1)));
  }
}

/// Passes the body on, piece by piece, whatever its framing; the sink's false ends it.
using Sink = std::function<Result<bool>(std::string_view)>;

Result<bool> read_exactly(Reader& reader, uint64_t size, const Sink& sink) {
  while (size > 0) {
    const std::string bytes =
        TRY(reader.some(static_cast<size_t>(std::min<uint64_t>(size, 65536))));
    if (bytes.empty()) return Error{Code::kCorrupt, "the answer ended in the middle"};
    size -= bytes.size();
    if (!TRY(sink(bytes))) return false;
  }
  return true;
}

Result<void> read_body(Reader& reader, const ClientResponse& head, const Sink& sink) {
  if (head.header("transfer-encoding") == "chunked") {
    while (true) {
      const auto size = number(TRY(reader.line(kMaxHeadBytes)), 16);
      if (!size) return Error{Code::kCorrupt, "the answer has a broken chunk"};
      if (*size == 0) return {};
      if (!TRY(read_exactly(reader, *size, sink))) return {};
      TRY(reader.line(kMaxHeadBytes));
    }
  }
  if (const auto text = head.header("content-length"); !text.empty()) {
    const auto size = number(text, 10);
    if (!size) return Error{Code::kCorrupt, "the answer has a broken Content-Length"};
    TRY(read_exactly(reader, *size, sink));
    return {};
  }
  while (true) {
    const std::string bytes = TRY(reader.some(65536));
    if (bytes.empty() || !TRY(sink(bytes))) return {};
  }
}

}  // namespace

std::string_view ClientResponse::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "";
}

Result<HttpClient> HttpClient::create(std::string_view base_url, ClientOptions options) {
  const Error wrong{Code::kInvalidArgument, "\"" + std::string(base_url) +
                                                "\" is not of the form http://HOST[:PORT][/PATH]"};
  constexpr std::string_view kScheme = "http://";
  if (!base_url.starts_with(kScheme)) return wrong;
  std::string_view rest = base_url.substr(kScheme.size());
  HttpClient client;
  client.options_ = options;
  const size_t slash = rest.find('/');
  if (slash != std::string_view::npos) {
    std::string_view path = rest.substr(slash);
    while (path.ends_with('/')) path.remove_suffix(1);
    client.base_path_ = path;
    rest = rest.substr(0, slash);
  }
  const size_t colon = rest.starts_with('[') ? rest.find(':', rest.find(']')) : rest.find(':');
  std::string_view host = rest.substr(0, colon);
  client.port_ = colon == std::string_view::npos ? "80" : std::string(rest.substr(colon + 1));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  client.host_ = host;
  const auto port = number(client.port_, 10);
  if (host.empty() || !port || *port == 0 || *port > 65535) return wrong;
  if (base_url.find_first_of(" \r\n\t") != std::string_view::npos) return wrong;
  return client;
}

Result<ClientResponse> HttpClient::get(std::string_view path) const {
  return exchange("GET", path, "", nullptr);
}

Result<ClientResponse> HttpClient::post(std::string_view path, std::string_view json) const {
  return exchange("POST", path, json, nullptr);
}

Result<ClientResponse> HttpClient::post_stream(std::string_view path, std::string_view json,
                                               const EventHandler& on_event) const {
  return exchange("POST", path, json, &on_event);
}

Result<ClientResponse> HttpClient::exchange(std::string_view method, std::string_view path,
                                            std::string_view body,
                                            const EventHandler* on_event) const {
  const Socket socket = TRY(connect_to(host_, port_, options_.connect_timeout));
  std::string request =
      std::string(method) + ' ' + base_path_ + std::string(path) + " HTTP/1.1\r\n";
  request +=
      "Host: " + host_ + ":" + port_ + "\r\nConnection: close\r\nAccept: application/json\r\n";
  if (method == "POST") {
    request += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size());
    request += "\r\n";
  }
  request += "\r\n";
  request += body;
  TRY(socket.send_all(request, options_.silence_timeout));

  Reader reader(socket, options_.silence_timeout);
  ClientResponse response = TRY(read_head(reader));
  if (on_event != nullptr && response.header("content-type").starts_with("text/event-stream")) {
    EventSplitter splitter(*on_event);
    TRY(read_body(reader, response, [&](std::string_view bytes) { return splitter.take(bytes); }));
    return response;
  }
  TRY(read_body(reader, response, [&](std::string_view bytes) -> Result<bool> {
    response.body += bytes;
    if (response.body.size() > options_.max_body_bytes) {
      return Error{
          Code::kResourceExhausted,
          "the answer is longer than " + std::to_string(options_.max_body_bytes) + " bytes"};
    }
    return true;
  }));
  return response;
}

}  // namespace troupe::gateway
