#pragma once

// All tensors of a checkpoint directory, by name, whatever files they lie in.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/mapped_file.hpp"
#include "model/safetensors.hpp"

namespace troupe::model {

/// Keys of a file's `__metadata__` that Troupe writes: which run wrote the file, and for people
/// what that run was. Files of one directory with different kRunKey do not belong together.
inline constexpr std::string_view kRunKey = "troupe.run";
inline constexpr std::string_view kMadeByKey = "troupe.made_by";

/// Who wrote a file.
struct WritingRun {
  std::string id;    ///< kRunKey of its metadata, or ""
  std::string text;  ///< for messages
};

/// Bytes of one file.
struct FileRange {
  uint32_t file = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
};

/// A tensor and the file that holds it.
struct StoredTensor {
  TensorHeader header;
  uint32_t file = 0;

  [[nodiscard]] FileRange whole() const { return {file, header.begin, header.end}; }
};

/// Where mapped ranges lie in memory, in the order they were asked for, and what keeps them there.
struct MappedRanges {
  std::vector<const std::byte*> addresses;
  std::shared_ptr<const void> storage;
};

/// The files and tensor headers of a checkpoint. Opening reads headers only.
class TensorStore {
 public:
  /// Opens model.safetensors, or the files that model.safetensors.index.json lists.
  /// @errors kNotFound naming the missing file or tensor; kCorrupt, also if different
  /// runs of Troupe wrote the files; kUnsupported.
  static Result<TensorStore> open(const std::string& directory);

  /// Sorted by name.
  [[nodiscard]] std::span<const StoredTensor> tensors() const { return tensors_; }
  /// nullptr if there is none. Logarithmic in the number of tensors.
  [[nodiscard]] const StoredTensor* find(std::string_view name) const;
  /// Tensors that lie in the files but that the index does not list.
  [[nodiscard]] uint64_t num_unlisted() const { return num_unlisted_; }
  /// "tensor "x" in model.safetensors", for messages.
  [[nodiscard]] std::string name_of(const StoredTensor& tensor) const;

  /// A copy of the bytes of a range, which must lie within a tensor.
  [[nodiscard]] Result<std::vector<std::byte>> read(const FileRange& range) const;

  /// Maps the pages of the ranges and no others; ranges that share or touch pages share a mapping,
  /// which keeps the number of mappings small (the system allows 65,530 per process).
  [[nodiscard]] Result<MappedRanges> map(std::span<const FileRange> ranges) const;

  /// A digest over names, types, shapes and samples of the data (16 of 4 KiB per file).
  [[nodiscard]] Result<uint64_t> digest() const;

 private:
  TensorStore() = default;
  Result<void> open_single(const std::string& path);
  Result<void> open_sharded(const std::string& directory, const std::string& index_path);
  Result<std::vector<TensorHeader>> add_file(const std::string& path);

  std::vector<MappedFile> files_;
  WritingRun run_;  ///< of the first file
  std::vector<StoredTensor> tensors_;
  uint64_t num_unlisted_ = 0;
};

}  // namespace troupe::model
