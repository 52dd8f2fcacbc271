#include "gateway/http_client.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <thread>

namespace troupe::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Answers one connection with fixed bytes, whatever it is asked.
class CannedServer {
 public:
  /// @param host an address of this machine: where it cannot be had, listens() is false
  explicit CannedServer(std::string answer, const char* host = "127.0.0.1") {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (::getaddrinfo(host, "0", &hints, &found) != 0) return;
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> address(found, ::freeaddrinfo);
    fd_ = ::socket(address->ai_family, SOCK_STREAM, 0);
    if (::bind(fd_, address->ai_addr, address->ai_addrlen) != 0 || ::listen(fd_, 1) != 0) return;
    char port[8] = {};
    ::getsockname(fd_, address->ai_addr, &address->ai_addrlen);
    ::getnameinfo(address->ai_addr, address->ai_addrlen, nullptr, 0, port, sizeof port,
                  NI_NUMERICSERV);
    port_ = port;
    thread_ = std::thread([this, answer = std::move(answer)] {
      const int connection = ::accept(fd_, nullptr, nullptr);
      char byte = 0;
      std::string& seen = request;
      while (!seen.ends_with("\r\n\r\n") && ::recv(connection, &byte, 1, 0) == 1) seen += byte;
      ::send(connection, answer.data(), answer.size(), MSG_NOSIGNAL);
      ::shutdown(connection, SHUT_WR);
      while (::recv(connection, &byte, 1, 0) == 1) {
      }
      ::close(connection);
    });
  }
  ~CannedServer() {
    if (thread_.joinable()) thread_.join();
    ::close(fd_);
  }
  [[nodiscard]] bool listens() const { return thread_.joinable(); }
  [[nodiscard]] const std::string& port() const { return port_; }
  /// Of the default host.
  [[nodiscard]] std::string url() const { return "http://127.0.0.1:" + port_; }

  std::string request;

 private:
  int fd_ = -1;
  std::string port_;
  std::thread thread_;
};

Result<ClientResponse> get(const std::string& answer) {
  const CannedServer server(answer);
  return HttpClient::create(server.url()).value().get("/x");
}

TEST(HttpClient, ReadsBodiesOfEveryFraming) {
  EXPECT_EQ(get("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc").value().body, "ab");
  EXPECT_EQ(get("HTTP/1.1 200 OK\r\n\r\nabc").value().body, "abc");
  EXPECT_EQ(get("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                "2\r\nab\r\nA\r\n0123456789\r\n0\r\n\r\n")
                .value()
                .body,
            "ab0123456789");
}

TEST(HttpClient, GivesStatusAndHeaders) {
  const auto response =
      get("HTTP/1.1 503 No\r\nRetry-After:  7 \r\nContent-Length: 0\r\n\r\n").value();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.header("retry-after"), "7");
  EXPECT_EQ(response.header("absent"), "");
}

TEST(HttpClient, RefusesAnswersThatAreNoHttp) {
  for (const char* answer :
       {"", "SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"}) {
    const auto response = get(answer);
    ASSERT_FALSE(response.ok()) << answer;
    EXPECT_EQ(response.error().code, Code::kCorrupt) << answer;
  }
  EXPECT_FALSE(get("HTTP/1.1 200 OK\r\nA: " + std::string(200'000, 'x')).ok());
}

TEST(HttpClient, CutsStreamsIntoEvents) {
  const CannedServer server(
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
      ": comment\n\ndata: one\n\nevent: x\r\ndata: two\r\ndata: lines\r\n\r\ndata:[DONE]\n\n");
  std::vector<std::string> events;
  const auto response =
      HttpClient::create(server.url()).value().post_stream("/x", "{}", [&](std::string_view data) {
        events.emplace_back(data);
        return true;
      });
  ASSERT_TRUE(response.ok());
  EXPECT_THAT(events, ElementsAre("one", "two\nlines", "[DONE]"));
}

TEST(HttpClient, EndsAStreamWhenTheHandlerHasEnough) {
  const CannedServer server(
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\ndata: 2\n\n");
  int count = 0;
  const auto response =
      HttpClient::create(server.url()).value().post_stream("/x", "{}", [&](std::string_view) {
        return ++count < 1;
      });
  EXPECT_TRUE(response.ok());
  EXPECT_EQ(count, 1);
}

TEST(HttpClient, GivesTheBodyOfAnErrorInsteadOfEvents) {
  const CannedServer server("HTTP/1.1 429 No\r\nContent-Type: application/json\r\n\r\n{}");
  const auto response =
      HttpClient::create(server.url()).value().post_stream("/x", "{}", [](std::string_view) {
        return true;
      });
  EXPECT_EQ(response.value().status, 429);
  EXPECT_EQ(response.value().body, "{}");
}

TEST(HttpClient, PutsThePathOfTheBaseUrlFirst) {
  CannedServer server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  ASSERT_TRUE(HttpClient::create(server.url() + "/base/").value().get("/x").ok());
  EXPECT_THAT(server.request, HasSubstr("GET /base/x HTTP/1.1\r\n"));
}

TEST(HttpClient, TakesOnlyHttpUrls) {
  for (const char* url : {"", "https://x", "http://", "http://:80", "http://x:0", "http://x:99999",
                          "http://x:ab", "http://x:80x", "http://x:-80", "http://x\r\n", "x:80"}) {
    EXPECT_FALSE(HttpClient::create(url).ok()) << url;
  }
  EXPECT_TRUE(HttpClient::create("http://localhost").ok());
  EXPECT_TRUE(HttpClient::create("http://[::1]:80/v1").ok());
}

TEST(HttpClient, NamesAServerWithBracketsAroundIpv6) {
  EXPECT_EQ(authority("localhost", "80"), "localhost:80");
  EXPECT_EQ(authority("::1", "8000"), "[::1]:8000");
  const auto response = HttpClient::create("http://[::1]:1").value().get("/");
  EXPECT_THAT(response.error().message, HasSubstr("cannot reach http://[::1]:1"));

  CannedServer server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "::1");
  if (!server.listens()) GTEST_SKIP() << "no IPv6 here";
  ASSERT_TRUE(HttpClient::create("http://[::1]:" + server.port()).value().get("/x").ok());
  EXPECT_THAT(server.request, HasSubstr("\r\nHost: [::1]:" + server.port() + "\r\n"));
}

TEST(HttpClient, SaysWhereNobodyListens) {
  const auto response = HttpClient::create("http://127.0.0.1:1").value().get("/");
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().code, Code::kUnavailable);
  EXPECT_THAT(response.error().message, HasSubstr("cannot reach http://127.0.0.1:1"));
}

}  // namespace
}  // namespace troupe::gateway
