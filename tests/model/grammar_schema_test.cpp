#include "model/grammar_schema.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "tests/model/grammar_walks.hpp"
#include "tests/model/schema_checker.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;
using Kind = GrammarSpec::Kind;

struct SchemaCase {
  std::string schema;
  std::vector<std::string> valid;
  std::vector<std::string> invalid;       // as JSON Schema reads it
  std::vector<std::string> refused = {};  // valid, but not what is generated; or no JSON
};

const std::vector<SchemaCase>& schema_cases() {
  static const std::vector<SchemaCase> kCases = {
      {R"({"type":"boolean"})", {"true", "false"}, {"null", "1", "\"true\""}, {"", "tru", " true"}},
      {R"({"type":"null"})", {"null"}, {"0"}},
      {R"({"type":["integer","null"]})", {"3", "null", "-12"}, {"3.5", "\"3\""}, {"03", "-0"}},
      {R"({"type":"integer"})",
       {"0", "7", "-1", "9223372036854775807", "-9223372036854775808"},
       {"1.5"},
       {"12345678901234567890", "1e3", "1.0"}},
      {R"({"type":"integer","minimum":-5,"maximum":120})",
       {"-5", "-1", "0", "9", "10", "99", "100", "119", "120"},
       {"-6", "121", "1000", "-10"}},
      {R"({"type":"integer","exclusiveMinimum":0,"exclusiveMaximum":10.5})",
       {"1", "10"},
       {"0", "11", "-1"}},
      {R"({"type":"integer","minimum":0.5,"maximum":3.9})", {"1", "3"}, {"0", "4"}},
      {R"({"minimum":10})", {"10", "11.5", "9223372036854775808"}, {"9", "9.99", "-10"}, {"\"a\""}},
      {R"({"type":"number"})",
       {"0", "-0.5", "1e9", "1.25E-3", "-12e+10", "-0"},
       {"\"1\""},
       {".5", "1.", "+1", "01", "1e123", "NaN"}},
      {R"({"type":"number","minimum":0,"maximum":1})",
       {"0", "0.0", "0.25", "1", "1.0", "1.000"},
       {"1.01", "-0.1", "2"},
       {"1e0"}},
      {R"({"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1})",
       {"0.5", "0.001", "0.0000001"},
       {"0", "0.0", "1", "1.0", "-0.5"}},
      {R"({"type":"number","minimum":-2,"exclusiveMaximum":0})",
       {"-2", "-2.0", "-1.5", "-0.5"},
       {"0", "-0", "-0.0", "-2.01", "1"}},
      {R"({"type":"number","exclusiveMinimum":-3,"maximum":12})",
       {"-2.999", "0", "11.5", "12.0", "-0"},
       {"-3", "-3.0", "12.5"}},
      {R"({"type":"string"})",
       {"\"\"", "\"a b\"", "\"\xC3\xA9\xF0\x9F\x98\x80\"", R"("\"\\\/\b\f\n\r\t")", R"("\u00e9")",
        R"("\uD83d\uDE00")", "\"\x7F\""},
       {"null"},
       {"\"", "\"a\nb\"", R"("\x")", R"("\ud83d")", R"("\ude00")", R"("\ud83dx")", "\"\xC3\"",
        "\"\xED\xA0\x80\""}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {"\"ab\"", "\"abc\"", "\"\xC3\xA9\xF0\x9F\x98\x80\"", R"("\n\"")",
        R"("\uD83D\uDE00\u0041")"},
       {"\"a\"", "\"abcd\"", R"("\uD83D\uDE00")"}},
      {R"({"maxLength":0})", {"\"\""}, {"\"a\""}, {"1"}},
      {R"({"type":"string","pattern":"^[a-z\"\\\\]{2}$"})",
       {"\"ab\"", R"("\"\\")"},
       {"\"a\"", "\"abc\"", "\"AB\""},
       {R"("\u0061b")"}},
      {R"({"type":"string","pattern":"b+"})", {"\"b\"", R"("a\nbb\tc")"}, {"\"\"", "\"ac\""}},
      {R"({"type":"string","pattern":"^a|b$"})",
       {"\"ax\"", "\"xb\"", "\"a\""},
       {"\"xa\"", "\"bx\""}},
      {R"({"type":"string","pattern":""})", {"\"\"", "\"x\""}, {"1"}},
      {R"({"type":"string","format":"date"})",
       {"\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\"", "\"2023-04-30\""},
       {},
       {"\"2023-02-29\"", "\"1900-02-29\"", "\"2023-04-31\"", "\"2023-13-01\"", "\"23-01-01\""}},
      {R"({"type":"string","format":"date-time"})",
       {"\"2024-02-29T23:59:59Z\"", "\"2024-01-01T00:00:00.123+01:30\""},
       {},
       {"\"2024-01-01\"", "\"2024-01-01T24:00:00Z\"", "\"2024-01-01T00:00:00\""}},
      {R"({"type":"string","format":"time"})", {"\"00:00:00Z\""}, {}, {"\"00:60:00Z\""}},
      {R"({"type":"string","format":"uuid"})",
       {"\"123e4567-e89b-12d3-a456-426614174000\""},
       {},
       {"\"123e4567e89b12d3a456426614174000\""}},
      {R"({"type":"string","format":"ipv4"})",
       {"\"127.0.0.1\"", "\"255.255.255.255\""},
       {},
       {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""}},
      {R"({"type":"string","format":"email"})",
       {"\"a.b+c@example.org\""},
       {},
       {"\"a@b\"", "\"@b.c\"", "\".a@b.c\"", "\"a@-b.c\""}},
      {R"({"enum":["red","green",1,null,[1,{"a":"b"}],2.5,"re"]})",
       {"\"red\"", "\"green\"", "\"re\"", "1", "null", "[1,{\"a\":\"b\"}]", "[1, {\"a\": \"b\"}]",
        "2.5"},
       {"\"r\"", "\"blue\"", "2", "[1]"},
       {"[ 1,{\"a\":\"b\"}]", R"("\u0072ed")"}},
      {R"({"type":"string","enum":["a",1,"b\n"]})", {"\"a\"", R"("b\n")"}, {"1"}},
      {R"({"const":{"x":-1,"y":1e100}})", {"{\"x\":-1,\"y\": 1e+100}"}, {"{}"}},
      {R"({"type":"integer","enum":[1,2.0,2.5]})", {"1", "2"}, {"2.5"}},
      {R"({"type":"array","items":{"type":"integer"}})",
       {"[]", "[1]", "[1,2, 3]"},
       {"[\"a\"]", "{}"},
       {"[1,]", "[1 ,2]", "[1,  2]", "[ ]", "[,1]"}},
      {R"({"type":"array"})", {"[]", "[1,\"a\",[{}]]"}, {"{}"}},
      {R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":3})",
       {"[true]", "[true,false,true]"},
       {"[]", "[true,true,true,true]"}},
      {R"({"type":"array","items":{"type":"boolean"},"minItems":2})",
       {"[true,false]", "[true,false,true]"},
       {"[]", "[true]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"type":"array","items":false})", {"[]"}, {"[1]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}]})",
       {"[]", "[1]", "[1,\"a\"]"},
       {"[\"a\"]", "[1,2]"},
       {"[1,\"a\",2]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"},"minItems":1,
           "maxItems":4})",
       {"[1]", "[1,\"a\"]", "[1,\"a\",null,null]"},
       {"[]", "[1,\"a\",1]", "[1,\"a\",null,null,null]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}],"minItems":2,"maxItems":2})",
       {"[1,\"a\"]"},
       {"[1]", "[1,\"a\",2]"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},
           "required":["b"],"additionalProperties":false})",
       {R"({"a":1,"b":"x"})", R"({"a": 1, "b": "x"})", R"({"b":"x"})"},
       {"{}", R"({"a":1})", R"({"a":"x","b":"x"})", R"({"b":"x","c":1})"},
       {R"({"b":"x","a":1})", R"({ "b":"x"})", R"({"b":"x" })", R"({"b" :"x"})", R"({"b":"x",})"}},
      {R"({"properties":{"a":{},"b":{},"c":{}}})",
       {"{}", R"({"a":1})", R"({"b":1})", R"({"c":1})", R"({"a":1,"c":1})", R"({"b":1,"c":1})",
        R"({"a":1,"b":1,"c":1})"},
       {},
       {R"({"d":1})", R"({"a":1,"a":1})", R"({"b":1,"a":1})", "{,}", R"({"a":1,})"}},
      {R"({"properties":{"a":{"type":"null"},"b":false},"required":["a"]})",
       {R"({"a":null})"},
       {R"({"a":null,"b":1})"}},
      {R"({"type":"object"})",
       {"{}", R"({"a":{"b":[1,{}]},"\u0061":null})", R"({"a":1,"a":2})"},
       {"[]"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})",
       {"{}", R"({"x":1, "y":2})"},
       {R"({"x":"a"})"}},
      {R"({"properties":{"ab":{"type":"integer"},"a\n":{"type":"integer"},"\u00e9":{"type":"integer"}},
           "additionalProperties":{"type":"string"}})",
       {"{}", R"({"ab":1})", R"({"ab":1,"a":"x"})", R"({"abc":"x","":"y"})", "{\"\xC3\xA9\":1}",
        "{\"\xC3\xA8\":\"x\"}", R"({"b":"x"})", R"({"a\n":2,"aa":"x"})",
        "{\"\xE4\xBD\xA0\":\"x\"}"},
       {R"({"ab":"x"})", "{\"\xC3\xA9\":\"x\"}", R"({"a":1})", R"({"a\n":"x"})"},
       {R"({"a\t":"x"})", R"({"a":"x","ab":1})"}},
      {R"({"type":"object","required":["k"]})", {R"({"k":[1]})"}, {"{}"}, {R"({"k":1,"z":1})"}},
      {R"({"required":["k"],"additionalProperties":{"type":"null"}})",
       {R"({"k":null})", R"({"k":null,"z":null})"},
       {"{}", R"({"k":1})"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"object","properties":{"a":{"type":"integer"}},
           "required":["a"]},{"type":"object","properties":{"a":{"type":"string"}},
           "required":["a"]}]})",
       {"1", R"({"a":1})", R"({"a":"x"})"},
       {R"({"a":null})", "{}", "\"x\""}},
      {R"({"oneOf":[{"const":"a"},{"const":"ab"}]})", {"\"a\"", "\"ab\""}, {"\"b\""}},
      {R"({"allOf":[{"type":"integer"}],"title":"t"})", {"1"}, {"\"x\""}},
      {R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},
           "next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"]}}})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
       {R"({"v":1})", R"({"v":1,"next":{"v":2}})"}},
      {R"({"type":"array","items":{"$ref":"#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"$ref":"#/properties/a"}}})",
       {R"({"a":1,"b":2})"},
       {R"({"b":"x"})"}},
      {"true", {"{}", "1", "[null]"}, {}, {"nul"}},
      {R"({"description":"anything"})", {"\"x\"", "-0.5e1"}, {}},
  };
  return kCases;
}

TEST(GrammarSchema, AcceptsValidDocumentsAndNoOthers) {
  for (const SchemaCase& one : schema_cases()) {
    const json::value schema = json::parse(one.schema);
    const auto grammar = compiled_schema(one.schema);
    for (const std::string& text : one.valid) {
      EXPECT_EQ(schema_violation(schema, json::parse(text)), "") << one.schema << " on " << text;
      EXPECT_TRUE(accepts(grammar, text)) << one.schema << " on " << text;
    }
    for (const std::string& text : one.invalid) {
      EXPECT_NE(schema_violation(schema, json::parse(text)), "") << one.schema << " on " << text;
      EXPECT_FALSE(accepts(grammar, text)) << one.schema << " on " << text;
    }
    for (const std::string& text : one.refused) {
      EXPECT_FALSE(accepts(grammar, text)) << one.schema << " on " << text;
    }
  }
}

TEST(GrammarSchema, EveryValidDocumentIsReachedTokenByToken) {
  const auto vocabulary = json_vocabulary();
  Draws draws(1);
  for (const SchemaCase& one : schema_cases()) {
    const auto grammar = compiled_schema(one.schema);
    TokenMasker masker(grammar, vocabulary);
    for (const std::string& text : one.valid) {
      for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(follow(masker, vocabulary, grammar, text, draws), "") << one.schema;
      }
    }
  }
}

TEST(GrammarSchema, RandomWalksEndInValidDocuments) {
  const auto vocabulary = json_vocabulary();
  for (const SchemaCase& one : schema_cases()) {
    const json::value schema = json::parse(one.schema);
    const auto grammar = compiled_schema(one.schema);
    TokenMasker masker(grammar, vocabulary);
    for (uint64_t seed = 0; seed < 12; ++seed) {
      Draws draws(seed);
      const std::string text = random_text(masker, vocabulary, grammar, draws, 5 * seed);
      json::error_code ec;
      const json::value document = json::parse(text, ec, {}, {.max_depth = 64});
      ASSERT_FALSE(ec) << one.schema << ", seed " << seed << ": " << text;
      ASSERT_EQ(schema_violation(schema, document), "")
          << one.schema << ", seed " << seed << ": " << text;
    }
  }
}

TEST(GrammarSchema, IntegersAreThoseBetweenTheBounds) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Draws draws(seed);
    const auto number = [&] {
      const int64_t magnitude =
          static_cast<int64_t>(random_bits(seed, draws.below(1000), 1) >> (1 + draws.below(63)));
      return draws.one_in(2) ? -magnitude : magnitude;
    };
    int64_t low = number(), high = number();
    if (low > high) std::swap(low, high);
    const auto grammar = compiled_schema(R"({"type":"integer","minimum":)" + std::to_string(low) +
                                         R"(,"maximum":)" + std::to_string(high) + "}");
    std::vector<int64_t> probes = {low, high, 0, 1, -1, 9, 10, 99, 100, INT64_MAX, -INT64_MAX};
    for (const int64_t edge : {low, high}) {
      if (edge < INT64_MAX) probes.push_back(edge + 1);
      probes.push_back(edge - 1);
      probes.push_back(edge / 10);
      if (std::abs(edge) < INT64_MAX / 10) probes.push_back(edge * 10);
    }
    for (int i = 0; i < 20; ++i) probes.push_back(number());
    for (const int64_t probe : probes) {
      ASSERT_EQ(accepts(grammar, std::to_string(probe)), low <= probe && probe <= high)
          << low << " <= " << probe << " <= " << high;
    }
  }
}

TEST(GrammarSchema, NumbersAreThoseBetweenTheBounds) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    Draws draws(seed);
    int low = static_cast<int>(draws.below(250)) - 125;
    int high = low + static_cast<int>(draws.below(4) * draws.below(30));
    const bool low_out = draws.one_in(2) && low < high, high_out = draws.one_in(2) && low < high;
    const auto grammar = compiled_schema(
        std::string(R"({"type":"number",)") + (low_out ? "\"exclusiveMinimum\":" : "\"minimum\":") +
        std::to_string(low) + (high_out ? ",\"exclusiveMaximum\":" : ",\"maximum\":") +
        std::to_string(high) + "}");
    for (int i = 0; i < 200; ++i) {
      const int whole = (draws.one_in(2) ? low : high) + static_cast<int>(draws.below(5)) - 2;
      static const std::vector<std::string> kFractions = {"",    ".0",  ".000", ".5",
                                                          ".01", ".99", ".10"};
      const std::string text = (whole == 0 && draws.one_in(2) ? "-0" : std::to_string(whole)) +
                               kFractions[draws.below(kFractions.size())];
      const double value = std::stod(text);
      if (value == 0 && text[0] == '-' && low >= 0) continue;  // only spelled without the sign
      const bool expected =
          (low_out ? value > low : value >= low) && (high_out ? value < high : value <= high);
      ASSERT_EQ(accepts(grammar, text), expected)
          << low << (low_out ? " < " : " <= ") << text << (high_out ? " < " : " <= ") << high;
    }
  }
}

TEST(GrammarSchema, NestingEndsAtTheLimitAndNeverInADeadEnd) {
  const std::string schema =
      R"({"type":"object","properties":{"list":{"type":"array","items":{"$ref":"#"}}},
          "required":["list"]})";
  GrammarLimits limits;
  limits.max_depth = 6;
  const auto grammar = compiled({.kind = Kind::kJsonSchema, .text = schema}, limits);
  EXPECT_TRUE(accepts(grammar, R"({"list":[{"list":[{"list":[]}]}]})"));
  EXPECT_FALSE(continues(grammar, R"({"list":[{"list":[{"list":[{)"));
  // An object needs a list, so one more level of objects would have no room for it.
  limits.max_depth = 5;
  const auto odd = compiled({.kind = Kind::kJsonSchema, .text = schema}, limits);
  EXPECT_TRUE(accepts(odd, R"({"list":[{"list":[]}]})"));
  EXPECT_FALSE(continues(odd, R"({"list":[{"list":[{)"));
  limits.max_depth = 1;
  EXPECT_FALSE(compile_grammar({.kind = Kind::kJsonSchema, .text = schema}, limits).ok());
}

TEST(GrammarSchema, AnyJsonNestsAsDeepAsTheLimit) {
  const auto grammar = compiled({.kind = Kind::kJsonObject});
  const auto nested = [](size_t depth) {
    return "{\"a\":" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  EXPECT_TRUE(accepts(grammar, nested(32)));
  EXPECT_FALSE(accepts(grammar, nested(33)));
  EXPECT_FALSE(accepts(grammar, "[]"));
  EXPECT_FALSE(accepts(grammar, "{}{}"));
}

TEST(GrammarSchema, AlternativesThatLookAlikeDoNotMultiply) {
  // Both branches are open until the last key, at every level.
  const auto grammar = compiled_schema(R"({"$ref":"#/$defs/e","$defs":{"e":{"anyOf":[
      {"type":"integer"},
      {"type":"object","properties":{"left":{"$ref":"#/$defs/e"},"op":{"const":"+"}},
       "required":["left","op"]},
      {"type":"object","properties":{"left":{"$ref":"#/$defs/e"},"op":{"const":"-"}},
       "required":["left","op"]}]}}})");
  GrammarState state(grammar);
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(state.advance("{\"left\":").ok());
    EXPECT_LE(state.threads()->threads.size(), 16U) << i;
  }
  ASSERT_TRUE(state.advance("1").ok());
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(state.advance(i % 2 ? ",\"op\":\"+\"}" : ",\"op\":\"-\"}").ok()) << i;
  }
  EXPECT_TRUE(state.complete());
}

}  // namespace
}  // namespace troupe::model
