#include "model/grammar_ebnf.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "model/grammar_class.hpp"
#include "model/grammar_text.hpp"
#include "model/json.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

using Expr = GrammarBuilder::Expr;

bool is_name_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         c == '-';
}

void skip_space(SpecCursor& cursor) {
  while (!cursor.done()) {
    const char c = cursor.peek();
    if (c == '#') {
      while (!cursor.done() && cursor.peek() != '\n') ++cursor.at;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
      ++cursor.at;
    } else {
      return;
    }
  }
}

std::string_view take_name(SpecCursor& cursor) {
  const size_t begin = cursor.at;
  while (is_name_character(cursor.peek())) ++cursor.at;
  return cursor.text.substr(begin, cursor.at - begin);
}

/// Whether a name and then ::= come next.
bool begins_rule(SpecCursor cursor) {
  if (take_name(cursor).empty()) return false;
  skip_space(cursor);
  return cursor.sees("::=");
}

class EbnfParser {
 public:
  EbnfParser(GrammarBuilder& builder, std::string_view text, const GrammarLimits& limits)
      : b_(&builder), cursor_{text}, limits_(&limits) {}

  Result<Expr> run() {
    for (skip_space(cursor_); !cursor_.done(); skip_space(cursor_)) TRY(take_rule());
    for (const auto& [name, rule] : by_name_) {
      if (!rules_[rule].is_defined) {
        return SpecCursor::error_at(rules_[rule].first_use,
                                    "rule " + quoted(name) + " is not defined");
      }
    }
    const auto root = by_name_.find("root");
    if (root == by_name_.end()) return cursor_.error("there is no rule \"root\"");
    for (uint32_t rule = 0; rule < rules_.size(); ++rule) {
      if (reaches_itself(rule)) b_->count_nesting(rules_[rule].rule);
    }
    return b_->call(rules_[root->second].rule);
  }

 private:
  struct RuleState {
    GrammarBuilder::Rule rule;
    size_t first_use;
    bool is_defined = false;
    std::vector<uint32_t> uses = {};
  };

  Result<uint32_t> rule_named(std::string_view name, size_t at) {
    const auto [found, is_new] =
        by_name_.try_emplace(std::string(name), static_cast<uint32_t>(rules_.size()));
    if (is_new) {
      if (rules_.size() >= limits_->max_rules) {
        return SpecCursor::error_at(
            at, "there are more than " + std::to_string(limits_->max_rules) + " rules");
      }
      rules_.push_back({b_->declare("rule " + quoted(name)), at});
    }
    return found->second;
  }

  Result<void> take_rule() {
    const size_t begin = cursor_.at;
    const std::string_view name = take_name(cursor_);
    if (name.empty()) return cursor_.error("a rule begins with its name");
    skip_space(cursor_);
    if (!cursor_.take("::=")) return cursor_.error("behind a rule's name comes ::=");
    current_ = TRY(rule_named(name, begin));
    if (rules_[current_].is_defined) {
      return SpecCursor::error_at(begin, "rule " + quoted(name) + " is defined twice");
    }
    rules_[current_].is_defined = true;
    b_->define(rules_[current_].rule, TRY(take_branches(0)));
    if (!cursor_.done() && !begins_rule(cursor_))
      return cursor_.error("this does not belong to the rule");
    return {};
  }

  Result<Expr> take_branches(uint32_t depth) {
    std::vector<Expr> branches;
    do {
      std::vector<Expr> parts;
      for (skip_space(cursor_); !ends_branch(); skip_space(cursor_))
        parts.push_back(TRY(take_item(depth)));
      branches.push_back(b_->sequence(parts));
    } while (cursor_.take("|"));
    return b_->either(branches);
  }

  [[nodiscard]] bool ends_branch() const {
    return cursor_.done() || cursor_.peek() == '|' || cursor_.peek() == ')' || begins_rule(cursor_);
  }

  Result<Expr> take_item(uint32_t depth) {
    const Expr atom = TRY(take_atom(depth));
    const size_t begin = cursor_.at;
    if (cursor_.take("*")) return b_->repeat(atom, 0, kUnlimited);
    if (cursor_.take("+")) return b_->repeat(atom, 1, kUnlimited);
    if (cursor_.take("?")) return b_->optional(atom);
    if (!cursor_.take("{")) return atom;
    const auto min = take_number(cursor_);
    const bool has_comma = cursor_.take(",");
    const auto max = has_comma ? take_number(cursor_) : min;
    if (!min || !cursor_.take("}")) {
      return SpecCursor::error_at(begin, "a repetition is {n}, {n,} or {n,m}");
    }
    if (max && *min > *max)
      return SpecCursor::error_at(begin, "the repetition's minimum is above its maximum");
    if (std::max(*min, max.value_or(0)) > limits_->max_repeat) {
      return SpecCursor::error_at(
          begin, "a repetition counts to at most " + std::to_string(limits_->max_repeat));
    }
    return b_->repeat(atom, *min, max.value_or(kUnlimited));
  }

  Result<Expr> take_atom(uint32_t depth) {
    const size_t begin = cursor_.at;
    const char c = cursor_.peek();
    if (c == '"' || c == '\'') return take_text(c);
    if (c == '[') return character_of(*b_, TRY(take_class(cursor_)), Spelling::kPlain);
    if (cursor_.take(".")) return character_of(*b_, all_characters(), Spelling::kPlain);
    if (cursor_.take("(")) {
      if (depth >= limits_->max_spec_depth) {
        return SpecCursor::error_at(
            begin, "groups nest at most " + std::to_string(limits_->max_spec_depth) + " deep");
      }
      const Expr inner = TRY(take_branches(depth + 1));
      if (!cursor_.take(")")) return SpecCursor::error_at(begin, "the group is not closed");
      return inner;
    }
    const std::string_view name = take_name(cursor_);
    if (name.empty()) return cursor_.error("expected a text, characters, a group or a rule");
    const uint32_t used = TRY(rule_named(name, begin));
    rules_[current_].uses.push_back(used);
    return b_->call(rules_[used].rule);
  }

  Result<Expr> take_text(char quote) {
    const size_t begin = cursor_.at++;
    std::string text;
    while (!cursor_.take(std::string_view(&quote, 1))) {
      if (cursor_.done()) return SpecCursor::error_at(begin, "the text is not closed");
      const size_t at = cursor_.at;
      char32_t c = 0;
      if (cursor_.peek() == '\\') {
        const CodePointSet set = TRY(take_escape(cursor_));
        if (set.size() != 1 || set[0].first != set[0].last) {
          return SpecCursor::error_at(at, "a class of characters in a text");
        }
        c = set[0].first;
      } else {
        c = cursor_.take_character();
      }
      append_utf8(text, c);
    }
    return b_->literal(text);
  }

  [[nodiscard]] bool reaches_itself(uint32_t rule) const {
    std::vector<bool> seen(rules_.size());
    std::vector<uint32_t> todo{rule};
    while (!todo.empty()) {
      const uint32_t at = todo.back();
      todo.pop_back();
      for (const uint32_t used : rules_[at].uses) {
        if (used == rule) return true;
        if (!seen[used]) todo.push_back(used);
        seen[used] = true;
      }
    }
    return false;
  }

  GrammarBuilder* b_;
  SpecCursor cursor_;
  const GrammarLimits* limits_;
  std::map<std::string, uint32_t, std::less<>> by_name_;
  std::vector<RuleState> rules_;
  uint32_t current_ = 0;
};

}  // namespace

Result<Expr> parse_ebnf(GrammarBuilder& builder, std::string_view text,
                        const GrammarLimits& limits) {
  if (valid_utf8_prefix(text) < text.size()) {
    return SpecCursor::error_at(valid_utf8_prefix(text), "the text is not UTF-8");
  }
  return EbnfParser(builder, text, limits).run();
}

}  // namespace troupe::model
