#include "model/grammar_json.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <charconv>

#include "model/grammar_number.hpp"
#include "model/grammar_text.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;
using Expr = GrammarBuilder::Expr;

const CodePointSet& unescaped() {
  static const CodePointSet set = without(all_characters(), {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
  return set;
}

ByteSet bytes_in(std::string_view members) {
  ByteSet set;
  for (const char c : members) set.set(static_cast<unsigned char>(c));
  return set;
}

/// A backslash and what may follow it.
Expr any_escape(GrammarBuilder& builder) {
  const Expr hex = builder.byte_of(bytes_in("0123456789abcdefABCDEF"));
  const Expr d = builder.byte_of(bytes_in("dD"));
  const Expr scalar = builder.either(
      {builder.sequence({builder.byte_of(bytes_in("0123456789abcefABCEF")), hex, hex, hex}),
       builder.sequence({d, builder.byte_between('0', '7'), hex, hex})});
  const Expr surrogates =
      builder.sequence({d, builder.byte_of(bytes_in("89abAB")), hex, hex, builder.literal("\\u"), d,
                        builder.byte_of(bytes_in("cdefCDEF")), hex, hex});
  return builder.sequence(
      {builder.literal("\\"),
       builder.either(
           {builder.byte_of(bytes_in("\"\\/bfnrt")),
            builder.sequence({builder.literal("u"), builder.either({scalar, surrogates})})})});
}

std::string number_text(const json::value& value) {
  if (value.is_int64()) return std::to_string(value.get_int64());
  if (value.is_uint64()) return std::to_string(value.get_uint64());
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value.get_double());
  return {digits.data(), end.ptr};
}

}  // namespace

JsonGrammar::JsonGrammar(GrammarBuilder& builder)
    : builder_(&builder),
      value_(builder.declare("any value")),
      object_(builder.declare("any object")),
      array_(builder.declare("any array")),
      string_(builder.declare("any string")),
      string_rest_(builder.declare("rest of a string")),
      key_rest_(builder.declare("rest of a key")),
      wide_character_(builder.declare("character beyond ASCII")),
      number_(builder.declare("any number")),
      integer_(builder.declare("any integer")) {
  define_rules();
}

void JsonGrammar::define_rules() {
  GrammarBuilder& b = *builder_;
  const Expr quote = b.literal("\"");
  const Expr character = character_of(b, unescaped(), Spelling::kPlain);
  b.define(number_, number_between(b, {}));
  b.define(integer_, integer_between(b, {}));
  b.count_nesting(object_);
  b.count_nesting(array_);
  b.define(value_,
           b.either({any_object(), any_array(), any_string(), any_number(), boolean(), null()}));
  b.define(object_, object({}, any_value()));
  b.define(array_, array({}, any_value(), 0, kUnlimited));
  b.define(string_, b.sequence({quote, b.call(string_rest_)}));
  b.define(string_rest_,
           b.sequence({b.repeat(b.either({character, any_escape(b)}), 0, kUnlimited), quote}));
  b.define(key_rest_, b.sequence({b.repeat(character, 0, kUnlimited), quote}));
  b.define(wide_character_, character_of(b, without(unescaped(), {{0, 0x7F}}), Spelling::kPlain));
}

Expr JsonGrammar::any_value() { return builder_->call(value_); }
Expr JsonGrammar::any_object() { return builder_->call(object_); }
Expr JsonGrammar::any_array() { return builder_->call(array_); }
Expr JsonGrammar::any_string() { return builder_->call(string_); }
Expr JsonGrammar::boolean() { return builder_->choice({"true", "false"}); }
Expr JsonGrammar::null() { return builder_->literal("null"); }
Expr JsonGrammar::any_number() { return builder_->call(number_); }
Expr JsonGrammar::any_integer() { return builder_->call(integer_); }

Expr JsonGrammar::string_of_length(uint32_t min, uint32_t max) {
  if (min == 0 && max == kUnlimited) return any_string();
  const Expr character = builder_->either(
      {character_of(*builder_, unescaped(), Spelling::kPlain), any_escape(*builder_)});
  const Expr quote = builder_->literal("\"");
  return builder_->sequence({quote, builder_->repeat(character, min, max), quote});
}

Expr JsonGrammar::constant(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return null();
    case json::kind::bool_: return builder_->literal(value.get_bool() ? "true" : "false");
    case json::kind::string: return builder_->literal(json_string(value.get_string()));
    case json::kind::array: {
      std::vector<Expr> parts;
      for (const json::value& item : value.get_array()) {
        if (!parts.empty()) parts.push_back(comma());
        parts.push_back(constant(item));
      }
      parts.insert(parts.begin(), builder_->literal("["));
      parts.push_back(builder_->literal("]"));
      return builder_->sequence(parts);
    }
    case json::kind::object: {
      std::vector<Expr> parts;
      for (const auto& [key, member] : value.get_object()) {
        if (!parts.empty()) parts.push_back(comma());
        parts.push_back(pair(builder_->literal(json_string(key)), constant(member)));
      }
      parts.insert(parts.begin(), builder_->literal("{"));
      parts.push_back(builder_->literal("}"));
      return builder_->sequence(parts);
    }
    default: return builder_->literal(number_text(value));
  }
}

Expr JsonGrammar::one_of(std::span<const json::value> values) {
  std::vector<Expr> branches;
  std::vector<std::string> strings;
  for (const json::value& value : values) {
    if (value.is_string()) {
      strings.push_back(json_string(value.get_string()));
    } else {
      branches.push_back(constant(value));
    }
  }
  if (!strings.empty()) branches.push_back(builder_->choice(std::move(strings)));
  return builder_->either(branches);
}

Expr JsonGrammar::comma() {
  return builder_->sequence({builder_->literal(","), builder_->optional(builder_->literal(" "))});
}

Expr JsonGrammar::pair(Expr key, Expr value) {
  return builder_->sequence(
      {key, builder_->literal(":"), builder_->optional(builder_->literal(" ")), value});
}

Expr JsonGrammar::object(std::span<const Property> properties, std::optional<Expr> others) {
  std::vector<GrammarBuilder::Member> members;
  for (const Property& property : properties) {
    const Expr key = builder_->literal(json_string(property.name));
    members.push_back({pair(key, property.value), property.required});
  }
  if (others) {
    const Expr key = properties.empty() ? any_string() : other_key(properties);
    const Expr other = pair(key, *others);
    const Expr more = builder_->repeat(builder_->sequence({comma(), other}), 0, kUnlimited);
    members.push_back({builder_->sequence({other, more}), false});
  }
  return builder_->sequence(
      {builder_->literal("{"), builder_->members(members, comma()), builder_->literal("}")});
}

/// A key that is none of the properties' names.
Expr JsonGrammar::other_key(std::span<const Property> properties) {
  std::vector<std::u32string> names;
  for (const Property& property : properties) {
    std::u32string& name = names.emplace_back();
    for (size_t at = 0; at < property.name.size();) name += decode_utf8(property.name, at);
    // Other keys have no escapes, so a name that needs one is none of them anyway.
    const bool has_escape =
        std::any_of(name.begin(), name.end(), [](char32_t c) { return !contains(unescaped(), c); });
    if (has_escape) names.pop_back();
  }
  std::sort(names.begin(), names.end());
  return builder_->sequence({builder_->literal("\""), key_unlike(names, 0)});
}

/// The rest of a key, with its quote, that differs from the rest of each of these names. They share
/// their first `num_shared` characters with it and each other.
Expr JsonGrammar::key_unlike(std::span<const std::u32string> sorted, size_t num_shared) {
  GrammarBuilder& b = *builder_;
  if (sorted.empty()) return b.call(key_rest_);
  std::vector<Expr> branches;
  const bool is_name = sorted.front().size() == num_shared;
  if (is_name) {
    sorted = sorted.subspan(1);
  } else {
    branches.push_back(b.literal("\""));
  }
  CodePointSet taken;
  while (!sorted.empty()) {
    const char32_t c = sorted.front()[num_shared];
    size_t num = 1;
    while (num < sorted.size() && sorted[num][num_shared] == c) ++num;
    std::string bytes;
    append_utf8(bytes, c);
    branches.push_back(
        b.sequence({b.literal(bytes), key_unlike(sorted.first(num), num_shared + 1)}));
    taken.push_back({c, c});
    sorted = sorted.subspan(num);
  }
  const bool only_ascii = taken.empty() || taken.back().first < 0x80;
  const CodePointSet free = without(unescaped(), normalized({taken.begin(), taken.end()}));
  const Expr other =
      only_ascii ? b.either({character_of(b, without(free, {{0x80, 0x10FFFF}}), Spelling::kPlain),
                             b.call(wide_character_)})
                 : character_of(b, free, Spelling::kPlain);
  branches.push_back(b.sequence({other, b.call(key_rest_)}));
  return b.either(branches);
}

Expr JsonGrammar::array(std::span<const Expr> prefix, std::optional<Expr> others, uint32_t min,
                        uint32_t max) {
  GrammarBuilder& b = *builder_;
  // What may follow the first i items, from the last i to the first.
  const auto num_prefix = static_cast<uint32_t>(std::min<size_t>(prefix.size(), max));
  Expr rest = b.empty();
  if (max > num_prefix) {
    const uint32_t others_min = min > num_prefix ? min - num_prefix : 0;
    const uint32_t others_max = max == kUnlimited ? kUnlimited : max - num_prefix;
    if (!others) {
      rest = others_min > 0 ? b.never() : b.empty();
    } else if (num_prefix > 0) {
      rest = b.repeat(b.sequence({comma(), *others}), others_min, others_max);
    } else {
      const uint32_t more = others_max == kUnlimited ? kUnlimited : others_max - 1;
      rest = b.sequence({*others, b.repeat(b.sequence({comma(), *others}),
                                           others_min > 0 ? others_min - 1 : 0, more)});
      if (others_min == 0) rest = b.optional(rest);
    }
  }
  for (uint32_t i = num_prefix; i-- > 0;) {
    std::vector<Expr> parts{prefix[i], rest};
    if (i > 0) parts.insert(parts.begin(), comma());
    rest = b.sequence(parts);
    if (i >= min) rest = b.optional(rest);
  }
  return b.sequence({b.literal("["), rest, b.literal("]")});
}

}  // namespace troupe::model
