// transport_test_peer WIRE MODE SIZE: see peer_process.hpp. Ends when its standard input does.

#include <atomic>
#include <iostream>
#include <mutex>
#include <string>
#include <thread>

#include "tests/transport/inbox.hpp"
#include "transport/ports.hpp"

using namespace troupe;             // NOLINT: a test program
using namespace troupe::transport;  // NOLINT

int main(int, char** argv) {
  const std::string wire = argv[1], mode = argv[2];
  const size_t size = std::stoul(argv[3]);
  std::mutex mutex;
  std::shared_ptr<Link> link;
  PortOptions options{.self = NodeId{2}, .cluster = 77};
  options.on_frame = [&](Frame frame) {
    if (mode != "echo") return;
    frame.header.kind = FrameKind::kPong;
    const std::lock_guard lock(mutex);
    if (link) (void)link->send(std::move(frame));
  };
  options.on_link_down = [](NodeId, const Error&) {};
  auto port =
      open_ucx_port(std::move(options), {.wires = wire == "shm" ? UcxWires::kShm : UcxWires::kNet});
  if (!port.ok()) {
    std::cerr << port.error().message << "\n";
    return 1;
  }
  std::cout << port.value()->address() << std::endl;
  std::string address;
  std::getline(std::cin, address);
  auto connected = port.value()->connect(NodeId{1}, address);
  if (!connected.ok()) return 1;
  {
    const std::lock_guard lock(mutex);
    link = std::move(connected).value();
  }
  std::cout << "connected" << std::endl;
  std::atomic<bool> ended{false};
  std::thread flood([&] {
    const Frame frame = ping(size);
    while (mode == "flood" && !ended) {
      if (!link->send(frame).ok()) std::this_thread::yield();
    }
  });
  while (std::getline(std::cin, address)) {
  }
  ended = true;
  flood.join();
  return 0;
}
