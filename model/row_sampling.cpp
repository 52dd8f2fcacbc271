#include "model/row_sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.hpp"
#include "model/sampling_adjust.hpp"
#include "model/softmax.hpp"

namespace troupe::model {
namespace {

/// Enough for top-p as a rule, and for sample() where it looks first (top_p.cpp).
constexpr uint32_t kLikelyOfTopP = 64;

bool is_on(int32_t top_k, size_t vocab_size) {
  return top_k > 0 && static_cast<size_t>(top_k) < vocab_size;
}

/// Logits by rising token.
std::vector<float> by_token(std::vector<LikelyToken>& tokens) {
  std::ranges::sort(tokens, {}, &LikelyToken::token);
  std::vector<float> logits;
  for (const LikelyToken& t : tokens) logits.push_back(t.logit);
  return logits;
}

/// As sample() draws, where all that top-k or top-p leaves is among the likely ones.
std::optional<TokenId> draw(const SamplingParams& params, const RowQuestion& question,
                            const AnsweredRow& answer) {
  std::vector<LikelyToken> kept(answer.likely.begin(), answer.likely.end());
  Softmax softmax{.highest = answer.row.highest, .temperature = question.temperature};
  if (params.top_p < 1.0F) {
    double total = answer.row.total;
    if (!question.wants_total) {
      std::vector<LikelyToken> of_top_k = kept;
      const std::vector<float> logits = by_token(of_top_k);
      softmax.logits = logits;
      total = softmax.total();
    }
    const double wanted = static_cast<double>(params.top_p) * total;
    double sum = 0;
    size_t count = 0;
    while (count < kept.size() && (count == 0 || sum < wanted)) {
      sum += softmax.weight(kept[count++].logit);
    }
    const bool may_be_more = question.wants_total && kept.size() == question.num_likely;
    if (sum < wanted && may_be_more) return std::nullopt;
    kept.resize(count);
  }
  const std::vector<float> logits = by_token(kept);
  softmax.logits = logits;
  softmax.least = params.min_p;
  return kept[softmax.draw(question.uniform)].token;
}

void add_logprobs(const AnsweredRow& answer, SampledToken& out) {
  out.logprob = -std::numeric_limits<float>::infinity();
  const RowAnswer& row = answer.row;
  if (!std::isfinite(row.own_highest)) return;
  const double log_total = log_of(row.own_total);
  for (const LikelyToken& t : answer.top) {
    out.top_logprobs.emplace_back(t.token, logprob_of(t.own_logit, row.own_highest, log_total));
  }
  float logit = row.own_logit;
  for (const LikelyToken& t : answer.likely) {
    if (t.token == out.token) logit = t.own_logit;
  }
  if (std::isfinite(logit)) out.logprob = logprob_of(logit, row.own_highest, log_total);
}

}  // namespace

std::optional<RowQuestion> question_of(size_t vocab_size, const SamplingParams& params,
                                       uint64_t position, const TokenHistory& history,
                                       std::span<const uint64_t> mask) {
  RowQuestion question{.edits = logit_edits(vocab_size, params, history),
                       .penalties = penalties_of(params),
                       .mask = allowed_mask(vocab_size, params.allowed_token_ids, mask),
                       .wants_logprob = params.want_logprobs,
                       .num_top = params.want_logprobs ? params.num_top_logprobs : 0};
  if (params.temperature == 0.0F) return question;
  question.temperature = params.temperature;
  question.uniform = random_uniform(params.seed, position);
  if (is_on(params.top_k, vocab_size)) {
    if (static_cast<uint32_t>(params.top_k) > kMaxLikely) return std::nullopt;
    question.num_likely = static_cast<uint32_t>(params.top_k);
  } else if (params.top_p < 1.0F) {
    question.num_likely = kLikelyOfTopP;
    question.wants_total = true;
  } else {
    question.least = params.min_p;
    question.wants_draw = true;
  }
  return question;
}

std::optional<SampledToken> conclude(const SamplingParams& params, const RowQuestion& question,
                                     const AnsweredRow& answer) {
  const RowAnswer& row = answer.row;
  SampledToken out{.token = row.best};
  if (row.best == kNoLogit) {
    out.token = std::isfinite(row.own_highest) ? kNothingAllowed : kNoToken;
    return out;
  }
  if (question.wants_draw) {
    out.token = row.drawn;
  } else if (question.num_likely > 0) {
    const std::optional<TokenId> drawn = draw(params, question, answer);
    if (!drawn) return std::nullopt;
    out.token = *drawn;
  }
  if (params.want_logprobs) add_logprobs(answer, out);
  return out;
}

RowQuestion question_about(TokenId token, uint32_t num_top_logprobs) {
  return {.wants_logprob = true, .scored = token, .num_top = num_top_logprobs};
}

SampledToken conclude_score(const RowQuestion& question, const AnsweredRow& answer) {
  SampledToken out{.token = question.scored};
  add_logprobs(answer, out);
  return out;
}

}  // namespace troupe::model
