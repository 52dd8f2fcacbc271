#pragma once

// How long a request takes once it has a place, learned from those that had one: the time before
// its first token by the tokens that it began with, the time of each further one, and how much of
// max_tokens answers use. Times are remembered by powers of two of the requests that run on a
// router, for the more share it the slower each of them is, and those of prompts also by powers of
// two of their tokens, for the first ones cost more. If of a load or a length nothing is known, or
// of a load nothing lately, the next lower one counts: what was learned in a crowd is not held
// against a request that comes when it is gone, nor a short prompt's cost per token against a long
// one. Moving averages. Pure.
//
// What is refused because of an estimate teaches nothing, so a wrong one could keep itself up: the
// longer ago the last lesson was, the less is believed.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "base/time.hpp"

namespace troupe::scheduler {

class ServiceEstimate {
 public:
  /// From its start to its first token, cached or not.
  /// @param load requests that run on a router; so below
  void prefilled(uint64_t load, uint64_t num_tokens, Duration took, Instant now) {
    prefill_[bucket(num_tokens)][bucket(load)].learn(num_tokens, static_cast<double>(took.ns), now);
    is_empty_ = false;
  }
  /// Tokens behind the first ones.
  void decoded(uint64_t load, uint64_t num_tokens, Duration took, Instant now) {
    decode_[bucket(load)].learn(num_tokens, static_cast<double>(took.ns), now);
  }
  /// An answer ended by itself or was cut by its client.
  void ended(uint64_t num_tokens, uint64_t max_tokens, Instant now) {
    if (num_tokens > 0) length_[bucket(max_tokens)].learn(max_tokens, double(num_tokens), now);
  }
  /// No request has had its first token yet.
  [[nodiscard]] bool empty() const { return is_empty_; }

  /// Zero as long as nothing is known.
  [[nodiscard]] Duration prefill(uint64_t load, uint64_t num_tokens, Instant now) const {
    for (size_t length = bucket(num_tokens); length > 0; --length) {
      const Average& known = at_most(prefill_[length], load, now);
      const uint64_t longest = (uint64_t{1} << length) - 1;
      if (known.units > 0) return duration(known.of(std::min(num_tokens, longest), now));
    }
    return {};
  }
  [[nodiscard]] Duration decode(uint64_t load, uint64_t num_tokens, Instant now) const {
    return duration(at_most(decode_, load, now).of(num_tokens, now));
  }
  /// Tokens that an answer probably has; 1 as long as nothing is known of such a max_tokens.
  [[nodiscard]] uint64_t length(uint64_t max_tokens, Instant now) const {
    const double tokens = length_[bucket(max_tokens)].of(max_tokens, now) + 0.5;
    return std::clamp<uint64_t>(static_cast<uint64_t>(tokens), 1, max_tokens);
  }

 private:
  static constexpr uint32_t kWindow = 8;  // lessons
  static constexpr Duration kMemory = seconds(60);

  /// What so many units took, on average over lessons of different size.
  struct Average {
    double units = 0, amount = 0;
    uint32_t num_lessons = 0;
    Instant last;

    void learn(uint64_t num_units, double sample, Instant now) {
      num_lessons = std::min(num_lessons + 1, kWindow);
      units += (static_cast<double>(num_units) - units) / num_lessons;
      amount += (sample - amount) / num_lessons;
      last = std::max(last, now);
    }
    [[nodiscard]] double of(uint64_t num_units, Instant now) const {
      if (units <= 0) return 0;
      const double belief = static_cast<double>(kMemory.ns) / static_cast<double>(age(now).ns);
      return amount / units * static_cast<double>(num_units) * belief;
    }
    /// At least kMemory.
    [[nodiscard]] Duration age(Instant now) const { return std::max(kMemory, now - last); }
  };
  using Averages = std::array<Average, 33>;  ///< of 0, 1, 2 to 3, 4 to 7, ...

  static size_t bucket(uint64_t n) { return std::min<size_t>(std::bit_width(n), 32); }
  static const Average& at_most(const Averages& averages, uint64_t load, Instant now) {
    const Average* best = &averages[bucket(load)];
    for (size_t i = bucket(load); i-- > 0;) {
      const bool is_known = averages[i].num_lessons > 0;
      if (is_known && (best->num_lessons == 0 || averages[i].age(now) < best->age(now))) {
        best = &averages[i];
      }
    }
    return *best;
  }
  static Duration duration(double ns) {
    return Duration{static_cast<int64_t>(std::clamp(ns, 0.0, 1e18))};
  }

  std::array<Averages, 33> prefill_;  ///< nanoseconds by tokens; by length, by load
  Averages decode_;                   ///< nanoseconds by tokens; by load
  Averages length_;                   ///< tokens by max_tokens; by max_tokens
  bool is_empty_ = true;
};

}  // namespace troupe::scheduler
