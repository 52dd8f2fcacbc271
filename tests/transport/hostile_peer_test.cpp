// A peer that speaks UCX, or none of it, and means harm: everything is counted and dropped, and the
// next honest frame passes.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/transport/inbox.hpp"
#include "transport/port_address.hpp"
#include "transport/ports.hpp"
#include "transport/ucx_worker.hpp"

namespace troupe::transport {
namespace {

constexpr NodeId kVictim{1}, kFriend{2};

class HostilePeer : public testing::Test {
 protected:
  HostilePeer() {
    victim_ = open_ucx_port({.self = kVictim, .cluster = 7, .on_frame = inbox_.frame_handler()}, {})
                  .value();
  }

  void expect_an_honest_frame_passes() {
    auto port = open_ucx_port({.self = kFriend, .cluster = 7}, {}).value();
    auto link = port->connect(kVictim, victim_->address()).value();
    const size_t before = inbox_.frames().size();
    ASSERT_TRUE(link->send(ping(70'000)).ok());
    ASSERT_TRUE(inbox_.wait_for_frames(before + 1));
  }

  Inbox inbox_;
  std::unique_ptr<Port> victim_;
};

// Sends active messages of any shape to a port's network worker.
class Attacker {
 public:
  explicit Attacker(const std::string& address)
      : worker_(UcxWorker::open(UcxContext::open(UcxContext::Wires::kNet).value()).value()) {
    endpoint_ = worker_
                    ->connect(
                        parse_port_address(address).value().net_worker,
                        [](void*, ucp_ep_h, ucs_status_t) {}, nullptr)
                    .value();
  }
  ~Attacker() {
    close_by_force(endpoint_);
    worker_->progress(1000);
  }

  // Waits until UCX has sent it, or has been told by the victim that it is done with.
  void send(unsigned id, const std::string& header, const void* data, size_t length) {
    ucp_request_param_t params{};
    ucs_status_ptr_t request =
        ucp_am_send_nbx(endpoint_, id, header.data(), header.size(), data, length, &params);
    if (request == nullptr) return;
    ASSERT_TRUE(UCS_PTR_IS_PTR(request));
    EXPECT_TRUE(eventually([&] {
      worker_->progress(100);
      return ucp_request_check_status(request) != UCS_INPROGRESS;
    }));
    ucp_request_free(request);
  }
  void send(unsigned id, const std::string& header, const std::string& data = "") {
    send(id, header, data.data(), data.size());
  }
  void progress() { worker_->progress(1); }

 private:
  std::unique_ptr<UcxWorker> worker_;
  ucp_ep_h endpoint_ = nullptr;
};

TEST_F(HostilePeer, RawActiveMessagesAreCountedAndDropped) {
  Attacker attacker(victim_->address());
  uint64_t expected = 0;
  const auto refused = [&](unsigned id, const std::string& header, const std::string& data = "") {
    attacker.send(id, header, data);
    ++expected;
    EXPECT_TRUE(eventually([&] {
      attacker.progress();
      return victim_->stats().frames_rejected >= expected;
    })) << "id "
        << id << ", header " << header.size() << ", data " << data.size();
    EXPECT_EQ(victim_->stats().frames_rejected, expected);
  };
  const std::string source(8, 'S');
  for (const size_t size : {0, 1, 7, 100, 9000, 200'000}) {
    refused(1, "", std::string(size, 'x'));  // no source
    refused(1, std::string(7, 'x'), std::string(size, 'x'));
    refused(1, source, std::string(size, 'x'));  // a payload without a header
    refused(1, source + "not a header", std::string(size, 'x'));
    refused(1, source + std::string(8000, '\xff'), std::string(size, 'x'));
    refused(2, "", std::string(size, 'x'));
    refused(3, "", std::string(size, 'x'));  // hellos
    refused(3, source + std::string(8, 'C'), std::string(size, 'x'));
    refused(3, source + std::string("\7\0\0\0\0\0\0\0", 8), std::string(size, 'x'));
    attacker.send(2, source, std::string(size, 'x'));  // a header that is none, then its payload
    refused(1, source, std::string(size, 'x'));
    attacker.send(9, source, std::string(size, 'x'));  // nobody listens to this id
  }
  refused(3, source + std::string("\7\0\0\0\0\0\0\0", 8),
          to_text({.by_net = true,
                   .by_shm = true,
                   .host = this_host() + 1,
                   .shm_worker = std::vector<std::byte>(9)}));
  expect_an_honest_frame_passes();
}

TEST_F(HostilePeer, ALargerMessageThanAnyFrameIsRefusedBeforeItIsReceived) {
  const size_t size = kMaxFrameBytes + 1;
  void* huge = mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(huge, MAP_FAILED);
  Attacker attacker(victim_->address());
  attacker.send(1, std::string(8, 'S'), huge, size);
  EXPECT_TRUE(eventually([&] { return victim_->stats().frames_rejected == 1; }));
  expect_an_honest_frame_passes();
  munmap(huge, size);
}

TEST_F(HostilePeer, ManyHeadersWithoutFramesAreForgotten) {
  Attacker attacker(victim_->address());
  for (uint64_t source = 0; source < 3000; ++source) {
    attacker.send(2, std::string(reinterpret_cast<const char*>(&source), 8), "header");
  }
  expect_an_honest_frame_passes();
}

// The TCP ports this process listens on.
std::set<uint16_t> listening_ports() {
  std::set<std::string> sockets;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    sockets.insert(std::filesystem::read_symlink(entry.path(), ignored).string());
  }
  std::set<uint16_t> ports;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(table);
    std::string line;
    std::getline(in, line);
    while (std::getline(in, line)) {
      std::istringstream fields(line);
      std::string number, local, remote, state, skip, inode;
      fields >> number >> local >> remote >> state;
      for (int i = 0; i < 5; ++i) fields >> skip;
      fields >> inode;
      if (state == "0A" && sockets.count("socket:[" + inode + "]") != 0) {
        ports.insert(
            static_cast<uint16_t>(std::stoul(local.substr(local.rfind(':') + 1), nullptr, 16)));
      }
    }
  }
  return ports;
}

TEST_F(HostilePeer, GarbageToTheDataPortHurtsNobody) {
  const auto ports = listening_ports();
  ASSERT_FALSE(ports.empty());
  auto port = open_ucx_port({.self = kFriend, .cluster = 7}, {.wires = UcxWires::kNet}).value();
  auto link = port->connect(kVictim, victim_->address()).value();
  ASSERT_TRUE(link->send(ping(10)).ok());
  ASSERT_TRUE(inbox_.wait_for_frames(1));
  const std::string inputs[] = {"",
                                "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                std::string(64, '\xff'),
                                std::string(64, '\0'),
                                std::string(100'000, 'A'),
                                std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11)};
  for (const uint16_t number : ports) {
    for (const std::string& input : inputs) {
      const int fd = socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(number)};
      inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
      if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) {
        (void)!::send(fd, input.data(), input.size(), MSG_NOSIGNAL);
      }
      ::close(fd);
      const size_t before = inbox_.frames().size();
      ASSERT_TRUE(link->send(ping(50'000)).ok());
      ASSERT_TRUE(inbox_.wait_for_frames(before + 1));
    }
  }
  expect_an_honest_frame_passes();
}

}  // namespace
}  // namespace troupe::transport
