#include "model/answer_parser.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/chat_tokens.hpp"

namespace troupe::model {

void PrintTo(const AnswerPart& part, std::ostream* out) {
  *out << static_cast<int>(part.kind) << ":" << part.name << ":" << part.text;
}

namespace {

using Kind = AnswerPart::Kind;
using Parts = std::vector<AnswerPart>;

constexpr AnswerSyntax kReasons{.has_reasoning = true};
constexpr AnswerSyntax kIsReasoning{.has_reasoning = true, .opens_in_reasoning = true};
constexpr AnswerSyntax kFenced{.tools = ToolSyntax::kFenced};
constexpr AnswerSyntax kPlain{.tools = ToolSyntax::kPlain};
constexpr AnswerSyntax kBoth{
    .has_reasoning = true, .opens_in_reasoning = true, .tools = ToolSyntax::kPlain};

AnswerPart reasoning(std::string text) { return {Kind::kReasoning, std::move(text), ""}; }
AnswerPart content(std::string text) { return {Kind::kContent, std::move(text), ""}; }
AnswerPart call(std::string name, std::string arguments) {
  return {Kind::kToolCall, std::move(arguments), std::move(name)};
}

AnswerSyntax guided(AnswerSyntax syntax) {
  syntax.guided_calls = true;
  return syntax;
}

/// All parts, neighbours of one kind of text joined, arguments to their call.
class Joined {
 public:
  void add(Parts parts) {
    for (AnswerPart& part : parts) {
      EXPECT_EQ(part.text.empty(), part.kind == Kind::kToolCall);
      EXPECT_EQ(part.name.empty(), part.kind != Kind::kToolCall);
      const Kind last = all_.empty() ? Kind::kArguments : all_.back().kind;
      if (part.kind == Kind::kArguments) {
        ASSERT_EQ(last, Kind::kToolCall);
        all_.back().text += part.text;
      } else if (part.kind != Kind::kToolCall && last == part.kind) {
        all_.back().text += part.text;
      } else {
        all_.push_back(std::move(part));
      }
    }
  }
  [[nodiscard]] const Parts& all() const { return all_; }

 private:
  Parts all_;
};

/// The parts of a text that comes in pieces of `size` bytes, the first of `first`.
Parts parts_of(AnswerSyntax syntax, std::string_view text, size_t first, size_t size) {
  AnswerParser parser(syntax);
  Joined joined;
  joined.add(parser.push(text.substr(0, first)));
  for (size_t at = std::min(first, text.size()); at < text.size(); at += size) {
    joined.add(parser.push(text.substr(at, size)));
  }
  joined.add(parser.finish());
  return joined.all();
}

void expect_parts(AnswerSyntax syntax, const std::string& text, const Parts& expected) {
  EXPECT_EQ(parts_of(syntax, text, text.size(), 1), expected) << text;
  for (size_t cut = 0; cut < text.size(); ++cut) {
    ASSERT_EQ(parts_of(syntax, text, cut, text.size()), expected) << text << " cut at " << cut;
  }
  for (size_t size = 1; size < 8; ++size) {
    ASSERT_EQ(parts_of(syntax, text, 0, size), expected) << text << " in pieces of " << size;
  }
}

/// Where a grammar makes the calls too.
void expect_parts_guided_or_not(AnswerSyntax syntax, const std::string& text,
                                const Parts& expected) {
  expect_parts(syntax, text, expected);
  expect_parts(guided(syntax), text, expected);
}

std::string joined(std::initializer_list<std::string_view> pieces) {
  std::string out;
  for (const auto piece : pieces) out += piece;
  return out;
}

std::string plain_call(std::string_view name, std::string_view arguments) {
  return joined({kToolCallBegin, name, kToolSeparator, arguments, kToolCallEnd});
}
std::string fenced_call(std::string_view name, std::string_view arguments) {
  return joined({kToolCallBegin, "function", kToolSeparator, name, "\n```json\n", arguments,
                 "\n```", kToolCallEnd});
}
std::string group(std::string_view calls) {
  return joined({kToolCallsBegin, calls, kToolCallsEnd});
}

TEST(AnswerParser, WithoutSyntaxAllIsContent) {
  expect_parts({}, "", {});
  expect_parts({}, "<think>a</think>b", {content("<think>a</think>b")});
  const std::string calls = group(plain_call("f", "{}"));
  expect_parts({}, calls, {content(calls)});
}

TEST(AnswerParser, SplitsReasoningFromContent) {
  expect_parts(kIsReasoning, "Let me see.</think>42", {reasoning("Let me see."), content("42")});
  expect_parts(kIsReasoning, "\nhm\n</think>\n\n42", {reasoning("\nhm\n"), content("\n\n42")});
  expect_parts(kIsReasoning, "</think>42", {content("42")});
  expect_parts(kIsReasoning, "never ends", {reasoning("never ends")});
  expect_parts(kIsReasoning, "", {});
  expect_parts(kIsReasoning, " \n", {reasoning(" \n")});
  expect_parts(kIsReasoning, "七 < 八 </thin</think>九",
               {reasoning("七 < 八 </thin"), content("九")});
  expect_parts(kIsReasoning, "a</think>b</think>c", {reasoning("a"), content("b</think>c")});
  expect_parts(kIsReasoning, "cut </thi", {reasoning("cut </thi")});
}

TEST(AnswerParser, TakesATagThatTheModelWritesItself) {
  expect_parts(kReasons, "<think>hm</think>42", {reasoning("hm"), content("42")});
  expect_parts(kReasons, "\n <think>\nhm</think>42", {reasoning("\nhm"), content("42")});
  expect_parts(kIsReasoning, "<think>\nhm</think>42", {reasoning("\nhm"), content("42")});
  expect_parts(kReasons, "42 <think>no</think>", {content("42 <think>no</think>")});
  expect_parts(kReasons, "<thin air>", {content("<thin air>")});
  expect_parts(kReasons, "  42", {content("  42")});
  expect_parts(kReasons, "<thi", {content("<thi")});
}

TEST(AnswerParser, ReadsCalls) {
  expect_parts(kPlain, group(plain_call("get", R"({"a": 1})")), {call("get", R"({"a": 1})")});
  expect_parts(kFenced, group(fenced_call("get", R"({"a": 1})")), {call("get", R"({"a": 1})")});
  expect_parts(kPlain, "Wait." + group(plain_call("f", "{}") + plain_call("g", R"({"七":"<｜"})")),
               {content("Wait."), call("f", "{}"), call("g", R"({"七":"<｜"})")});
  expect_parts(kFenced, group(fenced_call("f", "{}") + "\n" + fenced_call("g", "{\n \"x\":[]\n}")),
               {call("f", "{}"), call("g", "{\n \"x\":[]\n}")});
  expect_parts(kPlain, group(plain_call("f", "{}")) + " and text",
               {call("f", "{}"), content(" and text")});
  expect_parts(kPlain, group(plain_call("f", "{}")) + group(plain_call("f", "{}")),
               {call("f", "{}"), call("f", "{}")});
}

TEST(AnswerParser, CallsAreTheSameInPieces) {
  const std::string hard = R"({"a\\\"}]":[{"七":"}{"},"<｜`",[[]]],"b":{}})";
  for (const std::string& arguments :
       {std::string("{}"), hard, std::string(R"({"a":1,"a":{"":1,"":[]}, "b":2})")}) {
    const auto one = [&](const char* name) { return call(name, arguments); };
    expect_parts_guided_or_not(kPlain, group(plain_call("get", arguments)), {one("get")});
    expect_parts_guided_or_not(kFenced, group(fenced_call("get", arguments)), {one("get")});
    expect_parts_guided_or_not(
        kPlain, "Wait." + group(plain_call("f", arguments) + plain_call("g", arguments)),
        {content("Wait."), one("f"), one("g")});
    expect_parts_guided_or_not(
        kFenced, group(fenced_call("f", arguments) + "\n" + fenced_call("g", arguments)),
        {one("f"), one("g")});
  }
}

TEST(AnswerParser, BlanksAroundThePartsOfACallDoNotMatter) {
  expect_parts(kPlain, group(plain_call(" f\n", "\n {\"a\": 1} \r\n")), {call("f", R"({"a": 1})")});
  const auto fenced = [](std::string_view inner) {
    return group(joined({kToolCallBegin, "function", kToolSeparator, inner, kToolCallEnd}));
  };
  expect_parts(kFenced, fenced("f\n\n```json{}```\n"), {call("f", "{}")});
  expect_parts(kFenced, fenced("f \r\n```\n{ } \n\n ``` "), {call("f", "{ }")});
}

TEST(AnswerParser, TakesCallsWhoseLaterMarksAreMissing) {
  expect_parts(kPlain, joined({kToolCallsBegin, plain_call("f", "{}")}), {call("f", "{}")});
  expect_parts(kPlain, joined({kToolCallsBegin, plain_call("f", "{}"), "\n"}), {call("f", "{}")});
  const std::string open = joined({kToolCallBegin, "f", kToolSeparator, "{}"});
  expect_parts(kPlain, std::string(kToolCallsBegin) + open, {call("f", "{}")});
  expect_parts(kPlain, group(open) + "text", {call("f", "{}"), content("text")});
  expect_parts(kPlain, group(open + plain_call("g", "{}")), {call("f", "{}"), call("g", "{}")});
  expect_parts(
      kFenced,
      group(joined({kToolCallBegin, "function", kToolSeparator, "f\n```json\n{}", kToolCallEnd})),
      {call("f", "{}")});
}

TEST(AnswerParser, LooksForCallsBehindTheReasoningOnly) {
  const std::string calls = group(plain_call("f", "{}"));
  expect_parts(kBoth, "I could " + calls + "</think>" + calls,
               {reasoning("I could " + calls), call("f", "{}")});
}

TEST(AnswerParser, WhatDoesNotBeginAsACallComesOutAsContentUnchanged) {
  for (const std::string& text : {
           group(plain_call("f", "[1]")),                         // no object
           group(plain_call("f", "")),                            // no arguments
           group(plain_call("", "{}")),                           // no name
           group(plain_call("two words", "{}")),                  // no name either
           group(plain_call(std::string(257, 'x'), "{}")),        // a long one
           group(joined({kToolCallBegin, "f{}", kToolCallEnd})),  // no separator
           group(""),                                             // no call
           group("\n "),                                          //
           joined({kToolCallsBegin}),                             // an end too early
           joined({kToolCallsBegin, kToolCallBegin}),             //
           joined({kToolCallsBegin, "<｜tool▁ca"}),               //
           joined({kToolCallsBegin, kToolCallBegin, "f"}),        //
           joined({kToolCallsBegin, kToolCallBegin, "f", kToolSeparator, " "}),
           joined({kToolCallsBegin, kToolCallBegin, "f", kToolSeparator, "text"}),
           joined({kToolCallsBegin, "chatter", kToolCallsEnd}),    // text where calls should be
           joined({"a", kToolCallsBegin, " b ", kToolCallBegin}),  //
           plain_call("f", "{}"),                                  // no group
           joined({"x", kToolCallsEnd, kToolCallEnd, kToolSeparator}),
           std::string("<｜tool▁calls"),
       }) {
    expect_parts_guided_or_not(kPlain, text, {content(text)});
  }
  for (const std::string& text : {
           group(plain_call("f", "{}")),
           group(fenced_call("f", "[]")),
           group(joined({kToolCallBegin, "function", kToolSeparator, "f\n{}", kToolCallEnd})),
           group(joined({kToolCallBegin, "function", kToolSeparator, "f\n```", kToolCallEnd})),
           group(joined(
               {kToolCallBegin, "function", kToolSeparator, "f\n```yaml\n{}```", kToolCallEnd})),
       }) {
    expect_parts_guided_or_not(kFenced, text, {content(text)});
  }
}

TEST(AnswerParser, WhatDoesNotBeginAsACallInTimeIsNone) {
  const auto call_behind = [](size_t num_blanks) {
    return group(plain_call("f", std::string(num_blanks, ' ') + "{}"));
  };
  const size_t most = kMaxCallHeadBytes - kToolSeparator.size() - 2;  // the name, the brace
  EXPECT_EQ(parts_of(kPlain, call_behind(most), 0, 7), Parts{call("f", "{}")});
  const std::string late = call_behind(most + 1);
  for (const size_t size : {size_t{1}, size_t{100}, late.size()}) {
    EXPECT_EQ(parts_of(kPlain, late, 0, size), Parts{content(late)}) << size;
  }
}

TEST(AnswerParser, ArgumentsAreNotChecked) {
  for (const char* arguments : {R"({"a": nil, b})", "{{}}", "{\"a\n\": \x01}", R"({"a":1])"}) {
    expect_parts_guided_or_not(kPlain, group(plain_call("f", arguments)), {call("f", arguments)});
    expect_parts_guided_or_not(kFenced, group(fenced_call("f", arguments)), {call("f", arguments)});
  }
  const std::string deep =
      std::string(R"({"a":)") + std::string(999, '[') + std::string(999, ']') + "}";
  EXPECT_EQ(parts_of(kPlain, group(plain_call("f", deep)), 0, 64), Parts{call("f", deep)});
}

TEST(AnswerParser, ArgumentsBreakOffAtTheEndMark) {
  const std::string after = plain_call("g", "{}");
  for (const char* arguments : {"{", R"({"a":)", R"({"a":"b)", R"({"a":"b\)"}) {
    expect_parts(kPlain, group(plain_call("f", arguments) + after),
                 {call("f", arguments), call("g", "{}")});
  }
  expect_parts(kFenced, group(fenced_call("f", R"({"a": 1)")), {call("f", "{\"a\": 1\n")});
  expect_parts(kFenced, group(fenced_call("f", R"({"a": "b)")), {call("f", "{\"a\": \"b\n```")});
  // What only looks like the mark is part of a string, and ends arguments outside of one.
  expect_parts(kPlain, group(plain_call("f", R"({"<｜tool▁call":"<｜tool▁calls▁end｜>"})")),
               {call("f", R"({"<｜tool▁call":"<｜tool▁calls▁end｜>"})")});
  expect_parts(kPlain, group(plain_call("f", R"({"a": <b>})") + after),
               {call("f", R"({"a": )"), content("<b>}"), call("g", "{}")});
}

TEST(AnswerParser, AStringOfAGuidedCallMayHoldTheEndMark) {
  const std::string mark = R"({"a":")" + std::string(kToolCallEnd) + R"("})";
  expect_parts(guided(kPlain), group(plain_call("f", mark)), {call("f", mark)});
  expect_parts(kPlain, group(plain_call("f", mark)),
               {call("f", R"({"a":")"), content("\"}" + joined({kToolCallEnd, kToolCallsEnd}))});
}

TEST(AnswerParser, ACallThatIsCutHasCutArguments) {
  const std::string text = joined({kToolCallsBegin, fenced_call("f", R"({"a":"b<"})")});
  const size_t begin = text.find('{'), end = text.find('}') + 1;
  for (size_t size = begin + 1; size <= text.size(); ++size) {
    expect_parts_guided_or_not(kFenced, text.substr(0, size),
                               {call("f", text.substr(begin, std::min(size, end) - begin))});
  }
  for (size_t size = 1; size <= begin; ++size) {  // nothing of it has come out
    const std::string cut = text.substr(0, size);
    expect_parts_guided_or_not(kFenced, cut, {content(cut)});
  }
}

TEST(AnswerParser, TextBehindTheArgumentsOfACallIsContent) {
  const auto and_text = [](std::string_view text) {
    return group(plain_call("f", "{}" + std::string(text)) + plain_call("g", "{}"));
  };
  expect_parts_guided_or_not(kPlain, and_text("}"),
                             {call("f", "{}"), content("}"), call("g", "{}")});
  expect_parts_guided_or_not(kPlain, and_text(" , really "),
                             {call("f", "{}"), content(", really "), call("g", "{}")});
  expect_parts_guided_or_not(kPlain, and_text("```"),
                             {call("f", "{}"), content("```"), call("g", "{}")});
}

TEST(AnswerParser, WhatIsNoCallDoesNotTakeItsNeighboursAlong) {
  const std::string bad = plain_call("f", "oops");
  expect_parts(kPlain, group(bad + plain_call("g", "{}")),
               {content(std::string(kToolCallsBegin) + bad), call("g", "{}")});
  expect_parts(kPlain, group(plain_call("g", "{}") + "\n" + bad),
               {call("g", "{}"), content("\n" + bad)});
}

TEST(AnswerParser, TellsWhetherItIsInReasoning) {
  AnswerParser parser(kIsReasoning);
  EXPECT_TRUE(parser.in_reasoning());
  parser.push("hm");
  EXPECT_TRUE(parser.in_reasoning());
  parser.push("</think>");
  EXPECT_FALSE(parser.in_reasoning());
  AnswerParser other(kReasons);
  EXPECT_FALSE(other.in_reasoning());
  other.push("<think>x");
  EXPECT_TRUE(other.in_reasoning());
}

TEST(AnswerParser, GivesACallAsItComes) {
  for (const AnswerSyntax& syntax : {kFenced, guided(kFenced)}) {
    AnswerParser parser(syntax);
    EXPECT_EQ(parser.push(joined({kToolCallsBegin, kToolCallBegin, "function", kToolSeparator})),
              Parts{});
    EXPECT_EQ(parser.push("get\n```json\n"), Parts{});
    EXPECT_EQ(parser.push("{"), (Parts{call("get", ""), {Kind::kArguments, "{", ""}}));
    EXPECT_EQ(parser.push("\"a\": "), (Parts{{Kind::kArguments, "\"a\": ", ""}}));
    EXPECT_EQ(parser.num_ended_calls(), 0U);
    EXPECT_EQ(parser.push("1}\n`"), (Parts{{Kind::kArguments, "1}", ""}}));
    EXPECT_EQ(parser.num_ended_calls(), 1U);
    EXPECT_EQ(parser.push(joined({"``", kToolCallEnd, kToolCallsEnd})), Parts{});
    EXPECT_EQ(parser.finish(), Parts{});
  }
}

TEST(AnswerParser, HoldsBackNoMoreThanWhatMayBeginTheEndMark) {
  AnswerParser parser(kPlain);
  parser.push(joined({kToolCallsBegin, kToolCallBegin, "f", kToolSeparator, "{\"a\":\""}));
  EXPECT_EQ(parser.push("x <"), (Parts{{Kind::kArguments, "x ", ""}}));
  EXPECT_EQ(parser.push("｜tool▁call"), Parts{});
  EXPECT_EQ(parser.push("s"), (Parts{{Kind::kArguments, "<｜tool▁calls", ""}}));
  EXPECT_EQ(parser.push("<｜tool"), Parts{});
  EXPECT_EQ(parser.finish(), (Parts{{Kind::kArguments, "<｜tool", ""}}));
}

TEST(AnswerParser, WholeCharactersStayWhole) {
  // Of a text that comes in whole characters no part ends within one.
  const std::string text = "七<" + group(plain_call("七", R"({"八":"<｜tool▁九"})")) + "<｜十";
  AnswerParser parser(kPlain);
  const auto begins_character = [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  };
  for (size_t at = 0; at < text.size();) {
    size_t size = 1;
    while (at + size < text.size() && !begins_character(text[at + size])) ++size;
    for (const AnswerPart& part : parser.push(text.substr(at, size))) {
      const std::string& piece = part.kind == Kind::kToolCall ? part.name : part.text;
      EXPECT_TRUE(begins_character(piece[0])) << piece;
    }
    at += size;
  }
}

TEST(AnswerParser, GivesTextAsSoonAsItIsSettled) {
  AnswerParser parser(kBoth);
  EXPECT_EQ(parser.push("Let "), Parts{reasoning("Let ")});
  EXPECT_EQ(parser.push("me <"), Parts{reasoning("me ")});
  EXPECT_EQ(parser.push("/think"), Parts{});
  EXPECT_EQ(parser.push("> so"), Parts{content(" so")});
  EXPECT_EQ(parser.push("<｜to"), Parts{});
  EXPECT_EQ(parser.push("p"), Parts{content("<｜top")});
}

}  // namespace
}  // namespace troupe::model
