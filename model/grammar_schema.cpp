#include "model/grammar_schema.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <cmath>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "model/grammar_json.hpp"
#include "model/grammar_number.hpp"
#include "model/grammar_regex.hpp"
#include "model/grammar_schema_keywords.hpp"
#include "model/json.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;
using Expr = GrammarBuilder::Expr;

constexpr size_t kMaxNameBytes = 256;

/// Every schema in the document that is used becomes a rule. They are worked off a queue, so that
/// neither nesting nor chains of $ref need any stack.
class SchemaParser {
 public:
  SchemaParser(JsonGrammar& json_grammar, const GrammarLimits& limits, const json::value& document,
               size_t& automata_size)
      : b_(&json_grammar.builder()),
        json_(json_grammar),
        limits_(&limits),
        document_(&document),
        automata_size_(automata_size) {}

  Result<Expr> run() {
    const Expr root = value_of({document_, ""});
    while (!queue_.empty()) {
      const SchemaNode node = std::move(queue_.front());
      queue_.pop_front();
      b_->define(rules_.at(node.value), TRY(body(node)));
    }
    return root;
  }

 private:
  Expr value_of(const SchemaNode& node) {
    const auto [at, is_new] = rules_.try_emplace(node.value, GrammarBuilder::Rule{});
    if (is_new) {
      at->second = b_->declare("the schema at #" + node.path);
      queue_.push_back(node);
    }
    return b_->call(at->second);
  }

  Result<Expr> body(const SchemaNode& node) {
    if (const bool* flag = node.value->if_bool()) return *flag ? json_.any_value() : b_->never();
    if (!node.value->is_object()) return node.error("a schema is an object, true or false");
    TRY(check_keywords(node));
    if (node.find("$ref")) return reference(node);
    for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
      if (node.find(keyword)) return branches(node, keyword);
    }
    const std::vector<Type> types = TRY(types_of(node));
    if (node.find("enum") || node.find("const")) return constants(node, types);
    if (types.empty()) return json_.any_value();
    std::vector<Expr> out;
    out.reserve(types.size());
    for (const Type type : types) out.push_back(TRY(of_type(node, type)));
    return b_->either(out);
  }

  Result<Expr> of_type(const SchemaNode& node, Type type) {
    switch (type) {
      case Type::kNull: return json_.null();
      case Type::kBoolean: return json_.boolean();
      case Type::kInteger: {
        const NumberBounds bounds = TRY(bounds_of(node, true));
        return bounds.min || bounds.max ? integer_between(*b_, bounds) : json_.any_integer();
      }
      case Type::kNumber: {
        const NumberBounds bounds = TRY(bounds_of(node, false));
        return bounds.min || bounds.max ? number_between(*b_, bounds) : json_.any_number();
      }
      case Type::kString: return string(node);
      case Type::kArray: return nested(node, TRY(array(node)));
      case Type::kObject: return nested(node, TRY(object(node)));
    }
    return b_->never();
  }

  /// Objects and arrays are levels of nesting.
  Expr nested(const SchemaNode& node, Expr body) {
    const GrammarBuilder::Rule rule = b_->declare("the schema at #" + node.path);
    b_->define(rule, body);
    b_->count_nesting(rule);
    return b_->call(rule);
  }

  Result<Expr> reference(const SchemaNode& node) {
    TRY(alone(node, "$ref"));
    const std::string text = TRY(node.string("$ref"));
    if (!text.starts_with('#'))
      return node.error("$ref can only refer into this schema (\"#/...\")");
    if (text.find('%') != std::string::npos) {
      return node.error("$ref with percent-encoding is not supported");
    }
    json::error_code ec;
    const json::value* target = document_->find_pointer(text.substr(1), ec);
    if (!target) return node.error("$ref " + quoted(text) + " refers to nothing");
    return value_of({target, text.substr(1)});
  }

  Result<Expr> branches(const SchemaNode& node, const char* keyword) {
    TRY(alone(node, keyword));
    const json::array& schemas = *TRY(node.array(keyword));
    if (schemas.empty()) return node.error(std::string(keyword) + " is empty");
    if (schemas.size() > limits_->max_choices) {
      return node.error(std::string(keyword) + " has more than " +
                        std::to_string(limits_->max_choices) + " branches");
    }
    if (keyword == std::string_view("allOf") && schemas.size() > 1) {
      return node.error("allOf of more than one schema is not supported");
    }
    std::vector<Expr> out;
    for (size_t i = 0; i < schemas.size(); ++i) {
      out.push_back(value_of(node.child(schemas[i], keyword, std::to_string(i))));
    }
    return b_->either(out);
  }

  Result<Expr> constants(const SchemaNode& node, const std::vector<Type>& types) {
    const char* keyword = node.find("enum") ? "enum" : "const";
    TRY(alone(node, keyword, "type"));
    std::vector<json::value> values;
    if (const json::value* value = node.find("const")) {
      values.push_back(*value);
    } else {
      const json::array& all = *TRY(node.array("enum"));
      values.assign(all.begin(), all.end());
    }
    if (values.size() > limits_->max_choices) {
      return node.error("enum has more than " + std::to_string(limits_->max_choices) + " values");
    }
    if (!types.empty()) {
      std::erase_if(values, [&](const json::value& value) {
        return std::none_of(types.begin(), types.end(),
                            [&](Type type) { return has_type(value, type); });
      });
    }
    if (values.empty()) return node.error(std::string(keyword) + " holds no value of its type");
    return json_.one_of(values);
  }

  Result<Expr> string(const SchemaNode& node) {
    const auto min = TRY(count(node, "minLength")), max = TRY(count(node, "maxLength"));
    const bool has_length = min || max;
    if (!node.find("pattern") && !node.find("format")) {
      if (max && min.value_or(0) > *max) return node.error("minLength is above maxLength");
      return json_.string_of_length(min.value_or(0), max.value_or(kUnlimited));
    }
    if (has_length || (node.find("pattern") && node.find("format"))) {
      return node.error("only one of pattern, format and a length is supported");
    }
    const bool is_format = node.find("format");
    const std::string keyword = is_format ? "format" : "pattern";
    std::string pattern = TRY(node.string(keyword));
    if (is_format) {
      const auto known = regex_of_format(pattern);
      if (!known) return node.error("format " + quoted(pattern) + " is not supported");
      pattern = *known;
    }
    const RegexOptions options{.spelling = Spelling::kJson, .searches = !is_format};
    auto checked = check_regex(pattern, *limits_, options, automata_size_);
    if (!checked.ok()) return node.error(keyword + ": " + checked.error().message);
    const Expr text = TRY(parse_regex(*b_, pattern, *limits_, options));
    return b_->sequence({b_->literal("\""), text, b_->literal("\"")});
  }

  Result<Expr> array(const SchemaNode& node) {
    std::vector<Expr> prefix;
    if (node.find("prefixItems")) {
      const json::array& schemas = *TRY(node.array("prefixItems"));
      if (schemas.size() > limits_->max_properties) {
        return node.error("prefixItems has more than " + std::to_string(limits_->max_properties) +
                          " schemas");
      }
      for (size_t i = 0; i < schemas.size(); ++i) {
        prefix.push_back(value_of(node.child(schemas[i], "prefixItems", std::to_string(i))));
      }
    }
    std::optional<Expr> others;
    if (const json::value* items = node.find("items")) {
      if (items->is_array()) return node.error("items as a list is not supported; use prefixItems");
      others = value_of(node.child(*items, "items"));
      if (items->is_bool() && !items->get_bool()) others.reset();
    } else if (prefix.empty()) {
      others = json_.any_value();
    }
    const auto min = TRY(count(node, "minItems")), max = TRY(count(node, "maxItems"));
    if (max && min.value_or(0) > *max) return node.error("minItems is above maxItems");
    return json_.array(prefix, others, min.value_or(0), max.value_or(kUnlimited));
  }

  Result<Expr> object(const SchemaNode& node) {
    std::unordered_set<std::string> required;
    if (node.find("required")) {
      for (const json::value& name : *TRY(node.array("required"))) {
        if (!name.is_string()) return node.error("required lists names, not " + describe(name));
        required.emplace(name.get_string());
      }
    }
    const json::value* additional = node.find("additionalProperties");
    const bool is_open = additional ? !(additional->is_bool() && !additional->get_bool())
                                    : !node.find("properties") && required.empty();
    std::optional<Expr> others;
    if (is_open) {
      others = additional ? value_of(node.child(*additional, "additionalProperties"))
                          : json_.any_value();
    }
    std::vector<JsonGrammar::Property> properties;
    if (node.find("properties")) {
      for (const auto& [name, schema] : *TRY(node.object("properties"))) {
        const bool is_required = required.erase(name) > 0;
        if (schema.is_bool() && !schema.get_bool() && !is_required) continue;
        properties.push_back({name, value_of(node.child(schema, "properties", name)), is_required});
      }
    }
    // Required and not described: whatever other properties may be.
    if (!required.empty() && node.find("required")) {
      for (const json::value& name : node.find("required")->get_array()) {
        if (required.erase(std::string(name.get_string())) == 0) continue;
        if (additional && !others) {
          return node.error("required property " + quoted(name.get_string()) +
                            " is neither in properties nor allowed by additionalProperties");
        }
        properties.push_back(
            {std::string(name.get_string()), others.value_or(json_.any_value()), true});
      }
    }
    if (properties.size() > limits_->max_properties) {
      return node.error("an object has more than " + std::to_string(limits_->max_properties) +
                        " properties");
    }
    for (const JsonGrammar::Property& property : properties) {
      if (property.name.size() > kMaxNameBytes) {
        return node.error("the property name " + quoted(property.name) + " is longer than " +
                          std::to_string(kMaxNameBytes) + " bytes");
      }
    }
    return json_.object(properties, others);
  }

  Result<std::optional<uint32_t>> count(const SchemaNode& node, const char* keyword) {
    const json::value* value = node.find(keyword);
    if (!value) return std::optional<uint32_t>();
    const double number = value->is_number() ? value->to_number<double>() : -1;
    if (number < 0 || number != std::floor(number)) {
      return node.error(std::string(keyword) + " has to be a count, not " + describe(*value));
    }
    if (number > limits_->max_repeat) {
      return node.error(std::string(keyword) + " is above " + std::to_string(limits_->max_repeat));
    }
    return std::optional(static_cast<uint32_t>(number));
  }

  GrammarBuilder* b_;
  JsonGrammar& json_;
  const GrammarLimits* limits_;
  const json::value* document_;
  std::unordered_map<const json::value*, GrammarBuilder::Rule> rules_;
  std::deque<SchemaNode> queue_;
  size_t& automata_size_;
};

}  // namespace

Result<Expr> parse_schema(JsonGrammar& json_grammar, std::string_view text,
                          const GrammarLimits& limits, size_t& automata_size) {
  auto document = parse_json(text, size_t{4} * limits.max_spec_depth);
  if (!document.ok()) return Error{Code::kInvalidArgument, document.error().message};
  return SchemaParser(json_grammar, limits, *document, automata_size).run();
}

}  // namespace troupe::model
