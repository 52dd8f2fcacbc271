#pragma once

// Rows of results as `troupe bench local` and `troupe bench kernels` leave them: a Markdown table
// for people, and JSON or CSV with every value under its own name for programs.

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::loadgen {

enum class ResultFormat : uint8_t { kMarkdown, kJson, kCsv };

/// "md", "json" or "csv". @errors kInvalidArgument
Result<ResultFormat> parse_result_format(std::string_view name);

struct ResultTable {
  struct Row {
    std::vector<std::string> cells;  ///< one for each title
    /// The same and more for programs, in order: strings, numbers, booleans, lists of numbers.
    boost::json::object values;
  };
  std::vector<std::string> titles;  ///< of the Markdown columns
  std::vector<Row> rows;
  std::vector<std::string> notes;  ///< lines under the Markdown table
};

/// Markdown: the cells and notes, numbers to the right. JSON: an array with one object on each
/// line. CSV (RFC 4180): a column for every name that a row has, empty where a row has it not;
/// lists are separated by spaces.
std::string render(const ResultTable& table, ResultFormat format);

}  // namespace troupe::loadgen
