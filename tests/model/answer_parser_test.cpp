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

/// All parts, neighbours of one kind of text joined.
class Joined {
 public:
  void add(Parts parts) {
    for (AnswerPart& part : parts) {
      EXPECT_FALSE(part.text.empty());
      const bool joins =
          !all_.empty() && part.kind != Kind::kToolCall && all_.back().kind == part.kind;
      if (joins) {
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

TEST(AnswerParser, ArgumentsMayRepeatAKeyAsGrammarsOfJsonLetThem) {
  for (const char* twice : {R"({"a":1,"a":2})", R"({"a":{"":1,"":[]}, "b":2})"}) {
    expect_parts(kPlain, group(plain_call("f", twice)), {call("f", twice)});
    expect_parts(kFenced, group(fenced_call("f", twice)), {call("f", twice)});
  }
}

TEST(AnswerParser, TakesCallsWhoseGroupOrLastMarkIsMissing) {
  expect_parts(kPlain, joined({kToolCallsBegin, plain_call("f", "{}")}), {call("f", "{}")});
  expect_parts(kPlain, joined({kToolCallsBegin, plain_call("f", "{}"), "\n"}), {call("f", "{}")});
  expect_parts(kPlain, joined({kToolCallsBegin, kToolCallBegin, "f", kToolSeparator, "{}"}),
               {call("f", "{}")});
}

TEST(AnswerParser, LooksForCallsBehindTheReasoningOnly) {
  const std::string calls = group(plain_call("f", "{}"));
  expect_parts(kBoth, "I could " + calls + "</think>" + calls,
               {reasoning("I could " + calls), call("f", "{}")});
}

TEST(AnswerParser, WhatIsMalformedComesOutAsContentUnchanged) {
  for (const std::string& text : {
           group(plain_call("f", "{")),                           // no JSON
           group(plain_call("f", "[1]")),                         // no object
           group(plain_call("f", "")),                            // no arguments
           group(plain_call("", "{}")),                           // no name
           group(plain_call("two words", "{}")),                  // no name either
           group(plain_call(std::string(300, 'x'), "{}")),        // a long one
           group(joined({kToolCallBegin, "f{}", kToolCallEnd})),  // no separator
           group(""),                                             // no call
           group("\n "),                                          //
           joined({kToolCallsBegin}),                             // an end too early
           joined({kToolCallsBegin, kToolCallBegin}),             //
           joined({kToolCallsBegin, "<｜tool▁ca"}),               //
           joined({kToolCallsBegin, kToolCallBegin, "f"}),        //
           joined({kToolCallsBegin, kToolCallBegin, "f", kToolSeparator, "{\"a\":"}),
           joined({kToolCallsBegin, "chatter", kToolCallsEnd}),    // text where calls should be
           joined({"a", kToolCallsBegin, " b ", kToolCallBegin}),  //
           plain_call("f", "{}"),                                  // no group
           joined({"x", kToolCallsEnd, kToolCallEnd, kToolSeparator}),
           std::string("<｜tool▁calls"),
       }) {
    expect_parts(kPlain, text, {content(text)});
  }
  for (const std::string& text : {
           group(plain_call("f", "{}")),
           group(fenced_call("f", "{}}")),
           group(joined({kToolCallBegin, "function", kToolSeparator, "f\n{}", kToolCallEnd})),
           group(joined(
               {kToolCallBegin, "function", kToolSeparator, "f\n```json\n{}", kToolCallEnd})),
           group(joined({kToolCallBegin, "function", kToolSeparator, "f\n```", kToolCallEnd})),
       }) {
    expect_parts(kFenced, text, {content(text)});
  }
}

TEST(AnswerParser, AMalformedCallDoesNotTakeItsNeighboursAlong) {
  const std::string bad = plain_call("f", "{oops");
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

/// Guided calls put together, for every cut of the text and pieces of few bytes.
void expect_guided(AnswerSyntax syntax, const std::string& text, const Parts& expected) {
  syntax.guided_calls = true;
  const auto whole_parts = [&](size_t first, size_t size) {
    AnswerParser parser(syntax);
    Parts parts, whole;
    const auto add = [&](Parts more) {
      for (AnswerPart& part : more) parts.push_back(std::move(part));
    };
    add(parser.push(text.substr(0, first)));
    for (size_t at = first; at < text.size(); at += size) add(parser.push(text.substr(at, size)));
    add(parser.finish());
    for (AnswerPart& part : parts) {
      const bool is_more = part.kind == Kind::kArguments;
      EXPECT_EQ(part.text.empty(), part.kind == Kind::kToolCall);
      const bool joins = !whole.empty() && part.kind != Kind::kToolCall &&
                         (is_more || whole.back().kind == part.kind);
      if (is_more) {
        EXPECT_EQ(whole.back().kind, Kind::kToolCall);
      }
      if (joins) {
        whole.back().text += part.text;
      } else {
        whole.push_back(std::move(part));
      }
    }
    return whole;
  };
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    ASSERT_EQ(whole_parts(cut, text.size()), expected) << text << " cut at " << cut;
  }
  for (size_t size = 1; size < 8; ++size) {
    ASSERT_EQ(whole_parts(0, size), expected) << text << " in pieces of " << size;
  }
}

TEST(AnswerParser, GuidedCallsAreTheSameInPieces) {
  const std::string hard = R"({"a\\\"}]":[{"七":"}{"},"<｜",[[]]],"b":{}})";
  for (const std::string& arguments : {std::string("{}"), hard}) {
    expect_guided(kPlain, group(plain_call("get", arguments)), {call("get", arguments)});
    expect_guided(kFenced, group(fenced_call("get", arguments)), {call("get", arguments)});
    expect_guided(kPlain, "Wait." + group(plain_call("f", arguments) + plain_call("g", arguments)),
                  {content("Wait."), call("f", arguments), call("g", arguments)});
    expect_guided(kFenced, group(fenced_call("f", arguments) + "\n" + fenced_call("g", arguments)),
                  {call("f", arguments), call("g", arguments)});
  }
  expect_guided(kBoth, "hm</think>" + group(plain_call("f", "{}")),
                {reasoning("hm"), call("f", "{}")});
  const std::string mark = R"({"a":")" + std::string(kToolCallEnd) + R"("})";
  expect_guided(kPlain, group(plain_call("f", mark)), {call("f", mark)});
}

TEST(AnswerParser, AGuidedCallThatIsCutHasCutArguments) {
  const std::string text = joined({kToolCallsBegin, fenced_call("f", R"({"a":"b"})")});
  const size_t begin = text.find('{'), end = text.find('}') + 1;
  for (size_t size = begin + 1; size <= text.size(); ++size) {
    expect_guided(kFenced, text.substr(0, size),
                  {call("f", text.substr(begin, std::min(size, end) - begin))});
  }
  for (size_t size = 1; size <= begin; ++size) {  // nothing of it has come out
    const std::string cut = text.substr(0, size);
    expect_guided(kFenced, cut, {content(cut)});
  }
}

TEST(AnswerParser, WhatIsNoGuidedCallComesOutAsContent) {
  for (const std::string& text :
       {group(plain_call("f", "")), group(plain_call("f", "[1]")), group(plain_call("", "{}")),
        group(joined({kToolCallBegin, "f{}", kToolCallEnd})), group("chatter"), group("")}) {
    expect_guided(kPlain, text, {content(text)});
  }
  expect_guided(kPlain,
                group(joined({kToolCallBegin, "f", kToolSeparator, "{}, really", kToolCallEnd})),
                {call("f", "{}"), content(joined({", really", kToolCallEnd, kToolCallsEnd}))});
}

TEST(AnswerParser, GivesAGuidedCallAsItComes) {
  AnswerSyntax syntax = kFenced;
  syntax.guided_calls = true;
  AnswerParser parser(syntax);
  EXPECT_EQ(parser.push(joined({kToolCallsBegin, kToolCallBegin, "function", kToolSeparator})),
            Parts{});
  EXPECT_EQ(parser.push("get\n```json\n"), Parts{});
  EXPECT_EQ(parser.push("{"), (Parts{call("get", ""), {Kind::kArguments, "{", ""}}));
  EXPECT_EQ(parser.push("\"a\":"), (Parts{{Kind::kArguments, "\"a\":", ""}}));
  EXPECT_EQ(parser.push("1}\n`"), (Parts{{Kind::kArguments, "1}", ""}}));
  EXPECT_EQ(parser.push(joined({"``", kToolCallEnd, kToolCallsEnd})), Parts{});
  EXPECT_EQ(parser.finish(), Parts{});
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
