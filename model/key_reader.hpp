#pragma once

// One JSON object of a checkpoint's config.json, read key by key. The reader remembers which keys
// it was asked for, so that what nobody asked for can be refused: an unread key may be a feature
// that changes what the model computes. Included by sources only, as json.hpp.

#include <boost/json/object.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::model {

/// A null counts as missing, as it does for transformers. Errors name the key, and are
/// kInvalidArgument for a value of the wrong type or outside its range.
class KeyReader {
 public:
  using Names = std::initializer_list<std::string_view>;  ///< spellings of one key

  /// @param object outlives the reader
  /// @param path what stands before the key's name in a message
  KeyReader(const boost::json::object& object, std::string path);

  [[nodiscard]] const boost::json::value* find(std::string_view name);
  /// Whether the key is there, null or not.
  [[nodiscard]] bool contains(std::string_view name) const { return object_.contains(name); }

  [[nodiscard]] Error error(Code code, std::string_view name, const std::string& what) const;
  [[nodiscard]] Error lacks(std::string_view name) const;

  /// The integer in [min, max] of the first spelling present. @errors if two spellings disagree.
  Result<std::optional<uint32_t>> optional_size(Names names, uint32_t min, uint32_t max);
  Result<uint32_t> size(Names names, uint32_t min, uint32_t max);
  Result<uint32_t> size_or(Names names, uint32_t min, uint32_t max, uint32_t fallback);

  /// A number in [min, max]; integers are taken where a fraction is usual.
  Result<std::optional<double>> optional_number(std::string_view name, double min, double max);
  Result<double> number_or(std::string_view name, double min, double max, double fallback);

  Result<bool> flag_or(std::string_view name, bool fallback);
  Result<std::optional<std::string>> optional_text(std::string_view name);
  Result<std::optional<std::vector<std::string>>> optional_texts(std::string_view name);

  /// Refuse any value of `name` but `only`, which is what its absence means.
  /// @errors kUnsupported
  Result<void> only_text(std::string_view name, std::string_view only);
  Result<void> only_flag(std::string_view name, bool only);

  /// Refuses keys that were neither read nor are known to change nothing.
  /// @errors kUnsupported naming the first such key
  Result<void> refuse_unread(std::span<const std::string_view> harmless) const;

 private:
  const boost::json::object& object_;
  std::string path_;
  std::set<std::string_view, std::less<>> seen_;
};

}  // namespace troupe::model
