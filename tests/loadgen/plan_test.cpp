#include "loadgen/plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::loadgen {
namespace {

using ::testing::HasSubstr;

Plan plan() {
  Plan plan;
  plan.workload = {.input = {100, 0}, .output = {10, 0}, .later_input = {100, 0}};
  plan.tenants = {{.name = "all", .api_key = ""}};
  plan.num_prompts = 10;
  return plan;
}

TEST(Plan, IsOneClosedClientUnlessTold) {
  ASSERT_TRUE(check(plan()).ok());
  const auto streams = streams_of(plan(), std::nullopt, 0);
  ASSERT_EQ(streams.size(), 1U);
  EXPECT_FALSE(streams[0].source.is_open);
  EXPECT_EQ(streams[0].source.num_clients, 1U);
  EXPECT_EQ(streams[0].source.num_requests, 10U);
}

TEST(Plan, AsksOtherWordsInEveryRunAndTheSameForOneSeed) {
  const auto words = [](uint64_t seed, uint64_t run) {
    Plan p = plan();
    p.seed = seed;
    const auto workload = streams_of(p, std::nullopt, run)[0].workload;
    return text_of(common_words(0, 9), workload->seed(), workload->plan(0, 0).segments);
  };
  EXPECT_EQ(words(1, 0), words(1, 0));
  EXPECT_NE(words(1, 0), words(1, 1));
  EXPECT_NE(words(1, 0), words(2, 0));
}

TEST(Plan, SweepsClientsAndRates) {
  Plan p = plan();
  p.sweep = parse_sweep("concurrency=1,8").value();
  ASSERT_TRUE(check(p).ok());
  EXPECT_EQ(streams_of(p, 8, 1)[0].source.num_clients, 8U);
  p.sweep = parse_sweep("rate=0.5,2").value();
  EXPECT_TRUE(streams_of(p, 0.5, 0)[0].source.is_open);
  EXPECT_EQ(streams_of(p, 0.5, 0)[0].source.rate, 0.5);
}

TEST(Plan, GivesATenantItsOwnLoad) {
  Plan p = plan();
  p.num_prompts.reset();
  p.duration = seconds(5);
  for (const char* text : {"heavy:40", "light:2/s:1"}) {
    p.tenant_loads.push_back(parse_tenant_load(text).value());
  }
  p.tenants = {{.name = "heavy", .api_key = "heavy"}, {.name = "light", .api_key = "light"}};
  ASSERT_TRUE(check(p).ok());
  const auto streams = streams_of(p, std::nullopt, 0);
  ASSERT_EQ(streams.size(), 2U);
  EXPECT_EQ(streams[0].source.num_clients, 40U);
  EXPECT_FALSE(streams[0].priority);
  EXPECT_TRUE(streams[1].source.is_open);
  EXPECT_EQ(streams[1].tenants, std::vector<uint32_t>{1});
  EXPECT_EQ(streams[1].priority, 1U);
  EXPECT_NE(streams[0].workload->seed(), streams[1].workload->seed());
}

TEST(Plan, SendsPrefillsInTheBackground) {
  Plan p = plan();
  p.background = parse_background("16384:0.5").value();
  const auto streams = streams_of(p, std::nullopt, 0);
  ASSERT_EQ(streams.size(), 2U);
  EXPECT_TRUE(streams[1].is_background);
  EXPECT_EQ(streams[1].workload->plan(3, 0).num_words(), 16'384U);
  EXPECT_EQ(streams[1].workload->plan(3, 0).output_tokens, 1U);
  Source source(streams[1].source, Instant{});
  source.poll(Instant{});
  EXPECT_EQ(source.next_wake(), Instant{} + milliseconds(500));
}

TEST(Plan, GivesTheBackgroundAKeyOfItsOwn) {
  Plan p = plan();
  p.tenants = {{.name = "a", .api_key = "a"}, {.name = "b", .api_key = "b"}};
  p.background = parse_background("16384:0.5").value();
  EXPECT_EQ(streams_of(p, std::nullopt, 0)[1].tenants, std::vector<uint32_t>{0});
  EXPECT_EQ(tenants_of(p).size(), 2U);
  p.background = parse_background("16384:0.5:batch").value();
  const auto streams = streams_of(p, std::nullopt, 0);
  EXPECT_EQ(streams[0].tenants, (std::vector<uint32_t>{0, 1}));
  ASSERT_EQ(streams[1].tenants.size(), 1U);
  EXPECT_EQ(tenants_of(p).at(streams[1].tenants[0]).api_key, "batch");
}

TEST(Plan, ReplaysATraceUnlessALoadIsGiven) {
  Plan p = plan();
  p.num_prompts.reset();
  p.workload.rows = std::make_shared<const std::vector<TraceRow>>(
      std::vector<TraceRow>{{.at = {}, .input_tokens = 5, .output_tokens = 1},
                            {.at = seconds(1), .input_tokens = 5, .output_tokens = 1}});
  p.rows_have_times = true;
  ASSERT_TRUE(check(p).ok());
  EXPECT_EQ(streams_of(p, std::nullopt, 0)[0].source.arrivals,
            (std::vector<Duration>{{}, seconds(1)}));
  p.concurrency = 4;
  const auto streams = streams_of(p, std::nullopt, 0);
  EXPECT_FALSE(streams[0].source.is_open);
  EXPECT_EQ(streams[0].source.num_conversations, 2U);
  EXPECT_FALSE(warmup_of([&] {
                 p.num_warmups = 3;
                 return p;
               }())[0]
                   .workload->size());
}

TEST(Plan, RefusesWhatMakesNoSense) {
  const auto refuses = [](const std::function<void(Plan&)>& change) {
    Plan p = plan();
    change(p);
    return !check(p).ok();
  };
  EXPECT_TRUE(refuses([](Plan& p) { p.concurrency = 1, p.rate = 1; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.concurrency = 0; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.rate = 0; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.rate = 1e-9; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.rate = 1e9; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.rate = -std::numeric_limits<double>::infinity(); }));
  EXPECT_TRUE(refuses([](Plan& p) { p.rate = 1, p.burstiness = 0; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.rate = 1, p.burstiness = 1e-9; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.burstiness = 2; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.max_concurrency = 4; }));
  EXPECT_TRUE(refuses([](Plan& p) {
    p.rate = std::numeric_limits<double>::infinity();
    p.num_prompts.reset();
    p.duration = seconds(1);
  }));
  EXPECT_TRUE(refuses([](Plan& p) { p.tenant_loads = {parse_tenant_load("a:1").value()}; }));
  EXPECT_TRUE(refuses([](Plan& p) {
    p.tenant_loads = {parse_tenant_load("a:1").value()};
    p.num_prompts.reset();
    p.duration = seconds(1);
    p.max_concurrency = 4;  // nothing would heed it
  }));
  EXPECT_TRUE(refuses([](Plan& p) {
    p.tenants = {{.name = "a", .api_key = "a"}, {.name = "a", .api_key = "a"}};
  }));
  EXPECT_TRUE(refuses([](Plan& p) { p.workload.input.range_ratio = 1; }));
  EXPECT_TRUE(refuses([](Plan& p) { p.workload.output.mean = 0; }));
  EXPECT_TRUE(
      refuses([](Plan& p) { p.workload.rows = std::make_shared<const std::vector<TraceRow>>(); }));
}

TEST(Plan, HasABound) {
  Plan p = plan();
  p.num_prompts.reset();
  for (const bool is_open : {false, true}) {
    if (is_open) p.rate = 1;
    ASSERT_FALSE(check(p).ok());
    EXPECT_THAT(check(p).error().message, HasSubstr("nothing bounds the run"));
  }
  p.duration = seconds(1);
  EXPECT_TRUE(check(p).ok());
  p.duration.reset();
  p.workload.rows = std::make_shared<const std::vector<TraceRow>>(2);
  EXPECT_TRUE(check(p).ok());
  p.num_prompts = 3;
  EXPECT_THAT(check(p).error().message, HasSubstr("more than the 2 requests"));
}

TEST(Words, OfTheCommandLineAreReadOrRefused) {
  EXPECT_EQ(parse_weights("a:3,b:0.5").value()[1].weight, 0.5);
  for (const char* text : {"", "a", "a:", "a:0", "a:-1", ":1", "a:1,", "a:inf"}) {
    EXPECT_FALSE(parse_weights(text).ok()) << text;
  }
  EXPECT_EQ(parse_tenant_load("a:0.5/s").value().rate, 0.5);
  for (const char* text : {"", "a", "a:0", "a:1.5", "a:0/s", "a:inf/s", ":1", "a:1:x", "a:1:1:1",
                           "a:1:1.9", "a:1:-1", "a:1:1e9", "a:1:", "a:1e-9/s", "a:1e9/s", "a:-1"}) {
    EXPECT_FALSE(parse_tenant_load(text).ok()) << text;
  }
  for (const char* text : {"", "5", "5:", "0:1", "5:0", "x:1", "5:1:", "5:1:a:b"}) {
    EXPECT_FALSE(parse_background(text).ok()) << text;
  }
  for (const char* text : {"", "rate", "rate=", "rate=0", "rate=1,", "size=1", "concurrency=1.5",
                           "concurrency=0", "rate=1e-9", "rate=inf"}) {
    EXPECT_FALSE(parse_sweep(text).ok()) << text;
  }
}

}  // namespace
}  // namespace troupe::loadgen
