#include "gateway/python_json.hpp"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace troupe::gateway {
namespace {

TEST(PythonJson, WritesWhatJsonDumpsDoes) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"b":1,"a":[true,false,null],"c":{}})", R"({"b": 1, "a": [true, false, null], "c": {}})"},
      {R"([0.5,1.0,-3,1e-7,18446744073709551615])",
       R"([0.5, 1.0, -3, 1e-07, 18446744073709551615])"},
      {R"(["\"\\\n\r\t\b\f\u0001 /","七é\u2028"])",
       "[\"\\\"\\\\\\n\\r\\t\\b\\f\\u0001 /\", \"七é\xe2\x80\xa8\"]"},
      {"[]", "[]"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(python_json(boost::json::parse(text)), expected);
  }
}

}  // namespace
}  // namespace troupe::gateway
