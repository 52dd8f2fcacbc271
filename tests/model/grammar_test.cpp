#include "model/grammar.hpp"

#include <gtest/gtest.h>

#include "tests/model/grammar_walks.hpp"

namespace troupe::model {
namespace {

using Kind = GrammarSpec::Kind;

TEST(Grammar, AcceptsTheChoicesAndNothingElse) {
  const auto grammar = compiled(
      {.kind = Kind::kChoice, .choices = {"yes", "no", "yes please", "\xC3\xA9", "no", "never"}});
  for (const char* text : {"yes", "no", "yes please", "\xC3\xA9", "never"}) {
    EXPECT_TRUE(accepts(grammar, text)) << text;
  }
  for (const char* text : {"", "ye", "yes ", "nono", "Yes", "\xC3"}) {
    EXPECT_FALSE(accepts(grammar, text)) << text;
  }
}

TEST(Grammar, DerivesTextFromEbnfRules) {
  const auto sum = compiled({.kind = Kind::kEbnf, .text = R"(
      # a sum of products
      root    ::= product (" + " product)*
      product ::= factor ("*" factor)*
      factor  ::= number | '(' root ')'
      number  ::= [0-9]+ ("." [0-9]{1,2})?
      unused  ::= "x"
  )"});
  for (const char* text : {"1", "1 + 2*3", "(1 + 2)*3.25", "((1))"})
    EXPECT_TRUE(accepts(sum, text));
  for (const char* text : {"", "1+2", "(1", "1.", "1.234", "x"}) EXPECT_FALSE(accepts(sum, text));

  const auto text =
      compiled({.kind = Kind::kEbnf, .text = R"(root ::= "\"" [^"\\]{2,3} "\x41\u00e9"? . '#'
                                                             )"});
  EXPECT_TRUE(accepts(text, "\"ab\xC3\xA9#"));
  EXPECT_TRUE(accepts(text, "\"abcA\xC3\xA9\n#"));
  EXPECT_FALSE(accepts(text, "\"a#"));

  GrammarLimits limits;
  limits.max_depth = 3;
  const auto nested =
      compiled({.kind = Kind::kEbnf, .text = "root ::= 'a' | '(' root ')'"}, limits);
  EXPECT_TRUE(accepts(nested, "((a))"));
  EXPECT_FALSE(continues(nested, "((("));
}

}  // namespace
}  // namespace troupe::model
