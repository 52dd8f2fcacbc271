#include "model/generation_config.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cmath>
#include <limits>
#include <optional>

#include "model/json.hpp"
#include "model/mapped_file.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

constexpr uint64_t kMaxFileBytes = 1U << 20;
constexpr size_t kMaxEndTokens = 256;

Error wrong(std::string_view key, const json::value& value, const std::string& limits) {
  return {Code::kInvalidArgument, "generation_config.json: " + std::string(key) + " is " +
                                      describe(value) + "; it must be " + limits};
}

/// The value of a key; null counts as absent.
const json::value* find(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<void> read_number(const json::object& object, std::string_view key, float& out) {
  const json::value* value = find(object, key);
  if (value == nullptr) return {};
  if (!value->is_number()) return wrong(key, *value, "a number");
  const auto number = static_cast<float>(value->to_number<double>());
  if (!std::isfinite(number)) return wrong(key, *value, "a number that a float can hold");
  out = number;
  return {};
}

std::optional<int64_t> integer(const json::value& value) {
  if (const auto* i = value.if_int64()) return *i;
  if (const auto* d = value.if_double(); d != nullptr && std::trunc(*d) == *d) {
    if (std::abs(*d) < 0x1p53) return static_cast<int64_t>(*d);
  }
  return std::nullopt;
}

Result<void> read_top_k(const json::object& object, int32_t& out) {
  const json::value* value = find(object, "top_k");
  if (value == nullptr) return {};
  const auto number = integer(*value);
  if (!number || *number < -1 || *number > std::numeric_limits<int32_t>::max()) {
    return wrong("top_k", *value, "an integer from -1 (off) to 2147483647");
  }
  out = static_cast<int32_t>(*number);
  return {};
}

/// One id or a list of them.
Result<void> read_end_tokens(const json::object& object, const ModelConfig& config,
                             std::vector<TokenId>& out) {
  const json::value* value = find(object, "eos_token_id");
  if (value == nullptr) return {};
  const json::array ids = value->is_array() ? value->get_array() : json::array{*value};
  if (ids.size() > kMaxEndTokens) return wrong("eos_token_id", *value, "at most 256 token ids");
  std::vector<TokenId> tokens;
  for (const json::value& id : ids) {
    const auto number = integer(id);
    if (!number || *number < 0 || *number >= int64_t{config.vocab_size}) {
      return wrong("eos_token_id", id,
                   "token ids from 0 to " + std::to_string(config.vocab_size - 1));
    }
    tokens.push_back(static_cast<TokenId>(*number));
  }
  out = std::move(tokens);
  return {};
}

}  // namespace

Result<GenerationConfig> parse_generation_config(std::string_view text, const ModelConfig& config) {
  auto document = parse_json(text);
  if (!document.ok()) return std::move(document).error().with_context("generation_config.json");
  if (!document->is_object()) {
    return Error{Code::kInvalidArgument,
                 "generation_config.json is " + describe(*document) + "; it must be an object"};
  }
  const json::object& object = document->get_object();
  GenerationConfig out{.sampling = {}, .eos_token_ids = config.eos_token_ids};
  TRY(read_number(object, "temperature", out.sampling.temperature));
  TRY(read_number(object, "top_p", out.sampling.top_p));
  TRY(read_number(object, "min_p", out.sampling.min_p));
  TRY(read_number(object, "repetition_penalty", out.sampling.repetition_penalty));
  TRY(read_top_k(object, out.sampling.top_k));
  TRY(read_end_tokens(object, config, out.eos_token_ids));
  // The ranges are those of requests; validate() names the field, which is the key.
  if (auto valid = validate(out.sampling); !valid.ok()) {
    return std::move(valid).error().with_context("generation_config.json");
  }
  return out;
}

Result<GenerationConfig> load_generation_config(const std::string& directory,
                                                const ModelConfig& config) {
  const auto text = read_text_file(directory + "/generation_config.json", kMaxFileBytes);
  if (!text.ok() && text.error().code == Code::kNotFound) {
    return GenerationConfig{.sampling = {}, .eos_token_ids = config.eos_token_ids};
  }
  if (!text.ok()) return text.error();
  auto parsed = parse_generation_config(*text, config);
  if (!parsed.ok()) return std::move(parsed).error().with_context("reading " + directory);
  return parsed;
}

}  // namespace troupe::model
