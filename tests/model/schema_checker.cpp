#include "tests/model/schema_checker.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "base/check.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {

namespace json = boost::json;

std::optional<bool> pcre2_matches(std::string_view pattern, std::string_view text, Match match) {
  int code = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* regex = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                    PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &at, nullptr);
  if (!regex) internal::check_failed(__FILE__, __LINE__, "PCRE2 pattern", std::string(pattern));
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(regex, nullptr);
  const uint32_t options = match == Match::kWhole ? PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0;
  const int found = pcre2_match(regex, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                options, data, nullptr);
  pcre2_match_data_free(data);
  pcre2_code_free(regex);
  if (found < 0 && found != PCRE2_ERROR_NOMATCH) return std::nullopt;
  return found >= 0;
}

namespace {

bool is_whole(const json::value& value) {
  return value.is_int64() || value.is_uint64() ||
         (value.is_double() && std::floor(value.get_double()) == value.get_double());
}

bool has_type(const json::value& value, std::string_view type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_bool();
  if (type == "integer") return is_whole(value);
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  return type == "object" && value.is_object();
}

bool same(const json::value& a, const json::value& b) {
  if (a.is_number() && b.is_number()) return a.to_number<double>() == b.to_number<double>();
  if (a.is_array() && b.is_array()) {
    return std::equal(a.get_array().begin(), a.get_array().end(), b.get_array().begin(),
                      b.get_array().end(), same);
  }
  if (a.is_object() && b.is_object() && a.get_object().size() == b.get_object().size()) {
    return std::all_of(a.get_object().begin(), a.get_object().end(), [&](const auto& member) {
      const json::value* other = b.get_object().if_contains(member.key());
      return other && same(member.value(), *other);
    });
  }
  return a == b;
}

size_t num_characters(std::string_view text) {
  size_t num = 0;
  for (size_t at = 0; at < text.size(); ++num) decode_utf8(text, at);
  return num;
}

class SchemaChecker {
 public:
  explicit SchemaChecker(const json::value& root) : root_(&root) {}

  std::string check(const json::value& schema, const json::value& value) const {
    if (schema.is_bool()) return schema.get_bool() ? "" : "forbidden: " + json::serialize(value);
    for (const auto& [keyword, argument] : schema.get_object()) {
      const std::string why = check(keyword, argument, schema.get_object(), value);
      if (!why.empty()) return std::string(keyword) + ": " + why;
    }
    return "";
  }

 private:
  std::string check(std::string_view keyword, const json::value& argument,
                    const json::object& schema, const json::value& value) const {
    const auto fail_unless = [&](bool holds) { return holds ? "" : json::serialize(value); };
    if (keyword == "type") {
      if (argument.is_string()) return fail_unless(has_type(value, argument.get_string()));
      const auto& types = argument.get_array();
      return fail_unless(std::any_of(types.begin(), types.end(), [&](const json::value& type) {
        return has_type(value, type.get_string());
      }));
    }
    if (keyword == "const") return fail_unless(same(argument, value));
    if (keyword == "enum") {
      const auto& values = argument.get_array();
      return fail_unless(std::any_of(values.begin(), values.end(),
                                     [&](const json::value& one) { return same(one, value); }));
    }
    if (keyword == "anyOf" || keyword == "oneOf" || keyword == "allOf") {
      const auto& schemas = argument.get_array();
      return fail_unless(std::any_of(schemas.begin(), schemas.end(), [&](const json::value& one) {
        return check(one, value).empty();
      }));
    }
    if (keyword == "$ref") {
      json::error_code ec;
      return check(*root_->find_pointer(std::string(argument.get_string()).substr(1), ec), value);
    }
    if (value.is_string()) {
      const std::string_view text = value.get_string();
      if (keyword == "minLength") return fail_unless(num_characters(text) >= to_size(argument));
      if (keyword == "maxLength") return fail_unless(num_characters(text) <= to_size(argument));
      if (keyword == "pattern") {
        return fail_unless(pcre2_matches(argument.get_string(), text, Match::kAnywhere) == true);
      }
    }
    if (value.is_number()) {
      const auto number = value.to_number<long double>();
      const auto bound = [&] { return argument.to_number<long double>(); };
      if (keyword == "minimum") return fail_unless(number >= bound());
      if (keyword == "maximum") return fail_unless(number <= bound());
      if (keyword == "exclusiveMinimum") return fail_unless(number > bound());
      if (keyword == "exclusiveMaximum") return fail_unless(number < bound());
    }
    if (value.is_array()) return check_items(keyword, argument, schema, value.get_array());
    if (value.is_object()) return check_members(keyword, argument, schema, value.get_object());
    return "";
  }

  std::string check_items(std::string_view keyword, const json::value& argument,
                          const json::object& schema, const json::array& items) const {
    if (keyword == "minItems" && items.size() < to_size(argument)) return "too few";
    if (keyword == "maxItems" && items.size() > to_size(argument)) return "too many";
    const json::value* prefix = schema.if_contains("prefixItems");
    const size_t num_prefix = prefix ? prefix->get_array().size() : 0;
    for (size_t i = 0; i < items.size(); ++i) {
      std::string why;
      if (keyword == "prefixItems" && i < num_prefix)
        why = check(argument.get_array()[i], items[i]);
      if (keyword == "items" && i >= num_prefix) why = check(argument, items[i]);
      if (!why.empty()) return std::to_string(i) + ": " + why;
    }
    return "";
  }

  std::string check_members(std::string_view keyword, const json::value& argument,
                            const json::object& schema, const json::object& members) const {
    if (keyword == "required") {
      for (const json::value& name : argument.get_array()) {
        if (!members.contains(name.get_string())) return json::serialize(name) + " is missing";
      }
    }
    const json::value* properties = schema.if_contains("properties");
    for (const auto& [name, member] : members) {
      const json::value* described =
          properties ? properties->get_object().if_contains(name) : nullptr;
      std::string why;
      if (keyword == "properties" && described) why = check(*described, member);
      if (keyword == "additionalProperties" && !described) why = check(argument, member);
      if (!why.empty()) return std::string(name) + ": " + why;
    }
    return "";
  }

  static size_t to_size(const json::value& value) { return value.to_number<size_t>(); }

  const json::value* root_;
};

}  // namespace

std::string schema_violation(const json::value& schema, const json::value& document) {
  return SchemaChecker(schema).check(schema, document);
}

}  // namespace troupe::model
