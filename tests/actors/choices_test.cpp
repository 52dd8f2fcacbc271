// Several choices of one prompt, from HTTP down to the blocks.

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>

#include "gateway/http_client.hpp"
#include "gateway/server.hpp"
#include "tests/actors/guided_requests.hpp"
#include "tests/actors/test_cluster.hpp"

namespace troupe::actors {
namespace {

TEST(Choices, OfOnePromptHaveItComputedOnceAndAreEachTheirOwn) {
  constexpr uint32_t kPromptTokens = 300, kMaxTokens = 20, kChoices = 4, kBlockTokens = 16;
  scheduler::RequestSpec spec{.max_tokens = kMaxTokens, .timeout = seconds(60)};
  spec.sampling = {.temperature = 0.8F, .seed = 7};
  for (uint32_t t = 0; t < kPromptTokens; ++t) {
    spec.prompt.push_back(static_cast<TokenId>(t * 11 % 900 + 10));
  }
  std::vector<scheduler::RequestSpec> specs(kChoices, spec);
  for (uint32_t i = 0; i < kChoices; ++i) specs[i].sampling.seed += i;
  const auto expected = generated_alone(kDemoModel, specs);

  TestCluster cluster({.model = kDemoModel,
                       .num_shards = 2,
                       .batcher = {.max_step_tokens = 64, .max_running = 16},
                       .kv_block_tokens = kBlockTokens});
  ASSERT_TRUE(cluster.wait_serving());
  const gateway::GatewayModel model{
      .id = "demo", .tokenizer = demo_tokenizer(), .max_context = 512, .eos_token_ids = {1}};
  const auto server = gateway::start({.port = 0, .version = "test"}, cluster.client(), model);
  ASSERT_TRUE(server.ok()) << server.error().message;
  const auto http =
      gateway::HttpClient::create("http://127.0.0.1:" + std::to_string((*server)->port())).value();
  const boost::json::object body{
      {"model", "demo"},    {"prompt", boost::json::value_from(spec.prompt)},
      {"n", kChoices},      {"max_tokens", kMaxTokens},
      {"temperature", 0.8}, {"seed", 7},
      {"ignore_eos", true}};
  const auto response = http.post("/v1/completions", boost::json::serialize(body)).value();
  ASSERT_EQ(response.status, 200) << response.body;
  const auto answer = boost::json::parse(response.body);
  const auto& choices = answer.at("choices").as_array();
  ASSERT_EQ(choices.size(), kChoices);
  for (uint32_t i = 0; i < kChoices; ++i) {
    EXPECT_EQ(choices[i].at("text").as_string(), demo_tokenizer().decode(expected[i].ids())) << i;
    if (i > 0) {
      EXPECT_NE(choices[i].at("text"), choices[0].at("text"));
    }
  }

  const ClusterStatus status = cluster.status(true);
  const auto router = std::ranges::max_element(
      status.nodes, {}, [](const NodeStatus& node) { return node.kv_blocks_total; });
  // The prompt once, and for each choice at most the block that it shares in part and its answer.
  EXPECT_LT(router->rows_computed, kPromptTokens + kChoices * (kBlockTokens + kMaxTokens));
  EXPECT_GT(router->prefix_cache.hit_tokens, (kChoices - 1) * (kPromptTokens - kBlockTokens));
  EXPECT_EQ(router->kv_blocks_used, 0U);
}

}  // namespace
}  // namespace troupe::actors
