#include "model/pre_tokenizer.hpp"

#include <algorithm>
#include <boost/json.hpp>

#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace json = boost::json;
namespace {

// What ByteLevel splits by when use_regex is set; Source: GPT-2's encoder.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr int kMaxDepth = 8;
constexpr size_t kMaxSteps = 64;

}  // namespace

Result<PreTokenizer> PreTokenizer::parse(const json::value& node) {
  PreTokenizer out;
  TRY(out.add_step(node, "pre_tokenizer", 0));
  if (!out.has_byte_level_) {
    return Error{Code::kUnsupported,
                 "pre_tokenizer has no ByteLevel step; Troupe reads byte-level "
                 "tokenizers only"};
  }
  if (!out.alphabet_.finish()) {
    return Error{Code::kUnsupported,
                 "pre_tokenizer: its patterns tell more than 256 kinds of "
                 "characters apart"};
  }
  for (auto& step : out.steps_) {
    if (auto* pattern = std::get_if<RunPattern>(&step)) pattern->bind(out.alphabet_);
  }
  return out;
}

Result<void> PreTokenizer::add_step(const json::value& node, const std::string& path, int depth) {
  const JsonObject step = TRY(JsonObject::at(node, path));
  if (depth > kMaxDepth || steps_.size() >= kMaxSteps) {
    return Error{Code::kUnsupported, path + ": too many nested or successive steps"};
  }
  if (has_byte_level_)
    return Error{Code::kUnsupported, path + ": ByteLevel has to be the last step"};
  const std::string_view type = TRY(step.string("type"));
  if (type == "Sequence") {
    TRY(step.allow_only({"type", "pretokenizers"}));
    const json::value* steps = TRY(step.require("pretokenizers"));
    if (!steps->is_array()) {
      return Error{Code::kInvalidArgument, step.path_of("pretokenizers") + " has to be an array"};
    }
    size_t i = 0;
    for (const json::value& child : steps->get_array()) {
      TRY(add_step(child, step.path_of("pretokenizers") + "[" + std::to_string(i++) + "]",
                   depth + 1));
    }
    return {};
  }
  if (type == "Split") return add_split(step);
  if (type == "Digits") {
    TRY(step.allow_only({"type", "individual_digits"}));
    const bool individual = TRY(step.boolean("individual_digits", false));
    auto digits =
        RunPattern::run_of(unicode_digit(), individual ? 1 : RunPattern::kUnbounded, alphabet_);
    if (!digits) return Error{Code::kUnsupported, path + ": too many character classes"};
    steps_.emplace_back(std::move(*digits));
    return {};
  }
  if (type == "ByteLevel") return add_byte_level(step);
  return Error{Code::kUnsupported, step.path_of("type") + " \"" + std::string(type.substr(0, 100)) +
                                       "\" is unknown; Troupe has Sequence, Split, Digits and "
                                       "ByteLevel"};
}

Result<void> PreTokenizer::add_split(const JsonObject& step) {
  TRY(step.allow_only({"type", "pattern", "behavior", "invert"}));
  if (TRY(step.string("behavior")) != "Isolated") {
    return Error{Code::kUnsupported, step.path_of("behavior") + " has to be Isolated"};
  }
  TRY(step.require_absent_or_false("invert"));
  const JsonObject pattern =
      TRY(JsonObject::at(*TRY(step.require("pattern")), step.path_of("pattern")));
  TRY(pattern.allow_only({"Regex", "String"}));
  const bool literal = pattern.find("Regex") == nullptr;
  const std::string_view text = TRY(pattern.string(literal ? "String" : "Regex"));
  if (text.empty()) return Error{Code::kUnsupported, pattern.path() + " is empty"};
  auto runs = literal ? RunPattern::literal(text, alphabet_) : RunPattern::compile(text, alphabet_);
  if (runs) {
    steps_.emplace_back(std::move(*runs));
    return {};
  }
  auto regex = RegexPattern::compile(text, literal);
  if (!regex.ok()) return std::move(regex).error().with_context(pattern.path());
  steps_.emplace_back(std::move(regex).value());
  return {};
}

Result<void> PreTokenizer::add_byte_level(const JsonObject& step) {
  TRY(step.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  // The library's defaults when a key is absent are true, true, true.
  if (TRY(step.boolean("add_prefix_space", true))) {
    return Error{Code::kUnsupported, step.path_of("add_prefix_space") + " has to be false"};
  }
  if (TRY(step.boolean("use_regex", true))) {
    auto gpt2 = RunPattern::compile(kGpt2Pattern, alphabet_);
    if (!gpt2) return Error{Code::kUnsupported, step.path() + ": too many character classes"};
    steps_.emplace_back(std::move(*gpt2));
  }
  has_byte_level_ = true;
  return {};
}

Result<std::span<const uint32_t>> PreTokenizer::split(std::string_view text,
                                                      Scratch& scratch) const {
  scratch.symbols.clear();
  scratch.offsets.clear();
  for (size_t at = 0; at < text.size();) {
    scratch.offsets.push_back(static_cast<uint32_t>(at));
    scratch.symbols.push_back(alphabet_.symbol(decode_utf8(text, at)));
  }
  scratch.offsets.push_back(static_cast<uint32_t>(text.size()));
  scratch.pieces.clear();
  if (!text.empty()) scratch.pieces.push_back(static_cast<uint32_t>(scratch.symbols.size()));
  for (const auto& step : steps_) {
    scratch.next_pieces.clear();
    uint32_t begin = 0;
    for (const uint32_t end : scratch.pieces) {
      if (const auto* runs = std::get_if<RunPattern>(&step)) {
        runs->split(alphabet_, scratch.symbols, begin, end, scratch.next_pieces);
      } else {
        TRY(std::get<RegexPattern>(step).split(text, scratch.offsets, begin, end,
                                               scratch.next_pieces));
      }
      begin = end;
    }
    scratch.pieces.swap(scratch.next_pieces);
  }
  for (uint32_t& end : scratch.pieces) end = scratch.offsets[end];
  return std::span<const uint32_t>(scratch.pieces);
}

bool PreTokenizer::is_linear() const {
  return std::all_of(steps_.begin(), steps_.end(),
                     [](const auto& step) { return std::holds_alternative<RunPattern>(step); });
}

}  // namespace troupe::model
