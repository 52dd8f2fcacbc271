#pragma once

// Any other split pattern, by PCRE2 (JIT, UTF, Unicode properties). Exact only on characters that
// its Unicode version knows, and bounded: a match that needs too many steps is an Error.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

struct pcre2_real_code_8;

namespace troupe::model {

class RegexPattern {
 public:
  /// @param literal the pattern is plain text
  /// @errors kUnsupported: not a regex of PCRE2, can match nothing, or uses something that PCRE2
  /// and Oniguruma (which the tokenizers use) read differently.
  static Result<RegexPattern> compile(std::string_view pattern, bool literal);

  /// Appends the ends of the pieces of [begin, end), in characters: matches, and the gaps between.
  /// @param offsets byte offset of each character of `text`, and text.size() behind the last
  /// @errors kResourceExhausted when a match needs too many steps
  Result<void> split(std::string_view text, std::span<const uint32_t> offsets, uint32_t begin,
                     uint32_t end, std::vector<uint32_t>& piece_ends) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::string pattern_;  // for messages
};

}  // namespace troupe::model
