// `troupe bench kernels` and `troupe bench local` over the CUDA backend: every case runs, and what
// is counted is what a step does; never how fast anything was.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "apps/kernel_times.hpp"
#include "apps/model_shapes.hpp"
#include "apps/model_times.hpp"
#include "tests/cuda/backend.hpp"

namespace troupe::apps {
namespace {

namespace json = boost::json;

class CudaBench : public testing::Test {
 protected:
  void SetUp() override {
    kernels::start_test_backend({.workspace_bytes = size_t{64} << 20U}, backend_);
  }

  /// Rows by name of the case, "gemm kv_a 80x128 bf16 1".
  static std::map<std::string, json::object> kernels_of(const std::vector<KernelCase>& cases,
                                                        kernels::Backend& backend) {
    const auto machine = make_device_machine(backend);
    const auto table = measure_kernels(cases, backend, *machine, "tiny", 0);
    EXPECT_TRUE(table.ok()) << table.error().message;
    std::map<std::string, json::object> rows;
    if (!table.ok()) return rows;
    for (size_t i = 0; i < cases.size(); ++i) {
      EXPECT_EQ(table->rows[i].cells.size(), table->titles.size());
      rows[cases[i].name()] = table->rows[i].values;
    }
    return rows;
  }

  kernels::Backend backend_;
};

model::ModelConfig tiny() {
  const auto text = shape_config("tiny");
  EXPECT_TRUE(text.ok());
  const auto config = model::parse_config(json::serialize(*text));
  EXPECT_TRUE(config.ok());
  return *config;
}

/// Of the shape `tiny`: hidden 128, 4 heads of 32 + 16, latent 64, 4 of 16 experts of 64.
struct ByHand {
  const char* name;
  uint64_t bytes, float_multiply_adds, integer_multiply_adds;
};
constexpr uint64_t kKvA = 80 * 128;  // elements of the matrix
constexpr uint64_t kExpert = 3 * 64 * 128;
constexpr uint64_t kKvBlockBytes = 3 * 16 * 80 * 2;  // of all layers
constexpr ByHand kOneRow[] = {
    {"embed hidden 128 bf16 1", 128 * (2 + 4), 0, 0},
    {"rms_norm hidden 128 1", 2 * 128 * 4, 128, 0},
    {"gemm kv_a 80x128 bf16 1", kKvA * 2, kKvA, 0},
    {"gemm kv_a 80x128 f8 1", kKvA + 4, kKvA, 0},  // one block of 128 x 128
    {"gemm kv_a 80x128 i8 1", kKvA + 80 * 2, 0, kKvA},
    {"gemm kv_a 80x128 i4-g32-asym 1", kKvA / 2 + kKvA / 32 * 3, 0, kKvA},
    {"gemm gate 16x128 f32 1", 16 * 128 * 4, 16 * 128, 0},
    {"rope q 4 heads of 16 1", 2 * 4 * 16 * 4, 0, 0},
    {"store_kv kv 80 bf16 1", 80 * (4 + 2), 0, 0},
    {"gemm_many q_latent 4x64x32 bf16 1", 4 * 64 * 32 * 2, 4 * 64 * 32, 0},
    {"mla_absorbed decode bf16 1", 20 * 80 * 2, 4 * (2 * 64 + 16) * 20, 0},
    {"mla_expanded chunk f32 1", 20 * 80 * 4 + 4 * 64 * 64 * 4,
     4 * ((32 + 16 + 32) * 20 + 64 * 64 * 20), 0},
    {"topk_gate 4 of 16 1", (16 + 2 * 4) * 4, 0, 0},
    {"grouped_ffn experts 4x64x128 bf16 1", 4 * kExpert * 2, 4 * kExpert, 0},
    {"grouped_ffn experts 4x64x128 i8 1", 4 * (kExpert + (2 * 64 + 128) * 2), 0, 4 * kExpert},
    {"grouped_ffn routed 16x64x128 bf16 1", 4 * kExpert * 2, 4 * kExpert, 0},
    {"silu_mul inner 64 1", 3 * 64 * 4, 0, 0},
    {"copy_rows q_rope 16 1", 2 * 4 * 16 * 4, 0, 0},
    {"move_rows hidden 128 1", 2 * 128 * 4, 0, 0},
    {"copy_out rows of 128 1", 128 * 4, 0, 0},
    {"copy_in answers 4 of 128 1", 4 * 128 * 4, 0, 0},
    {"copy kv block 7680 bf16 1", 2 * kKvBlockBytes, 0, 0},
    {"copy_out kv block 7680 bf16 1", kKvBlockBytes, 0, 0},
    {"copy_in kv block 7680 bf16 1", kKvBlockBytes, 0, 0},
    {"sample greedy of 256 1", 256 * 4, 0, 0},
    {"sample top_p of 256 1", 256 * 4, 0, 0},
    {"combine 4 of 128 1", 128 * (4 + 3) * 4, 4 * 128, 0},
    {"add hidden 128 1", 3 * 128 * 4, 0, 0},
};

TEST_F(CudaBench, RunsEveryCaseAndCountsItsWork) {
  const std::vector<uint32_t> one = {1};
  const auto rows = kernels_of(
      kernel_cases(tiny(), {.rows = one, .context = 20, .routed = true, .on_device = true}),
      backend_);
  for (const ByHand& want : kOneRow) {
    ASSERT_TRUE(rows.contains(want.name)) << want.name;
    const json::object& row = rows.at(want.name);
    EXPECT_EQ(row.at("bytes").to_number<uint64_t>(), want.bytes) << want.name;
    EXPECT_EQ(row.at("float_multiply_adds").to_number<uint64_t>(), want.float_multiply_adds)
        << want.name;
    EXPECT_EQ(row.at("integer_multiply_adds").to_number<uint64_t>(), want.integer_multiply_adds)
        << want.name;
  }
  std::set<std::string> ops;
  for (const auto& [name, row] : rows) {
    ops.emplace(row.at("op").as_string());
    EXPECT_EQ(row.at("gpu_info").as_string(), backend_.device);
    EXPECT_FALSE(row.contains("product_fraction"));
    const auto number = [&row = row](const char* key) { return row.at(key).to_number<double>(); };
    EXPECT_GE(number("samples"), 3) << name;
    const double copies = number("bytes_per_s") / number("machine_copy_bytes_per_s");
    EXPECT_NEAR(number("bandwidth_fraction"), copies, 1e-9 * copies) << name;
    const double peak =
        number("flop_per_s") / (2 * number("machine_peak_bf16_multiply_adds_per_s"));
    EXPECT_NEAR(number("peak_fraction"), peak, 1e-9 * peak) << name;
  }
  EXPECT_EQ(ops, (std::set<std::string>{
                     "embed", "rms_norm", "gemm", "gemm_many", "rope", "store_kv", "mla_absorbed",
                     "mla_expanded", "topk_gate", "grouped_ffn", "silu_mul", "combine", "add",
                     "copy", "copy_in", "copy_out", "copy_rows", "move_rows", "sample"}));
}

TEST_F(CudaBench, RunsCasesOfManyRows) {
  const std::vector<uint32_t> many = {40};  // more than products stream their weights for
  std::vector<KernelCase> cases =
      kernel_cases(tiny(), {.rows = many, .context = 40, .routed = true, .on_device = true});
  std::erase_if(cases, [](const KernelCase& c) {
    return c.dtype != "bf16" && c.dtype != "i4-g32-asym" && c.dtype != "f32" && !c.dtype.empty();
  });
  const auto rows = kernels_of(cases, backend_);
  EXPECT_EQ(rows.size(), cases.size());
  const json::object& chunk = rows.at("mla_absorbed chunk bf16 40");
  EXPECT_EQ(chunk.at("bytes"), 40 * 80 * 2);
  // Row r sees r + 1 of the 40 positions.
  EXPECT_EQ(chunk.at("float_multiply_adds"), 4 * (2 * 64 + 16) * (40 * 41 / 2));
}

TEST_F(CudaBench, GathersOnAllRanks) {
  for (const size_t num_ranks : {1, 2}) {
    kernels::Backend group;
    kernels::start_test_group({.workspace_bytes = size_t{64} << 20U}, num_ranks, group);
    if (group.ops == nullptr) return;  // fewer GPUs, or without NCCL
    const std::vector<uint32_t> three = {3};
    std::vector<KernelCase> cases =
        kernel_cases(tiny(), {.rows = three, .context = 20, .num_ranks = num_ranks});
    std::erase_if(cases, [](const KernelCase& c) { return c.op != "all_gather" && c.op != "add"; });
    const auto rows = kernels_of(cases, group);
    const std::string ranks = " ranks " + std::to_string(num_ranks) + " 3";
    EXPECT_EQ(rows.size(), 3U);
    for (const std::string what : {"heads", "outputs"}) {  // 4 of 32; hidden 128
      ASSERT_TRUE(rows.contains("all_gather " + what + " 128" + ranks)) << ranks;
      EXPECT_EQ(rows.at("all_gather " + what + " 128" + ranks).at("bytes"), 3 * 128 * 2 * 4);
    }
  }
}

TEST_F(CudaBench, SaysWhichCaseHasNoRoom) {
  const std::vector<uint32_t> one = {1};
  std::vector<KernelCase> cases = kernel_cases(tiny(), {.rows = one, .context = 20});
  cases.resize(1);
  cases[0].prepare = [](Operands& operands) {
    operands.values(size_t{1} << 50U);
    return [] { FAIL() << "has no operands"; };
  };
  const auto machine = make_device_machine(backend_);
  const auto table = measure_kernels(cases, backend_, *machine, "tiny", 0);
  ASSERT_FALSE(table.ok());
  EXPECT_EQ(table.error().code, Code::kResourceExhausted);
  EXPECT_TRUE(table.error().message.starts_with("embed hidden 128 bf16 1: "))
      << table.error().message;
}

TEST_F(CudaBench, RunsPromptsAndBatchesOfAModel) {
  ModelTimesOptions options;
  options.model = {
      .kv_dtype = DType::kBF16, .max_context = 8, .num_sequences = 2, .chunk_tokens = 3};
  options.tests = {{.num_prompt = 5}, {.depth = 4, .num_generated = 2, .num_sequences = 2}};
  options.repetitions = 2;
  const auto table = measure_model(kernels::test_model("v2-lite"), options, std::move(backend_));
  ASSERT_TRUE(table.ok()) << table.error().message;
  ASSERT_EQ(table->rows.size(), 2U);
  const auto config = model::Checkpoint::open(kernels::test_model("v2-lite"));
  ASSERT_TRUE(config.ok());
  const uint64_t position =
      config->config().num_layers * config->config().kv_dim() * size_of(DType::kBF16);
  const json::object &prompt = table->rows[0].values, &batch = table->rows[1].values;
  EXPECT_EQ(prompt.at("test"), "pp5");
  EXPECT_EQ(batch.at("test"), "tg2 b2 @ d4");
  // A prompt of 5 goes in steps that see 3 and 5 positions; two sequences see 5, then 6 each.
  EXPECT_EQ(prompt.at("kv_bytes_per_step").to_number<double>(),
            static_cast<double>(position) * (3 + 5) / 2);
  EXPECT_EQ(batch.at("kv_bytes_per_step").to_number<double>(),
            static_cast<double>(position) * 2 * (5 + 6) / 2);
  for (const auto& row : table->rows) {
    EXPECT_EQ(row.cells.size(), table->titles.size());
    EXPECT_EQ(row.values.at("samples_ts").as_array().size(), 2U);
    EXPECT_TRUE(row.values.contains("gpu_info"));
    EXPECT_TRUE(row.values.contains("machine_copy_bytes_per_s"));
    EXPECT_GT(row.values.at("peak_fraction").to_number<double>(), 0);
  }
}

}  // namespace
}  // namespace troupe::apps
