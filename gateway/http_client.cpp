#include "gateway/http_client.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/parse.hpp"

namespace troupe::gateway {
namespace {

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
  const std::string context = "cannot reach http://" + authority(host, port);
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

}  // namespace

std::string authority(const std::string& host, const std::string& port) {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return (is_ipv6 ? "[" + host + "]" : host) + ":" + port;
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
  if (host.empty() || parse_number<uint16_t>(client.port_).value_or(0) == 0) return wrong;
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
      "Host: " + authority(host_, port_) + "\r\nConnection: close\r\nAccept: application/json\r\n";
  if (method == "POST") {
    request += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size());
    request += "\r\n";
  }
  request += "\r\n";
  request += body;
  TRY(socket.send_all(request, options_.silence_timeout));

  ResponseParser parser(options_.max_body_bytes, on_event == nullptr ? EventHandler() : *on_event);
  char bytes[16384];
  while (!parser.done()) {
    const size_t size = TRY(socket.receive(bytes, sizeof bytes, options_.silence_timeout));
    if (size == 0) {
      TRY(parser.end());
    } else {
      TRY(parser.feed({bytes, size}));
    }
  }
  return parser.take();
}

}  // namespace troupe::gateway
