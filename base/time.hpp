#pragma once

// Time is integer nanoseconds and an argument. There is deliberately no now() here: only shells and
// edges may read a clock, so that every policy runs the same in the simulator and in tests.

#include <compare>
#include <cstdint>

namespace troupe {

/// A span of time in nanoseconds; may be negative.
struct Duration {
  int64_t ns = 0;
  friend constexpr auto operator<=>(Duration, Duration) = default;
};

constexpr Duration nanoseconds(int64_t n) { return {n}; }
constexpr Duration microseconds(int64_t n) { return {n * 1'000}; }
constexpr Duration milliseconds(int64_t n) { return {n * 1'000'000}; }
constexpr Duration seconds(int64_t n) { return {n * 1'000'000'000}; }
constexpr double to_seconds(Duration d) { return static_cast<double>(d.ns) * 1e-9; }

/// A point on one process's monotonic clock, or on the simulator's.
struct Instant {
  int64_t ns = 0;
  friend constexpr auto operator<=>(Instant, Instant) = default;
};

constexpr Instant operator+(Instant t, Duration d) { return {t.ns + d.ns}; }
constexpr Instant operator-(Instant t, Duration d) { return {t.ns - d.ns}; }
constexpr Duration operator-(Instant a, Instant b) { return {a.ns - b.ns}; }
constexpr Duration operator+(Duration a, Duration b) { return {a.ns + b.ns}; }
constexpr Duration operator*(Duration d, int64_t k) { return {d.ns * k}; }
constexpr Duration operator/(Duration d, int64_t k) { return {d.ns / k}; }

}  // namespace troupe
