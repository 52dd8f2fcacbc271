// A server that does nothing but stream events on a clock, to measure what `troupe bench serve`
// itself costs and how exactly it sees times that are known:
//   stream_stub PORT EVENTS MICROSECONDS_PER_EVENT
// Each POST is answered by so many completion events, that far apart, with usage and [DONE]. One
// thread with poll(2); it understands just enough HTTP for this client.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <queue>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Client {
  std::string got;
  int num_left = 0;  ///< events of the answer in progress
};

struct Due {
  Clock::time_point at;
  int fd;
  friend bool operator>(const Due& a, const Due& b) { return a.at > b.at; }
};

std::string chunk(const std::string& text) {
  char size[32];
  std::snprintf(size, sizeof size, "%zx\r\n", text.size());
  return size + text + "\r\n";
}

void send_all(int fd, const std::string& bytes) {
  (void)!::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

/// A whole request is there: head and, by its Content-Length, body. It is taken away.
bool take_request(Client& client) {
  const size_t head = client.got.find("\r\n\r\n");
  if (head == std::string::npos) return false;
  const size_t field = client.got.find("Content-Length: ");
  const size_t body = field < head ? std::strtoul(client.got.c_str() + field + 16, nullptr, 10) : 0;
  if (client.got.size() < head + 4 + body) return false;
  const bool is_post = client.got.starts_with("POST");
  client.got.erase(0, head + 4 + body);
  client.num_left = is_post ? -1 : 0;
  return true;
}

class Stub {
 public:
  Stub(int listener, int num_events, std::chrono::microseconds gap)
      : listener_(listener), num_events_(num_events), gap_(gap) {}

  [[noreturn]] void run() {
    while (true) {
      std::vector<pollfd> waits = {{listener_, POLLIN, 0}};
      for (const auto& [fd, client] : clients_) waits.push_back({fd, POLLIN, 0});
      timespec limit{.tv_sec = 1, .tv_nsec = 0};
      if (!due_.empty()) {
        const auto left =
            std::max<int64_t>(0, std::chrono::nanoseconds(due_.top().at - Clock::now()).count());
        limit = {.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
      }
      ::ppoll(waits.data(), waits.size(), &limit, nullptr);
      if (waits[0].revents != 0) accept_one();
      for (size_t i = 1; i < waits.size(); ++i) {
        if (waits[i].revents != 0) read_some(waits[i].fd);
      }
      while (!due_.empty() && due_.top().at <= Clock::now()) send_event();
    }
  }

 private:
  void accept_one() {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    clients_[fd];
  }

  void read_some(int fd) {
    char bytes[65536];
    const ssize_t size = ::recv(fd, bytes, sizeof bytes, 0);
    if (size <= 0) {
      clients_.erase(fd);
      ::close(fd);
      return;
    }
    Client& client = clients_[fd];
    client.got.append(bytes, static_cast<size_t>(size));
    if (!take_request(client)) return;
    if (client.num_left == 0) {
      const std::string body = R"({"data":[{"id":"stub"}]})";
      send_all(fd,
               "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
               "Content-Length: " +
                   std::to_string(body.size()) + "\r\n\r\n" + body);
      return;
    }
    client.num_left = num_events_;
    send_all(fd,
             "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
             "Transfer-Encoding: chunked\r\n\r\n");
    due_.push({Clock::now() + gap_, fd});
  }

  void send_event() {
    const Due due = due_.top();
    due_.pop();
    const auto found = clients_.find(due.fd);
    if (found == clients_.end() || found->second.num_left == 0) return;  // gone meanwhile
    Client& client = found->second;
    if (--client.num_left > 0) {
      send_all(due.fd, event_);
      due_.push({due.at + gap_, due.fd});
      return;
    }
    send_all(due.fd, event_ +
                         chunk(R"(data: {"choices":[{"index":0,"text":"",)"
                               R"("finish_reason":"length"}]})"
                               "\n\n") +
                         chunk(R"(data: {"choices":[],"usage":{"prompt_tokens":1,)"
                               R"("completion_tokens":)" +
                               std::to_string(num_events_) + "}}\n\ndata: [DONE]\n\n") +
                         "0\r\n\r\n");
  }

  int listener_;
  int num_events_;
  std::chrono::microseconds gap_;
  std::map<int, Client> clients_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  /// With the fields of vLLM's events.
  std::string event_ = chunk(
      R"(data: {"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion",)"
      R"("created":1700000000,"model":"stub","choices":[{"index":0,"text":" word","logprobs":null,)"
      R"("finish_reason":null,"stop_reason":null}],"usage":null})"
      "\n\n");
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: stream_stub PORT EVENTS MICROSECONDS_PER_EVENT\n");
    return 2;
  }
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[1])));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener, 1024) != 0) {
    std::fprintf(stderr, "stream_stub: port %s: %s\n", argv[1], std::strerror(errno));
    return 1;
  }
  Stub(listener, std::atoi(argv[2]), std::chrono::microseconds(std::atoi(argv[3]))).run();
}
