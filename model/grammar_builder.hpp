#pragma once

// Expressions of a grammar, and their translation into a program. The parsers of regexes, schemas
// and EBNF build expressions here and know nothing of instructions.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"
#include "model/grammar.hpp"
#include "model/grammar_program.hpp"

namespace troupe::model {

/// Once the limits are exceeded every expression is never(), and build() says so: parsers need not
/// look.
class GrammarBuilder {
 public:
  struct Expr {
    uint32_t id;
  };
  struct Rule {
    uint32_t id;
  };
  /// One of several optional or required parts of a list.
  struct Member {
    Expr expr;
    bool required;
  };

  /// @param limits has to outlive the builder
  explicit GrammarBuilder(const GrammarLimits& limits);

  Expr never();  ///< matches nothing
  Expr empty();  ///< matches the empty text
  Expr literal(std::string_view bytes);
  Expr byte_of(const ByteSet& set);  ///< one byte; never() if the set is empty
  Expr byte_between(unsigned char first, unsigned char last);
  Expr sequence(std::span<const Expr> parts);
  Expr sequence(std::initializer_list<Expr> parts) {
    return sequence({parts.begin(), parts.end()});
  }
  Expr either(std::span<const Expr> branches);
  Expr either(std::initializer_list<Expr> branches) {
    return either({branches.begin(), branches.end()});
  }
  Expr repeat(Expr body, uint32_t min, uint32_t max);
  Expr optional(Expr body) { return repeat(body, 0, 1); }
  /// One of the texts, as a tree of their common prefixes. REQUIRES: not empty.
  Expr choice(std::vector<std::string> texts);
  /// The members in this order, optional ones or not, with `separator` between those that occur.
  Expr members(std::span<const Member> members, Expr separator);

  /// Rules may call each other before they are defined. REQUIRES: each is defined before build().
  /// @param name for messages
  Rule declare(std::string name);
  void define(Rule rule, Expr body);
  /// Calls of the rule count as a level of nesting.
  void count_nesting(Rule rule);
  Expr call(Rule rule);

  /// @errors kInvalidArgument: more than max_instructions; a rule that calls itself without
  ///         consuming anything; more nesting than max_depth in every text
  Result<std::shared_ptr<const Grammar>> build(Expr root) const;

 private:
  friend class GrammarEmitter;
  enum class Kind : uint8_t {
    kNever,
    kLiteral,
    kBytes,
    kSequence,
    kEither,
    kRepeat,
    kMembers,
    kCall
  };
  /// kLiteral: [first, first + count) of text_. kBytes: set `first`. kSequence, kEither: children
  /// [first, first + count). kRepeat: body `first`, min .. max. kMembers: children as before, flags
  /// of required in required_ at the same places; separator `min`. kCall: rule `first`.
  struct Node {
    Kind kind;
    uint32_t first = 0, count = 0, min = 0, max = 0;
  };
  struct RuleBody {
    std::string name;
    Expr body;
    bool counts_nesting = false;
  };

  Expr add(Node node);
  uint32_t add_children(std::span<const Expr> children);
  Expr choice_of(std::span<const std::string> sorted, size_t num_shared);

  const GrammarLimits* limits_;
  std::vector<Node> nodes_;
  std::vector<Expr> children_;
  std::vector<bool> required_;  // [children_]
  std::string text_;
  std::vector<ByteSet> sets_;
  std::unordered_map<ByteSet, uint32_t> set_ids_;
  std::vector<RuleBody> rules_;
  bool full_ = false;
};

}  // namespace troupe::model
