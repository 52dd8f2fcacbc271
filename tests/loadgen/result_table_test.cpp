#include "loadgen/result_table.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace troupe::loadgen {
namespace {

namespace json = boost::json;

ResultTable table() {
  ResultTable results;
  results.titles = {"model", "t/s"};
  results.rows.push_back(
      {.cells = {"a, \"b\"", "12.50 ± 0.25"},
       .values = {
           {"model", "a, \"b\""}, {"n", 512}, {"avg_ts", 12.5}, {"samples", {12.25, 12.75}}}});
  results.rows.push_back(
      {.cells = {"größer", ""}, .values = {{"model", "größer"}, {"late", true}}});
  results.notes = {"on one machine"};
  return results;
}

TEST(ResultTable, AlignsMarkdownAndPutsNumbersToTheRight) {
  EXPECT_EQ(render(table(), ResultFormat::kMarkdown),
            "| model  |          t/s |\n"
            "| ------ | -----------: |\n"
            "| a, \"b\" | 12.50 ± 0.25 |\n"
            "| größer |              |\n"
            "\n"
            "on one machine\n");
}

TEST(ResultTable, WritesCsvWithAColumnForEveryNameOfAnyRow) {
  EXPECT_EQ(render(table(), ResultFormat::kCsv),
            "model,n,avg_ts,samples,late\r\n"
            "\"a, \"\"b\"\"\",512,12.5,12.25 12.75,\r\n"
            "größer,,,,true\r\n");
}

TEST(ResultTable, WritesJsonThatReadsBack) {
  const std::string text = render(table(), ResultFormat::kJson);
  EXPECT_EQ(
      text.substr(0, text.find('\n', 2)),
      "[\n  {\"model\":\"a, \\\"b\\\"\",\"n\":512,\"avg_ts\":12.5,\"samples\":[12.25,12.75]},");
  const json::value parsed = json::parse(text);
  ASSERT_EQ(parsed.as_array().size(), 2U);
  EXPECT_EQ(parsed.at(0).as_object(), table().rows[0].values);
  EXPECT_EQ(parsed.at(1).at("late"), true);
}

TEST(ResultTable, WritesWhatIsNoNumberAsNothing) {
  ResultTable results;
  results.rows.push_back({.values = {{"x", std::numeric_limits<double>::infinity()}}});
  EXPECT_EQ(render(results, ResultFormat::kJson), "[\n  {\"x\":null}\n]\n");
  EXPECT_EQ(render(results, ResultFormat::kCsv), "x\r\n\r\n");
}

TEST(ResultTable, OfNothingIsStillOneOfItsFormat) {
  EXPECT_EQ(render({}, ResultFormat::kJson), "[\n]\n");
}

TEST(ResultTable, RefusesFormatsItDoesNotKnow) {
  EXPECT_TRUE(parse_result_format("csv").ok());
  const auto refused = parse_result_format("yaml");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message, "results are written as md, json or csv, not \"yaml\"");
}

}  // namespace
}  // namespace troupe::loadgen
