#include "model/json.hpp"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_stack.hpp>
#include <cstdint>
#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace troupe::model {
namespace {

namespace json = boost::json;

/// Receives the parser's events, builds the value and finds repeated keys, which Boost's own
/// parser silently resolves to the last one.
struct DocumentBuilder {
  static constexpr size_t max_object_size = std::numeric_limits<uint32_t>::max() / 2;
  static constexpr size_t max_array_size = max_object_size;
  static constexpr size_t max_key_size = max_object_size;
  static constexpr size_t max_string_size = max_object_size;

  json::value_stack values;
  std::vector<std::unordered_set<std::string>> keys;  ///< of the objects that are open
  std::string key;
  std::string repeated_key;
  RepeatedKey repeated;

  explicit DocumentBuilder(RepeatedKey repeated) : repeated(repeated) { values.reset(); }

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    keys.emplace_back();
    return true;
  }
  bool on_object_end(size_t n, json::error_code&) {
    keys.pop_back();
    values.push_object(n);
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(size_t n, json::error_code&) {
    values.push_array(n);
    return true;
  }
  bool on_key_part(json::string_view part, size_t, json::error_code&) {
    key.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, json::error_code& ec) {
    key.append(part.data(), part.size());
    values.push_key(key);
    if (repeated == RepeatedKey::kError && !keys.back().insert(key).second) {
      repeated_key = std::move(key);
      ec = json::error::syntax;
      return false;
    }
    key.clear();
    return true;
  }
  bool on_string_part(json::string_view part, size_t, json::error_code&) {
    values.push_chars(part);
    return true;
  }
  bool on_string(json::string_view part, size_t, json::error_code&) {
    values.push_string(part);
    return true;
  }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t number, json::string_view, json::error_code&) {
    values.push_int64(number);
    return true;
  }
  bool on_uint64(uint64_t number, json::string_view, json::error_code&) {
    values.push_uint64(number);
    return true;
  }
  bool on_double(double number, json::string_view, json::error_code&) {
    values.push_double(number);
    return true;
  }
  bool on_bool(bool flag, json::error_code&) {
    values.push_bool(flag);
    return true;
  }
  bool on_null(json::error_code&) {
    values.push_null();
    return true;
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }
};

}  // namespace

Result<json::value> parse_json(std::string_view text, size_t max_depth, RepeatedKey repeated) {
  json::parse_options options;
  options.max_depth = max_depth;
  json::basic_parser<DocumentBuilder> parser(options, repeated);
  json::error_code ec;
  const size_t used = parser.write_some(false, text.data(), text.size(), ec);
  if (!parser.handler().repeated_key.empty()) {
    return Error{Code::kCorrupt,
                 "key " + quoted(parser.handler().repeated_key) + " occurs twice in one object"};
  }
  if (ec) {
    return Error{Code::kCorrupt,
                 "not valid JSON: " + ec.message() + " at byte " + std::to_string(used)};
  }
  if (used < text.size()) {
    return Error{Code::kCorrupt,
                 "not valid JSON: more text after its end at byte " + std::to_string(used)};
  }
  return parser.handler().values.release();
}

std::string quoted(std::string_view text) {
  constexpr size_t kMaxShown = 120;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f || c == '"' || c == '\\') {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      out += c;
    }
  }
  if (text.size() > kMaxShown) {
    out += "...";
  }
  return out + "\"";
}

std::string describe(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return "null";
    case json::kind::object: return "an object";
    case json::kind::array: return "an array";
    case json::kind::string: {
      const json::string& text = value.get_string();
      return "the string " + quoted(std::string_view(text.data(), text.size()));
    }
    default: return json::serialize(value);
  }
}

}  // namespace troupe::model
