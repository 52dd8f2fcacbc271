#include "tests/support/stream.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace troupe::actors {

std::vector<TokenId> Stream::ids() const {
  std::vector<TokenId> result;
  for (const auto& token : tokens) result.push_back(token.token);
  return result;
}

void Stream::take(const scheduler::ClientEvent& event) {
  const auto require = [&](bool holds, const std::string& otherwise) {
    if (!holds && violation.empty()) violation = otherwise;
  };
  require(!ended(), "an event after the end");
  if (std::holds_alternative<scheduler::Admitted>(event)) {
    require(!admitted, "admitted twice");
    admitted = true;
  } else if (const auto* refused = std::get_if<scheduler::Refused>(&event)) {
    require(!admitted, "refused after it was admitted");
    error = refused->error;
  } else {
    require(admitted, "an event before it was admitted");
    if (const auto* emitted = std::get_if<scheduler::TokensEmitted>(&event)) {
      require(emitted->first == tokens.size(), "token " + std::to_string(emitted->first) +
                                                   " came where token " +
                                                   std::to_string(tokens.size()) + " was due");
      require(emitted->first == 0 || emitted->prompt_logprobs.empty(),
              "log-probabilities of the prompt behind the first token");
      if (emitted->first == 0) prompt_logprobs = emitted->prompt_logprobs;
      num_cached = emitted->num_cached;
      tokens.insert(tokens.end(), emitted->tokens.begin(), emitted->tokens.end());
    } else if (const auto* end = std::get_if<scheduler::Finished>(&event)) {
      finished = end->reason;
    } else {
      error = std::get<scheduler::Failed>(event).error;
    }
  }
}

void expect_same(const Stream& ours, const Stream& expected, const std::string& which) {
  EXPECT_EQ(ours.violation, "") << which;
  ASSERT_FALSE(ours.error.has_value()) << which << ours.error->message;
  ASSERT_EQ(ours.ids(), expected.ids()) << which;
  EXPECT_EQ(ours.finished, expected.finished) << which;
  ASSERT_EQ(ours.prompt_logprobs.size(), expected.prompt_logprobs.size()) << which;
  const auto same = [](const model::SampledToken& a, const model::SampledToken& b) {
    return a.token == b.token && a.logprob == b.logprob && a.top_logprobs == b.top_logprobs;
  };
  EXPECT_TRUE(std::ranges::equal(ours.tokens, expected.tokens, same)) << which;
  EXPECT_TRUE(std::ranges::equal(ours.prompt_logprobs, expected.prompt_logprobs, same)) << which;
}

}  // namespace troupe::actors
