#include "model/grammar_tools.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/answer_parser.hpp"
#include "tests/model/grammar_walks.hpp"

namespace troupe::model {
namespace {

using testing::HasSubstr;

const std::vector<ToolDefinition>& tools() {
  static const std::vector<ToolDefinition> kTools = {
      {"weather", "", R"({"type":"object","properties":{"city":{"enum":["Bern"]}}})"},
      {"time", "", "{}"}};
  return kTools;
}

std::string calls_begin() { return Vocabulary::mark("<｜tool▁calls▁begin｜>"); }
std::string calls_end() { return Vocabulary::mark("<｜tool▁calls▁end｜>"); }
std::string plain_call(const std::string& name, const std::string& arguments) {
  return Vocabulary::mark("<｜tool▁call▁begin｜>") + name + Vocabulary::mark("<｜tool▁sep｜>") +
         arguments + Vocabulary::mark("<｜tool▁call▁end｜>");
}
std::string fenced_call(const std::string& name, const std::string& arguments) {
  return plain_call("function", name + "\n```json\n" + arguments + "\n```");
}

TEST(ToolCallGrammar, TakesCallsOfTheToolsAsTheAnswerParserReadsThem) {
  for (const ToolSyntax syntax : {ToolSyntax::kPlain, ToolSyntax::kFenced}) {
    const bool is_plain = syntax == ToolSyntax::kPlain;
    const auto call = is_plain ? plain_call : fenced_call;
    const std::string between = is_plain ? "" : "\n";
    const auto grammar = compiled(tool_call_spec(tools(), {.syntax = syntax}));
    const std::string bern = call("weather", R"({"city": "Bern"})");
    const std::string time = call("time", R"({"any":[1]})");
    const std::string two = calls_begin() + bern + between + time + calls_end();
    EXPECT_TRUE(accepts(grammar, calls_begin() + bern + calls_end()));
    EXPECT_TRUE(accepts(grammar, two));
    EXPECT_FALSE(continues(grammar, calls_begin() + calls_end()));
    EXPECT_FALSE(continues(grammar, calls_begin() + call("weather", R"({"city":"Rom)")));
    EXPECT_FALSE(continues(grammar, calls_begin() + call("snow", "{}")));
    EXPECT_FALSE(continues(grammar, "text"));
    EXPECT_FALSE(continues(grammar, two + "text"));

    std::string text;
    for (const char c : two) {
      if (c != '\xFF') text += c;  // what the tokens' texts are
    }
    AnswerParser parser({.tools = syntax});
    auto parts = parser.push(text);
    for (AnswerPart& part : parser.finish()) parts.push_back(std::move(part));
    ASSERT_EQ(parts.size(), 4U);
    EXPECT_EQ(parts[0].name, "weather");
    EXPECT_EQ(parts[1].text, R"({"city": "Bern"})");
    EXPECT_EQ(parts[2].name, "time");
    EXPECT_EQ(parts[3].text, R"({"any":[1]})");
  }
}

TEST(ToolCallGrammar, KnowsHowManyCallsMayComeAndWhetherTheyAreOpen) {
  const std::string call = plain_call("time", "{}");
  const auto one = compiled(
      tool_call_spec(tools(), {.syntax = ToolSyntax::kPlain, .several = false, .is_open = true}));
  EXPECT_TRUE(accepts(one, call + calls_end()));
  EXPECT_FALSE(continues(one, call + call));
  EXPECT_FALSE(continues(one, calls_begin()));
  const auto some = compiled(tool_call_spec(tools(), {.syntax = ToolSyntax::kPlain}));
  std::string calls = calls_begin();
  for (uint32_t i = 0; i < kMaxGuidedCalls; ++i) calls += call;
  EXPECT_TRUE(accepts(some, calls + calls_end()));
  EXPECT_FALSE(continues(some, calls + call));
}

TEST(ToolCallGrammar, ToolsShareThePartsOfJson) {
  const auto size_with = [](int num_tools) {
    std::vector<ToolDefinition> some;
    for (int i = 0; i < num_tools; ++i) {
      some.push_back({"tool", "", i % 2 ? "{}" : R"({"properties":{"a":{"type":"string"}}})"});
    }
    return compiled(tool_call_spec(some, {.syntax = ToolSyntax::kPlain}))->code.size();
  };
  EXPECT_GT(size_with(2), 500U) << "values of every kind";
  EXPECT_LT(size_with(22) - size_with(2), 20 * 100U);
}

TEST(ToolCallGrammar, NoTextMakesAMark) {
  // Tokens of every byte, and a mark that begins as another one.
  const auto vocabulary = small_vocabulary({Vocabulary::mark("<｜tool▁calls▁begin")});
  const auto grammar = compiled(tool_call_spec(tools(), {.syntax = ToolSyntax::kPlain}));
  TokenMasker masker(grammar, vocabulary);
  GrammarState state(grammar);
  EXPECT_FALSE(allowed(mask_of(masker, state), 256));
}

TEST(ToolCallGrammar, RefusesParametersThatItCannotFollowByTheNameOfTheTool) {
  const auto refused = [](const char* parameters, const char* message) {
    const std::vector<ToolDefinition> one = {{"t", "", parameters}};
    const auto grammar = compile_grammar(tool_call_spec(one, {}));
    ASSERT_FALSE(grammar.ok()) << parameters;
    EXPECT_EQ(grammar.error().code, Code::kInvalidArgument);
    EXPECT_THAT(grammar.error().message, HasSubstr("the tool \"t\""));
    EXPECT_THAT(grammar.error().message, HasSubstr(message));
  };
  refused("", "JSON");
  refused("[]", "object");
  refused(R"({"type":"string"})", "object");
  refused(R"({"anyOf":[{}]})", "object");
  refused(R"({"type":"object","minProperties":1})", "minProperties");
  refused(R"({"properties":{"a":{"pattern":"(a|b)*a(a|b){30}"}}})", "too complex");
}

TEST(ToolCallGrammar, SharesItsLimitsBetweenTheTools) {
  std::vector<ToolDefinition> many;
  for (int i = 0; i < 20; ++i) {
    many.push_back(
        {"t" + std::to_string(i), "", R"({"properties":{"a":{"pattern":"^[a-z]{1,5000}$"}}})"});
  }
  const auto grammar = compile_grammar(tool_call_spec(many, {}));
  ASSERT_FALSE(grammar.ok());
  EXPECT_THAT(grammar.error().message, HasSubstr("too complex"));
}

TEST(ToolCallGrammar, RefusesTextThatIsNoneOfIts) {
  using Kind = GrammarSpec::Kind;
  for (const char* text :
       {"", "1", "{}", R"({"syntax":"plain"})", R"({"syntax":"plain","tools":[]})",
        R"({"syntax":"odd","tools":[["a","{}"]]})", R"({"syntax":"plain","tools":[["a"]]})",
        R"({"syntax":"plain","tools":["a"]})"}) {
    EXPECT_FALSE(compile_grammar({.kind = Kind::kToolCalls, .text = text}).ok()) << text;
  }
}

}  // namespace
}  // namespace troupe::model
