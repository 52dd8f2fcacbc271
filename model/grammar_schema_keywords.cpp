#include "model/grammar_schema_keywords.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <cmath>

#include "model/json.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

/// What a keyword speaks of.
enum class About : uint8_t { kAnything, kNothing, kString, kNumber, kArray, kObject };
struct Keyword {
  std::string_view name;
  About about;
};

constexpr auto kKeywords = std::to_array<Keyword>({
    {"type", About::kAnything},
    {"enum", About::kAnything},
    {"const", About::kAnything},
    {"anyOf", About::kAnything},
    {"oneOf", About::kAnything},
    {"allOf", About::kAnything},
    {"$ref", About::kAnything},
    {"properties", About::kObject},
    {"required", About::kObject},
    {"additionalProperties", About::kObject},
    {"items", About::kArray},
    {"prefixItems", About::kArray},
    {"minItems", About::kArray},
    {"maxItems", About::kArray},
    {"minLength", About::kString},
    {"maxLength", About::kString},
    {"pattern", About::kString},
    {"format", About::kString},
    {"minimum", About::kNumber},
    {"maximum", About::kNumber},
    {"exclusiveMinimum", About::kNumber},
    {"exclusiveMaximum", About::kNumber},
    {"title", About::kNothing},
    {"description", About::kNothing},
    {"default", About::kNothing},
    {"examples", About::kNothing},
    {"deprecated", About::kNothing},
    {"readOnly", About::kNothing},
    {"writeOnly", About::kNothing},
    {"$schema", About::kNothing},
    {"$comment", About::kNothing},
    {"$defs", About::kNothing},
    {"definitions", About::kNothing},
    {"contentMediaType", About::kNothing},
    {"contentEncoding", About::kNothing},
    {"contentSchema", About::kNothing},
    {"discriminator", About::kNothing},
});

constexpr std::array<std::string_view, 7> kTypeNames = {"null",   "boolean", "integer", "number",
                                                        "string", "array",   "object"};

std::optional<About> about(std::string_view name) {
  if (name.starts_with("x-")) return About::kNothing;
  for (const Keyword& keyword : kKeywords) {
    if (keyword.name == name) return keyword.about;
  }
  return std::nullopt;
}

}  // namespace

SchemaNode SchemaNode::child(const json::value& schema, std::string_view keyword,
                             std::string_view name) const {
  std::string child_path = path + "/" + std::string(keyword);
  if (!name.empty()) child_path += "/" + std::string(name.substr(0, 64));
  return {&schema, std::move(child_path)};
}

Error SchemaNode::error(std::string_view what) const {
  return {Code::kInvalidArgument, "schema at " + quoted("#" + path) + ": " + std::string(what)};
}

const json::value* SchemaNode::find(std::string_view keyword) const {
  return value->get_object().if_contains(keyword);
}

Result<std::string> SchemaNode::string(std::string_view keyword) const {
  if (const json::string* text = find(keyword)->if_string()) return std::string(*text);
  return error(std::string(keyword) + " has to be a string, not " + describe(*find(keyword)));
}

Result<const json::array*> SchemaNode::array(std::string_view keyword) const {
  if (const json::array* list = find(keyword)->if_array()) return list;
  return error(std::string(keyword) + " has to be a list, not " + describe(*find(keyword)));
}

Result<const json::object*> SchemaNode::object(std::string_view keyword) const {
  if (const json::object* members = find(keyword)->if_object()) return members;
  return error(std::string(keyword) + " has to be an object, not " + describe(*find(keyword)));
}

Result<void> check_keywords(const SchemaNode& node) {
  for (const auto& [name, value] : node.value->get_object()) {
    const bool says_nothing =  // what some write though it is the default
        (name == "uniqueItems" && value.is_bool() && !value.get_bool()) ||
        (name == "$id" && node.path.empty());
    if (!says_nothing && !about(name)) {
      return node.error("keyword " + quoted(name) + " is not supported");
    }
  }
  return {};
}

Result<void> alone(const SchemaNode& node, std::string_view keyword, std::string_view allowed) {
  for (const auto& [name, value] : node.value->get_object()) {
    if (name == keyword || name == allowed ||
        about(name).value_or(About::kNothing) == About::kNothing)
      continue;
    return node.error(quoted(name) + " next to " + std::string(keyword) + " is not supported");
  }
  return {};
}

Result<std::vector<Type>> types_of(const SchemaNode& node) {
  std::vector<Type> types;
  if (const json::value* listed = node.find("type")) {
    const json::array single{*listed};
    for (const json::value& name : listed->is_array() ? listed->get_array() : single) {
      const std::string_view text = name.is_string() ? std::string_view(name.get_string()) : "";
      const auto at = std::find(kTypeNames.begin(), kTypeNames.end(), text);
      if (at == kTypeNames.end()) return node.error("unknown type " + describe(name));
      const auto type = static_cast<Type>(at - kTypeNames.begin());
      if (std::find(types.begin(), types.end(), type) == types.end()) types.push_back(type);
    }
    if (types.empty()) return node.error("type lists no type");
    return types;
  }
  constexpr auto kSpokenOf =
      std::to_array<std::pair<About, Type>>({{About::kString, Type::kString},
                                             {About::kNumber, Type::kNumber},
                                             {About::kArray, Type::kArray},
                                             {About::kObject, Type::kObject}});
  const json::object& members = node.value->get_object();
  for (const auto& spoken_of : kSpokenOf) {
    if (std::any_of(members.begin(), members.end(),
                    [&](const auto& member) { return about(member.key()) == spoken_of.first; })) {
      types.push_back(spoken_of.second);
    }
  }
  return types;
}

bool has_type(const json::value& value, Type type) {
  switch (type) {
    case Type::kNull: return value.is_null();
    case Type::kBoolean: return value.is_bool();
    case Type::kInteger:
      return value.is_int64() || value.is_uint64() ||
             (value.is_double() && value.get_double() == std::floor(value.get_double()));
    case Type::kNumber: return value.is_number();
    case Type::kString: return value.is_string();
    case Type::kArray: return value.is_array();
    case Type::kObject: return value.is_object();
  }
  return false;
}

Result<NumberBounds> bounds_of(const SchemaNode& node, bool of_integers) {
  constexpr int64_t kMost = INT64_MAX;
  NumberBounds bounds;
  for (const auto& [keyword, is_min, is_excluded] :
       {std::tuple("minimum", true, false), std::tuple("exclusiveMinimum", true, true),
        std::tuple("maximum", false, false), std::tuple("exclusiveMaximum", false, true)}) {
    const json::value* value = node.find(keyword);
    if (!value) continue;
    if (!value->is_number()) {
      return node.error(std::string(keyword) + " has to be a number, not " + describe(*value));
    }
    bool excluded = is_excluded, bound_is_outside = false;
    int64_t bound = 0;
    if (value->is_int64()) {
      bound = std::max(value->get_int64(), -kMost);
      if (!is_min && value->get_int64() < -kMost) bound_is_outside = true;
    } else {
      const double number =
          value->is_uint64() ? static_cast<double>(value->get_uint64()) : value->get_double();
      const double whole = is_min ? std::ceil(number) : std::floor(number);
      if (whole != number) {
        if (!of_integers) {
          return node.error(std::string(keyword) + " of a number has to be whole, not " +
                            describe(*value));
        }
        excluded = false;
      }
      // 2^63 is the first double that int64 does not hold.
      bound = whole >= 0x1p63 ? kMost : whole <= -0x1p63 ? -kMost : static_cast<int64_t>(whole);
      bound_is_outside = is_min ? whole >= 0x1p63 : whole <= -0x1p63;
    }
    if (bound_is_outside) {
      return node.error(std::string(keyword) + " " + describe(*value) + " lies outside int64");
    }
    if (excluded && of_integers) {
      if (bound == (is_min ? kMost : -kMost)) {
        return node.error(std::string(keyword) + " leaves no integer of int64");
      }
      bound += is_min ? 1 : -1;
      excluded = false;
    }
    std::optional<int64_t>& tightest = is_min ? bounds.min : bounds.max;
    bool& tightest_excluded = is_min ? bounds.min_is_excluded : bounds.max_is_excluded;
    const bool is_tighter = !tightest || (is_min ? bound > *tightest : bound < *tightest);
    if (is_tighter) {
      tightest = bound;
      tightest_excluded = excluded;
    } else if (bound == *tightest) {
      tightest_excluded = tightest_excluded || excluded;
    }
  }
  const bool is_empty =
      bounds.min && bounds.max &&
      (*bounds.min > *bounds.max ||
       (*bounds.min == *bounds.max && (bounds.min_is_excluded || bounds.max_is_excluded)));
  if (is_empty) return node.error("no number lies between the bounds");
  return bounds;
}

std::optional<std::string> regex_of_format(std::string_view format) {
  // Leap days need a leap year: divisible by 4, and by 400 where it is by 100.
  const std::string date =
      "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|"
      "(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|"
      "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)";
  const std::string time =
      "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?"
      "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
  if (format == "date") return date;
  if (format == "time") return time;
  if (format == "date-time") return date + "T" + time;
  if (format == "uuid") return "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
  if (format == "ipv4") {
    const std::string number = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    return number + "(\\." + number + "){3}";
  }
  if (format == "email") {
    const std::string label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
    return "[A-Za-z0-9_%+-]+(\\.[A-Za-z0-9_%+-]+)*@" + label + "(\\." + label + ")+";
  }
  return std::nullopt;
}

}  // namespace troupe::model
