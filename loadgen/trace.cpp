#include "loadgen/trace.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <functional>

#include "base/parse.hpp"

namespace troupe::loadgen {
namespace json = boost::json;
namespace {

constexpr size_t kMaxHashIds = kMaxTraceTokens / kMooncakeBlockTokens;

/// Calls `take` for each line that is not blank; an error of it gets the line's number.
Result<void> each_line(std::string_view text,
                       const std::function<Result<void>(std::string_view)>& take) {
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    auto taken = take(line);
    if (!taken.ok()) {
      return std::move(taken).error().with_context("line " + std::to_string(number));
    }
  }
  return {};
}

Error corrupt(std::string message) { return Error{Code::kCorrupt, std::move(message)}; }

Result<json::object> parse_object(std::string_view line) {
  boost::system::error_code failed;
  json::value value = json::parse(json::string_view(line.data(), line.size()), failed);
  if (failed || !value.is_object()) return corrupt("not a JSON object");
  return std::move(value.get_object());
}

Result<uint32_t> token_count(const json::object& row, const char* key, uint32_t least) {
  const json::value* value = row.if_contains(key);
  if (value == nullptr) return corrupt("\"" + std::string(key) + "\" is missing");
  boost::system::error_code failed;
  const auto count = value->to_number<int64_t>(failed);
  if (failed || count < least || count > kMaxTraceTokens) {
    return corrupt("\"" + std::string(key) + "\" must be a whole number from " +
                   std::to_string(least) + " to " + std::to_string(kMaxTraceTokens));
  }
  return static_cast<uint32_t>(count);
}

Result<Duration> milliseconds_field(const json::object& row, const char* key) {
  const json::value* value = row.if_contains(key);
  boost::system::error_code failed;
  const double ms = value == nullptr ? -1 : value->to_number<double>(failed);
  if (failed || !(ms >= 0 && ms < kMaxSeconds * 1e3)) {
    return corrupt("\"" + std::string(key) + "\" must be a number of milliseconds, at least 0");
  }
  return nanoseconds(std::llround(ms * 1e6));
}

Result<std::vector<uint64_t>> hash_ids(const json::object& row, uint32_t input_tokens) {
  std::vector<uint64_t> ids;
  const json::value* value = row.if_contains("hash_ids");
  if (value == nullptr) return ids;
  if (!value->is_array()) return corrupt("\"hash_ids\" must be an array");
  const size_t wanted = (input_tokens + kMooncakeBlockTokens - 1) / kMooncakeBlockTokens;
  if (value->get_array().size() != wanted || wanted > kMaxHashIds) {
    return corrupt("an input_length of " + std::to_string(input_tokens) + " takes " +
                   std::to_string(wanted) + " hash_ids, not " +
                   std::to_string(value->get_array().size()));
  }
  for (const json::value& id : value->get_array()) {
    boost::system::error_code failed;
    const auto number = id.to_number<int64_t>(failed);
    if (failed || number < 0) return corrupt("\"hash_ids\" must be whole numbers, at least 0");
    ids.push_back(static_cast<uint64_t>(number));
  }
  return ids;
}

/// Rows in order of arrival, the first at 0.
void order(std::vector<TraceRow>& rows) {
  std::stable_sort(rows.begin(), rows.end(),
                   [](const TraceRow& a, const TraceRow& b) { return a.at < b.at; });
  const Duration first = rows.empty() ? Duration{} : rows.front().at;
  for (TraceRow& row : rows) row.at.ns -= first.ns;
}

/// All of the text as a number of so many digits.
std::optional<int64_t> digits(std::string_view text, size_t min_digits, size_t max_digits) {
  const auto value = parse_number<uint64_t>(text);
  if (!value || text.size() < min_digits || text.size() > max_digits) return std::nullopt;
  return static_cast<int64_t>(*value);
}

/// Nanoseconds since 1970 of "2023-11-16 18:17:03.9799600+00:00"; fraction and zone may be absent.
std::optional<Duration> timestamp(std::string_view text) {
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' ||
      (text[10] != ' ' && text[10] != 'T') || text[13] != ':' || text[16] != ':') {
    return std::nullopt;
  }
  const std::array<std::optional<int64_t>, 6> parts = {
      digits(text.substr(0, 4), 4, 4),  digits(text.substr(5, 2), 2, 2),
      digits(text.substr(8, 2), 2, 2),  digits(text.substr(11, 2), 2, 2),
      digits(text.substr(14, 2), 2, 2), digits(text.substr(17, 2), 2, 2)};
  if (!std::ranges::all_of(parts, [](const auto& part) { return part.has_value(); })) return {};
  const std::chrono::year_month_day date(std::chrono::year(static_cast<int>(*parts[0])),
                                         std::chrono::month(static_cast<unsigned>(*parts[1])),
                                         std::chrono::day(static_cast<unsigned>(*parts[2])));
  // Years that int64_t nanoseconds hold; a leap second counts as the next one.
  if (!date.ok() || *parts[0] < 1970 || *parts[0] > 2200 || *parts[3] > 23 || *parts[4] > 59 ||
      *parts[5] > 60) {
    return std::nullopt;
  }
  const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  Duration at = seconds(((days * 24 + *parts[3]) * 60 + *parts[4]) * 60 + *parts[5]);
  text.remove_prefix(19);
  if (text.starts_with('.')) {
    const size_t end = std::min(text.find_first_of("+-Z"), text.size());
    const auto fraction = digits(text.substr(1, end - 1), 1, 9);
    if (!fraction) return std::nullopt;
    int64_t ns = *fraction;
    for (size_t i = end - 1; i < 9; ++i) ns *= 10;
    at = at + nanoseconds(ns);
    text.remove_prefix(end);
  }
  if (text.empty() || text == "Z") return at;
  const auto hours = text.size() == 6 ? digits(text.substr(1, 2), 2, 2) : std::nullopt;
  const auto minutes = text.size() == 6 ? digits(text.substr(4, 2), 2, 2) : std::nullopt;
  if (!hours || !minutes || text[3] != ':' || (text[0] != '+' && text[0] != '-')) return {};
  const Duration offset = seconds((*hours * 60 + *minutes) * 60);
  return text[0] == '+' ? at + offset * -1 : at + offset;
}

}  // namespace

Result<std::vector<TraceRow>> parse_mooncake(std::string_view text) {
  std::vector<TraceRow> rows;
  TRY(each_line(text, [&](std::string_view line) -> Result<void> {
    const json::object object = TRY(parse_object(line));
    TraceRow row;
    row.at = TRY(milliseconds_field(object, "timestamp"));
    row.input_tokens = TRY(token_count(object, "input_length", 1));
    row.output_tokens = TRY(token_count(object, "output_length", 1));
    row.hash_ids = TRY(hash_ids(object, row.input_tokens));
    rows.push_back(std::move(row));
    return {};
  }));
  order(rows);
  return rows;
}

Result<std::vector<TraceRow>> parse_azure(std::string_view text) {
  constexpr std::array<std::string_view, 3> kNames = {"TIMESTAMP", "ContextTokens",
                                                      "GeneratedTokens"};
  std::array<std::optional<size_t>, 3> columns;
  std::vector<TraceRow> rows;
  bool in_header = true;
  TRY(each_line(text, [&](std::string_view line) -> Result<void> {
    const std::vector<std::string_view> cells = split(line, ',');
    if (in_header) {
      in_header = false;
      for (size_t i = 0; i < kNames.size(); ++i) {
        const auto found = std::find(cells.begin(), cells.end(), kNames[i]);
        if (found == cells.end()) return corrupt("there is no column " + std::string(kNames[i]));
        columns[i] = static_cast<size_t>(found - cells.begin());
      }
      return {};
    }
    if (cells.size() <= std::max({*columns[0], *columns[1], *columns[2]})) {
      return corrupt("too few columns");
    }
    const auto at = timestamp(cells[*columns[0]]);
    if (!at) return corrupt("\"" + std::string(cells[*columns[0]]) + "\" is no timestamp");
    const auto input = digits(cells[*columns[1]], 1, 9);
    const auto output = digits(cells[*columns[2]], 1, 9);
    if (!input || !output || *input < 1 || *input > kMaxTraceTokens || *output < 1 ||
        *output > kMaxTraceTokens) {
      return corrupt("ContextTokens and GeneratedTokens must be whole numbers from 1 to " +
                     std::to_string(kMaxTraceTokens));
    }
    rows.push_back({.at = *at,
                    .input_tokens = static_cast<uint32_t>(*input),
                    .output_tokens = static_cast<uint32_t>(*output),
                    .hash_ids = {},
                    .prompt = {}});
    return {};
  }));
  order(rows);
  return rows;
}

Result<std::vector<TraceRow>> parse_prompts(std::string_view text, uint32_t default_output_tokens) {
  std::vector<TraceRow> rows;
  TRY(each_line(text, [&](std::string_view line) -> Result<void> {
    const json::object object = TRY(parse_object(line));
    const json::value* prompt = object.if_contains("prompt");
    if (prompt == nullptr || !prompt->is_string() || prompt->get_string().empty()) {
      return corrupt("\"prompt\" must be a text");
    }
    TraceRow row;
    row.prompt.assign(prompt->get_string().data(), prompt->get_string().size());
    row.output_tokens = object.contains("max_tokens") ? TRY(token_count(object, "max_tokens", 1))
                                                      : default_output_tokens;
    rows.push_back(std::move(row));
    return {};
  }));
  return rows;
}

std::vector<TraceRow> shortened(std::vector<TraceRow> rows, uint32_t max_input,
                                uint32_t max_output) {
  for (TraceRow& row : rows) {
    row.input_tokens = std::min(row.input_tokens, max_input);
    row.output_tokens = std::min(row.output_tokens, max_output);
    const size_t num_blocks = (row.input_tokens + kMooncakeBlockTokens - 1) / kMooncakeBlockTokens;
    row.hash_ids.resize(std::min(row.hash_ids.size(), num_blocks));
  }
  return rows;
}

std::vector<TraceRow> window_of(std::vector<TraceRow> rows, Duration from,
                                std::optional<Duration> to, double speedup) {
  std::erase_if(rows, [&](const TraceRow& row) { return row.at < from || (to && row.at >= *to); });
  order(rows);
  for (TraceRow& row : rows) {
    row.at = nanoseconds(std::llround(static_cast<double>(row.at.ns) / speedup));
  }
  return rows;
}

}  // namespace troupe::loadgen
