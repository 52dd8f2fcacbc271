// Checkpoint directories that lie: each must be refused by Checkpoint::open with an error that
// names what is wrong, and never crash. config.json's own lies are in config_test.cpp, single
// headers' in safetensors_test.cpp; here they meet the file system and each other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "model/weights.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kGate = "model.layers.1.mlp.gate.weight";

/// The valid checkpoint in two files with an index, to be damaged.
void write_sharded(const std::string& directory) {
  TestTensors first;
  TestTensors second;
  std::string weight_map;
  for (const auto& [name, tensor] : tiny_v3_tensors()) {
    const bool in_first = name < "model.layers.1.mlp.experts";
    (in_first ? first : second)[name] = tensor;
    weight_map += (weight_map.empty() ? "\"" : ",\"") + name + "\":\"" + (in_first ? "a" : "b") +
                  ".safetensors\"";
  }
  write_file(directory + "/config.json", tiny_v3_config().json());
  write_file(directory + "/a.safetensors", safetensors(first));
  write_file(directory + "/b.safetensors", safetensors(second));
  write_file(directory + "/model.safetensors.index.json", "{\"weight_map\":{" + weight_map + "}}");
}

void replace_in(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = read_file(path);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos);
  write_file(path, text.replace(at, from.size(), to));
}

struct HostileDirectory {
  const char* name;
  const char* mentions;
  std::function<void(const std::string& directory)> damage;  ///< of a valid sharded checkpoint
};

class Hostile : public ::testing::TestWithParam<HostileDirectory> {};

TEST_P(Hostile, CheckpointIsRefusedWithItsReason) {
  TempDir dir;
  write_sharded(dir.path());
  ASSERT_TRUE(Checkpoint::open(dir.path()).ok());
  GetParam().damage(dir.path());
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_THAT(checkpoint.error().message, HasSubstr(GetParam().mentions));
  EXPECT_LT(checkpoint.error().message.size(), 1500U) << "a message is for reading";
}

constexpr const char* kIndex = "/model.safetensors.index.json";

/// Replaces the whole index.
HostileDirectory index(const char* name, const char* mentions, std::string text) {
  return {name, mentions, [=](const std::string& d) { write_file(d + kIndex, text); }};
}

/// Replaces text of the index.
HostileDirectory index_edit(const char* name, const char* mentions, const char* from,
                            const char* to) {
  return {name, mentions, [=](const std::string& d) { replace_in(d + kIndex, from, to); }};
}

/// Replaces the second file by one of these bytes.
HostileDirectory shard(const char* name, const char* mentions, std::string bytes) {
  return {name, mentions, [=](const std::string& d) { write_file(d + "/b.safetensors", bytes); }};
}

/// Replaces text of the second file's header (of the same length).
HostileDirectory shard_edit(const char* name, const char* mentions, const char* from,
                            const char* to) {
  return {name, mentions, [=](const std::string& d) {
            ASSERT_EQ(std::strlen(from), std::strlen(to));
            replace_in(d + "/b.safetensors", from, to);
          }};
}

/// A single-file checkpoint with changed tensors.
HostileDirectory tensors(const char* name, const char* mentions,
                         std::function<void(TestTensors&)> change) {
  return {name, mentions, [=](const std::string& d) {
            TestTensors all = tiny_v3_tensors();
            change(all);
            write_checkpoint(d, tiny_v3_config(), all);
          }};
}

/// The same tensors under a changed config.
HostileDirectory config(const char* name, const char* mentions, const char* key,
                        const char* value) {
  return {name, mentions, [=](const std::string& d) {
            write_file(d + "/config.json", tiny_v3_config().set(key, value).json());
          }};
}

std::string length_prefix(uint64_t length) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out;
}

INSTANTIATE_TEST_SUITE_P(
    Files, Hostile,
    ::testing::Values(HostileDirectory{"NoConfig", "config.json",
                                       [](const std::string& d) {
                                         fs::remove(d + "/config.json");
                                       }},
                      HostileDirectory{"ConfigIsDirectory", "config.json is not a regular file",
                                       [](const std::string& d) {
                                         fs::remove(d + "/config.json");
                                         fs::create_directory(d + "/config.json");
                                       }},
                      HostileDirectory{"ConfigIsPipe", "config.json is not a regular file",
                                       [](const std::string& d) {
                                         fs::remove(d + "/config.json");
                                         ASSERT_EQ(::mkfifo((d + "/config.json").c_str(), 0600), 0);
                                       }},
                      HostileDirectory{"ConfigIsDangling", "config.json",
                                       [](const std::string& d) {
                                         fs::remove(d + "/config.json");
                                         fs::create_symlink("nowhere", d + "/config.json");
                                       }},
                      HostileDirectory{"ConfigPointsToItself", "config.json",
                                       [](const std::string& d) {
                                         fs::remove(d + "/config.json");
                                         fs::create_symlink("config.json", d + "/config.json");
                                       }},
                      HostileDirectory{
                          "ConfigIsEmpty", "config.json",
                          [](const std::string& d) { write_file(d + "/config.json", ""); }},
                      HostileDirectory{"ConfigIsCut", "config.json",
                                       [](const std::string& d) {
                                         const std::string text = read_file(d + "/config.json");
                                         write_file(d + "/config.json",
                                                    text.substr(0, text.size() / 2));
                                       }},
                      HostileDirectory{"ConfigIsHuge", "more than the limit",
                                       [](const std::string& d) {
                                         fs::resize_file(d + "/config.json", 1 << 21);
                                       }},
                      HostileDirectory{"ConfigIsDeep", "too deep",
                                       [](const std::string& d) {
                                         write_file(d + "/config.json",
                                                    "{\"a\":" + std::string(500000, '['));
                                       }},
                      HostileDirectory{"ConfigIsWeights", "config.json",
                                       [](const std::string& d) {
                                         fs::copy_file(d + "/a.safetensors", d + "/config.json",
                                                       fs::copy_options::overwrite_existing);
                                       }},
                      HostileDirectory{
                          "KeyIsLong", "...",
                          [](const std::string& d) {
                            write_file(d + "/config.json",
                                       tiny_v3_config().set(std::string(100000, 'k'), "1").json());
                          }},
                      HostileDirectory{"KeyIsTerminalCode", "\\x1b[2J",
                                       [](const std::string& d) {
                                         write_file(d + "/config.json",
                                                    tiny_v3_config().set("\\u001b[2J", "1").json());
                                       }},
                      config("MoreLayers", "model.layers.2.", "num_hidden_layers", "3"),
                      config("ManyMoreLayers", "model.layers.2.", "num_hidden_layers", "1024"),
                      config("MoreExperts", kGate, "n_routed_experts", "65536"),
                      config("AllLayersSparse", "model.layers.0.mlp.gate.weight",
                             "first_k_dense_replace", "0"),
                      config("AllLayersDense", "model.layers.1.mlp.gate_proj.weight",
                             "first_k_dense_replace", "2"),
                      config("WiderHeads", "q_b_proj.weight", "qk_nope_head_dim", "4096"),
                      config("LargerVocabulary", "model.embed_tokens.weight", "vocab_size",
                             "16777216"),
                      config("WithBias", "model.layers.0.self_attn.q_a_proj.bias", "attention_bias",
                             "true"),
                      config("WithoutQueryRank", "model.layers.0.self_attn.q_proj.weight",
                             "q_lora_rank", "null"),
                      config("NoSharedExperts", "shared_experts", "n_shared_experts", "0"),
                      HostileDirectory{"NoWeights", "model.safetensors",
                                       [](const std::string& d) { fs::remove(d + kIndex); }},
                      HostileDirectory{"PickledWeights", "safetensors checkpoints only",
                                       [](const std::string& d) {
                                         fs::remove(d + kIndex);
                                         write_file(d + "/pytorch_model.bin", "PK");
                                       }},
                      HostileDirectory{"SingleFileIsDirectory",
                                       "model.safetensors is not a regular file",
                                       [](const std::string& d) {
                                         fs::create_directory(d + "/model.safetensors");
                                       }},
                      HostileDirectory{
                          "SingleFileIsPipe", "model.safetensors is not a regular file",
                          [](const std::string& d) {
                            ASSERT_EQ(::mkfifo((d + "/model.safetensors").c_str(), 0600), 0);
                          }},
                      HostileDirectory{
                          "ShardIsMissing", "b.safetensors",
                          [](const std::string& d) { fs::remove(d + "/b.safetensors"); }},
                      HostileDirectory{"ShardIsDirectory", "b.safetensors is not a regular file",
                                       [](const std::string& d) {
                                         fs::remove(d + "/b.safetensors");
                                         fs::create_directory(d + "/b.safetensors");
                                       }},
                      HostileDirectory{"ShardsAreSwapped", "where weight_map sends it",
                                       [](const std::string& d) {
                                         fs::rename(d + "/a.safetensors", d + "/c");
                                         fs::rename(d + "/b.safetensors", d + "/a.safetensors");
                                         fs::rename(d + "/c", d + "/b.safetensors");
                                       }},
                      HostileDirectory{
                          "ShardIsGitLfsPointer", "is this a safetensors file?",
                          [](const std::string& d) {
                            write_file(
                                d + "/b.safetensors",
                                "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
                          }},
                      HostileDirectory{"ShardIsTruncatedByAByte", "b.safetensors",
                                       [](const std::string& d) {
                                         fs::resize_file(d + "/b.safetensors",
                                                         fs::file_size(d + "/b.safetensors") - 1);
                                       }},
                      HostileDirectory{"ShardHasAByteMore", "b.safetensors",
                                       [](const std::string& d) {
                                         fs::resize_file(d + "/b.safetensors",
                                                         fs::file_size(d + "/b.safetensors") + 1);
                                       }},
                      HostileDirectory{"ShardIsAMostlySparseFile", "b.safetensors",
                                       [](const std::string& d) {
                                         fs::resize_file(d + "/b.safetensors", uint64_t{1} << 40);
                                       }},
                      index("IndexIsEmpty", "index.json", ""),
                      index("IndexIsList", "weight_map", "[]"),
                      index("IndexWithoutMap", "weight_map", R"({"metadata":{}})"),
                      index("MapIsList", "weight_map", R"({"weight_map":[]})"),
                      index("MapIsEmpty", "model.embed_tokens.weight", R"({"weight_map":{}})"),
                      index("FileIsNumber", "\"x\"", R"({"weight_map":{"x":7}})"),
                      index("FileIsEmpty", "\"x\"", R"({"weight_map":{"x":""}})"),
                      index("FileIsParent", "../b.safetensors",
                            R"({"weight_map":{"x":"../b.safetensors"}})"),
                      index("FileIsAbsolute", "/etc/passwd",
                            R"({"weight_map":{"x":"/etc/passwd"}})"),
                      index("FileIsSubfolder", "s/b.safetensors",
                            R"({"weight_map":{"x":"s/b.safetensors"}})"),
                      index("FileIsDotDot", "..", R"({"weight_map":{"x":".."}})"),
                      index("FileHasNul", "\"x\"",
                            R"({"weight_map":{"x":"a.safetensors\u0000b"}})"),
                      index("FileIsConfig", "config.json", R"({"weight_map":{"x":"config.json"}})"),
                      index("FileIsLong", "plain file name",
                            R"({"weight_map":{"x":")" + std::string(3000, 'a') + R"("}})"),
                      index_edit("TensorIsListedTwice", "occurs twice", "{\"weight_map\":{",
                                 "{\"weight_map\":{\"lm_head.weight\":\"a.safetensors\","),
                      index_edit("TensorIsNotThere", "phantom", "{\"weight_map\":{",
                                 "{\"weight_map\":{\"phantom\":\"a.safetensors\","),
                      index_edit("TensorIsNotListed", "model.norm.weight",
                                 ",\"model.norm.weight\":\"b.safetensors\"", ""),
                      index_edit("FileIsNotThere", "z.safetensors", "b.safetensors",
                                 "z.safetensors"),
                      shard("ShardIsEmpty", "b.safetensors", ""),
                      shard("ShardIsShort", "b.safetensors", "1234567"),
                      shard("ShardIsLengthOnly", "b.safetensors", length_prefix(2)),
                      shard("HeaderLengthIsHuge", "the limit", length_prefix(UINT64_MAX)),
                      shard("HeaderLengthWraps", "the limit", length_prefix(UINT64_MAX - 7) + "{}"),
                      shard("HeaderLengthIsOneTooMany", "truncated", length_prefix(3) + "{}"),
                      shard("HeaderIsEmpty", "not valid JSON", length_prefix(0)),
                      shard("HeaderIsGarbage", "not valid JSON", length_prefix(4) + "\x80\x02}q"),
                      shard("HeaderIsDeep", "too deep",
                            length_prefix(60000) + std::string(30000, '[') +
                                std::string(30000, ']')),
                      shard_edit("DtypeIsUnknown", "F33", "\"dtype\":\"F32\"", "\"dtype\":\"F33\""),
                      shard_edit("DtypeIsLarger", "does not fit", "\"dtype\":\"F32\"",
                                 "\"dtype\":\"F64\""),
                      shard_edit("DtypeIsInteger", "I32", "\"dtype\":\"F32\"", "\"dtype\":\"I32\""),
                      shard_edit("DtypeIsComplex", "C64", "\"dtype\":\"F32\"", "\"dtype\":\"C64\""),
                      shard_edit("ShapeIsTransposed", "[8, 7]", "\"shape\":[7,8]",
                                 "\"shape\":[8,7]"),
                      shard_edit("ShapeIsFlat", "[56]", "\"shape\":[7,8]", "\"shape\":[ 56]"),
                      shard_edit("OffsetsOverlap", "no gap and no overlap", "[224,448]",
                                 "[  0,224]"),
                      shard_edit("KeyIsMisspelt", "dtipe", "\"dtype\"", "\"dtipe\""),
                      tensors("ExpertIsMissing", "model.layers.1.mlp.experts.3.down_proj.weight",
                              [](TestTensors& t) {
                                t.erase("model.layers.1.mlp.experts.3.down_proj.weight");
                              }),
                      tensors("ExpertIsExtra", "model.layers.1.mlp.experts.4.down_proj.weight",
                              [](TestTensors& t) {
                                t["model.layers.1.mlp.experts.4.down_proj.weight"] = ramp({8, 7});
                              }),
                      tensors("ExpertNumberOverflows", "experts.99999999999999999999",
                              [](TestTensors& t) {
                                t["model.layers.1.mlp.experts.99999999999999999999.w"] = ramp({1});
                              }),
                      tensors("LayerNumberOverflows", "model.layers.99999999999999999999",
                              [](TestTensors& t) {
                                t["model.layers.99999999999999999999.w"] = ramp({1});
                              }),
                      tensors("LayerNumberIsNegative", "model.layers.-1",
                              [](TestTensors& t) { t["model.layers.-1.w"] = ramp({1}); }),
                      tensors("NormIsMatrix", "model.norm.weight",
                              [](TestTensors& t) {
                                t["model.norm.weight"] = ramp({8, 1});
                              }),
                      tensors("NormIsScalar", "model.norm.weight",
                              [](TestTensors& t) { t["model.norm.weight"] = ramp({}); }),
                      tensors("NormIsEmpty", "model.norm.weight",
                              [](TestTensors& t) { t["model.norm.weight"] = ramp({0}); }),
                      tensors("NormIsFp8", "model.norm.weight",
                              [](TestTensors& t) {
                                t["model.norm.weight"] = {"F8_E4M3", {8}, std::string(8, '8')};
                              }),
                      tensors("GateIsFp8WithoutConfig", kGate,
                              [](TestTensors& t) {
                                t[kGate] = {"F8_E4M3", {4, 8}, std::string(32, '8')};
                              }),
                      tensors("FusedHalfMissing", "model.layers.1.mlp.experts.down_proj",
                              [](TestTensors& t) {
                                t["model.layers.1.mlp.experts.gate_up_proj"] = ramp({4, 14, 8});
                              }),
                      tensors("FusedWrongCount", "[5, 14, 8]",
                              [](TestTensors& t) {
                                t["model.layers.1.mlp.experts.gate_up_proj"] = ramp({5, 14, 8});
                              }),
                      tensors("Adapter", "lora_A",
                              [](TestTensors& t) {
                                t["model.layers.0.self_attn.o_proj.lora_A"] = ramp({8});
                              }),
                      tensors("NothingButMetadata", "model.embed_tokens.weight",
                              [](TestTensors& t) { t.clear(); })),
    [](const auto& info) { return std::string(info.param.name); });

TEST(HostileCheckpoint, DirectoryThatIsNotThereIsAnError) {
  for (const char* path : {"", "/nonexistent/model", "/dev/null", "/proc/self/mem"}) {
    const auto checkpoint = Checkpoint::open(path);
    ASSERT_FALSE(checkpoint.ok()) << path;
    EXPECT_THAT(checkpoint.error().message, HasSubstr("config.json"));
  }
}

/// Every byte of a small valid file changed in turn: an error or a well-formed checkpoint, never a
/// crash; with the loads that follow a successful open.
TEST(HostileCheckpoint, AnyByteOfAHeaderMayBeWrong) {
  TempDir dir;
  write_checkpoint(dir.path(), tiny_v3_config(), tiny_v3_tensors());
  const std::string intact = read_file(dir / "model.safetensors");
  std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&file](size_t at, char byte) {
    file.seekp(static_cast<std::streamoff>(at)).put(byte).flush();
  };
  uint64_t header = 0;
  std::memcpy(&header, intact.data(), 8);
  size_t refused = 0;
  size_t taken = 0;
  for (size_t i = 0; i < 8 + header; ++i) {
    put(i, static_cast<char>(intact[i] ^ (1 << (i % 7))));
    const auto checkpoint = Checkpoint::open(dir.path());
    (checkpoint.ok() ? taken : refused) += 1;
    if (checkpoint.ok()) {
      EXPECT_TRUE(checkpoint->load_router().ok());
      EXPECT_TRUE(checkpoint->load_expert(1, 0).ok());
    }
    put(i, intact[i]);
  }
  EXPECT_GT(refused, header * 9 / 10);
  EXPECT_LT(taken, 20U) << "only changes inside __metadata__ are harmless";
}

}  // namespace
}  // namespace troupe::model
