#include "model/grammar_number.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {
namespace {

using Expr = GrammarBuilder::Expr;

/// Digits without a sign; no bound above means kMaxIntegerDigits digits.
struct Magnitudes {
  uint64_t min;
  std::optional<uint64_t> max;
  [[nodiscard]] bool empty() const { return max && *max < min; }
};

class Digits {
 public:
  explicit Digits(GrammarBuilder& builder) : b_(builder) {}

  Expr any(uint32_t min, uint32_t max) { return b_.repeat(b_.byte_between('0', '9'), min, max); }

  /// Integers without leading zeros.
  Expr between(const Magnitudes& range) {
    if (range.empty()) return b_.never();
    const std::string low = std::to_string(range.min);
    const std::string high =
        range.max ? std::to_string(*range.max) : std::string(kMaxIntegerDigits, '9');
    if (low.size() == high.size()) return same_length(low, high);
    std::vector<Expr> branches{at_least(low), at_most(high, true)};
    const auto shortest = static_cast<uint32_t>(low.size() + 1);
    const auto longest = static_cast<uint32_t>(high.size() - 1);
    if (shortest <= longest) {
      branches.push_back(b_.sequence({b_.byte_between('1', '9'), any(shortest - 1, longest - 1)}));
    }
    return b_.either(branches);
  }

 private:
  Expr digit(char first, char last) {
    return first > last ? b_.never() : b_.byte_between(first, last);
  }
  Expr any(std::string_view rest) {
    return any(static_cast<uint32_t>(rest.size()), static_cast<uint32_t>(rest.size()));
  }

  /// Strings of the same length, from `low` on.
  Expr at_least(std::string_view low) {
    if (low.find_first_not_of('0') == std::string_view::npos) return any(low);
    const std::string_view rest = low.substr(1);
    return b_.either({b_.sequence({b_.literal(low.substr(0, 1)), at_least(rest)}),
                      b_.sequence({digit(static_cast<char>(low[0] + 1), '9'), any(rest)})});
  }

  /// Strings of the same length, up to `high`. @param leads its first digit cannot be 0
  Expr at_most(std::string_view high, bool leads) {
    if (high.empty()) return b_.empty();
    const std::string_view rest = high.substr(1);
    return b_.either(
        {b_.sequence({b_.literal(high.substr(0, 1)), at_most(rest, false)}),
         b_.sequence({digit(leads ? '1' : '0', static_cast<char>(high[0] - 1)), any(rest)})});
  }

  Expr same_length(std::string_view low, std::string_view high) {
    if (low.empty()) return b_.empty();
    const std::string_view low_rest = low.substr(1), high_rest = high.substr(1);
    if (low[0] == high[0]) {
      return b_.sequence({b_.literal(low.substr(0, 1)), same_length(low_rest, high_rest)});
    }
    return b_.either(
        {b_.sequence({b_.literal(low.substr(0, 1)), at_least(low_rest)}),
         b_.sequence(
             {digit(static_cast<char>(low[0] + 1), static_cast<char>(high[0] - 1)), any(low_rest)}),
         b_.sequence({b_.literal(high.substr(0, 1)), at_most(high_rest, false)})});
  }

  GrammarBuilder& b_;
};

/// The numbers of one sign, their bounds as seen from 0.
struct Side {
  Magnitudes range;
  bool min_is_excluded, max_is_excluded;
};

std::optional<Side> positive_side(const NumberBounds& bounds) {
  if (bounds.max && *bounds.max < 0) return std::nullopt;
  const bool has_min = bounds.min && *bounds.min >= 0;
  Side side{{has_min ? static_cast<uint64_t>(*bounds.min) : 0, std::nullopt},
            has_min && bounds.min_is_excluded,
            bounds.max && bounds.max_is_excluded};
  if (bounds.max) side.range.max = static_cast<uint64_t>(*bounds.max);
  return side;
}

std::optional<Side> negative_side(const NumberBounds& bounds) {
  NumberBounds mirrored;
  if (bounds.max) mirrored.min = -*bounds.max;
  if (bounds.min) mirrored.max = -*bounds.min;
  mirrored.min_is_excluded = bounds.max_is_excluded;
  mirrored.max_is_excluded = bounds.min_is_excluded;
  if (bounds.min && *bounds.min >= 0) return std::nullopt;
  return positive_side(mirrored);
}

/// Magnitudes with a fraction or without one.
Expr decimals(GrammarBuilder& b, const Side& side) {
  Digits digits(b);
  const Expr point = b.literal(".");
  const Expr zeros =
      b.optional(b.sequence({point, b.repeat(b.literal("0"), 1, kMaxFractionDigits)}));
  const Expr fraction = b.optional(b.sequence({point, digits.any(1, kMaxFractionDigits)}));
  const uint32_t half = kMaxFractionDigits / 2;
  const Expr not_zero = b.sequence({point, b.repeat(b.literal("0"), 0, half - 1),
                                    b.byte_between('1', '9'), digits.any(0, half)});
  // Integer parts from `first` to `last` may have any fraction; the ends have their own rules.
  Magnitudes inner = side.range;
  std::vector<Expr> branches;
  if (side.max_is_excluded && inner.max && *inner.max == 0) return b.never();
  if (side.max_is_excluded) --*inner.max;
  if (side.min_is_excluded) {
    if (!inner.empty() && (!side.range.max || inner.min < *side.range.max)) {
      branches.push_back(b.sequence({b.literal(std::to_string(inner.min)), not_zero}));
    }
    ++inner.min;
  }
  if (!side.max_is_excluded && inner.max) {
    if (!inner.empty()) {
      branches.push_back(b.sequence({b.literal(std::to_string(*inner.max)), zeros}));
    }
    if (*inner.max == 0) return b.either(branches);
    --*inner.max;
  }
  if (!inner.empty()) branches.push_back(b.sequence({digits.between(inner), fraction}));
  return b.either(branches);
}

}  // namespace

Expr integer_between(GrammarBuilder& builder, const NumberBounds& bounds) {
  Digits digits(builder);
  std::vector<Expr> branches;
  if (const auto side = positive_side(bounds)) branches.push_back(digits.between(side->range));
  if (auto side = negative_side(bounds)) {
    side->range.min = std::max<uint64_t>(side->range.min, 1);
    branches.push_back(builder.sequence({builder.literal("-"), digits.between(side->range)}));
  }
  return builder.either(branches);
}

Expr number_between(GrammarBuilder& builder, const NumberBounds& bounds) {
  std::vector<Expr> branches;
  if (const auto side = positive_side(bounds)) branches.push_back(decimals(builder, *side));
  if (const auto side = negative_side(bounds)) {
    branches.push_back(builder.sequence({builder.literal("-"), decimals(builder, *side)}));
  }
  const Expr number = builder.either(branches);
  if (bounds.min || bounds.max) return number;
  const Expr exponent = builder.sequence(
      {builder.either({builder.literal("e"), builder.literal("E")}),
       builder.optional(builder.either({builder.literal("+"), builder.literal("-")})),
       builder.repeat(builder.byte_between('0', '9'), 1, kMaxExponentDigits)});
  return builder.sequence({number, builder.optional(exponent)});
}

}  // namespace troupe::model
