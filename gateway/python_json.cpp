#include "gateway/python_json.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <charconv>
#include <cstdio>
#include <string_view>

namespace troupe::gateway {
namespace json = boost::json;
namespace {

void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char escaped[8];
          std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
          out += escaped;
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

/// The shortest digits that read back as this number, always told from an integer.
void append_double(std::string& out, double number) {
  char text[40];
  const std::string_view digits(text, std::to_chars(text, text + sizeof text, number).ptr - text);
  out += digits;
  if (digits.find_first_of(".en") == std::string_view::npos) out += ".0";
}

void append(std::string& out, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: out += "null"; break;
    case json::kind::bool_: out += value.get_bool() ? "true" : "false"; break;
    case json::kind::int64: out += std::to_string(value.get_int64()); break;
    case json::kind::uint64: out += std::to_string(value.get_uint64()); break;
    case json::kind::double_: append_double(out, value.get_double()); break;
    case json::kind::string: append_string(out, value.get_string()); break;
    case json::kind::array: {
      out += '[';
      std::string_view separator;
      for (const json::value& entry : value.get_array()) {
        out += separator;
        append(out, entry);
        separator = ", ";
      }
      out += ']';
      break;
    }
    case json::kind::object: {
      out += '{';
      std::string_view separator;
      for (const auto& [name, entry] : value.get_object()) {
        out += separator;
        append_string(out, name);
        out += ": ";
        append(out, entry);
        separator = ", ";
      }
      out += '}';
      break;
    }
  }
}

}  // namespace

std::string python_json(const json::value& value) {
  std::string out;
  append(out, value);
  return out;
}

}  // namespace troupe::gateway
