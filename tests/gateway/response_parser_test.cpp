#include "gateway/response_parser.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::gateway {
namespace {

using ::testing::ElementsAre;

constexpr std::string_view kStream =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
    "9;x=y\r\n: hello\n\n\r\n"
    "12\r\ndata: one\n\ndata:tw\r\n"
    "15\r\no\r\ndata: lines\r\n\r\nev\r\n"
    "16\r\nent: x\rdata: [DONE]\r\r\r\n"
    "0\r\nTrailer: t\r\n\r\n";

struct Read {
  std::vector<std::string> events;
  ClientResponse response;
  bool done = false;
  bool keeps_alive = false;
  size_t taken = 0;
};

/// Feeds the pieces that `cuts` makes of the text.
Read read(std::string_view text, const std::vector<size_t>& cuts) {
  Read got;
  ResponseParser parser(1000, [&](std::string_view data) {
    got.events.emplace_back(data);
    return true;
  });
  size_t begin = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? cuts[i] : text.size();
    const auto taken = parser.feed(text.substr(begin, end - begin));
    EXPECT_TRUE(taken.ok()) << taken.error().message;
    got.taken += taken.ok() ? *taken : 0;
    begin = end;
  }
  got.done = parser.done();
  got.keeps_alive = parser.keeps_alive();
  got.response = parser.take();
  return got;
}

TEST(ResponseParser, ReadsTheSameEventsWhereverTheBytesAreCut) {
  const auto check = [](const Read& got) {
    EXPECT_THAT(got.events, ElementsAre("one", "two\nlines", "[DONE]"));
    EXPECT_TRUE(got.done && got.keeps_alive);
    EXPECT_EQ(got.taken, kStream.size());
    EXPECT_EQ(got.response.status, 200);
    EXPECT_EQ(got.response.body, "");
  };
  for (size_t first = 0; first <= kStream.size(); ++first) {
    for (size_t second = first; second <= kStream.size(); second += 7) {
      SCOPED_TRACE(testing::Message() << "cut at " << first << " and " << second);
      check(read(kStream, {first, second}));
    }
  }
  std::vector<size_t> every_byte(kStream.size());
  for (size_t i = 0; i < every_byte.size(); ++i) every_byte[i] = i;
  check(read(kStream, every_byte));
}

TEST(ResponseParser, LeavesTheBytesBehindTheAnswer) {
  constexpr std::string_view answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
  const Read got = read(std::string(answer) + "HTTP/1.1 5", {});
  EXPECT_EQ(got.taken, answer.size());
  EXPECT_EQ(got.response.body, "ab");
}

TEST(ResponseParser, KnowsWhenTheConnectionCanBeUsedAgain) {
  const auto keeps = [](std::string_view head) {
    return read(std::string(head) + "Content-Length: 0\r\n\r\n", {}).keeps_alive;
  };
  EXPECT_TRUE(keeps("HTTP/1.1 200 OK\r\n"));
  EXPECT_FALSE(keeps("HTTP/1.1 200 OK\r\nConnection: Close\r\n"));
  EXPECT_FALSE(keeps("HTTP/1.0 200 OK\r\n"));
  EXPECT_TRUE(keeps("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"));

  ResponseParser parser(1000);  // a body that only the connection's end delimits
  ASSERT_TRUE(parser.feed("HTTP/1.1 200 OK\r\n\r\nabc").ok());
  EXPECT_FALSE(parser.done());
  EXPECT_TRUE(parser.end().ok());
  EXPECT_TRUE(parser.done());
  EXPECT_FALSE(parser.keeps_alive());
}

TEST(ResponseParser, SkipsInterimAnswers) {
  const Read got =
      read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}", {});
  EXPECT_EQ(got.response.status, 429);
  EXPECT_EQ(got.response.body, "{}");
}

TEST(ResponseParser, TellsAnAnswerCutShortFromNone) {
  ResponseParser unanswered(1000);
  EXPECT_EQ(unanswered.end().error().message, "the connection ended unanswered");
  for (size_t size = 1; size < kStream.size(); ++size) {
    ResponseParser parser(1000, [](std::string_view) { return true; });
    ASSERT_TRUE(parser.feed(kStream.substr(0, size)).ok());
    const auto ended = parser.end();
    ASSERT_FALSE(ended.ok()) << size;
    EXPECT_EQ(ended.error().message, "the answer ended in the middle");
  }
}

TEST(ResponseParser, BoundsWhatItKeeps) {
  ResponseParser body(10);
  EXPECT_EQ(body.feed("HTTP/1.1 200 OK\r\n\r\n0123456789a").error().code, Code::kResourceExhausted);
  ResponseParser head(10);
  EXPECT_FALSE(head.feed("HTTP/1.1 200 OK\r\nA: " + std::string(70'000, 'x')).ok());

  SseParser events;
  const std::string piece(1U << 20, 'x');
  bool refused = false;
  for (int i = 0; i < 20 && !refused; ++i) {
    refused = !events.feed(piece, [](std::string_view) { return true; }).ok();
  }
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace troupe::gateway
