#include "model/for_all.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::model {

Result<void> for_all(size_t count, size_t num_threads,
                     const std::function<Result<void>(size_t)>& work) {
  std::atomic<size_t> next = 0;
  std::atomic<bool> stop = false;
  std::mutex mutex;
  std::optional<Error> failed;
  const auto run = [&] {
    for (size_t i = next++; i < count && !stop; i = next++) {
      if (auto done = work(i); !done.ok()) {
        const std::lock_guard lock(mutex);
        if (!failed) failed = std::move(done).error();
        stop = true;
      }
    }
  };
  std::vector<std::jthread> threads;
  for (size_t t = 1; t < std::min(num_threads, count); ++t) threads.emplace_back(run);
  run();
  threads.clear();
  if (failed) return *std::move(failed);
  return {};
}

}  // namespace troupe::model
