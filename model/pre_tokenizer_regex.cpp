#include "model/pre_tokenizer_regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

constexpr uint32_t kMatchLimit = 1'000'000;
constexpr size_t kMaxPatternBytes = 64 << 10;

/// Why PCRE2 would read the pattern otherwise than Oniguruma does, or empty.
std::string_view dialect_difference(std::string_view pattern) {
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      const char c = i + 1 < pattern.size() ? pattern[++i] : '\0';
      if (c == 'h' || c == 'H') return "\\h (a hexadecimal digit there, a space here)";
      if ((c == 'p' || c == 'P') && pattern.find('}', i) > i + 4) {
        return "a property longer than two letters (scripts differ between Unicode versions)";
      }
    } else if (!in_class) {
      in_class = pattern[i] == '[';
    } else if (pattern[i] == ']') {
      in_class = false;
    } else if (pattern[i] == '[' && pattern.substr(i, 2) != "[:") {
      return "a class inside a class";
    } else if (pattern.substr(i, 2) == "&&") {
      return "&& (class intersection)";
    }
  }
  return {};
}

/// A pattern for a message: in quotes, cut where it is long.
std::string shown(std::string_view pattern) {
  std::string out = "\"";
  append_lossy_utf8(out, pattern.substr(0, 200));
  return out + "\"";
}

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  return pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0
             ? "error " + std::to_string(code)
             : std::string(reinterpret_cast<const char*>(buffer));
}

struct FreeContext {
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};

}  // namespace

void RegexPattern::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

Result<RegexPattern> RegexPattern::compile(std::string_view pattern, bool literal) {
  const auto unsupported = [&](const std::string& why) {
    return Error{Code::kUnsupported, "pattern " + shown(pattern) + ": " + why};
  };
  if (pattern.size() > kMaxPatternBytes) return unsupported("longer than 64 KiB");
  if (!literal) {
    const std::string_view difference = dialect_difference(pattern);
    if (!difference.empty()) return unsupported("uses " + std::string(difference));
  }
  const std::unique_ptr<pcre2_compile_context, FreeContext> context(
      pcre2_compile_context_create(nullptr));
  if (!context) return Error{Code::kResourceExhausted, "PCRE2 got no memory"};
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  uint32_t options = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C;
  options |= literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE;
  if (literal) options &= ~static_cast<uint32_t>(PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  RegexPattern out;
  out.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                options, &error, &error_at, context.get()));
  if (!out.code_) {
    return unsupported("PCRE2 says at offset " + std::to_string(error_at) + ": " +
                       pcre2_message(error));
  }
  uint32_t can_match_nothing = 0;
  pcre2_pattern_info(out.code_.get(), PCRE2_INFO_MATCHEMPTY, &can_match_nothing);
  if (can_match_nothing != 0) return unsupported("it can match nothing");
  // Without JIT the same matches take longer.
  pcre2_jit_compile(out.code_.get(), PCRE2_JIT_COMPLETE);
  out.pattern_ = pattern;
  return out;
}

Result<void> RegexPattern::split(std::string_view text, std::span<const uint32_t> offsets,
                                 uint32_t begin, uint32_t end,
                                 std::vector<uint32_t>& piece_ends) const {
  const std::unique_ptr<pcre2_match_context, FreeContext> context(
      pcre2_match_context_create(nullptr));
  const std::unique_ptr<pcre2_match_data, FreeContext> data(pcre2_match_data_create(1, nullptr));
  if (!context || !data) {
    return Error{Code::kResourceExhausted, "PCRE2 got no memory"};
  }
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), 64 << 10);  // KiB

  const std::string_view piece = text.substr(offsets[begin], offsets[end] - offsets[begin]);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
  uint32_t at = begin;
  uint32_t gap = begin;
  while (at < end) {
    const auto match = [&](uint32_t options) {
      return pcre2_match(code_.get(), subject, piece.size(), offsets[at] - offsets[begin],
                         PCRE2_NO_UTF_CHECK | options, data.get(), context.get());
    };
    int found = match(0);
    // Compiled code has 32 KiB of stack; the interpreter has the heap up to its limit.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return Error{Code::kResourceExhausted, "the tokenizer's pattern " + shown(pattern_) +
                                                 " gave up on this text: " + pcre2_message(found) +
                                                 "; shorten the text"};
    }
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
    while (offsets[at] - offsets[begin] < ends[0]) ++at;
    if (at > gap) piece_ends.push_back(at);
    gap = at;
    while (offsets[at] - offsets[begin] < ends[1]) ++at;
    if (at == gap) {  // \K or a look-around made it empty after all
      return Error{Code::kUnsupported, "pattern " + shown(pattern_) + " matched nothing"};
    }
    piece_ends.push_back(at);
    gap = at;
  }
  if (end > gap) piece_ends.push_back(end);
  return {};
}

}  // namespace troupe::model
