#pragma once

// From text to the pieces within which byte-pair merges happen: tokenizer.json's "pre_tokenizer".

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.hpp"
#include "model/pre_tokenizer_alphabet.hpp"
#include "model/pre_tokenizer_pattern.hpp"
#include "model/pre_tokenizer_regex.hpp"
#include "model/tokenizer_json.hpp"

namespace troupe::model {

/// Split (behavior Isolated), Digits and ByteLevel, alone or in a Sequence; each step cuts the
/// pieces of the step before and sees nothing around them.
class PreTokenizer {
 public:
  /// Memory that a caller lends to several calls of split().
  struct Scratch {
    std::vector<uint8_t> symbols;
    std::vector<uint32_t> offsets, pieces, next_pieces;
  };

  /// @param node the value of "pre_tokenizer"; its last step has to be ByteLevel
  /// @errors kUnsupported naming the key
  static Result<PreTokenizer> parse(const boost::json::value& node);

  /// Returns the ends of the pieces of `text`, in bytes; they lie in `scratch`.
  /// @param text valid UTF-8, below 2 GiB
  /// @errors kResourceExhausted when a pattern outside the linear kind needs too many steps
  /// Cost: linear in the text for every pattern of DeepSeek's.
  Result<std::span<const uint32_t>> split(std::string_view text, Scratch& scratch) const;

  /// Whether every pattern runs in linear time and knows Unicode 16.
  [[nodiscard]] bool is_linear() const;

 private:
  Result<void> add_step(const boost::json::value& node, const std::string& path, int depth);
  Result<void> add_split(const JsonObject& step);
  Result<void> add_byte_level(const JsonObject& step);

  Alphabet alphabet_;
  std::vector<std::variant<RunPattern, RegexPattern>> steps_;
  bool has_byte_level_ = false;
};

}  // namespace troupe::model
