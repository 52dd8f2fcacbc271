#pragma once

// Numbers of JSON between bounds, as expressions over their digits.

#include <cstdint>
#include <optional>

#include "model/grammar_builder.hpp"

namespace troupe::model {

inline constexpr uint32_t kMaxIntegerDigits = 19;
inline constexpr uint32_t kMaxFractionDigits = 20;
inline constexpr uint32_t kMaxExponentDigits = 2;

struct NumberBounds {
  std::optional<int64_t> min, max;  ///< above INT64_MIN, so that each has its negative
  bool min_is_excluded = false, max_is_excluded = false;  ///< of numbers; integers move the bound
};

/// Integers without leading zeros and without "-0", of at most kMaxIntegerDigits digits; never() if
/// there are none. REQUIRES: no bound is excluded.
GrammarBuilder::Expr integer_between(GrammarBuilder& builder, const NumberBounds& bounds);

/// Numbers with at most kMaxIntegerDigits and kMaxFractionDigits; without bounds also with an
/// exponent of at most kMaxExponentDigits. never() if there are none.
GrammarBuilder::Expr number_between(GrammarBuilder& builder, const NumberBounds& bounds);

}  // namespace troupe::model
