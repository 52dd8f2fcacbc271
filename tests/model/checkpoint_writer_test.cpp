// Directories written in every scheme: that they load, that a run goes on after an interruption,
// and what is refused.

#include "model/checkpoint_writer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/cpu/convert.hpp"
#include "model/checkpoint_source.hpp"
#include "model/random_weights.hpp"
#include "model/safetensors.hpp"
#include "model/weights.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// The tiny model with dimensions that fit panels, but for the queries' rank and kv_a_proj's rows.
TestConfig panel_config() {
  return tiny_v3_config()
      .set("vocab_size", "64")
      .set("hidden_size", "64")
      .set("q_lora_rank", "24")
      .set("kv_lora_rank", "32")
      .set("qk_nope_head_dim", "32")
      .set("v_head_dim", "16")
      .set("intermediate_size", "96")
      .set("moe_intermediate_size", "32");
}

std::string quantization(const std::string& experts, const std::string& rest) {
  return R"({"quant_method":"troupe","version":1,"experts":")" + experts + R"(","rest":")" + rest +
         "\"}";
}

std::map<std::string, std::string> files_of(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    files[entry.path().filename()] = read_file(entry.path());
  }
  return files;
}

/// Random weights that fail after some reads, and count them.
class FailingSource final : public TensorSource {
 public:
  explicit FailingSource(size_t reads) : left_(reads) {}
  [[nodiscard]] DType kept_type(const std::string& name) const override {
    return weights_.kept_type(name);
  }
  Result<void> read(const std::string& name, uint64_t in, uint64_t first, uint64_t count,
                    float* values) const override {
    if (left_ == 0) return Error{Code::kCancelled, "interrupted at " + name};
    --left_;
    ++reads;
    return weights_.read(name, in, first, count, values);
  }
  mutable std::atomic<size_t> reads = 0;

 private:
  RandomWeights weights_{1, 0.02F};
  mutable std::atomic<size_t> left_;
};

class WrittenCheckpoint : public ::testing::Test {
 protected:
  SavePlan plan(const std::string& experts, const std::string& rest) {
    if (experts == "fp8" && rest == "fp8") {
      config.set("quantization_config", R"({"quant_method":"fp8"})");
    } else if (experts != "bf16" || rest != "bf16") {
      config.set("quantization_config", quantization(experts, rest));
    }
    return {.directory = dir / "out",
            .config_json = config.json(),
            .experts = *parse_scheme(experts),
            .rest = *parse_scheme(rest)};
  }

  Result<SaveSummary> save(const SavePlan& plan, const TensorSource& source) {
    const auto parsed = parse_config(plan.config_json);
    EXPECT_TRUE(parsed.ok()) << parsed.error().message;
    return save_checkpoint(*parsed, source, plan);
  }

  std::string refusal(const SavePlan& plan) {
    const auto saved = save(plan, RandomWeights(1, 0.02F));
    EXPECT_FALSE(saved.ok());
    return saved.ok() ? "" : saved.error().message;
  }

  TempDir dir;
  TestConfig config = panel_config();
};

void expect_near(const WeightView& view, const TensorSource& source, const std::string& name,
                 float tolerance) {
  std::vector<float> exact(view.out * view.in);
  ASSERT_TRUE(source.read(name, view.in, 0, view.out, exact.data()).ok());
  for (size_t o = 0; o < view.out; ++o) {
    for (size_t i = 0; i < view.in; ++i) {
      ASSERT_NEAR(kernels::weight_at(view, o, i), exact[o * view.in + i], tolerance)
          << name << " at " << o << ", " << i;
    }
  }
}

TEST_F(WrittenCheckpoint, LoadsWithEveryMatrixInItsPlaceAndScheme) {
  const RandomWeights source(1, 0.02F);
  const auto saved = save(plan("int4-g32-asym", "int8"), source);
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  EXPECT_EQ(saved->matrices_kept, 6U) << "q_a_proj, q_b_proj and kv_a_proj of two layers";
  const auto checkpoint = Checkpoint::open(dir / "out");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router();
  ASSERT_TRUE(router.ok()) << router.error().message;
  const AttentionWeights& a = (*router)->layers[1].attention;
  EXPECT_EQ(a.q_a.dtype, DType::kBF16);
  EXPECT_EQ((*router)->embedding.dtype, DType::kBF16);
  EXPECT_EQ((*router)->head.dtype, DType::kI8);
  EXPECT_EQ(a.uk_t.dtype, DType::kI8);
  const std::string layer = "model.layers.1.";
  expect_near(a.q_a, source, layer + "self_attn.q_a_proj.weight", 3e-4F);
  expect_near(a.o, source, layer + "self_attn.o_proj.weight", 3e-4F);
  expect_near((*router)->head, source, "lm_head.weight", 3e-4F);
  expect_near((*router)->layers[1].shared.up, source, layer + "mlp.shared_experts.up_proj.weight",
              3e-4F);
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_EQ(expert->ffn.down.dtype, DType::kI4);
  EXPECT_NE(expert->ffn.down.group_scales.zeros, nullptr);
  expect_near(expert->ffn.gate, source, layer + "mlp.experts.2.gate_proj.weight", 9e-3F);
  expect_near(expert->ffn.down, source, layer + "mlp.experts.2.down_proj.weight", 9e-3F);
  // The halves of kv_b_proj, keys transposed head by head.
  constexpr size_t kHeads = 2, kLatent = 32, kNope = 32, kValue = 16;
  std::vector<float> kv_b(kHeads * (kNope + kValue) * kLatent);
  ASSERT_TRUE(source
                  .read(layer + "self_attn.kv_b_proj.weight", kLatent, 0, kHeads * (kNope + kValue),
                        kv_b.data())
                  .ok());
  for (size_t head = 0; head < kHeads; ++head) {
    for (size_t l = 0; l < kLatent; ++l) {
      for (size_t row = 0; row < kNope + kValue; ++row) {
        const float exact = kv_b[(head * (kNope + kValue) + row) * kLatent + l];
        const float got = row < kNope ? kernels::weight_at(a.uk_t, head * kLatent + l, row)
                                      : kernels::weight_at(a.uv, head * kValue + row - kNope, l);
        ASSERT_NEAR(got, exact, 3e-4F);
      }
    }
  }
  EXPECT_EQ(checkpoint->load_router(true).error().code, Code::kUnsupported);
  // The same number of parameters as in floating point.
  config = panel_config();
  SavePlan floats = plan("bf16", "bf16");
  floats.directory = dir / "floats";
  ASSERT_TRUE(save(floats, source).ok());
  const auto plain = Checkpoint::open(floats.directory);
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  EXPECT_EQ(checkpoint->summary().total_parameters, plain->summary().total_parameters);
  EXPECT_EQ(checkpoint->summary().active_parameters, plain->summary().active_parameters);
  EXPECT_TRUE(plain->load_router(true).ok());
}

TEST_F(WrittenCheckpoint, HasFp8WithScalesOfBlocksAsItIsPublished) {
  config.set("hidden_size", "192").set("intermediate_size", "320");  // of three rows of blocks
  const RandomWeights source(1, 0.02F);
  ASSERT_TRUE(save(plan("fp8", "fp8"), source).ok());
  const auto checkpoint = Checkpoint::open(dir / "out");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router();
  ASSERT_TRUE(router.ok()) << router.error().message;
  EXPECT_EQ((*router)->head.dtype, DType::kBF16);
  EXPECT_EQ((*router)->embedding.dtype, DType::kBF16);
  const FfnWeights& dense = (*router)->layers[0].dense;
  ASSERT_EQ(dense.up.dtype, DType::kF8E4M3);
  ASSERT_NE(dense.up.scales, nullptr);
  EXPECT_NE(dense.up.scales[0], dense.up.scales[4]);
  const std::string layer = "model.layers.0.";
  // Half a step of the largest numbers, 32 / 448 of 510 / 147.8 * 0.02.
  expect_near(dense.up, source, layer + "mlp.up_proj.weight", 2.5e-3F);
  expect_near(dense.down, source, layer + "mlp.down_proj.weight", 2.5e-3F);
  expect_near((*router)->layers[0].attention.q_a, source, layer + "self_attn.q_a_proj.weight",
              2.5e-3F);
  const auto expert = checkpoint->load_expert(1, 3);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_EQ(expert->ffn.down.dtype, DType::kF8E4M3);
  expect_near(expert->ffn.down, source, "model.layers.1.mlp.experts.3.down_proj.weight", 2.5e-3F);

  // It is a source again, and in the same scheme nothing more is lost.
  const auto again = CheckpointSource::open(*checkpoint);
  ASSERT_TRUE(again.ok()) << again.error().message;
  SavePlan copy = plan("fp8", "fp8");
  copy.directory = dir / "copy";
  copy.num_threads = 3;
  ASSERT_TRUE(save(copy, **again).ok());
  EXPECT_EQ(files_of(copy.directory), files_of(dir / "out"));
}

TEST_F(WrittenCheckpoint, BeginsEveryPanelAtAMultipleOf64Bytes) {
  ASSERT_TRUE(save(plan("int4-g32-asym", "int8"), RandomWeights(1, 0.02F)).ok());
  const std::string file = read_file(dir / "out/model.safetensors");
  const auto header = parse_safetensors(std::as_bytes(std::span(file)), file.size());
  ASSERT_TRUE(header.ok()) << header.error().message;
  size_t panels = 0;
  for (const TensorHeader& tensor : header->tensors) {
    const bool in_panels = tensor.name.ends_with("_i8") || tensor.name.ends_with("_i4");
    panels += in_panels ? 1 : 0;
    EXPECT_EQ(tensor.begin % (in_panels                      ? 64
                              : tensor.stored_dtype == "F32" ? 4
                                                             : 1),
              0U)
        << tensor.name;
  }
  EXPECT_GT(panels, 20U);
}

TEST_F(WrittenCheckpoint, IsTheSameForAnyNumberOfThreadsAndFiles) {
  const RandomWeights source(1, 0.02F);
  SavePlan one = plan("int4-g32", "int8");
  ASSERT_TRUE(save(one, source).ok());
  SavePlan many = one;
  many.directory = dir / "many";
  many.num_threads = 3;
  ASSERT_TRUE(save(many, source).ok());
  EXPECT_EQ(files_of(one.directory), files_of(many.directory));
  SavePlan sharded = one;
  sharded.directory = dir / "sharded";
  sharded.shard_bytes = 20000;
  const auto saved = save(sharded, source);
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  EXPECT_GT(saved->num_files, 3U);
  const auto a = Checkpoint::open(one.directory), b = Checkpoint::open(sharded.directory);
  ASSERT_TRUE(b.ok()) << b.error().message;
  EXPECT_EQ(a->summary().num_tensors, b->summary().num_tensors);
  EXPECT_EQ(a->summary().bytes_by_dtype, b->summary().bytes_by_dtype);
}

TEST_F(WrittenCheckpoint, GoesOnAfterTheLastCompleteFile) {
  SavePlan sharded = plan("int4-g32", "int8");
  sharded.shard_bytes = 20000;
  const FailingSource all(1 << 20);
  SavePlan whole = sharded;
  whole.directory = dir / "whole";
  ASSERT_TRUE(save(whole, all).ok());

  const FailingSource failing(all.reads / 2);
  const auto interrupted = save(sharded, failing);
  ASSERT_FALSE(interrupted.ok());
  EXPECT_EQ(interrupted.error().code, Code::kCancelled);
  const auto half = Checkpoint::open(sharded.directory);
  ASSERT_FALSE(half.ok()) << "half a model must not load";
  EXPECT_THAT(half.error().message, HasSubstr("not complete"));
  EXPECT_FALSE(fs::exists(sharded.directory + "/config.json"));

  const FailingSource rest(1 << 20);
  const auto resumed = save(sharded, rest);
  ASSERT_TRUE(resumed.ok()) << resumed.error().message;
  EXPECT_GT(resumed->files_kept, 0U);
  EXPECT_LT(rest.reads, all.reads * 3 / 4) << "complete files are not made again";
  EXPECT_EQ(files_of(sharded.directory), files_of(whole.directory));
}

TEST_F(WrittenCheckpoint, MakesAFileAgainThatWasCutShort) {
  SavePlan sharded = plan("int4-g32", "int8");
  sharded.shard_bytes = 20000;
  ASSERT_FALSE(save(sharded, FailingSource(40)).ok());
  const std::string first = sharded.directory + "/" + [&] {
    for (const auto& [name, text] : files_of(sharded.directory)) {
      if (name.starts_with("model-00001")) return name;
    }
    return std::string("none");
  }();
  ASSERT_TRUE(fs::exists(first));
  const std::string content = read_file(first);
  fs::resize_file(first, content.size() - 1);
  const auto resumed = save(sharded, FailingSource(1 << 20));
  ASSERT_TRUE(resumed.ok()) << resumed.error().message;
  EXPECT_EQ(read_file(first), content);
}

TEST_F(WrittenCheckpoint, IsReadAgainSoThatADamagedFileGetsNoName) {
  SavePlan damaged = plan("int4-g32", "int8");
  const std::string partial = damaged.directory + "/model.safetensors.partial";
  damaged.progress = [&](uint64_t done, uint64_t total) {
    if (done < total) return;  // all is written, nothing read again
    std::string content = read_file(partial);
    content.back() = static_cast<char>(content.back() ^ 1);
    write_file(partial, content);
  };
  const auto saved = save(damaged, RandomWeights(1, 0.02F));
  ASSERT_FALSE(saved.ok());
  EXPECT_EQ(saved.error().code, Code::kCorrupt);
  EXPECT_THAT(saved.error().message, HasSubstr(partial + " does not read back"));
  EXPECT_FALSE(fs::exists(damaged.directory + "/model.safetensors"));
  EXPECT_FALSE(fs::exists(damaged.directory + "/config.json"));

  damaged.progress = {};
  ASSERT_TRUE(save(damaged, RandomWeights(1, 0.02F)).ok());
  SavePlan whole = damaged;
  whole.directory = dir / "whole";
  ASSERT_TRUE(save(whole, RandomWeights(1, 0.02F)).ok());
  EXPECT_EQ(files_of(damaged.directory), files_of(whole.directory)) << "the same command goes on";
}

TEST_F(WrittenCheckpoint, NamesItsRunInTheMetadataOfEachFile) {
  SavePlan named = plan("int4-g32", "int8");
  named.identity = "a test, seed 1";
  ASSERT_TRUE(save(named, RandomWeights(1, 0.02F)).ok());
  const std::string file = read_file(dir / "out/model.safetensors");
  const auto header = parse_safetensors(std::as_bytes(std::span(file)), file.size());
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_EQ(header->metadata.at("format"), "pt");
  EXPECT_EQ(header->metadata.at("troupe.made_by"), "a test, seed 1");
  EXPECT_EQ(header->metadata.at("troupe.run").size(), 16U);
}

/// Two runs of the same shape and scheme in several files, but with other weights.
class TwoRuns : public WrittenCheckpoint {
 protected:
  TwoRuns() {
    one = plan("int4-g32", "int8");
    one.shard_bytes = 20000;
    one.identity = "a test, seed 1";
    two = one;
    two.directory = dir / "two";
    two.identity = "a test, seed 2";
  }

  /// Puts a file of the second run in the place of that of the first.
  void swap_in(const std::string& file) const {
    ASSERT_EQ(fs::file_size(one.directory + "/" + file), fs::file_size(two.directory + "/" + file));
    fs::copy_file(two.directory + "/" + file, one.directory + "/" + file,
                  fs::copy_options::overwrite_existing);
  }

  static std::string file_at(size_t place, size_t count) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", place, count);
    return name;
  }

  SavePlan one, two;
};

TEST_F(TwoRuns, AreRefusedMixedInOneDirectoryWhicheverFileIsForeign) {
  const auto saved = save(one, RandomWeights(1, 0.02F));
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  ASSERT_TRUE(save(two, RandomWeights(2, 0.02F)).ok());
  ASSERT_TRUE(Checkpoint::open(one.directory).ok());
  for (const size_t place : {size_t{1}, size_t{2}, size_t{saved->num_files}}) {
    const std::string file = file_at(place, saved->num_files);
    const std::string own = read_file(one.directory + "/" + file);
    swap_in(file);
    const auto mixed = Checkpoint::open(one.directory);
    ASSERT_FALSE(mixed.ok());
    EXPECT_EQ(mixed.error().code, Code::kCorrupt);
    EXPECT_THAT(mixed.error().message, HasSubstr(file_at(1, saved->num_files)));
    EXPECT_THAT(mixed.error().message,
                HasSubstr(file_at(place == 1 ? 2 : place, saved->num_files)));
    EXPECT_THAT(mixed.error().message, HasSubstr("a test, seed 1"));
    EXPECT_THAT(mixed.error().message, HasSubstr("a test, seed 2"));
    write_file(one.directory + "/" + file, own);
  }
  EXPECT_TRUE(Checkpoint::open(one.directory).ok());
}

TEST_F(TwoRuns, AreToldApartFromFilesThatNameNoRun) {
  ASSERT_TRUE(save(one, RandomWeights(1, 0.02F)).ok());
  const auto files = files_of(one.directory);
  const auto second = std::ranges::find_if(
      files, [](const auto& file) { return file.first.starts_with("model-00002"); });
  ASSERT_NE(second, files.end());
  // The same weights, as another program would write them.
  write_file(one.directory + "/" + second->first, safetensors(tensors_of(second->second)));
  const auto mixed = Checkpoint::open(one.directory);
  ASSERT_FALSE(mixed.ok());
  EXPECT_THAT(mixed.error().message, HasSubstr("no run of Troupe that left its name"));
}

TEST_F(TwoRuns, DoNotGoOnWithFilesOfEachOther) {
  const FailingSource all(1 << 20);
  SavePlan whole = one;
  whole.directory = dir / "whole";
  ASSERT_TRUE(save(whole, all).ok());
  const auto saved = save(two, RandomWeights(2, 0.02F));
  ASSERT_TRUE(saved.ok());
  ASSERT_FALSE(save(one, FailingSource(all.reads / 2)).ok());
  const std::string first = file_at(1, saved->num_files);
  ASSERT_TRUE(fs::exists(one.directory + "/" + first));
  swap_in(first);
  const auto resumed = save(one, FailingSource(1 << 20));
  ASSERT_TRUE(resumed.ok()) << resumed.error().message;
  EXPECT_EQ(files_of(one.directory), files_of(whole.directory)) << "the foreign file is made again";
}

TEST_F(WrittenCheckpoint, RefusesADirectoryWithAnythingElse) {
  const SavePlan first = plan("int4-g32", "int8");
  fs::create_directory(first.directory);
  write_file(first.directory + "/letter.txt", "dear");
  EXPECT_THAT(refusal(first), HasSubstr("letter.txt"));
  EXPECT_EQ(read_file(first.directory + "/letter.txt"), "dear");
  fs::remove(first.directory + "/letter.txt");
  ASSERT_FALSE(save(first, FailingSource(3)).ok());
  SavePlan other = plan("int8", "int8");
  EXPECT_THAT(refusal(other), HasSubstr("another run"));
  other = first;
  other.identity = "another model";
  EXPECT_THAT(refusal(other), HasSubstr("another run"));
  write_file(first.directory + "/model-00001-of-00002.safetensors", "mixed");
  EXPECT_THAT(refusal(first), HasSubstr("model-00001-of-00002.safetensors"));
  fs::remove(first.directory + "/model-00001-of-00002.safetensors");
  ASSERT_TRUE(save(first, RandomWeights(1, 0.02F)).ok());
  EXPECT_THAT(refusal(first), HasSubstr("already holds a checkpoint"));
}

TEST_F(WrittenCheckpoint, IsRefusedBeforeItStartsWithoutRoomOnTheDisk) {
  config.set("hidden_size", "32768").set("moe_intermediate_size", "1048576");  // terabytes
  FailingSource source(0);
  const auto saved = save(plan("int4-g32", "int8"), source);
  ASSERT_FALSE(saved.ok());
  EXPECT_EQ(saved.error().code, Code::kResourceExhausted);
  EXPECT_THAT(saved.error().message, HasSubstr("MiB more, and "));
  EXPECT_EQ(source.reads, 0U);
  EXPECT_TRUE(fs::is_empty(dir / "out"));
  config = panel_config();
  EXPECT_TRUE(save(plan("int8", "int8"), RandomWeights(1, 0.02F)).ok()) << "another run may begin";
}

TEST_F(WrittenCheckpoint, IsRefusedBeforeItStartsWithoutMemoryForItsThreads) {
  FailingSource source(0);
  SavePlan greedy = plan("int8", "int8");
  greedy.num_threads = size_t{1} << 30U;
  const auto saved = save(greedy, source);
  ASSERT_FALSE(saved.ok());
  EXPECT_EQ(saved.error().code, Code::kResourceExhausted);
  EXPECT_THAT(saved.error().message, HasSubstr("fewer threads need less"));
  EXPECT_EQ(source.reads, 0U);
}

TEST_F(WrittenCheckpoint, RefusesAModelOfWhichNothingFitsPanels) {
  config = tiny_v3_config();
  EXPECT_THAT(refusal(plan("int8", "int8")), HasSubstr("multiples of 16"));
  EXPECT_FALSE(fs::exists(dir / "out"));
}

TEST_F(WrittenCheckpoint, NamesTheTensorWhoseNumbersAreNotFinite) {
  class Broken final : public TensorSource {
   public:
    [[nodiscard]] DType kept_type(const std::string&) const override { return DType::kBF16; }
    Result<void> read(const std::string& name, uint64_t in, uint64_t, uint64_t count,
                      float* values) const override {
      std::fill_n(values, in * count, name.ends_with("experts.3.up_proj.weight") ? NAN : 1.0F);
      return {};
    }
  };
  const auto saved = save(plan("int8", "int8"), Broken());
  ASSERT_FALSE(saved.ok());
  EXPECT_EQ(saved.error().code, Code::kCorrupt);
  EXPECT_THAT(saved.error().message, HasSubstr("model.layers.1.mlp.experts.3.up_proj.weight"));
}

/// A written checkpoint whose file is changed before it is opened.
class DamagedCheckpoint : public WrittenCheckpoint {
 protected:
  void SetUp() override {
    ASSERT_TRUE(save(plan("int4-g32-asym", "int8"), RandomWeights(1, 0.02F)).ok());
    tensors = tensors_of(read_file(dir / "out/model.safetensors"));
  }

  std::string error() {
    fs::create_directories(dir / "damaged");
    write_checkpoint(dir / "damaged", config, tensors);
    const auto checkpoint = Checkpoint::open(dir / "damaged");
    EXPECT_FALSE(checkpoint.ok());
    return checkpoint.ok() ? "" : checkpoint.error().message;
  }

  TestTensors tensors;
  const std::string up = "model.layers.1.mlp.experts.2.up_proj.weight";
};

TEST_F(DamagedCheckpoint, OpensUndamaged) {
  fs::create_directories(dir / "damaged");
  write_checkpoint(dir / "damaged", config, tensors);
  const auto checkpoint = Checkpoint::open(dir / "damaged");
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
}

TEST_F(DamagedCheckpoint, NamesWhatIsMissing) {
  tensors.erase(up + "_scale");
  EXPECT_THAT(error(), HasSubstr(up + "_scale\" is missing"));
  tensors.erase(up + "_i4");
  EXPECT_THAT(error(), HasSubstr(up + "\" is missing"));
}

TEST_F(DamagedCheckpoint, NamesScalesOfAShapeOrTypeThatFitsNoGroup) {
  TestTensor& scale = tensors[up + "_scale"];
  const TestTensor good = scale;
  scale.shape = {2, 1, 32};
  EXPECT_THAT(error(), HasSubstr("[2, 1, 32]"));
  scale = good;
  scale.shape = {1, 4, 16};  // as many, of groups of 16
  EXPECT_THAT(error(), HasSubstr(up + "_scale"));
  scale = good;
  scale.dtype = "F16";
  EXPECT_THAT(error(), HasSubstr("BF16 or F32"));
}

TEST_F(DamagedCheckpoint, NamesZerosThatDoNotFitTheirScales) {
  TestTensor& zero = tensors[up + "_zero"];
  zero.dtype = "I8";
  EXPECT_THAT(error(), HasSubstr(up + "_zero"));
  tensors.erase(up + "_zero");
  tensors["lm_head.weight_zero"] = {"U8", {4, 1, 16}, std::string(64, '\0')};
  tensors["model.layers.1.mlp.experts.1.up_proj.weight_zero"].shape = {32, 1, 2};
  EXPECT_THAT(error(), HasSubstr("experts.1.up_proj.weight_zero"));
}

TEST_F(DamagedCheckpoint, RefusesZerosOf8BitIntegers) {
  tensors["lm_head.weight_zero"] = {"U8", {4, 1, 16}, std::string(64, '\0')};
  EXPECT_THAT(error(), HasSubstr("lm_head.weight_zero"));
}

TEST_F(DamagedCheckpoint, NamesPanelsOfAnotherShapeOrType) {
  tensors[up + "_i4"].shape = {1, 2, 4, 32, 4};
  EXPECT_THAT(error(), HasSubstr("[1, 2, 4, 32, 4]"));
  tensors[up + "_i4"].dtype = "I8";
  EXPECT_THAT(error(), HasSubstr("not U8"));
}

TEST_F(DamagedCheckpoint, RefusesTheSameMatrixTwice) {
  tensors[up] = ramp_bf16({32, 64});
  EXPECT_THAT(error(), HasSubstr(up));
}

TEST_F(DamagedCheckpoint, RefusesIntegersWhereRowsAreLookedUpOrFloatsAreNeeded) {
  tensors["model.embed_tokens.weight_i8"] = {"I8", {4, 16, 16, 4}, std::string(4096, '\0')};
  tensors["model.embed_tokens.weight_scale"] = {"BF16", {4, 1, 16}, std::string(128, '\0')};
  tensors.erase("model.embed_tokens.weight");
  EXPECT_THAT(error(), HasSubstr("model.embed_tokens.weight\" is missing"));
}

TEST_F(DamagedCheckpoint, RefusesIntegersWithoutTheConfigsWord) {
  config.erase("quantization_config");
  EXPECT_THAT(error(), HasSubstr("quantization_config"));
}

TEST_F(WrittenCheckpoint, IsMadeFromACheckpointOfAnyFormat) {
  // The tiny model in float32, its experts fused: written as BF16, numbers that BF16 holds exactly.
  config = tiny_v3_config();
  TestTensors tensors = tiny_v3_tensors();
  for (auto& [name, tensor] : tensors) {
    tensor = ramp(tensor.shape, static_cast<float>(name.size()), 0);
  }
  fs::create_directories(dir / "source");
  write_checkpoint(dir / "source", config, tensors);
  const auto original = Checkpoint::open(dir / "source");
  ASSERT_TRUE(original.ok()) << original.error().message;
  const auto source = CheckpointSource::open(*original);
  ASSERT_TRUE(source.ok()) << source.error().message;
  const auto saved = save(plan("bf16", "bf16"), **source);
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  const auto copy = Checkpoint::open(dir / "out");
  ASSERT_TRUE(copy.ok()) << copy.error().message;
  const auto expert = copy->load_expert(1, 3);
  ASSERT_TRUE(expert.ok());
  EXPECT_EQ(expert->ffn.down.dtype, DType::kBF16);
  EXPECT_EQ(kernels::weight_at(expert->ffn.down, 7, 6),
            std::string("model.layers.1.mlp.experts.3.down_proj.weight").size());
  const auto router = copy->load_router();
  ASSERT_TRUE(router.ok());
  EXPECT_EQ((*router)->embedding.dtype, DType::kF32) << "stays as it was";
  EXPECT_EQ((*router)->layers[1].gate[5], std::string("model.layers.1.mlp.gate.weight").size());
}

TEST_F(WrittenCheckpoint, IsNoSourceItself) {
  ASSERT_TRUE(save(plan("int8", "int8"), RandomWeights(1, 0.02F)).ok());
  const auto checkpoint = Checkpoint::open(dir / "out");
  ASSERT_TRUE(checkpoint.ok());
  const auto source = CheckpointSource::open(*checkpoint);
  ASSERT_FALSE(source.ok());
  EXPECT_THAT(source.error().message, HasSubstr("quantised already"));
}

}  // namespace
}  // namespace troupe::model
