// What two micro-batches in flight gain where rows travel: output tokens per second of a cluster in
// one process (one router, three expert shards) whose frames take a given time each way.
//
//   overlap_bench MODEL [ROUNDS]
//
// For each delay and each number of requests, the settings 1, 2 and 0 (learned) by turns.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "base/log.hpp"
#include "tests/actors/test_cluster.hpp"
#include "tests/support/requests.hpp"

namespace troupe::actors {
namespace {

constexpr uint32_t kMaxTokens = 64;

double tokens_per_second(TestCluster& cluster, uint32_t num_requests) {
  std::vector<std::shared_future<Stream>> streams;
  const auto start = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < num_requests; ++i) streams.push_back(cluster.submit(greedy(kMaxTokens)));
  size_t tokens = 0;
  for (const auto& stream : streams) tokens += TestCluster::wait(stream).tokens.size();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return static_cast<double>(tokens) / took.count();
}

void measure(const std::string& model, int rounds) {
  std::printf("| delay us | requests | 1 micro-batch | 2 micro-batches | learned |\n");
  std::printf("| --- | --- | --- | --- | --- |\n");
  for (const int64_t delay_us : {0, 200, 1000}) {
    for (const uint32_t requests : {4U, 16U, 64U}) {
      std::map<uint32_t, std::vector<double>> rates;
      for (int round = 0; round < rounds; ++round) {
        for (const uint32_t setting : {1U, 2U, 0U}) {
          TestCluster cluster({.model = model,
                               .scheduler = {.max_running = 64, .max_context = 512},
                               .batcher = {.max_step_tokens = 256, .max_running = 64},
                               .micro_batches = setting},
                              std::nullopt, microseconds(delay_us));
          CHECK(cluster.wait_serving());
          for (int warm = 0; warm < 3; ++warm) tokens_per_second(cluster, requests);
          rates[setting].push_back(tokens_per_second(cluster, requests));
        }
      }
      std::printf("| %d | %u |", static_cast<int>(delay_us), requests);
      for (const uint32_t setting : {1U, 2U, 0U}) {
        auto& all = rates[setting];
        std::sort(all.begin(), all.end());
        std::printf(" %.0f (%.0f-%.0f) |", all[all.size() / 2], all.front(), all.back());
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace troupe::actors

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: overlap_bench MODEL [ROUNDS]\n");
    return 2;
  }
  troupe::log::configure(troupe::log::Level::kError, "overlap_bench");
  troupe::actors::measure(argv[1], argc > 2 ? std::atoi(argv[2]) : 3);
  return 0;
}
