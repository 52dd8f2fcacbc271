#include "gateway/grammar_fields.hpp"

#include <boost/json/serialize.hpp>
#include <memory>
#include <utility>

#include "model/grammar.hpp"
#include "model/json.hpp"

namespace troupe::gateway {
namespace json = boost::json;
namespace {

using Kind = model::GrammarSpec::Kind;

/// The one grammar that a request asks for, and the field that does.
class Asked {
 public:
  /// A grammar that was found in field `name` of `reader`.
  void add(FieldReader& reader, std::string_view name, model::GrammarSpec spec) {
    if (reader.error()) return;
    const std::string field = reader.path_of(name);
    if (spec_) return reader.fail(name, "and `" + field_ + "` ask for two grammars; give one.");
    // What it says of the text's bytes is of the text behind JSON's escapes.
    if (const auto compiled = model::compile_grammar(spec); !compiled.ok()) {
      return reader.fail(name, "cannot be followed: " + compiled.error().message + ".");
    }
    field_ = field;
    spec_ = std::make_shared<const model::GrammarSpec>(std::move(spec));
  }

  void add_schema(FieldReader& reader, std::string_view name) {
    const json::value* schema = reader.find(name);
    if (schema == nullptr) return;
    if (schema->is_string()) {  // its text, as some clients send it
      return add(
          reader, name,
          {.kind = Kind::kJsonSchema, .text = std::string(std::string_view(schema->get_string()))});
    }
    if (!schema->is_object() && !schema->is_bool()) {
      return reader.fail(name, "must be a JSON schema, not " + model::describe(*schema) + ".");
    }
    add(reader, name, {.kind = Kind::kJsonSchema, .text = json::serialize(*schema)});
  }

  void add_text(FieldReader& reader, std::string_view name, Kind kind) {
    if (reader.find(name) == nullptr) return;
    std::string text;
    reader.read(name, text);
    add(reader, name, {.kind = kind, .text = std::move(text)});
  }

  void add_choice(FieldReader& reader, std::string_view name) {
    const json::value* list = reader.find(name);
    const bool is_empty = list != nullptr && list->is_array() && list->get_array().empty();
    if (list == nullptr || is_empty) return;
    constexpr model::GrammarLimits kLimits;
    std::vector<std::string> choices;
    reader.read_strings(name, kLimits.max_choices, kLimits.max_text_bytes, choices);
    add(reader, name, {.kind = Kind::kChoice, .choices = std::move(choices)});
  }

  [[nodiscard]] std::shared_ptr<const model::GrammarSpec> spec() const { return spec_; }
  [[nodiscard]] const std::string& field() const { return field_; }

 private:
  std::string field_;
  std::shared_ptr<const model::GrammarSpec> spec_;
};

void read_response_format(FieldReader& reader, Asked& asked) {
  const auto* format = reader.object("response_format");
  if (format == nullptr) return;
  FieldReader inner(*format, reader, "response_format.");
  std::string type;
  inner.read("type", type);
  if (type == "json_object") {
    if (inner.find("schema") != nullptr) return asked.add_schema(inner, "schema");
    asked.add(inner, "type", {.kind = Kind::kJsonObject});
  } else if (type == "json_schema") {
    const auto* named = inner.object("json_schema");
    if (named == nullptr) return inner.fail("json_schema", "is missing.");
    FieldReader schema(*named, inner, "json_schema.");
    std::string unused;
    schema.read("name", unused);
    schema.read("description", unused);
    bool strict = true;  // an answer follows its schema either way
    schema.read("strict", strict);
    if (schema.find("schema") == nullptr) return schema.fail("schema", "is missing.");
    asked.add_schema(schema, "schema");
  } else if (type != "text") {
    inner.fail_unsupported("type", "must be \"text\", \"json_object\" or \"json_schema\"; " +
                                       model::quoted(type) + " is not supported yet.");
  }
}

void read_structured_outputs(FieldReader& reader, Asked& asked) {
  const auto* outputs = reader.object("structured_outputs");
  if (outputs == nullptr) return;
  FieldReader inner(*outputs, reader, "structured_outputs.");
  asked.add_schema(inner, "json");
  asked.add_text(inner, "regex", Kind::kRegex);
  asked.add_choice(inner, "choice");
  asked.add_text(inner, "grammar", Kind::kEbnf);
  bool json_object = false;
  inner.read("json_object", json_object);
  if (json_object) asked.add(inner, "json_object", {.kind = Kind::kJsonObject});
  for (const auto* name : {"structural_tag", "whitespace_pattern"}) {
    if (inner.find_unsupported(name) == nullptr) continue;
    inner.fail_unsupported(name, "is not supported yet; leave it out.");
  }
}

}  // namespace

void read_grammar(FieldReader& reader, GenerationRequest& request) {
  Asked asked;
  read_response_format(reader, asked);
  read_structured_outputs(reader, asked);
  asked.add_schema(reader, "guided_json");
  asked.add_text(reader, "guided_regex", Kind::kRegex);
  asked.add_choice(reader, "guided_choice");
  asked.add_text(reader, "guided_grammar", Kind::kEbnf);
  asked.add_schema(reader, "json_schema");  // SGLang's names
  asked.add_text(reader, "regex", Kind::kRegex);
  asked.add_text(reader, "ebnf", Kind::kEbnf);
  if (!asked.spec()) return;
  if (request.ignore_eos) {
    return reader.fail("ignore_eos", "together with `" + asked.field() +
                                         "` is impossible: behind a complete answer nothing may "
                                         "follow.");
  }
  request.sampling.grammar = asked.spec();
  request.grammar_field = asked.field();
}

}  // namespace troupe::gateway
