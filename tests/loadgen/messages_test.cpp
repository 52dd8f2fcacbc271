#include "loadgen/messages.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace troupe::loadgen {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

TEST(Body, OfACompletionHoldsTokenIds) {
  const json::value body = json::parse(completion_body({.model = "m"}, {3, 1, 2}, 9));
  EXPECT_EQ(body.at("prompt"), json::parse("[3,1,2]"));
  EXPECT_EQ(body.at("max_tokens"), 9);
  EXPECT_EQ(body.at("model"), "m");
  EXPECT_EQ(body.at("stream"), true);
  EXPECT_EQ(body.at("ignore_eos"), true);
  EXPECT_EQ(body.at("stream_options").at("include_usage"), true);
}

TEST(Body, OfAChatHoldsMessagesAndOfACompletionTheirText) {
  const std::vector<Message> messages = {{"user", "a\""}, {"assistant", "b"}, {"user", "c"}};
  const json::value chat = json::parse(text_body({.model = "m", .is_chat = true}, messages, 1));
  EXPECT_EQ(chat.at("messages").at(1), json::parse(R"({"role":"assistant","content":"b"})"));
  EXPECT_FALSE(chat.as_object().contains("prompt"));
  const json::value text = json::parse(text_body({.model = "m"}, messages, 1));
  EXPECT_EQ(text.at("prompt"), "a\"bc");
}

TEST(Body, TakesExtraFieldsInPlaceOfItsOwn) {
  BodyOptions options{.model = "m", .priority = 2};
  options.extra =
      json::parse(R"({"temperature":0.5,"stream_options":null,"x":{"y":[1]}})").as_object();
  const std::string text = completion_body(options, {1}, 1);
  const json::value body = json::parse(text);
  EXPECT_EQ(body.at("temperature"), 0.5);
  EXPECT_EQ(text.find("temperature"), text.rfind("temperature"));
  EXPECT_EQ(body.at("x"), json::parse(R"({"y":[1]})"));
  EXPECT_EQ(body.at("priority"), 2);
  options.ignore_eos = false;
  EXPECT_THAT(completion_body(options, {1}, 1), ::testing::Not(HasSubstr("ignore_eos")));
}

TEST(Event, IsReadOfCompletionsAndChats) {
  const auto completion = parse_event(R"({"choices":[{"text":"ab","finish_reason":null}]})");
  EXPECT_EQ(completion->content, "ab");
  EXPECT_TRUE(completion->has_choice);
  EXPECT_EQ(completion->finish_reason, "");
  const auto chat = parse_event(
      R"({"choices":[{"delta":{"role":"assistant","content":"c"},"finish_reason":"length"}],)"
      R"("usage":null})");
  EXPECT_EQ(chat->content, "c");
  EXPECT_EQ(chat->finish_reason, "length");
  EXPECT_FALSE(chat->usage);
  EXPECT_TRUE(parse_event("[DONE]")->is_end);
}

TEST(Event, CountsReasoningOnceAndToolCallsAsOutput) {
  const auto both =
      parse_event(R"({"choices":[{"delta":{"reasoning":"r","reasoning_content":"r"}}]})");
  EXPECT_EQ(both->reasoning, "r");
  const auto one = parse_event(R"({"choices":[{"delta":{"reasoning":"r","content":null}}]})");
  EXPECT_EQ(one->reasoning, "r");
  const auto call = parse_event(R"({"choices":[{"delta":{"tool_calls":[{"index":0}]}}]})");
  EXPECT_TRUE(call->has_tool_call);
  EXPECT_TRUE(one->has_output() && call->has_output());
  const auto role = parse_event(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})");
  EXPECT_FALSE(role->has_output());
}

TEST(Event, BringsUsage) {
  const auto event =
      parse_event(R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,)"
                  R"("prompt_tokens_details":{"cached_tokens":5}}})");
  ASSERT_TRUE(event->usage);
  EXPECT_EQ(event->usage->prompt_tokens, 7U);
  EXPECT_EQ(event->usage->completion_tokens, 3U);
  EXPECT_EQ(event->usage->cached_tokens, 5U);
  EXPECT_FALSE(event->has_choice);
}

TEST(Event, ThatIsNoneIsAnErrorAndOneOfAnotherShapeIsEmpty) {
  for (const char* data : {"", "x", "[]", "1", "{\"a\":"}) EXPECT_FALSE(parse_event(data).ok());
  for (const char* data : {"{}", R"({"choices":1})", R"({"choices":[1]})",
                           R"({"choices":[{"delta":1,"text":2}],"usage":[]})",
                           R"({"usage":{"prompt_tokens":-1,"completion_tokens":1}})"}) {
    const auto event = parse_event(data);
    ASSERT_TRUE(event.ok()) << data;
    EXPECT_TRUE(!event->has_output() && event->finish_reason.empty() && !event->usage) << data;
  }
}

TEST(Errors, AreToldInTheServersWords) {
  EXPECT_EQ(server_words(R"({"error":{"message":"full"}})"), "full");
  EXPECT_EQ(server_words(R"({"message":"vLLM's old form"})"), "vLLM's old form");
  EXPECT_EQ(server_words(R"({"error":"plain"})"), "plain");
  const std::string words = "Größe: " + std::string(1000, 'x');
  EXPECT_EQ(server_words(R"({"error":{"message":")" + words + "\"}}"), words);
  for (const char* other : {"<html>", "", "{}", "[1]", R"({"error":{"message":""}})"}) {
    EXPECT_FALSE(server_words(other)) << other;
  }
  EXPECT_EQ(*parse_event(R"({"error":{"message":"draining"}})")->error, "draining");
}

TEST(Errors, AreALineEachInAReport) {
  EXPECT_EQ(report_line("<html>\n\xff"), "<html>??");
  EXPECT_EQ(report_line(std::string(200, 'x')), std::string(200, 'x'));
  EXPECT_EQ(report_line(std::string(201, 'x')), std::string(197, 'x') + "...");
}

}  // namespace
}  // namespace troupe::loadgen
