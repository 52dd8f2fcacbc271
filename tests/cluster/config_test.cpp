#include "cluster/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "cluster/config_schema.hpp"
#include "cluster/config_values.hpp"

namespace troupe::cluster {
namespace {

using ::testing::HasSubstr;

const std::string kWhole = R"(name: demo
model: ../models/demo
served_name: troupe-demo
control: {host: 10.0.0.1, port: 7601}
http: {host: "::1", port: 8001}
nodes:
  - {name: router-0, role: router, threads: 2}
  - {name: shard-0, role: experts}
  - {name: shard-1, role: experts, threads: 3}
placement:            # optional pins
  - {node: shard-0, layers: 1-3, experts: 0-7}
  - {node: shard-1, layers: 4}
tenants:
  - {key: sk-batch, weight: 3}
  - {key: "sk: other", weight: 1000}
limits:
  max_queued: 65
  max_queued_per_tenant: 33
  max_running: 17
  max_step_tokens: 257
  step_target: 11ms
  micro_batches: 2
  max_context: 4097
  kv_blocks: 1025
  kv_host_blocks: 18
  kv_block_tokens: 17
  kv_dtype: bf16
  request_timeout: 301s
  max_body: 9MiB
  max_connections: 1025
heartbeat: {interval: 201ms, timeout: 2s}
assemble_timeout: 31s
restart_budget: 4
pin_threads: auto
cuda_graphs: off
transport: {wires: shm}
experts: {redundant: 3, rebalance_interval: 61s, min_gain: 11, half_life: 62s}
)";

const std::string kSmall = R"(model: m
nodes:
  - {name: r, role: router}
  - {name: s, role: experts}
)";

TEST(ClusterConfig, ReadsEveryKey) {
  const auto config = parse_cluster_config(kWhole, "c.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->name, "demo");
  EXPECT_EQ(config->model, "../models/demo");
  EXPECT_EQ(config->served_name, "troupe-demo");
  EXPECT_EQ(config->control_host, "10.0.0.1");
  EXPECT_EQ(config->control_port, 7601);
  EXPECT_EQ(config->http_host, "::1");
  EXPECT_EQ(config->http_port, 8001);
  ASSERT_EQ(config->nodes.size(), 3U);
  EXPECT_EQ(config->nodes[0].name, "router-0");
  EXPECT_EQ(config->nodes[0].role, Role::kRouter);
  EXPECT_EQ(config->nodes[0].threads, 2U);
  EXPECT_EQ(config->nodes[1].role, Role::kExperts);
  EXPECT_EQ(config->nodes[1].threads, 1U);
  ASSERT_EQ(config->pins.size(), 2U);
  EXPECT_EQ(config->pins[0].node, "shard-0");
  EXPECT_EQ(config->pins[0].first_layer, 1U);
  EXPECT_EQ(config->pins[0].last_layer, 3U);
  EXPECT_EQ(config->pins[0].first_expert, 0U);
  EXPECT_EQ(config->pins[0].last_expert, 7U);
  EXPECT_EQ(config->pins[1].first_layer, 4U);
  EXPECT_EQ(config->pins[1].last_layer, 4U);
  EXPECT_EQ(config->pins[1].last_expert, UINT32_MAX) << "all experts";
  ASSERT_EQ(config->tenants.size(), 2U);
  EXPECT_EQ(config->tenants[0].key, "sk-batch");
  EXPECT_EQ(config->tenants[0].weight, 3U);
  EXPECT_EQ(config->tenants[1].key, "sk: other");
  EXPECT_EQ(config->max_queued, 65U);
  EXPECT_EQ(config->max_queued_per_tenant, 33U);
  EXPECT_EQ(config->max_running, 17U);
  EXPECT_EQ(config->max_step_tokens, 257U);
  EXPECT_EQ(config->step_target, milliseconds(11));
  EXPECT_EQ(config->micro_batches, 2U);
  EXPECT_EQ(config->max_context, 4097U);
  EXPECT_EQ(config->kv_blocks, 1025U);
  EXPECT_EQ(config->kv_host_blocks, 18U);
  EXPECT_EQ(config->kv_block_tokens, 17U);
  EXPECT_EQ(config->kv_dtype, DType::kBF16);
  EXPECT_EQ(config->request_timeout, seconds(301));
  EXPECT_EQ(config->max_body_bytes, 9U << 20);
  EXPECT_EQ(config->max_connections, 1025U);
  EXPECT_EQ(config->heartbeat_interval, milliseconds(201));
  EXPECT_EQ(config->heartbeat_timeout, seconds(2));
  EXPECT_EQ(config->assemble_timeout, seconds(31));
  EXPECT_EQ(config->restart_budget, 4U);
  EXPECT_EQ(config->pin_threads, PinThreads::kAuto);
  EXPECT_FALSE(config->cuda_graphs);
  EXPECT_EQ(config->wires, Wires::kShm);
  EXPECT_EQ(config->redundant_experts, 3U);
  EXPECT_EQ(config->rebalance_interval, seconds(61));
  EXPECT_EQ(config->rebalance_min_gain, 11U);
  EXPECT_EQ(config->load_half_life, seconds(62));
}

TEST(ClusterConfig, CountsABusyThreadMoreOfEachNode) {
  EXPECT_EQ(num_busy_threads(*parse_cluster_config(kSmall, "c.yaml")), 4U);
  EXPECT_EQ(num_busy_threads(*parse_cluster_config(kWhole, "c.yaml")),
            (2U + 1) + (1 + 1) + (3 + 1));
  const auto on_gpus = parse_cluster_config(
      "model: m\nnodes:\n  - {name: r, role: router, device: \"cuda:0,1,2,3\", threads: 2}\n"
      "  - {name: s, role: experts, device: cuda:4}\n",
      "c.yaml");
  ASSERT_TRUE(on_gpus.ok()) << on_gpus.error().message;
  EXPECT_EQ(num_busy_threads(*on_gpus), (2U + 1 + 3) + (1 + 1));
}

TEST(ClusterConfig, HasAnAddressForTheGateway) {
  const std::pair<const char*, const char*> kHosts[] = {{"localhost", "127.0.0.1"},
                                                        {"0.0.0.0", "0.0.0.0"},
                                                        {"10.1.2.3", "10.1.2.3"},
                                                        {"\"::1\"", "::1"},
                                                        {"\"::\"", "::"}};
  for (const auto& [host, address] : kHosts) {
    const auto config = parse_cluster_config(kSmall + "http: {host: " + host + "}\n", "c.yaml");
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(http_address(*config), address);
  }
}

TEST(ClusterConfig, FillsInDefaults) {
  const auto config = parse_cluster_config(kSmall + "limits:\nplacement:\n", "c.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->name, "troupe");
  EXPECT_EQ(config->control_port, 7600);
  EXPECT_EQ(config->max_context, 0U) << "the model's";
  EXPECT_EQ(config->heartbeat_interval, milliseconds(200));
  EXPECT_EQ(config->heartbeat_timeout, milliseconds(1500)) << "with the interval below two seconds";
  EXPECT_EQ(config->pin_threads, PinThreads::kOff);
  EXPECT_TRUE(config->cuda_graphs);
  EXPECT_EQ(config->wires, Wires::kAuto);
  EXPECT_EQ(config->kv_dtype, DType::kF32);
  EXPECT_TRUE(config->pins.empty());
  EXPECT_TRUE(config->tenants.empty());
}

TEST(ClusterConfig, NamesTheServedModelAfterItsDirectory) {
  const std::pair<const char*, const char*> cases[] = {
      {"models/demo", "demo"},      {"models/demo/", "demo"}, {"/a/b/../c", "c"},
      {"\"my model\"", "my model"}, {".", "troupe"},          {"/", "troupe"}};
  for (const auto& [model, served_name] : cases) {
    const auto config = parse_cluster_config(
        "model: " + std::string(model) + kSmall.substr(kSmall.find('\n')), "c.yaml");
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(config->served_name, served_name) << model;
  }
}

TEST(ClusterConfig, SaysWhatIsWrongAndWhere) {
  struct Case {
    std::string yaml;
    const char* message;
  };
  const std::vector<Case> cases = {
      // keys
      {kSmall + "control: {prot: 1}\n", "c.yaml:5: unknown key 'prot'; did you mean 'port'?"},
      {kSmall + "limits:\n  max_runing: 3\n",
       "c.yaml:6: unknown key 'max_runing'; did you mean "
       "'max_running'?"},
      {kSmall + "controll: {}\n", "c.yaml:5: unknown key 'controll'; did you mean 'control'?"},
      {kSmall + "colour: red\n", "c.yaml:5: unknown key 'colour'; known here are name model"},
      {kSmall + "\"\": 1\n", "c.yaml:5: unknown key ''"},
      {kSmall + "port: 80\n", "c.yaml:5: unknown key 'port'; known here are"},
      {kSmall + "http: {port: 1, port: 2}\n", "c.yaml:5: key 'port' is there already in line 5"},
      {kSmall + "model: n\n", "c.yaml:5: key 'model' is there already in line 1"},
      {kSmall + "[a, b]: 1\n", "c.yaml:5: a key must be a plain word"},
      {"nodes: [{name: r, role: router, thread: 1}]",
       "unknown key 'thread'; did you mean "
       "'threads'?"},
      {kSmall + "placement: [{node: s, layer: 1}]",
       "c.yaml:5: unknown key 'layer'; did you mean "
       "'layers'?"},
      // types and ranges
      {kSmall + "http: {port: 65536}\n",
       "c.yaml:5: http.port must be a whole number from 0 to 65535, not '65536'"},
      {kSmall + "http: {port: -1}\n", "not '-1'"},
      {kSmall + "http: {port: 80.0}\n", "not '80.0'"},
      {kSmall + "http: {port: 0x50}\n", "not '0x50'"},
      {kSmall + "http: {port: \"80\"}\n", "not the quoted '80'"},
      {kSmall + "http: {port: 99999999999999999999}\n", "not '99999999999999999999'"},
      {kSmall + "http: {port: }\n", "not nothing"},
      {kSmall + "http: {port: [80]}\n", "not a list"},
      {kSmall + "http: {host: {}}\n", "http.host must be a word of letters"},
      {kSmall + "http: {host: \"a b\"}\n", "http.host must be a word of letters"},
      {kSmall + "name: n\nhttp: {port: 1, host: example.com}\n",
       "c.yaml:6: http.host must be an IP address of the head or localhost, not 'example.com'"},
      {kSmall + "http: {host: 10.0.0.256}\n", "http.host must be an IP address"},
      {kSmall + "http: {host: \":::\"}\n", "http.host must be an IP address"},
      {kSmall + "http: 80\n", "c.yaml:5: http must be a map of keys, not '80'"},
      {kSmall + "limits: {max_running: 0}\n", "limits.max_running must be a whole number from 1"},
      {kSmall + "limits: {request_timeout: 300}\n",
       "limits.request_timeout must be a duration such as 200ms or 2s, from 1ms to 86400s, not "
       "'300'"},
      {kSmall + "limits: {request_timeout: 2 s}\n", "not '2 s'"},
      {kSmall + "limits: {request_timeout: 0s}\n", "not '0s'"},
      {kSmall + "limits: {request_timeout: 9999999999999h}\n", "not '9999999999999h'"},
      {kSmall + "limits: {max_body: 8MB}\n",
       "limits.max_body must be a size such as 512KiB or 8MiB, from 1KiB to 1GiB, not '8MB'"},
      {kSmall + "limits: {max_body: 8}\n", "not '8'"},
      {kSmall + "limits: {kv_dtype: int8}\n",
       "c.yaml:5: limits.kv_dtype must be f32 or bf16, not 'int8'"},
      {kSmall + "limits: {kv_dtype: [bf16]}\n", "limits.kv_dtype must be f32 or bf16, not a list"},
      {kSmall + "transport: {wires: rdma}\n",
       "transport.wires must be auto, shm or net, not 'rdma'"},
      {kSmall + "pin_threads: yes\n", "c.yaml:5: pin_threads must be auto or off, not 'yes'"},
      {kSmall + "cuda_graphs: true\n", "c.yaml:5: cuda_graphs must be on or off, not 'true'"},
      {kSmall + "name: \"a\\nb\"\n", "c.yaml:5: name must be a word of letters"},
      {"model: \"a\\0b\"\n", "model must be a text without control characters"},
      {"model: ''\n", "model must be a text without control characters"},
      // nodes
      {"nodes: [{name: r, role: router}, {name: s, role: experts}]", "c.yaml: 'model' is missing"},
      {"model: m\n", "c.yaml: no node has the role router"},
      {"model: m\nnodes: [{name: r, role: router}]\n", "c.yaml:2: no node has the role experts"},
      {"model: m\nnodes: {a: b}\n", "c.yaml:2: nodes must be a list"},
      {"model: m\nnodes: [r]\n", "c.yaml:2: a node must be a map such as {name: ...}, not 'r'"},
      {"model: m\nnodes: [{name: r}]\n", "c.yaml:2: a node needs a name and a role"},
      {"model: m\nnodes: [{name: r, role: head}]\n", "role must be router or experts, not 'head'"},
      {"model: m\nnodes: [{name: r, role: router, threads: 0}]\n",
       "c.yaml:2: threads must be a whole number from 1 to 1024, not '0'"},
      {kSmall + "  - {name: s, role: router}\n", "c.yaml:5: two nodes are named s"},
      {"model: m\nnodes:\n  - {name: r, role: router,\n     device: gpu0}\n",
       "c.yaml:4: device must be cpu or cuda: and numbers, each once, as cuda:0 or \"cuda:0,1\", "
       "not 'gpu0'"},
      {"model: m\nnodes: [{name: r, role: router, device: cuda:-1}]\n", "not 'cuda:-1'"},
      {"model: m\nnodes: [{name: r, role: router, device: \"cuda:\"}]\n", "not the quoted 'cuda:'"},
      {"model: m\nnodes: [{name: r, role: router, device: [cuda:0]}]\n", "not a list"},
      {kSmall + "  - {name: t, role: experts, device: cuda:1}\n",
       "c.yaml:5: t computes on cuda:1 and r on cpu; CPUs and GPUs round differently"},
      // pins
      {kSmall + "placement: [{node: t}]\n", "the pin names t, which is no node of role experts"},
      {kSmall + "placement: [{node: r}]\n", "the pin names r, which is no node of role experts"},
      {kSmall + "placement: [{layers: 1}]\n", "a pin needs a node"},
      {kSmall + "placement: [{node: s, layers: 3-1}]\n",
       "layers must be a number or a range such as 0-7, not '3-1'"},
      {kSmall + "placement: [{node: s, experts: -3}]\n", "not '-3'"},
      {kSmall + "placement: [{node: s, experts: 1-2-3}]\n", "not '1-2-3'"},
      {kSmall + "placement: [{node: s, experts: 0-4294967296}]\n", "not '0-4294967296'"},
      {kSmall + "placement: [{node: s, experts: [1]}]\n", "not a list"},
      {kSmall + "placement:\n  - {node: s, layers: 1-3}\n  - {node: s, layers: 3-9, experts: 2}\n",
       "c.yaml:7: the pin overlaps the one in line 6"},
      {kSmall + "placement: s\n", "placement must be a list"},
      // tenants
      {kSmall + "tenants: {a: 1}\n", "tenants must be a list of at most 1024 tenants"},
      {kSmall + "tenants: [{key: a}]\n", "c.yaml:5: a tenant needs a key and a weight"},
      {kSmall + "tenants: [{key: a, weight: 0}]\n",
       "c.yaml:5: weight must be a whole number from 1 to 1000, not '0'"},
      {kSmall + "tenants: [{key: \"\", weight: 2}]\n", "c.yaml:5: key must be"},
      {kSmall + "tenants: [{key: a, share: 2}]\n", "unknown key 'share'"},
      {kSmall + "tenants:\n  - {key: a, weight: 2}\n  - {key: a, weight: 3}\n",
       "c.yaml:7: two tenants have this key"},
      // what no key can say alone
      {kSmall + "heartbeat: {interval: 751ms}\n",
       "c.yaml:5: heartbeat.timeout (1500ms) must be at least twice heartbeat.interval (751ms)"},
      {kSmall + "http: {port: 7600}\n",
       "c.yaml:5: control and http have the same host and port 7600"},
      {kSmall + "limits: {max_context: 101, kv_blocks: 10, kv_block_tokens: 10}\n",
       "c.yaml:5: limits.max_context (101) exceeds the 100 tokens"},
      {kSmall + "limits: {max_running: 17, max_step_tokens: 16}\n",
       "c.yaml:5: limits.max_running (17) must be at most limits.max_step_tokens (16)"},
      // not a configuration
      {"", "c.yaml: is empty"},
      {"just words", "c.yaml:1: the configuration must be a map of keys, not 'just words'"},
      {"- a\n", "the configuration must be a map of keys, not a list"},
      {"a: [1\n", "c.yaml:2: not YAML: "},
      {"a: b: c\n", "c.yaml:1: not YAML: "},
      {"a:\n\t- b\n", "not YAML: "},
      {kSmall + "---\n" + kSmall, "c.yaml: has more than one document"},
      {"a: &x 1\nb: *x\n", "c.yaml:1: anchors and aliases are not supported"},
      {"a: *x\n", "c.yaml:1: not YAML: "},
      {"a: !!python/object x\n", "tags such as tag:yaml.org,2002:python/object are not supported"},
      {std::string(17, '['), "nested deeper than 16 levels"},
      {std::string(100'000, '['), "nested deeper than 16 levels"},
      {std::string((1 << 20) + 1, ' '), "larger than 1 MiB"}};
  for (const auto& [yaml, message] : cases) {
    const auto config = parse_cluster_config(yaml, "c.yaml");
    ASSERT_FALSE(config.ok()) << yaml.substr(0, 200);
    EXPECT_EQ(config.error().code, Code::kInvalidArgument);
    EXPECT_THAT(config.error().message, HasSubstr(message)) << yaml.substr(0, 200);
  }
}

TEST(ClusterConfig, RefusesABombOfAliasesBeforeItGrows) {
  std::string yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 30; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    yaml += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last;
    for (int j = 1; j < 10; ++j) yaml += ", " + last;
    yaml += "]\n";
  }
  const auto config = parse_cluster_config(yaml, "c.yaml");
  ASSERT_FALSE(config.ok());
  EXPECT_THAT(config.error().message, HasSubstr("c.yaml:1: anchors"));
}

TEST(ClusterConfig, RefusesMoreValuesThanAConfigurationHas) {
  std::string yaml = "nodes: [";
  for (int i = 0; i < 25'000; ++i) yaml += "x, ";
  EXPECT_THAT(parse_cluster_config(yaml + "x]", "c.yaml").error().message,
              HasSubstr("more than 20000 values"));
}

TEST(ClusterConfig, ShowsEveryValueWithItsOriginAndReadsItBack) {
  for (const std::string& yaml : {kWhole, kSmall}) {
    const ClusterConfig config = *parse_cluster_config(yaml, "c.yaml");
    const std::string shown = describe(config, yaml, "c.yaml");
    const auto again = parse_cluster_config(shown, "shown.yaml");
    ASSERT_TRUE(again.ok()) << again.error().message << "\n" << shown;
    EXPECT_EQ(describe(*again, yaml, "c.yaml"), shown);
  }
  const std::string yaml = kSmall + "limits:\n  max_body: 2048KiB\n";
  const std::string shown = describe(*parse_cluster_config(yaml, "c.yaml"), yaml, "c.yaml");
  for (const char* line :
       {"model: \"m\"  # c.yaml:1\n", "served_name: \"m\"  # default\n",
        "control:\n  host: \"127.0.0.1\"  # default\n  port: 7600  # default\n",
        "  max_body: 2MiB  # c.yaml:6\n", "  timeout: 1500ms  # default\n",
        "  - {name: \"s\", role: experts, threads: 1, device: cpu}  # c.yaml:4\n",
        "placement: []  # default\n", "tenants: []  # default\n"}) {
    EXPECT_THAT(shown, HasSubstr(line));
  }
}

TEST(ClusterConfig, ReadsWhatANodeComputesOn) {
  const std::string yaml = R"(model: m
nodes:
  - {name: r, role: router, device: cuda:0}
  - {name: s, role: experts, device: cuda:12}
  - {name: t, role: experts, device: cuda:0}
)";
  const auto config = parse_cluster_config(yaml, "c.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->nodes[0].device, Device{{0U}});
  EXPECT_EQ(config->nodes[1].device, Device{{12U}});
  const std::string shown = describe(*config, yaml, "c.yaml");
  EXPECT_THAT(shown, HasSubstr("threads: 1, device: cuda:12}  # c.yaml:4\n"));
  EXPECT_EQ(describe(*parse_cluster_config(shown, "shown.yaml"), yaml, "c.yaml"), shown);
  EXPECT_EQ(parse_cluster_config(kSmall, "c.yaml")->nodes[0].device, Device{});
}

TEST(ClusterConfig, ReadsSeveralDevicesOfARouter) {
  const std::string yaml = R"(model: m
nodes:
  - {name: r, role: router, device: "cuda:2,0,5"}
  - name: q
    role: router
    device: cuda:0,1
  - {name: s, role: experts, device: cuda:3}
)";
  const auto config = parse_cluster_config(yaml, "c.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->nodes[0].device, (Device{{2, 0, 5}}));
  EXPECT_EQ(config->nodes[1].device, (Device{{0, 1}}));
  const std::string shown = describe(*config, yaml, "c.yaml");
  EXPECT_THAT(shown, HasSubstr("threads: 1, device: \"cuda:2,0,5\"}  # c.yaml:3\n"));
  EXPECT_EQ(describe(*parse_cluster_config(shown, "shown.yaml"), yaml, "c.yaml"), shown);
}

TEST(ClusterConfig, RefusesDevicesThatCannotBe) {
  const auto refusal = [](const std::string& role, const std::string& device) {
    const auto config = parse_cluster_config(
        "model: m\nnodes:\n  - {name: r, role: router, device: cuda:0}\n  - {name: s, role: " +
            role + ", device: " + device + "}\n",
        "c.yaml");
    return config.ok() ? "" : config.error().message;
  };
  for (const char* device : {"\"cuda:0,0\"", "\"cuda:0,\"", "\"cuda:,1\"", "\"cuda:0,cuda:1\"",
                             "\"cuda:0, 1\"", "\"cuda:\"", "\"cpu,cuda:0\""}) {
    EXPECT_THAT(refusal("router", device), HasSubstr("c.yaml:4: device must be cpu or cuda:"))
        << device;
  }
  EXPECT_THAT(refusal("router", "cuda:0,1"),
              HasSubstr("c.yaml:4: several devices need quotes within braces: device: "
                        "\"cuda:0,1\""));
  EXPECT_THAT(refusal("experts", "\"cuda:0,1\""),
              HasSubstr("c.yaml:4: s has 2 devices; only routers"));
}

class ClusterConfigFile : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder / "sub"); }
  void TearDown() override { std::filesystem::remove_all(folder); }

  std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("troupe_config_test_" + std::to_string(::getpid()));
};

TEST_F(ClusterConfigFile, ResolvesTheModelAgainstTheFilesFolder) {
  const auto path = folder / "sub" / "c.yaml";
  std::ofstream(path) << "model: ../models/demo\n" << kSmall.substr(kSmall.find('\n'));
  const auto config = load_cluster_config(path.string());
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->model, (folder / "models" / "demo").string());
  EXPECT_EQ(config->served_name, "demo");
  std::ofstream(path) << "model: /abs/demo\n" << kSmall.substr(kSmall.find('\n'));
  EXPECT_EQ(load_cluster_config(path.string())->model, "/abs/demo");
}

TEST_F(ClusterConfigFile, SaysWhichFileCannotBeRead) {
  for (const auto& path : {folder / "none.yaml", folder / "sub"}) {
    const auto config = load_cluster_config(path.string());
    ASSERT_FALSE(config.ok());
    EXPECT_EQ(config.error().code, Code::kNotFound);
    EXPECT_THAT(config.error().message, HasSubstr(path.string()));
  }
  const auto path = (folder / "large.yaml").string();
  std::ofstream(path) << std::string(3 << 20, '#');
  EXPECT_THAT(load_cluster_config(path).error().message, HasSubstr("larger than 1 MiB"));
}

TEST(ClusterConfig, HasEveryKeyAndItsDefaultInTheDocumentation) {
  std::ifstream file(TROUPE_SOURCE_DIR "/docs/configuration.md");
  std::map<std::string, std::string> documented;
  for (std::string line; std::getline(file, line);) {  // | `limits.kv_blocks` | 1024 | ...
    if (!line.starts_with("| `")) continue;
    const size_t end = line.find("` | "), last = line.find('|', end + 4);
    ASSERT_NE(last, std::string::npos) << line;
    std::string value = line.substr(end + 4, last - end - 4);
    while (value.ends_with(' ')) value.pop_back();
    documented[line.substr(3, end - 3)] = value;
  }
  for (const Setting& setting : kSettings) {
    const std::string key = std::string(setting.section) + (setting.section.empty() ? "" : ".") +
                            std::string(setting.key);
    std::string value = show_setting(setting, ClusterConfig());
    std::erase(value, '"');
    ASSERT_TRUE(documented.contains(key)) << key << " is missing in docs/configuration.md";
    EXPECT_EQ(documented[key], value) << key;
    documented.erase(key);
  }
  for (const auto& [key, value] : documented) ADD_FAILURE() << key << " is no key";
}

TEST(ConfigValues, ReadAndShowTheSameValue) {
  for (const char* text : {"0s", "1ns", "999us", "200ms", "1s", "90s", "9223372036s"}) {
    ASSERT_TRUE(parse_duration(text)) << text;
    EXPECT_EQ(duration_text(*parse_duration(text)), text);
  }
  EXPECT_EQ(parse_duration("2m"), seconds(120));
  EXPECT_EQ(parse_duration("1h"), seconds(3'600));
  EXPECT_EQ(parse_duration("9223372037s"), std::nullopt) << "beyond 64 bits of nanoseconds";
  for (const char* text : {"1B", "1023B", "1KiB", "1025KiB", "8MiB", "3GiB"}) {
    ASSERT_TRUE(parse_size(text)) << text;
    EXPECT_EQ(size_text(*parse_size(text)), text);
  }
  for (const char* text : {"", "s", "1", "1 s", " 1s", "1s ", "-1s", "+1s", "1S", "1.5s", "1sec"}) {
    EXPECT_EQ(parse_duration(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_range("7"), std::pair(7U, 7U));
  EXPECT_EQ(parse_range("0-4294967295"), std::pair(0U, UINT32_MAX));
  for (const char* text : {"", "-", "1-", "-1", "2-1", "1--2", "a", "0-4294967296"}) {
    EXPECT_EQ(parse_range(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace troupe::cluster
