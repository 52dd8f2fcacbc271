// Round trip of one dispatch and its combine between two processes, over a given wire: the router
// sends rows x hidden float32 with some assignments per row, the shard answers with one row per
// assignment. Nothing is computed. Prints one line per number of rows.
//
//   dispatch_bench shm|net [spin_us [hidden [experts_per_row]]]     (starts its own peer)
//
// Without more it is V2-Lite's: 2048 and 6. V3's are 7168 and 8.

#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "transport/ports.hpp"

extern char** environ;  // NOLINT: POSIX

namespace troupe::transport {
namespace {

constexpr NodeId kRouter{1}, kShard{2};
/// What the arguments say.
struct Shape {
  std::string spin_us = "0", hidden = "2048", experts_per_row = "6";
  [[nodiscard]] uint32_t width() const { return static_cast<uint32_t>(std::stoul(hidden)); }
  [[nodiscard]] uint32_t experts() const {
    return static_cast<uint32_t>(std::stoul(experts_per_row));
  }
};

using Clock = std::chrono::steady_clock;

UcxOptions ucx_options(const std::string& wire, const std::string& spin_us) {
  return {.wires = wire == "shm" ? UcxWires::kShm : UcxWires::kNet,
          .spin_ns = std::atol(spin_us.c_str()) * 1000};
}

std::shared_ptr<Buffer> rows_buffer(size_t rows, uint32_t hidden) {
  auto buffer = Buffer::allocate(rows * hidden * sizeof(float));
  for (size_t i = 0; i < rows * hidden; ++i) buffer->floats()[i] = 0.25F;
  return buffer;
}

template <class T>
T must(Result<T> result) {
  if (!result.ok()) {
    std::cerr << result.error().message << "\n";
    std::exit(1);
  }
  return std::move(result).value();
}

// Answers every dispatch until its standard input ends.
int run_shard(const UcxOptions& ucx, uint32_t hidden) {
  std::mutex mutex;
  std::shared_ptr<Link> link;
  std::map<uint32_t, std::shared_ptr<const Buffer>> answers;
  PortOptions options{.self = kShard, .cluster = 1};
  options.on_frame = [&](Frame frame) {
    const std::lock_guard lock(mutex);
    Frame answer{.header = std::move(frame.header)};
    answer.header.kind = FrameKind::kCombine;
    answer.header.num_rows = static_cast<uint32_t>(answer.header.assignments.size());
    answer.header.assignments.clear();
    auto& rows = answers[answer.header.num_rows];
    if (!rows) rows = rows_buffer(answer.header.num_rows, hidden);
    answer.payload = rows;
    if (auto sent = link->send(std::move(answer)); !sent.ok()) {
      std::cerr << sent.error().message << "\n";
    }
  };
  auto port = must(open_ucx_port(std::move(options), ucx));
  std::cout << port->address() << std::endl;
  std::string router;
  std::getline(std::cin, router);
  {
    const std::lock_guard lock(mutex);
    link = must(port->connect(kRouter, router));
  }
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
  }
  return 0;
}

struct Peer {
  pid_t pid = 0;
  FILE* in = nullptr;
  FILE* out = nullptr;

  std::string line() const {
    char* text = nullptr;
    size_t capacity = 0;
    const ssize_t length = getline(&text, &capacity, out);
    std::string result(text, length > 0 ? static_cast<size_t>(length - 1) : 0);
    free(text);
    return result;
  }
};

Peer start_peer(const std::string& wire, Shape shape) {
  int to[2], from[2];
  if (pipe(to) != 0 || pipe(from) != 0) std::exit(1);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from[1], 1);
  for (const int fd : {to[0], to[1], from[0], from[1]}) {
    posix_spawn_file_actions_addclose(&actions, fd);
  }
  std::string self = "/proc/self/exe", role = "shard", wire_arg = wire;
  std::string path(4096, '\0');
  path.resize(static_cast<size_t>(readlink(self.c_str(), path.data(), path.size())));
  char* argv[] = {path.data(),
                  role.data(),
                  wire_arg.data(),
                  shape.spin_us.data(),
                  shape.hidden.data(),
                  shape.experts_per_row.data(),
                  nullptr};
  Peer peer;
  if (posix_spawn(&peer.pid, path.c_str(), &actions, nullptr, argv, environ) != 0) std::exit(1);
  posix_spawn_file_actions_destroy(&actions);
  ::close(to[0]);
  ::close(from[1]);
  peer.in = fdopen(to[1], "w");
  peer.out = fdopen(from[0], "r");
  return peer;
}

int run_router(const std::string& wire, const Shape& shape) {
  std::mutex mutex;
  std::condition_variable answered;
  uint64_t num_answers = 0;
  PortOptions options{.self = kRouter, .cluster = 1};
  options.on_frame = [&](const Frame&) {
    const std::lock_guard lock(mutex);
    ++num_answers;
    answered.notify_one();
  };
  auto port = must(open_ucx_port(std::move(options), ucx_options(wire, shape.spin_us)));
  Peer peer = start_peer(wire, shape);
  auto link = must(port->connect(kShard, peer.line()));
  std::fprintf(peer.in, "%s\n", port->address().c_str());
  std::fflush(peer.in);
  if (peer.line() != "ready") return 1;

  uint64_t expected = 0;
  for (const auto& [rows, rounds] : {std::pair{1U, 3000}, {16U, 1000}, {128U, 200}}) {
    Frame dispatch;
    dispatch.header.kind = FrameKind::kDispatch;
    dispatch.header.num_rows = rows;
    dispatch.header.hidden = shape.width();
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t e = 0; e < shape.experts(); ++e) {
        dispatch.header.assignments.push_back({row, row * 7 + e});
      }
    }
    dispatch.payload = rows_buffer(rows, shape.width());
    std::vector<double> us;
    for (int round = -rounds / 10; round < rounds; ++round) {
      const auto start = Clock::now();
      if (!link->send(dispatch).ok()) return 1;
      ++expected;
      std::unique_lock lock(mutex);
      if (!answered.wait_for(lock, std::chrono::seconds(10),
                             [&] { return num_answers == expected; })) {
        std::cerr << "no answer within 10 s\n";
        return 1;
      }
      const std::chrono::duration<double, std::micro> took = Clock::now() - start;
      if (round >= 0) us.push_back(took.count());
    }
    std::sort(us.begin(), us.end());
    std::printf("%s rows=%u dispatch_bytes=%zu combine_bytes=%zu p50_us=%.1f p99_us=%.1f\n",
                wire.c_str(), rows, dispatch.payload->size(),
                dispatch.payload->size() * shape.experts(), us[us.size() / 2],
                us[us.size() * 99 / 100]);
    std::fflush(stdout);
  }

  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  const auto start = Clock::now();
  usleep(2'000'000);
  getrusage(RUSAGE_SELF, &after);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  const double cpu = seconds(after.ru_utime) + seconds(after.ru_stime) - seconds(before.ru_utime) -
                     seconds(before.ru_stime);
  const double wall = std::chrono::duration<double>(Clock::now() - start).count();
  std::printf("%s idle_cpu_percent=%.3f\n", wire.c_str(), 100 * cpu / wall);

  std::fclose(peer.in);
  int status = 0;
  waitpid(peer.pid, &status, 0);
  return status == 0 ? 0 : 1;
}

}  // namespace
}  // namespace troupe::transport

int main(int argc, char** argv) {
  using namespace troupe::transport;
  if (prepare_ucx_environment()) {
    execv("/proc/self/exe", argv);
    return 1;
  }
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool is_shard = arguments.size() == 5 && arguments[0] == "shard";
  const size_t wire = is_shard ? 1 : 0;
  const auto is_number = [](const std::string& text) {
    return !text.empty() && text.size() < 6 &&
           std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
  };
  if (arguments.size() <= wire || (arguments[wire] != "shm" && arguments[wire] != "net") ||
      arguments.size() > wire + 4 ||
      !std::all_of(arguments.begin() + static_cast<ptrdiff_t>(wire) + 1, arguments.end(),
                   is_number)) {
    std::cerr << "usage: dispatch_bench shm|net [spin_us [hidden [experts_per_row]]]\n";
    return 2;
  }
  Shape shape;
  std::string* const fields[] = {&shape.spin_us, &shape.hidden, &shape.experts_per_row};
  for (size_t i = wire + 1; i < arguments.size(); ++i) *fields[i - wire - 1] = arguments[i];
  if (is_shard) return run_shard(ucx_options(arguments[1], shape.spin_us), shape.width());
  return run_router(arguments[0], shape);
}
