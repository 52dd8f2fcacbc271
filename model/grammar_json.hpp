#pragma once

// JSON as expressions of a grammar, spelled as grammar.hpp says.

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/grammar_builder.hpp"

namespace troupe::model {

/// Builds the parts of JSON; those that schemas use often are rules and exist once. A grammar needs
/// one of these, however many schemas it has.
class JsonGrammar {
 public:
  using Expr = GrammarBuilder::Expr;

  /// @param builder has to outlive this
  explicit JsonGrammar(GrammarBuilder& builder);
  [[nodiscard]] GrammarBuilder& builder() const { return *builder_; }

  Expr any_value();
  Expr any_object();
  Expr any_array();
  Expr any_string();
  /// min to max characters.
  Expr string_of_length(uint32_t min, uint32_t max);
  Expr any_number();
  Expr any_integer();
  Expr boolean();
  Expr null();

  /// The value in its one spelling (a number as the shortest that reads back).
  Expr constant(const boost::json::value& value);
  /// One of the values. REQUIRES: not empty.
  Expr one_of(std::span<const boost::json::value> values);

  struct Property {
    std::string name;
    Expr value;
    bool required;
  };
  /// The properties in this order; then, if `others` is given, any number of other ones with such
  /// values, their names without escapes.
  Expr object(std::span<const Property> properties, std::optional<Expr> others);

  /// Items of `prefix` in order, then items of `others`; min to max of all together.
  Expr array(std::span<const Expr> prefix, std::optional<Expr> others, uint32_t min, uint32_t max);

 private:
  Expr comma();
  Expr pair(Expr key, Expr value);
  Expr other_key(std::span<const Property> properties);
  Expr key_unlike(std::span<const std::u32string> sorted, size_t num_shared);
  void define_rules();

  GrammarBuilder* builder_;
  GrammarBuilder::Rule value_, object_, array_, string_, string_rest_, key_rest_, wide_character_,
      number_, integer_;
};

}  // namespace troupe::model
