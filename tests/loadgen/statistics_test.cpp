#include "loadgen/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "loadgen/summary.hpp"

namespace troupe::loadgen {
namespace {

TEST(Distribution, AgreesWithValuesComputedByHand) {
  const Distribution values({4, 1, 3, 2});
  EXPECT_DOUBLE_EQ(values.mean(), 2.5);
  EXPECT_DOUBLE_EQ(values.standard_deviation(), std::sqrt(1.25));  // (2.25+0.25+0.25+2.25)/4
  EXPECT_DOUBLE_EQ(values.percentile(0), 1);
  EXPECT_DOUBLE_EQ(values.percentile(50), 2.5);
  EXPECT_DOUBLE_EQ(values.percentile(90), 3.7);   // rank 2.7: between 3 and 4
  EXPECT_DOUBLE_EQ(values.percentile(99), 3.97);  // rank 2.97
  EXPECT_DOUBLE_EQ(values.percentile(100), 4);
  EXPECT_DOUBLE_EQ(values.min(), 1);
  EXPECT_DOUBLE_EQ(values.max(), 4);
}

TEST(Distribution, OfOneValueAndOfNone) {
  const Distribution one({7});
  EXPECT_DOUBLE_EQ(one.percentile(99), 7);
  EXPECT_DOUBLE_EQ(one.standard_deviation(), 0);
  EXPECT_DOUBLE_EQ(Distribution().percentile(99), 0);
  EXPECT_TRUE(Distribution().empty());
}

Instant at_ms(int64_t ms) { return Instant{} + milliseconds(ms); }

/// Starts at `start`, first text `ttft` later, then every 10 ms.
Record served(int64_t start, int64_t ttft, int num_tokens) {
  Record record;
  record.start = record.sent = at_ms(start);
  for (int i = 0; i < num_tokens; ++i) record.tokens.push_back(at_ms(start + ttft + 10 * i));
  record.last = record.ended = record.tokens.back();
  record.input_tokens = 100;
  record.output_tokens = static_cast<uint32_t>(num_tokens);
  record.has_usage = true;
  record.outcome = Outcome::kServed;
  return record;
}

Record refused(int64_t start, int64_t after) {
  Record record;
  record.start = record.sent = at_ms(start);
  record.ended = at_ms(start + after);
  record.refusals = {milliseconds(after)};
  record.outcome = Outcome::kRefused;
  record.error_kind = "HTTP 429";
  record.error = "full";
  return record;
}

TEST(Summary, AgreesWithValuesComputedByHand) {
  Record late = served(100, 60, 3);
  late.sent = at_ms(120);  // an open loop's arrival that was sent 20 ms late
  Record coalesced = served(0, 20, 5);
  coalesced.output_tokens = 9;  // five events brought nine tokens: 40 ms / 8
  const std::vector<Record> records = {coalesced, late, served(200, 30, 1), refused(300, 4)};
  std::vector<const Record*> all;
  for (const Record& record : records) all.push_back(&record);

  const Objectives objectives = parse_objectives({"ttft:50", "tpot:6"}).value();
  const Summary sum = summarize(all, at_ms(0), at_ms(2000), objectives, 1);
  EXPECT_EQ(sum.completed, 3U);
  EXPECT_EQ(sum.failed, 1U);
  EXPECT_EQ(sum.refused, 1U);
  EXPECT_EQ(sum.total_input_tokens, 300U);
  EXPECT_EQ(sum.total_output_tokens, 13U);
  EXPECT_DOUBLE_EQ(sum.request_throughput, 1.5);
  EXPECT_DOUBLE_EQ(sum.output_throughput, 6.5);
  EXPECT_DOUBLE_EQ(sum.total_token_throughput, 156.5);
  EXPECT_EQ(sum.ttft_ms.sorted(), (std::vector<double>{20, 30, 60}));
  EXPECT_EQ(sum.tpot_ms.sorted(), (std::vector<double>{5, 10}));  // one token has none
  EXPECT_EQ(sum.itl_ms.sorted(), (std::vector<double>{10, 10, 10, 10, 10, 10}));
  EXPECT_EQ(sum.e2el_ms.sorted(), (std::vector<double>{30, 60, 80}));
  EXPECT_EQ(sum.refusal_ms.sorted(), (std::vector<double>{4}));
  EXPECT_EQ(sum.late, 1U);
  EXPECT_DOUBLE_EQ(sum.delay_ms.max(), 20);
  // Good: the first (20 ms, 5 ms) and the single token; of five asked, one of them never sent.
  EXPECT_DOUBLE_EQ(sum.request_goodput, 1);
  EXPECT_DOUBLE_EQ(sum.attainment_percent, 40);
  EXPECT_DOUBLE_EQ(sum.max_output_tokens_per_s, 13);
  EXPECT_EQ(sum.max_concurrent_requests, 1U);
  EXPECT_EQ(sum.errors.at("HTTP 429").count, 1U);
}

TEST(Summary, FindsTheGreatestNumberAtOnce) {
  const std::vector<Record> records = {served(0, 50, 1), served(10, 50, 1), served(60, 5, 1)};
  std::vector<const Record*> all;
  for (const Record& record : records) all.push_back(&record);
  // The third begins when the second ends: that is not three at once.
  EXPECT_EQ(summarize(all, at_ms(0), at_ms(65), {}, 0).max_concurrent_requests, 2U);
}

TEST(Timeline, PutsTokensIntoTheirSeconds) {
  const Record record = served(985, 5, 3);  // 990, 1000, 1010 ms
  const Timeline line = timeline_of({&record}, at_ms(0), at_ms(2500));
  EXPECT_EQ(line.output_tokens, (std::vector<double>{1, 2, 0}));
  EXPECT_EQ(line.requests_ended, (std::vector<double>{0, 1, 0}));
  EXPECT_EQ(line.in_flight, (std::vector<double>{1, 1, 0}));
}

TEST(Objectives, RefuseWhatTheyDoNotKnow) {
  for (const char* word :
       {"ttft", "ttft:", "ttft:x", "ttft:-1", "ttft:0", "itl:5", "ttft:1ms", "ttft:inf"}) {
    EXPECT_FALSE(parse_objectives({word}).ok()) << word;
  }
  EXPECT_FALSE(parse_objectives({"ttft:1", "ttft:2"}).ok());
  EXPECT_EQ(parse_objectives({"e2el:1.5"}).value().e2el_ms, 1.5);
}

}  // namespace
}  // namespace troupe::loadgen
