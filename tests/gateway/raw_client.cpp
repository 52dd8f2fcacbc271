#include "tests/gateway/raw_client.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

namespace troupe::gateway {
namespace {

constexpr int kPatienceMs = 20'000;  // a stuck test fails instead of hanging

}  // namespace

RawClient::RawClient(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
}

RawClient::~RawClient() { close(); }

bool RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

void RawClient::shutdown_send() { ::shutdown(fd_, SHUT_WR); }

void RawClient::reset() {
  const linger now{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close();
}

void RawClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

bool RawClient::fill() {
  pollfd entry{fd_, POLLIN, 0};
  if (::poll(&entry, 1, kPatienceMs) <= 0) return false;
  char bytes[4096];
  const ssize_t got = ::recv(fd_, bytes, sizeof bytes, 0);
  if (got <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(got));
  return true;
}

std::string RawClient::read_until(std::string_view mark) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
  size_t at = 0;
  while ((at = buffer_.find(mark)) == std::string::npos) {
    if (std::chrono::steady_clock::now() > end || !fill()) {
      std::string rest;
      rest.swap(buffer_);
      return rest;
    }
  }
  std::string text = buffer_.substr(0, at + mark.size());
  buffer_.erase(0, text.size());
  return text;
}

std::string RawClient::read_response() {
  std::string text = read_until("\r\n\r\n");
  if (text.find("Transfer-Encoding: chunked") != std::string::npos) {
    return text + read_until("\r\n0\r\n\r\n");
  }
  const size_t at = text.find("Content-Length: ");
  if (at == std::string::npos) return text;
  const size_t size = std::strtoul(text.c_str() + at + 16, nullptr, 10);
  while (buffer_.size() < size && fill()) {
  }
  text += buffer_.substr(0, size);
  buffer_.erase(0, size);
  return text;
}

std::string post(std::string_view path, std::string_view body, std::string_view headers) {
  std::string request = "POST " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n";
  request += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size());
  request += "\r\n" + std::string(headers) + "\r\n" + std::string(body);
  return request;
}

}  // namespace troupe::gateway
