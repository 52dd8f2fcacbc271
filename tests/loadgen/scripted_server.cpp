#include "tests/loadgen/scripted_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.hpp"

namespace troupe::loadgen {

ScriptedServer::ScriptedServer(std::function<Scripted(const std::string&, int)> answer)
    : answer_(std::move(answer)), fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  CHECK_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
  CHECK_EQ(::listen(fd_, 64), 0);
  ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept_all(); });
}

ScriptedServer::~ScriptedServer() {
  ::shutdown(fd_, SHUT_RDWR);
  acceptor_.join();
  {
    const std::lock_guard lock(mutex_);
    for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
  }
  for (std::thread& connection : connections_) connection.join();
  ::close(fd_);
}

void ScriptedServer::accept_all() {
  while (true) {
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    ++num_connections_;
    const std::lock_guard lock(mutex_);
    open_.push_back(fd);
    connections_.emplace_back([this, fd] { serve(fd); });
  }
}

void ScriptedServer::serve(int fd) {
  std::string got;
  bool is_open = true;
  while (is_open) {
    const size_t head = got.find("\r\n\r\n");
    const size_t field = got.find("Content-Length: ");
    const size_t body =
        field < head ? std::strtoul(got.c_str() + field + 16, nullptr, 10) : 0;  // a GET has none
    const size_t whole = head == std::string::npos ? std::string::npos : head + 4 + body;
    if (got.size() < whole) {
      char bytes[4096];
      const ssize_t size = ::recv(fd, bytes, sizeof bytes, 0);
      if (size <= 0) break;
      got.append(bytes, static_cast<size_t>(size));
      continue;
    }
    Scripted scripted;
    {
      const std::lock_guard lock(mutex_);
      scripted = answer_(got.substr(0, whole), num_requests_++);
    }
    got.erase(0, whole);
    ::send(fd, scripted.bytes.data(), scripted.bytes.size(), MSG_NOSIGNAL);
    is_open = !scripted.closes;
  }
  const std::lock_guard lock(mutex_);
  std::erase(open_, fd);
  ::close(fd);
}

Scripted streamed(int num_events, const std::string& text) {
  std::string body;
  for (int i = 0; i < num_events; ++i) {
    body += R"(data: {"choices":[{"index":0,"text":")" + text +
            R"(","finish_reason":null}]})"
            "\n\n";
  }
  body += R"(data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]})"
          "\n\n";
  body += R"(data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":)" +
          std::to_string(num_events) + "}}\n\ndata: [DONE]\n\n";
  char size[32];
  std::snprintf(size, sizeof size, "%zx\r\n", body.size());
  return {
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" +
      std::string(size) + body + "\r\n0\r\n\r\n"};
}

Scripted plain(int status, const std::string& headers, const std::string& body) {
  return {"HTTP/1.1 " + std::to_string(status) + " x\r\n" + headers +
          "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body};
}

}  // namespace troupe::loadgen
