#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "model/grammar.hpp"

namespace troupe::model {
namespace {

using Kind = GrammarSpec::Kind;
using testing::HasSubstr;

/// Of processor time. The slowest takes 60 ms; sanitizers take ten times that, an explosion
/// forever.
constexpr double kMaxSeconds = 5;

struct HostileCase {
  std::string name;
  GrammarSpec spec;
  std::string message_part;
};

GrammarSpec regex(std::string text) { return {.kind = Kind::kRegex, .text = std::move(text)}; }
GrammarSpec schema(std::string text) {
  return {.kind = Kind::kJsonSchema, .text = std::move(text)};
}
GrammarSpec ebnf(std::string text) { return {.kind = Kind::kEbnf, .text = std::move(text)}; }
GrammarSpec choice(std::vector<std::string> choices) {
  return {.kind = Kind::kChoice, .choices = std::move(choices)};
}

std::string repeated(std::string_view text, size_t num) {
  std::string out;
  for (size_t i = 0; i < num; ++i) out += text;
  return out;
}

/// begin 0 middle 1 middle ... n-1 end
std::string listed(const std::string& begin, const std::string& before, const std::string& after,
                   size_t num, const std::string& end) {
  std::string out = begin;
  for (size_t i = 0; i < num; ++i) out += (i ? "," : "") + before + std::to_string(i) + after;
  return out + end;
}

std::vector<HostileCase> hostile_cases() {
  const size_t kMegabyte = size_t{1} << 20;
  return {
      {"RegexEmpty", regex(""), "empty"},
      {"RegexOfAMegabyte", regex(std::string(kMegabyte, 'a')), "longer than 262144"},
      {"RegexOfManyStates", regex(repeated("[a-z]", 40'000)), "49152"},
      {"RegexNotUtf8", regex("ab\xFF"), "byte 2"},
      {"RegexNested", regex(std::string(100'000, '(')), "at most 64"},
      {"RegexNestedClosed", regex(std::string(70, '(') + "a" + std::string(70, ')')), "at most 64"},
      {"RegexNotClosed", regex("a(b"), "byte 1"},
      {"RegexClosedTwice", regex("a)b"), "byte 1"},
      {"RegexClassNotClosed", regex("a[b"), "byte 1"},
      {"RegexClassEmpty", regex("[]"), "empty class"},
      {"RegexClassOfNothing", regex("[^\\x00-\\x{10ffff}]"), "no character"},
      {"RegexClassBackward", regex("[z-a]"), "backward"},
      {"RegexClassRangeOfClass", regex("[\\d-z]"), "class cannot end a range"},
      {"RegexPosixClass", regex("[[:alpha:]]"), "POSIX"},
      {"RegexRepeatedTooOften", regex("a{1,1000000}"), "100000"},
      {"RegexRepeatedHugely", regex("a{99999999999999999999}"), "100000"},
      {"RegexRepeatedBackward", regex("a{3,2}"), "minimum is above"},
      {"RegexRepeatedRepetition", regex("a**"), "needs a group"},
      {"RegexNothingToRepeat", regex("|*"), "nothing to repeat"},
      {"RegexUnfinishedRepetition", regex("a{3"), "literal '{'"},
      {"RegexPythonRepetition", regex("a{,3}"), "{0,n}"},
      {"RegexPossessive", regex("a*+"), "possessive"},
      {"RegexLookahead", regex("a(?=b)"), "byte 1: look-around"},
      {"RegexLookbehind", regex("(?<!a)b"), "look-around"},
      {"RegexBackReference", regex("(a)\\1"), "byte 3: back-reference"},
      {"RegexNamedBackReference", regex("(?<x>a)\\k<x>"), "back-reference"},
      {"RegexWordBoundary", regex("\\bword"), "boundaries"},
      {"RegexAnchorWithin", regex("a^b"), "byte 1: anchors"},
      {"RegexAnchorInGroup", regex("(^a)"), "anchors"},
      {"RegexFlags", regex("(?i)a"), "groups"},
      {"RegexAtomic", regex("(?>a)"), "groups"},
      {"RegexProperty", regex("\\p{L}"), "properties"},
      {"RegexUnknownEscape", regex("\\y"), "unknown escape"},
      {"RegexEndsInBackslash", regex("a\\"), "backslash"},
      {"RegexSurrogate", regex("\\ud800"), "not a character"},
      {"RegexBeyondUnicode", regex("\\x{110000}"), "not a character"},
      {"RegexExponential", regex("(a|b)*a(a|b){30}"), "too complex"},
      {"RegexExponentialWide", regex(".*[a-m].{1,4000}[n-z].{1,4000}"), "too complex"},
      {"RegexCountersInCounters", regex("((a{1,1000}){1,1000}){1,1000}"), "too complex"},
      {"RegexLongRepetition", regex("(.{1,5000}){1,5000}"), "too complex"},
      {"RegexManyAlternatives", regex(repeated(".*a|", 5'000) + "b"), "too large"},
      {"RegexManyClasses", regex(listed("", "[^\\x{1", "2}-\\x{10000}]", 9'999, "")), ""},
      {"SchemaEmpty", schema(""), "not valid JSON"},
      {"SchemaNotJson", schema("{\"type\":"), "not valid JSON"},
      {"SchemaTooLong", schema(std::string(kMegabyte, ' ') + "{}"), "longer than"},
      {"SchemaNested", schema(std::string(100'000, '[')), "not valid JSON"},
      {"SchemaNestedNot",
       schema(repeated("{\"minItems\":1,\"items\":", 100) + "{}" + repeated("}", 100)),
       "nesting of 32"},
      {"SchemaAList", schema("[]"), "object, true or false"},
      {"SchemaFalse", schema("false"), "no text"},
      {"SchemaTypeUnknown", schema(R"({"type":"float"})"), "unknown type"},
      {"SchemaTypeANumber", schema(R"({"type":1})"), "unknown type"},
      {"SchemaTypeEmpty", schema(R"({"type":[]})"), "no type"},
      {"SchemaKeyTwice", schema(R"({"type":"null","type":"null"})"), "twice"},
      {"SchemaNot", schema(R"({"properties":{"a":{"not":{}}}})"),
       "#/properties/a\": keyword \"not\""},
      {"SchemaIf", schema(R"({"if":{}})"), "\"if\""},
      {"SchemaMultipleOf", schema(R"({"type":"integer","multipleOf":2})"), "multipleOf"},
      {"SchemaUniqueItems", schema(R"({"type":"array","uniqueItems":true})"), "uniqueItems"},
      {"SchemaContains", schema(R"({"contains":{}})"), "contains"},
      {"SchemaPatternProperties", schema(R"({"patternProperties":{"a":{}}})"), "patternProperties"},
      {"SchemaDependentRequired", schema(R"({"dependentRequired":{}})"), "dependentRequired"},
      {"SchemaMinProperties", schema(R"({"minProperties":1})"), "minProperties"},
      {"SchemaNullable", schema(R"({"type":"string","nullable":true})"), "nullable"},
      {"SchemaTypo", schema(R"({"type":"object","requird":["a"]})"), "requird"},
      {"SchemaItemsAList", schema(R"({"items":[{}]})"), "prefixItems"},
      {"SchemaAllOfTwo", schema(R"({"allOf":[{},{}]})"), "allOf"},
      {"SchemaAnyOfEmpty", schema(R"({"anyOf":[]})"), "empty"},
      {"SchemaAnyOfBesideType", schema(R"({"type":"object","anyOf":[{}]})"),
       "\"type\" next to anyOf"},
      {"SchemaAnyOfTwice", schema(R"({"oneOf":[{}],"anyOf":[{}]})"), "next to"},
      {"SchemaRefBesideType", schema(R"({"$ref":"#","type":"object"})"), "next to"},
      {"SchemaRefAbroad", schema(R"({"$ref":"http://example.org/x"})"), "only refer into"},
      {"SchemaRefToNothing", schema(R"({"$ref":"#/$defs/x"})"), "refers to nothing"},
      {"SchemaRefNoPointer", schema(R"({"$ref":"#x"})"), "refers to nothing"},
      {"SchemaRefToItself", schema(R"({"$ref":"#"})"), "left recursion"},
      {"SchemaRefCycle",
       schema(R"({"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"},{"type":"null"}]},
                  "b":{"$ref":"#/$defs/a"}}})"),
       "left recursion"},
      {"SchemaRefCycleNamed",
       schema(R"({"properties":{"p":{"$ref":"#/$defs/a"}},"$defs":{"a":{"$ref":"#/$defs/a"}}})"),
       ""},
      {"SchemaNeverEnds", schema(R"({"properties":{"a":{"$ref":"#"}},"required":["a"]})"),
       "no text"},
      {"SchemaRequiredForbidden", schema(R"({"properties":{"a":false},"required":["a"]})"),
       "no text"},
      {"SchemaRequiredUnknown", schema(R"({"required":["a"],"additionalProperties":false})"),
       "neither in properties"},
      {"SchemaRequiredANumber", schema(R"({"required":[1]})"), "names"},
      {"SchemaEnumEmpty", schema(R"({"enum":[]})"), "no value"},
      {"SchemaEnumOfAnotherType", schema(R"({"enum":[1],"type":"string"})"), "no value"},
      {"SchemaEnumHuge", schema(listed("{\"enum\":[", "", "", 5'000, "]}")), "4096"},
      {"SchemaEnumBesideLength", schema(R"({"enum":["a"],"minLength":1})"), "next to"},
      {"SchemaPropertiesMany", schema(listed("{\"properties\":{", "\"p", "\":{}", 1'100, "}}")),
       "1024"},
      {"SchemaPropertyNameLong", schema("{\"properties\":{\"" + std::string(300, 'n') + "\":{}}}"),
       "256"},
      {"SchemaPrefixItemsMany",
       schema(listed("{\"prefixItems\":[", "{\"const\":", "}", 1'100, "]}")), "1024"},
      {"SchemaMaxLengthHuge", schema(R"({"maxLength":1000000})"), "100000"},
      {"SchemaMinItemsNegative", schema(R"({"minItems":-1})"), "count"},
      {"SchemaMinItemsAFraction", schema(R"({"minItems":1.5})"), "count"},
      {"SchemaMinItemsAText", schema(R"({"minItems":"1"})"), "count"},
      {"SchemaLengthsBackward", schema(R"({"minLength":3,"maxLength":2})"), "above maxLength"},
      {"SchemaItemsBackward", schema(R"({"minItems":3,"maxItems":2})"), "above maxItems"},
      {"SchemaBoundsBackward", schema(R"({"type":"integer","minimum":3,"maximum":2})"), "between"},
      {"SchemaBoundsEmpty", schema(R"({"type":"integer","exclusiveMinimum":3,"maximum":3})"),
       "between"},
      {"SchemaBoundOfANumber", schema(R"({"type":"number","minimum":0.5})"), "whole"},
      {"SchemaBoundHuge", schema(R"({"type":"integer","minimum":1e300})"), "outside int64"},
      {"SchemaBoundAText", schema(R"({"minimum":"0"})"), "number"},
      {"SchemaPattern", schema(R"x({"pattern":"a(?!b)"})x"), "pattern: at byte 1: look-around"},
      {"SchemaPatternComplex", schema(R"x({"pattern":"(a|b)*a(a|b){30}"})x"), "too complex"},
      {"SchemaPatternsComplex",
       schema(listed("{\"prefixItems\":[", "{\"pattern\":\"^[a-z]{1,9000}", "$\"}", 50, "]}")),
       "too complex"},
      {"SchemaPatternAndLength", schema(R"({"pattern":"a","maxLength":5})"), "only one of"},
      {"SchemaFormatUnknown", schema(R"({"format":"uri"})"), "\"uri\" is not supported"},
      {"SchemaRefChain",
       schema(listed("{\"$ref\":\"#/$defs/a0\",\"$defs\":{", "\"a", "\":{\"$ref\":\"#/$defs/zz\"}",
                     2'000, ",\"zz\":{\"$ref\":\"#/$defs/none\"}}}")),
       "refers to nothing"},
      {"SchemaTooLarge",
       schema(listed("{\"additionalProperties\":{},\"properties\":{", "\"" + std::string(200, 'p'),
                     "\":{}", 900, "}}")),
       "131072"},
      {"EbnfEmpty", ebnf(""), "no rule"},
      {"EbnfWithoutRoot", ebnf("a ::= 'x'"), "root"},
      {"EbnfUndefined", ebnf("root ::= a"), "\"a\" is not defined"},
      {"EbnfDefinedTwice", ebnf("root ::= 'a'\nroot ::= 'b'"), "twice"},
      {"EbnfLeftRecursion", ebnf("root ::= root 'a' | 'b'"), "left recursion"},
      {"EbnfHiddenLeftRecursion", ebnf("root ::= 'x'? a 'y' | 'z'\na ::= root"), "left recursion"},
      {"EbnfNeverEnds", ebnf("root ::= '(' root ')'"), "no text"},
      {"EbnfTextNotClosed", ebnf("root ::= 'a"), "not closed"},
      {"EbnfClassInText", ebnf("root ::= '\\d'"), "class"},
      {"EbnfGroupNotClosed", ebnf("root ::= ('a'"), "not closed"},
      {"EbnfNested", ebnf("root ::= " + std::string(100'000, '(')), "at most 64"},
      {"EbnfNoAssignment", ebnf("root = 'a'"), "::="},
      {"EbnfStrayBracket", ebnf("root ::= 'a' )"), "does not belong"},
      {"EbnfRepeatedTooOften", ebnf("root ::= 'a'{1,1000000}"), "100000"},
      {"EbnfWide", ebnf("root ::= 'a'" + repeated("|'a'", 20'000)), "too ambiguous"},
      {"EbnfManyRules", ebnf(listed("root ::= ", "r", " ", 600, "")), ""},
      {"EbnfDeepChain", ebnf([] {
         std::string text = "root ::= r0 'x'\n";
         for (int i = 0; i < 200; ++i) {
           text += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + " 'x'\n";
         }
         return text + "r200 ::= 'y'";
       }()),
       "more than 64 calls"},
      {"ChoiceNone", choice({}), "no choice"},
      {"ChoiceEmpty", choice({"a", ""}), "choice 1 is empty"},
      {"ChoiceNotUtf8", choice({"\xC3"}), "UTF-8"},
      {"ChoiceMany", choice(std::vector<std::string>(5'000, "a")), "4096"},
      {"ChoiceLong", choice({std::string(kMegabyte, 'a')}), "longer than"},
  };
}

class HostileGrammar : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileGrammar, IsAQuickErrorThatNamesTheProblem) {
  const std::clock_t begin = std::clock();
  const auto grammar = compile_grammar(GetParam().spec);
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, kMaxSeconds);
  ASSERT_FALSE(grammar.ok());
  EXPECT_EQ(grammar.error().code, Code::kInvalidArgument);
  EXPECT_THAT(grammar.error().message, HasSubstr(GetParam().message_part));
  EXPECT_LT(grammar.error().message.size(), 600U);
}

/// Tests print their parameter where they fail.
void PrintTo(const HostileCase& one, std::ostream* out) { *out << one.name; }

INSTANTIATE_TEST_SUITE_P(, HostileGrammar, testing::ValuesIn(hostile_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(Grammar, CompilesWhatIsLargeAndHarmlessInBoundedTime) {
  std::vector<std::string> prefixes;
  for (size_t i = 1; i <= 700; ++i) prefixes.emplace_back(i, 'a');
  const std::vector<GrammarSpec> specs = {
      choice(prefixes),
      regex("[a-z]{1,10000}"),
      regex("(\\w+[ ,.]*){1,50}"),
      schema(listed("{\"properties\":{", "\"name_", "\":{\"type\":\"string\"}", 1'000, "}}")),
      schema(listed("{\"enum\":[", "\"value ", "\"", 4'000, "]}")),
      schema(repeated("{\"items\":", 30) + "{}" + repeated("}", 30)),
      schema(R"({"maxLength":100000,"minLength":99999})"),
  };
  for (const GrammarSpec& spec : specs) {
    const std::clock_t begin = std::clock();
    const auto grammar = compile_grammar(spec);
    EXPECT_TRUE(grammar.ok()) << (grammar.ok() ? "" : grammar.error().message);
    EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, kMaxSeconds);
  }
}

}  // namespace
}  // namespace troupe::model
