#pragma once

// Split patterns that are alternatives of runs of characters, such as
//     [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// All of DeepSeek's and GPT-2's are. They run here and not in a regex library for two reasons: the
// library's Unicode is older than the one the tokenizers were trained with, so it would split new
// characters elsewhere; and this matcher needs time linear in the text, where backtracking engines
// go quadratic on a megabyte of spaces. The meaning is Oniguruma's: the first alternative that
// matches wins, repetition is greedy.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "model/pre_tokenizer_alphabet.hpp"

namespace troupe::model {

class RunPattern {
 public:
  /// Reads a pattern, registering its sets in `alphabet`. nullopt: it is not of this kind (it may
  /// be a fine regex otherwise), or it could match nothing, or linear time is not certain.
  static std::optional<RunPattern> compile(std::string_view pattern, Alphabet& alphabet);

  /// The pattern that matches exactly this text (valid UTF-8, not empty).
  static std::optional<RunPattern> literal(std::string_view text, Alphabet& alphabet);

  /// The pattern `[set]{1,max}`.
  static std::optional<RunPattern> run_of(const CodePointSet& set, uint32_t max,
                                          Alphabet& alphabet);

  /// To be called once the alphabet is finished.
  void bind(const Alphabet& alphabet);

  /// Appends the ends of the pieces of [begin, end): matches, and the gaps between them.
  /// @param symbols of the whole text; the pattern sees nothing outside [begin, end)
  void split(const Alphabet& alphabet, std::span<const uint8_t> symbols, uint32_t begin,
             uint32_t end, std::vector<uint32_t>& piece_ends) const;

  static constexpr uint32_t kUnbounded = UINT32_MAX;

 private:
  enum class Kind : uint8_t { kRun, kNotFollowedBy, kLineEnd };
  /// kRun: `set`, min to max times. kNotFollowedBy: (?!set). kLineEnd: `$`, `set` holds \n.
  struct Item {
    Kind kind;
    uint8_t set;
    uint32_t min, max;
  };
  using Alternative = std::vector<Item>;
  struct Parser;

  static constexpr uint32_t kNoMatch = UINT32_MAX;
  static uint32_t match(const Alphabet& alphabet, std::span<const Item> items,
                        std::span<const uint8_t> symbols, uint32_t at, uint32_t end);
  static bool is_linear(const Alternative& items);

  std::vector<Alternative> alternatives_;  // at most 32, in order of preference
  std::array<uint32_t, 256> starts_{};     // symbol -> bit set of alternatives it may start
};

}  // namespace troupe::model
