// A thread that looks after a UCX port in place of the port's own: Port::drive().

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/transport/inbox.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

constexpr NodeId kA{11}, kB{22};

/// A port and the threads that handled its frames.
struct End {
  End(NodeId self, UcxWires wires) {
    auto opened = open_ucx_port({.self = self,
                                 .on_frame =
                                     [this, put = inbox.frame_handler()](Frame frame) {
                                       {
                                         const std::lock_guard lock(mutex);
                                         last_handler = std::this_thread::get_id();
                                       }
                                       put(std::move(frame));
                                     },
                                 .on_link_down = inbox.down_handler()},
                                {.wires = wires});
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    port = std::move(opened).value();
  }
  std::thread::id handler() {
    const std::lock_guard lock(mutex);
    return last_handler;
  }

  Inbox inbox;
  std::mutex mutex;
  std::thread::id last_handler;
  std::unique_ptr<Port> port;
};

class Drive : public testing::TestWithParam<UcxWires> {
 protected:
  Drive() {
    auto link = a_.port->connect(kB, b_.port->address());
    EXPECT_TRUE(link.ok()) << link.error().message;
    to_b_ = std::move(link).value();
    link = b_.port->connect(kA, a_.port->address());
    EXPECT_TRUE(link.ok()) << link.error().message;
    to_a_ = std::move(link).value();
  }
  void send_to_b(size_t size_bytes = 100) {
    ASSERT_TRUE(to_b_->send(ping(size_bytes, num_sent_++)).ok());
    ASSERT_TRUE(b_.inbox.wait_for_frames(num_sent_));
  }

  End a_{kA, GetParam()}, b_{kB, GetParam()};
  std::shared_ptr<Link> to_a_, to_b_;
  uint64_t num_sent_ = 0;
};

TEST_P(Drive, HandlesFramesInTheThreadThatDrives) {
  std::atomic<bool> done = false;
  std::thread guest([&] { EXPECT_TRUE(b_.port->drive([&] { return done.load(); })); });
  const std::thread::id id = guest.get_id();
  EXPECT_TRUE(eventually([&] {  // until the port's own thread has handed over
    send_to_b();
    return b_.handler() == id;
  }));
  for (int i = 0; i < 100; ++i) {
    send_to_b();
    EXPECT_EQ(b_.handler(), id);
  }
  done = true;
  b_.port->call_driver();
  guest.join();
}

TEST_P(Drive, LeavesThePortToItsOwnThread) {
  std::atomic<uint64_t> enough = 0;
  std::thread guest([&] {
    EXPECT_TRUE(b_.port->drive([&] { return b_.handler() == std::this_thread::get_id(); }));
    enough = b_.inbox.frames().size();
  });
  const std::thread::id id = guest.get_id();
  while (enough == 0) send_to_b();
  guest.join();
  for (int i = 0; i < 20; ++i) {
    send_to_b();
    EXPECT_NE(b_.handler(), id) << "it is gone";
  }
}

TEST_P(Drive, SendsGoOnWhileTheGuestIsAway) {
  std::atomic<bool> done = true;
  EXPECT_TRUE(a_.port->drive([&] { return done.load(); }));
  // As a job does: nobody is in drive(), and frames of this size need the sender's help.
  for (int round = 0; round < 4; ++round) send_to_b(8 << 20);
}

TEST_P(Drive, EndsWhenCalledWithNothingElseToDo) {
  for (int i = 0; i < 200; ++i) {
    std::atomic<bool> done = false;
    std::thread guest([&] { EXPECT_TRUE(b_.port->drive([&] { return done.load(); })); });
    if (i % 2 == 0) std::this_thread::yield();
    done = true;
    b_.port->call_driver();
    guest.join();
  }
}

TEST_P(Drive, MeetsTheLossOfAPeer) {
  std::atomic<bool> done = false;
  send_to_b();  // so that there is a wire
  std::thread guest([&] { EXPECT_TRUE(b_.port->drive([&] { return done.load(); })); });
  a_.port.reset();
  EXPECT_TRUE(b_.inbox.wait_for_losses(1));
  done = true;
  b_.port->call_driver();
  guest.join();
}

TEST_P(Drive, NothingIsLostWhoeverLooksAfterThePorts) {
  constexpr size_t kFrames = 400;
  std::atomic<bool> done = false;
  const auto come_and_go = [&](End& end, uint32_t seed) {
    std::minstd_rand random(seed);
    while (!done) {
      const size_t limit = end.inbox.frames().size() + random() % 8;
      end.port->drive([&] { return done || end.inbox.frames().size() > limit; });
      // Away for less and for longer than the port's own thread lets pass.
      if (random() % 4 == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 8000));
      }
    }
  };
  std::thread guest_a(come_and_go, std::ref(a_), 1), guest_b(come_and_go, std::ref(b_), 2);
  const auto send_all = [&](Link& link, uint64_t stride) {
    for (size_t i = 0; i < kFrames; ++i) {
      ASSERT_TRUE(link.send(ping(i * stride % 200'000, i)).ok());
      if (i % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(i * stride % 3000));
    }
  };
  std::thread sender_a(send_all, std::ref(*to_b_), 7919),
      sender_b(send_all, std::ref(*to_a_), 6007);
  EXPECT_TRUE(a_.inbox.wait_for_frames(kFrames));
  EXPECT_TRUE(b_.inbox.wait_for_frames(kFrames));
  sender_a.join();
  sender_b.join();
  done = true;
  a_.port->call_driver();
  b_.port->call_driver();
  guest_a.join();
  guest_b.join();
  const auto at_a = a_.inbox.frames(), at_b = b_.inbox.frames();
  for (size_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(same_payload(at_b[i], ping(i * 7919 % 200'000, i))) << i;
    ASSERT_TRUE(same_payload(at_a[i], ping(i * 6007 % 200'000, i))) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Wires, Drive, testing::Values(UcxWires::kShm, UcxWires::kNet),
                         [](const auto& info) {
                           return std::string(info.param == UcxWires::kShm ? "UcxShm" : "UcxNet");
                         });

TEST(DriveOfAPortWithoutAThread, IsRefused) {
  LoopbackNetwork network;
  Inbox inbox;
  const auto port = network.open(
      {.self = kA, .on_frame = inbox.frame_handler(), .on_link_down = inbox.down_handler()});
  EXPECT_FALSE(port->drive([] { return false; }));
  port->call_driver();
}

}  // namespace
}  // namespace troupe::transport
