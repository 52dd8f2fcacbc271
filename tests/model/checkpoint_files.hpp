#pragma once

// Writes tiny checkpoints for tests, right or wrong in one chosen point.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

/// A directory that is deleted with its contents at the end of the test.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string operator/(std::string_view name) const {
    return path_ + "/" + std::string(name);
  }

 private:
  std::string path_;
};

void write_file(const std::string& path, std::string_view content);
std::string read_file(const std::string& path);

/// A tensor to be written.
struct TestTensor {
  std::string dtype = "F32";
  std::vector<uint64_t> shape;
  std::string bytes;
};

/// By name; std::map, so that files are the same in every run.
using TestTensors = std::map<std::string, TestTensor>;

/// F32 tensor whose i-th value is first + step * i.
TestTensor ramp(std::vector<uint64_t> shape, float first = 0, float step = 1);
/// Bytes of float32 values as BF16 (exact for small integers).
TestTensor ramp_bf16(std::vector<uint64_t> shape, float first = 0, float step = 1);

/// The text before the tensors' data: length and JSON.
std::string safetensors_prefix(std::string_view header_json);
/// A whole file.
std::string safetensors(const TestTensors& tensors);

/// What a whole file holds. Fails the test if it is damaged.
TestTensors tensors_of(const std::string& file);

/// The keys of a config.json, each value as JSON text.
class TestConfig {
 public:
  explicit TestConfig(std::map<std::string, std::string> keys) : keys_(std::move(keys)) {}
  TestConfig& set(const std::string& key, const std::string& json);
  TestConfig& erase(const std::string& key);
  [[nodiscard]] std::string json() const;

 private:
  std::map<std::string, std::string> keys_;
};

/// Two layers (one dense, one of 4 experts), D 8, H 2, dn 4, dr 2, dv 3, kl 6, ql 5, m 7, V 16.
TestConfig tiny_v3_config();
TestTensors tiny_v3_tensors();

/// config.json and model.safetensors in `directory`.
void write_checkpoint(const std::string& directory, const TestConfig& config,
                      const TestTensors& tensors);

}  // namespace troupe::model
