#include "model/grammar_regex.hpp"

#include <optional>
#include <string>
#include <vector>

#include "model/grammar_check.hpp"
#include "model/grammar_class.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

using Expr = GrammarBuilder::Expr;

class RegexParser {
 public:
  RegexParser(GrammarBuilder& builder, std::string_view pattern, const GrammarLimits& limits,
              RegexOptions options)
      : builder_(&builder), cursor_{pattern}, limits_(&limits), options_(options) {}

  Result<Expr> run() {
    const Expr all = TRY(take_branches(0));
    if (!cursor_.done()) return cursor_.error("this ')' closes no group");
    return all;
  }

 private:
  Result<Expr> take_branches(uint32_t depth) {
    std::vector<Expr> branches;
    do {
      branches.push_back(TRY(take_branch(depth)));
    } while (cursor_.take("|"));
    return builder_->either(branches);
  }

  Result<Expr> take_branch(uint32_t depth) {
    std::vector<Expr> parts;
    const bool is_outermost = depth == 0;
    const bool starts_at_begin = is_outermost && cursor_.take("^");
    bool ends_at_end = false;
    while (!cursor_.done() && cursor_.peek() != '|' && cursor_.peek() != ')') {
      if (is_outermost && cursor_.peek() == '$') {
        const std::string_view rest = cursor_.text.substr(cursor_.at + 1);
        if (rest.empty() || rest[0] == '|') {
          ++cursor_.at;
          ends_at_end = true;
          break;
        }
      }
      parts.push_back(TRY(take_quantified(depth)));
    }
    if (options_.searches) {
      const Expr anything = builder_->repeat(
          character_of(*builder_, all_characters(), options_.spelling), 0, kUnlimited);
      if (!starts_at_begin) parts.insert(parts.begin(), anything);
      if (!ends_at_end) parts.push_back(anything);
    }
    return builder_->sequence(parts);
  }

  Result<Expr> take_quantified(uint32_t depth) {
    const Expr atom = TRY(take_atom(depth));
    const size_t begin = cursor_.at;
    uint32_t min = 0, max = kUnlimited;
    if (cursor_.take("*")) {
    } else if (cursor_.take("+")) {
      min = 1;
    } else if (cursor_.take("?")) {
      max = 1;
    } else if (is_counted()) {
      ++cursor_.at;
      min = *take_number(cursor_);
      if (!cursor_.take(",")) {
        max = min;
      } else if (const auto number = take_number(cursor_)) {
        max = *number;
      }
      if (!cursor_.take("}")) return SpecCursor::error_at(begin, "a literal '{' is written \\{");
      if (min > max)
        return SpecCursor::error_at(begin, "the repetition's minimum is above its maximum");
      if (std::max(min, max == kUnlimited ? 0 : max) > limits_->max_repeat) {
        return SpecCursor::error_at(
            begin, "a repetition counts to at most " + std::to_string(limits_->max_repeat));
      }
    } else {
      return atom;
    }
    cursor_.take("?");  // lazy
    if (cursor_.peek() == '+') return cursor_.error("possessive repetitions are not supported");
    if (cursor_.peek() == '*' || cursor_.peek() == '?' || is_counted()) {
      return cursor_.error("a repetition of a repetition needs a group");
    }
    return builder_->repeat(atom, min, max);
  }

  /// A '{' that no digit follows is a literal, as in PCRE2.
  [[nodiscard]] bool is_counted() const {
    const std::string_view rest = cursor_.text.substr(cursor_.at);
    return rest.size() > 1 && rest[0] == '{' && rest[1] >= '0' && rest[1] <= '9';
  }

  Result<Expr> take_atom(uint32_t depth) {
    switch (cursor_.peek()) {
      case '(': return take_group(depth);
      case '[': return character(TRY(take_class(cursor_)));
      case '\\': return character(TRY(take_escape(cursor_)));
      case '.': ++cursor_.at; return character(without(all_characters(), {{'\n', '\n'}}));
      case '^':
      case '$':
        return cursor_.error("anchors can only begin and end the pattern or an outermost branch");
      case '*':
      case '+':
      case '?': return cursor_.error("there is nothing to repeat");
      default: break;
    }
    // Python repeats {,n} and PCRE2 up to 10.42 reads it as text.
    if (cursor_.sees("{,")) return cursor_.error("write {0,n}, or \\{ for a literal '{'");
    if (is_counted()) return cursor_.error("there is nothing to repeat");
    const char32_t c = cursor_.take_character();
    return character({{c, c}});
  }

  Result<Expr> take_group(uint32_t depth) {
    const size_t begin = cursor_.at++;
    if (depth >= limits_->max_spec_depth) {
      return SpecCursor::error_at(
          begin, "groups nest at most " + std::to_string(limits_->max_spec_depth) + " deep");
    }
    if (cursor_.sees("?=") || cursor_.sees("?!") || cursor_.sees("?<=") || cursor_.sees("?<!")) {
      return SpecCursor::error_at(begin, "look-around is not supported");
    }
    if (cursor_.take("?P<") || cursor_.take("?<")) {
      while (!cursor_.done() && cursor_.peek() != '>') ++cursor_.at;
      if (!cursor_.take(">")) return SpecCursor::error_at(begin, "the group's name does not end");
    } else if (!cursor_.take("?:") && (cursor_.peek() == '?' || cursor_.peek() == '*')) {
      return SpecCursor::error_at(
          begin, "of the groups with '?' only (?:...) and named ones are supported");
    }
    const Expr inner = TRY(take_branches(depth + 1));
    if (!cursor_.take(")")) return SpecCursor::error_at(begin, "the group is not closed");
    return inner;
  }

  Expr character(const CodePointSet& set) {
    if (set.size() == 1 && set[0].first == set[0].last) {
      std::string text;
      append_utf8(text, set[0].first);
      return builder_->literal(spelled(text, options_.spelling));
    }
    return character_of(*builder_, set, options_.spelling);
  }

  GrammarBuilder* builder_;
  SpecCursor cursor_;
  const GrammarLimits* limits_;
  RegexOptions options_;
};

}  // namespace

Result<Expr> parse_regex(GrammarBuilder& builder, std::string_view pattern,
                         const GrammarLimits& limits, RegexOptions options) {
  if (valid_utf8_prefix(pattern) < pattern.size()) {
    return SpecCursor::error_at(valid_utf8_prefix(pattern), "the text is not UTF-8");
  }
  return RegexParser(builder, pattern, limits, options).run();
}

Result<void> check_regex(std::string_view pattern, const GrammarLimits& limits,
                         RegexOptions options, size_t& size) {
  GrammarBuilder builder(limits);
  const Expr root = TRY(parse_regex(builder, pattern, limits, options));
  const auto grammar = TRY(builder.build(root));
  return check_automaton(*grammar, limits, size);
}

}  // namespace troupe::model
