#include "tests/support/seeds.hpp"

#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>

#include "base/log.hpp"

namespace troupe {
namespace {

// What the situations that live say, in fixed memory: the signal handler may read nothing else.
std::array<char, 4096> g_text;
size_t g_size = 0;

void tell_situation(int) {
  // The process is about to die; that a line may be cut short is all that can go wrong.
  [[maybe_unused]] const auto written = write(STDERR_FILENO, g_text.data(), g_size);
}

}  // namespace

Situation::Situation(const std::string& what) : trace_("", 0, what), outer_size_(g_size) {
  const std::string line = what + "\n";
  const size_t size = std::min(line.size(), g_text.size() - g_size);
  std::memcpy(g_text.data() + g_size, line.data(), size);
  g_size += size;
  std::signal(SIGABRT, tell_situation);  // CHECK ends in abort(), which dies after this returns
}

Situation::~Situation() { g_size = outer_size_; }

bool usual_seeds() {
  return std::getenv("TROUPE_SEED") == nullptr && std::getenv("TROUPE_FRESH_SEEDS") == nullptr;
}

void for_each_seed(uint64_t count, const std::function<void(uint64_t seed)>& scenario,
                   uint64_t first) {
  uint64_t end = first;
  if (const char* range = std::getenv("TROUPE_SEED")) {
    char* rest = nullptr;
    first = std::strtoull(range, &rest, 10);
    end = (*rest == '-' ? std::strtoull(rest + 1, nullptr, 10) : first) + 1;
  } else {
    if (!usual_seeds()) first = std::random_device()();
    end = first + count;
    log::configure(log::Level::kError, "test");  // of so many runs nobody reads more
  }
  std::cout << "TROUPE_SEED=" << first << '-' << end - 1 << std::endl;
  for (uint64_t seed = first; seed < end; ++seed) {
    const std::string text = std::to_string(seed);
    const Situation situation("seed " + text + "; to repeat it alone set TROUPE_SEED=" + text);
    scenario(seed);
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace troupe
