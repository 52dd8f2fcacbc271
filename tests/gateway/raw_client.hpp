#pragma once

// A TCP client that sends exactly the bytes it is told to, good and bad.

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::gateway {

class RawClient {
 public:
  explicit RawClient(uint16_t port);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  /// False if the server has closed.
  bool send(std::string_view bytes);
  void shutdown_send();
  /// Closes with a reset instead of an orderly end.
  void reset();
  void close();

  /// Reads until the text so far holds `mark`, or the end; gives up after 20 s.
  std::string read_until(std::string_view mark);
  /// One answer: header and body by Content-Length or chunks.
  std::string read_response();
  /// Everything to the end of the connection.
  std::string read_all() { return read_until("\xff never \xff"); }

 private:
  bool fill();

  int fd_;
  std::string buffer_;
};

/// A request with a JSON body.
std::string post(std::string_view path, std::string_view body, std::string_view headers = "");

}  // namespace troupe::gateway
