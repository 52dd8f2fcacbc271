#include "tests/simt/emulated_exchange.hpp"

#include <algorithm>
#include <chrono>

namespace troupe::kernels {
namespace {

constexpr std::chrono::minutes kPatience{1};

}  // namespace

bool EmulatedExchange::meet(std::unique_lock<std::mutex>& lock) {
  const size_t meeting = num_meetings_;
  if (++num_here_ == offers_.size()) {
    num_here_ = 0;
    ++num_meetings_;
    changed_.notify_all();
    return true;
  }
  return changed_.wait_for(lock, kPatience, [&] { return num_meetings_ != meeting; });
}

std::string EmulatedExchange::gather(size_t rank, const float* part, size_t count, float* parts) {
  std::unique_lock lock(mutex_);
  offers_[rank] = {.part = part, .count = count};
  if (!meet(lock)) {
    return "rank " + std::to_string(rank) + " waits in a gather that another one does not come to";
  }
  for (size_t k = 0; k < offers_.size(); ++k) {
    if (offers_[k].count != count) {
      return "rank " + std::to_string(rank) + " gathers " + std::to_string(count) +
             " numbers and rank " + std::to_string(k) + " " + std::to_string(offers_[k].count);
    }
    std::copy_n(offers_[k].part, count, parts + k * count);
  }
  if (!meet(lock)) return "a rank ended in a gather";
  return "";
}

}  // namespace troupe::kernels
