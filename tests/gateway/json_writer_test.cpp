#include "gateway/json_writer.hpp"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <limits>

namespace troupe::gateway {
namespace {

TEST(JsonWriter, PutsCommasWhereTheyBelong) {
  JsonWriter json;
  json.begin_object()
      .field("a", 1)
      .key("b")
      .begin_array()
      .value(true)
      .value(nullptr)
      .begin_object();
  json.end_object().begin_array().end_array().end_array().field("c", "x").key("d").raw("{}");
  json.end_object();
  EXPECT_EQ(json.take(), R"({"a":1,"b":[true,null,{},[]],"c":"x","d":{}})");
}

TEST(JsonWriter, WritesNumbersAsPeopleDo) {
  JsonWriter json;
  json.begin_array().value(0.5).value(-0.1F).value(1e-7).value(int64_t{-9007199254740993});
  json.value(uint64_t{18446744073709551615U}).value(std::numeric_limits<double>::infinity());
  json.end_array();
  EXPECT_EQ(json.take(), "[0.5,-0.1,1e-07,-9007199254740993,18446744073709551615,null]");
}

TEST(JsonWriter, EscapesSoThatEveryStringComesBackAndStaysOnOneLine) {
  std::string text = "\"\\/\b\f\n\r\t\x7f\xC2\x85 \xE2\x80\xA8 \xE2\x80\xA9 \xE2\x80\xA7 é 七 😀";
  for (char c = 1; c < 0x20; ++c) text += c;
  text += '\0';
  std::string json;
  append_json_string(json, text);
  for (const char* cut : {"\n", "\r", "\x0b", "\x0c", "\x1c", "\xC2\x85", "\xE2\x80\xA8"}) {
    EXPECT_EQ(json.find(cut), std::string::npos);
  }
  EXPECT_EQ(boost::json::parse(json).as_string(), text);
}

}  // namespace
}  // namespace troupe::gateway
