#include "gateway/sampling_fields.hpp"

#include <algorithm>
#include <limits>

#include "base/parse.hpp"
#include "model/json.hpp"

namespace troupe::gateway {
namespace {

/// {"token id": bias}, by rising id.
void read_logit_bias(FieldReader& reader, model::SamplingParams& sampling) {
  const auto* object = reader.object("logit_bias");
  if (object == nullptr) return;
  if (object->size() > model::kMaxBiasedTokens) {
    return reader.fail("logit_bias", "must have at most " +
                                         std::to_string(model::kMaxBiasedTokens) +
                                         " entries, not " + std::to_string(object->size()) + ".");
  }
  std::vector<std::pair<TokenId, float>> biases;
  for (const auto& [name, value] : *object) {
    const auto token = parse_number<TokenId>(name);
    if (!token || *token < 0) {
      return reader.fail("logit_bias", "must have token ids as keys; " +
                                           model::quoted(std::string_view(name)) + " is none.");
    }
    const double bias =
        value.is_number() ? value.to_number<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(bias >= -model::kMaxLogitBias && bias <= model::kMaxLogitBias)) {
      return reader.fail("logit_bias", "must hold numbers between -100 and 100; " +
                                           model::describe(value) + " is none.");
    }
    biases.emplace_back(*token, static_cast<float>(bias));
  }
  std::sort(biases.begin(), biases.end());
  const auto twice = std::adjacent_find(biases.begin(), biases.end(), [](auto& a, auto& b) {
    return a.first == b.first;  // "7" and "07"
  });
  if (twice != biases.end()) {
    return reader.fail("logit_bias",
                       "has two entries for token " + std::to_string(twice->first) + ".");
  }
  sampling.logit_bias = std::move(biases);
}

void read_allowed_tokens(FieldReader& reader, model::SamplingParams& sampling) {
  auto& tokens = sampling.allowed_token_ids;
  reader.read_token_ids("allowed_token_ids", model::kMaxAllowedTokens, tokens);
  if (tokens.empty() && !reader.error() && reader.find("allowed_token_ids") != nullptr) {
    return reader.fail("allowed_token_ids", "must not be empty; leave it out to allow all.");
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
}

void read_penalties(FieldReader& reader, model::SamplingParams& sampling) {
  constexpr double kMost = model::kMaxPenalty;
  reader.read_number("presence_penalty", -kMost, kMost, sampling.presence_penalty);
  reader.read_number("frequency_penalty", -kMost, kMost, sampling.frequency_penalty);
  // 0.01 as a float is a little below it: the limit is the decimal number.
  reader.read_number("repetition_penalty", 0.01, model::kMaxRepetitionPenalty,
                     sampling.repetition_penalty);
}

}  // namespace

void read_sampling(FieldReader& reader, GenerationRequest& request) {
  auto& sampling = request.sampling;
  reader.read_number("temperature", 0.0, 2.0, sampling.temperature);
  reader.read_number_above("top_p", 0.0, 1.0, sampling.top_p);
  reader.read_number("min_p", 0.0, 1.0, sampling.min_p);
  int64_t integer = 0;
  if (reader.read_integer("top_k", -1, std::numeric_limits<int32_t>::max(), integer)) {
    sampling.top_k = static_cast<int32_t>(integer);
  }
  if (reader.read_integer("seed", std::numeric_limits<int64_t>::min(),
                          std::numeric_limits<int64_t>::max(), integer)) {
    sampling.seed = static_cast<uint64_t>(integer);
    request.has_seed = true;
  }
  read_penalties(reader, sampling);
  read_logit_bias(reader, sampling);
  read_allowed_tokens(reader, sampling);
  if (reader.read_integer("min_tokens", 0, kMaxTokensLimit, integer)) {
    sampling.min_tokens = static_cast<uint32_t>(integer);
  }
  reader.read_token_ids("stop_token_ids", 256, request.stop_token_ids);
  reader.read_strings("bad_words", kMaxBadWords, kMaxBadWordBytes, request.bad_words);
}

}  // namespace troupe::gateway
