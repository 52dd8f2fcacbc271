#include "loadgen/result_table.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "gateway/json_writer.hpp"

namespace troupe::loadgen {
namespace json = boost::json;
namespace {

void write(gateway::JsonWriter& out, const json::value& value) {
  if (value.is_string()) {
    out.value(std::string_view(value.get_string()));
  } else if (value.is_double()) {
    out.value(value.get_double());
  } else if (value.is_array()) {
    out.begin_array();
    for (const json::value& element : value.get_array()) write(out, element);
    out.end_array();
  } else {
    out.raw(json::serialize(value));
  }
}

std::string json_text(const json::value& value) {
  gateway::JsonWriter out;
  write(out, value);
  return out.take();
}

std::string json_lines(const ResultTable& table) {
  std::string text = "[";
  for (const ResultTable::Row& row : table.rows) {
    gateway::JsonWriter out;
    out.begin_object();
    for (const auto& [name, value] : row.values) {
      out.key(std::string_view(name));
      write(out, value);
    }
    out.end_object();
    text += (text.size() > 1 ? ",\n  " : "\n  ") + out.take();
  }
  return text + "\n]\n";
}

/// A field, quoted where it has to be.
std::string csv_field(std::string text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  for (size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2)
    text.insert(at, "\"");
  return "\"" + text + "\"";
}

std::string csv_text(const json::value& value) {
  if (value.is_string()) return std::string(value.get_string());
  if (value.is_null() || (value.is_double() && !std::isfinite(value.get_double()))) return "";
  if (!value.is_array()) return json_text(value);
  std::string list;
  for (const json::value& element : value.get_array()) {
    list += (list.empty() ? "" : " ") + csv_text(element);
  }
  return list;
}

std::string csv_lines(const ResultTable& table) {
  std::vector<std::string> names;
  for (const ResultTable::Row& row : table.rows) {
    for (const auto& field : row.values) {
      const std::string name(field.key());
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  std::string text;
  const auto add_line = [&](const auto& field_of) {
    for (size_t i = 0; i < names.size(); ++i) {
      text += (i == 0 ? "" : ",") + csv_field(field_of(names[i]));
    }
    text += "\r\n";
  };
  add_line([](const std::string& name) { return name; });
  for (const ResultTable::Row& row : table.rows) {
    add_line([&](const std::string& name) {
      const json::value* value = row.values.if_contains(name);
      return value == nullptr ? "" : csv_text(*value);
    });
  }
  return text;
}

/// Characters of a text, so that columns align whatever is in them.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<uint8_t>(c) & 0xC0U) != 0x80; }));
}

std::string markdown(const ResultTable& table) {
  std::string text;
  std::vector<size_t> widths;
  std::vector<bool> numbers;
  for (size_t i = 0; i < table.titles.size(); ++i) {
    size_t width = std::max<size_t>(4, width_of(table.titles[i]));
    bool number = !table.rows.empty();
    for (const ResultTable::Row& row : table.rows) {
      const std::string& cell = row.cells[i];
      width = std::max(width, width_of(cell));
      number = number && (cell.empty() || std::isdigit(static_cast<unsigned char>(cell[0])) != 0);
    }
    widths.push_back(width);
    numbers.push_back(number);
  }
  const auto add_line = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) {
      const std::string space(widths[i] - width_of(cells[i]), ' ');
      text += numbers[i] ? "| " + space + cells[i] + " " : "| " + cells[i] + space + " ";
    }
    text += "|\n";
  };
  add_line(table.titles);
  for (size_t i = 0; i < widths.size(); ++i) {
    text += "| " + std::string(widths[i] - (numbers[i] ? 1 : 0), '-') + (numbers[i] ? ": " : " ");
  }
  text += "|\n";
  for (const ResultTable::Row& row : table.rows) add_line(row.cells);
  if (!table.notes.empty()) text += "\n";
  for (const std::string& note : table.notes) text += note + "\n";
  return text;
}

}  // namespace

Result<ResultFormat> parse_result_format(std::string_view name) {
  if (name == "md") return ResultFormat::kMarkdown;
  if (name == "json") return ResultFormat::kJson;
  if (name == "csv") return ResultFormat::kCsv;
  return Error{Code::kInvalidArgument,
               "results are written as md, json or csv, not \"" + std::string(name) + "\""};
}

std::string render(const ResultTable& table, ResultFormat format) {
  switch (format) {
    case ResultFormat::kMarkdown: return markdown(table);
    case ResultFormat::kJson: return json_lines(table);
    case ResultFormat::kCsv: return csv_lines(table);
  }
  return "";
}

}  // namespace troupe::loadgen
