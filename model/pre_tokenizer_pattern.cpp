#include "model/pre_tokenizer_pattern.hpp"

#include <algorithm>
#include <bit>

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {

/// Recursive descent over the regex text; each function returns nullopt on what it does not know.
struct RunPattern::Parser {
  std::string_view pattern;
  Alphabet& alphabet;
  size_t at = 0;

  [[nodiscard]] bool done() const { return at == pattern.size(); }
  [[nodiscard]] char peek() const { return done() ? '\0' : pattern[at]; }
  bool take(std::string_view text) {
    if (!pattern.substr(at).starts_with(text)) return false;
    at += text.size();
    return true;
  }

  /// What follows a backslash: a class or one character.
  std::optional<CodePointSet> escape() {
    if (done()) return std::nullopt;
    const char c = pattern[at++];
    switch (c) {
      case 'n': return CodePointSet{{'\n', '\n'}};
      case 'r': return CodePointSet{{'\r', '\r'}};
      case 't': return CodePointSet{{'\t', '\t'}};
      case 's': return unicode_space();
      case 'S': return complement(unicode_space());
      case 'p':
      case 'P': {
        if (!take("{")) return std::nullopt;
        const size_t close = pattern.find('}', at);
        if (close == std::string_view::npos) return std::nullopt;
        auto set = unicode_category(pattern.substr(at, close - at));
        at = close + 1;
        if (set && c == 'P') set = complement(*set);
        return set;
      }
      default: break;
    }
    constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ";
    if (kPunctuation.find(c) == std::string_view::npos) return std::nullopt;
    const auto point = static_cast<char32_t>(c);
    return CodePointSet{{point, point}};
  }

  /// The inside of [...], the opening bracket taken.
  std::optional<CodePointSet> bracket() {
    const bool negated = take("^");
    std::vector<UnicodeRange> ranges;
    if (peek() == ']') return std::nullopt;  // engines differ on a leading "]"
    while (!take("]")) {
      if (done() || peek() == '[' || pattern.substr(at).starts_with("&&")) return std::nullopt;
      CodePointSet item;
      if (take("\\")) {
        auto escaped = escape();
        if (!escaped) return std::nullopt;
        item = std::move(*escaped);
      } else {
        const char32_t c = decode_utf8(pattern, at);
        item = {{c, c}};
      }
      const bool is_range = peek() == '-' && at + 1 < pattern.size() && pattern[at + 1] != ']';
      if (is_range) {
        ++at;
        if (item.size() != 1 || item[0].first != item[0].last || peek() == '[') return std::nullopt;
        CodePointSet upper;
        if (take("\\")) {
          auto escaped = escape();
          if (!escaped) return std::nullopt;
          upper = std::move(*escaped);
        } else {
          const char32_t c = decode_utf8(pattern, at);
          upper = {{c, c}};
        }
        if (upper.size() != 1 || upper[0].first != upper[0].last ||
            upper[0].first < item[0].first) {
          return std::nullopt;
        }
        item[0].last = upper[0].first;
      }
      ranges.insert(ranges.end(), item.begin(), item.end());
    }
    CodePointSet set = normalized(std::move(ranges));
    return negated ? complement(set) : set;
  }

  std::optional<CodePointSet> single_class() {
    if (take("\\")) return escape();
    if (take("[")) return bracket();
    constexpr std::string_view kReserved = "(){}*+?|^$.]";
    if (done() || kReserved.find(peek()) != std::string_view::npos) return std::nullopt;
    const char32_t c = decode_utf8(pattern, at);
    return CodePointSet{{c, c}};
  }

  std::optional<uint32_t> number() {
    uint32_t value = 0;
    size_t num_digits = 0;
    for (; peek() >= '0' && peek() <= '9' && num_digits < 3; ++num_digits) {
      value = value * 10 + static_cast<uint32_t>(pattern[at++] - '0');
    }
    return num_digits == 0 ? std::nullopt : std::optional(value);
  }

  /// An optional quantifier behind a class; false on lazy, possessive or malformed ones.
  bool quantifier(Item& item) {
    if (take("?")) {
      item.min = 0;
    } else if (take("*")) {
      item.min = 0;
      item.max = kUnbounded;
    } else if (take("+")) {
      item.max = kUnbounded;
    } else if (take("{")) {
      const auto min = number();
      if (!min) return false;
      item.min = item.max = *min;
      if (take(",")) item.max = peek() == '}' ? kUnbounded : number().value_or(0);
      if (!take("}") || item.max == 0 || item.max < item.min) return false;
    }
    return peek() != '?' && peek() != '*' && peek() != '+' && peek() != '{';
  }

  std::optional<Item> item() {
    Item item{Kind::kRun, 0, 1, 1};
    std::optional<CodePointSet> set;
    if (take("(?!")) {
      item.kind = Kind::kNotFollowedBy;
      set = single_class();
      if (!take(")")) return std::nullopt;
    } else if (take("$")) {
      item.kind = Kind::kLineEnd;
      set = CodePointSet{{'\n', '\n'}};
    } else {
      set = single_class();
    }
    if (!set || set->empty()) return std::nullopt;
    const auto number = alphabet.add(*set);
    if (!number) return std::nullopt;
    item.set = *number;
    if (item.kind == Kind::kRun && !quantifier(item)) return std::nullopt;
    return item;
  }
};

bool RunPattern::is_linear(const Alternative& items) {
  // A run that may have to give characters back costs its length at each failing start. If it comes
  // first, one failure settles all later starts in the same run (split() remembers it); anywhere
  // else the cost could add up.
  // Runs of few characters may stand anywhere while the ways to divide them up are few.
  bool can_fail_after = false;
  uint32_t num_divisions = 1;
  for (size_t i = items.size(); i-- > 0;) {
    if (items[i].kind == Kind::kRun && can_fail_after) {
      const uint32_t spread = items[i].max - items[i].min;
      if (items[i].max == kUnbounded) {
        if (i != 0 || items[i].min > 1) return false;
      } else {
        if (spread > 64) return false;
        num_divisions *= spread + 1;
        if (num_divisions > 64) return false;
      }
    }
    can_fail_after = can_fail_after || items[i].kind != Kind::kRun || items[i].min > 0;
  }
  return true;
}

std::optional<RunPattern> RunPattern::compile(std::string_view pattern, Alphabet& alphabet) {
  if (valid_utf8_prefix(pattern) != pattern.size()) return std::nullopt;
  RunPattern out;
  Parser parser{pattern, alphabet};
  do {
    Alternative items;
    while (!parser.done() && parser.peek() != '|') {
      const auto item = parser.item();
      if (!item || items.size() == 64) return std::nullopt;
      items.push_back(*item);
    }
    const bool takes_some = std::any_of(items.begin(), items.end(), [](const Item& item) {
      return item.kind == Kind::kRun && item.min > 0;
    });
    if (!takes_some || !is_linear(items) || out.alternatives_.size() == 32) return std::nullopt;
    out.alternatives_.push_back(std::move(items));
  } while (parser.take("|"));
  return out;
}

std::optional<RunPattern> RunPattern::literal(std::string_view text, Alphabet& alphabet) {
  Alternative items;
  for (size_t at = 0; at < text.size();) {
    if (items.size() == 64) return std::nullopt;
    const char32_t c = decode_utf8(text, at);
    const auto set = alphabet.add({{c, c}});
    if (!set) return std::nullopt;
    items.push_back({Kind::kRun, *set, 1, 1});
  }
  RunPattern out;
  out.alternatives_.push_back(std::move(items));
  return out;
}

std::optional<RunPattern> RunPattern::run_of(const CodePointSet& set, uint32_t max,
                                             Alphabet& alphabet) {
  const auto number = alphabet.add(set);
  if (!number) return std::nullopt;
  RunPattern out;
  out.alternatives_.push_back({{Kind::kRun, *number, 1, max}});
  return out;
}

void RunPattern::bind(const Alphabet& alphabet) {
  for (size_t i = 0; i < alternatives_.size(); ++i) {
    for (size_t symbol = 0; symbol < 256; ++symbol) {
      bool may_start = false;
      for (const Item& item : alternatives_[i]) {
        if (item.kind != Kind::kRun) continue;  // an assertion does not consume; the next item does
        may_start = may_start || alphabet.members(item.set)[symbol];
        if (item.min > 0) break;
      }
      if (may_start) starts_[symbol] |= uint32_t{1} << i;
    }
  }
}

uint32_t RunPattern::match(const Alphabet& alphabet, std::span<const Item> items,
                           std::span<const uint8_t> symbols, uint32_t at, uint32_t end) {
  for (size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    const Alphabet::Members& members = alphabet.members(item.set);
    if (item.kind == Kind::kNotFollowedBy) {
      if (at < end && members[symbols[at]]) return kNoMatch;
      continue;
    }
    if (item.kind == Kind::kLineEnd) {
      if (at < end && !members[symbols[at]]) return kNoMatch;
      continue;
    }
    const uint32_t limit = item.max < end - at ? at + item.max : end;
    uint32_t stop = at;
    while (stop < limit && members[symbols[stop]]) ++stop;
    if (stop - at < item.min) return kNoMatch;
    if (item.min == item.max || i + 1 == items.size()) {
      at = stop;
      continue;
    }
    for (;; --stop) {
      const uint32_t matched = match(alphabet, items.subspan(i + 1), symbols, stop, end);
      if (matched != kNoMatch) return matched;
      if (stop - at == item.min) return kNoMatch;
    }
  }
  return at;
}

void RunPattern::split(const Alphabet& alphabet, std::span<const uint8_t> symbols, uint32_t begin,
                       uint32_t end, std::vector<uint32_t>& piece_ends) const {
  // hopeless_until[i]: alternative i, which starts with an unbounded run, failed inside this run;
  // a later start in it would leave the same rest to match.
  std::array<uint32_t, 32> hopeless_until{};
  uint32_t gap = begin;
  for (uint32_t at = begin; at < end;) {
    uint32_t matched = kNoMatch;
    for (uint32_t candidates = starts_[symbols[at]]; candidates != 0;
         candidates &= candidates - 1) {
      const auto i = static_cast<size_t>(std::countr_zero(candidates));
      if (at < hopeless_until[i]) continue;
      const Alternative& items = alternatives_[i];
      matched = match(alphabet, items, symbols, at, end);
      if (matched != kNoMatch) break;
      if (items.size() > 1 && items[0].kind == Kind::kRun && items[0].max == kUnbounded) {
        const Alphabet::Members& members = alphabet.members(items[0].set);
        uint32_t run_end = at;
        while (run_end < end && members[symbols[run_end]]) ++run_end;
        hopeless_until[i] = run_end;
      }
    }
    if (matched == kNoMatch) {
      ++at;
      continue;
    }
    if (at > gap) piece_ends.push_back(at);
    piece_ends.push_back(matched);
    gap = at = matched;
  }
  if (end > gap) piece_ends.push_back(end);
}

}  // namespace troupe::model
