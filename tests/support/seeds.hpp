#pragma once

// Tests that draw what happens from a seed: they run many, and a failure names the one to repeat.

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>

namespace troupe {

/// While one lives, a failed expectation and a failed CHECK tell `what`. They nest; the innermost
/// must go first.
class Situation {
 public:
  explicit Situation(const std::string& what);
  ~Situation();
  Situation(const Situation&) = delete;
  Situation& operator=(const Situation&) = delete;

 private:
  testing::ScopedTrace trace_;
  size_t outer_size_;
};

/// Runs `scenario` with the seeds first .. first + count - 1, until one of them fails, and prints
/// which. With TROUPE_SEED=N in the environment it runs N alone, with TROUPE_SEED=N-M those from N
/// to M; else with TROUPE_FRESH_SEEDS=1, as ctest runs what is labelled slow, `count` of them from
/// a random one on.
void for_each_seed(uint64_t count, const std::function<void(uint64_t seed)>& scenario,
                   uint64_t first = 0);

/// The environment chooses no others: what the usual seeds are known to show must be seen.
bool usual_seeds();

}  // namespace troupe
