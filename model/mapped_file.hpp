#pragma once

// A file opened for reading: whole pages of it mapped, small parts copied.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace troupe::model {

/// An open regular file; keeps the descriptor, so a file replaced by rename stays the one opened.
///
/// A file truncated in place is noticed at the next read or map by its size. What is already mapped
/// cannot be protected: touching pages beyond a new end raises SIGBUS, as for every program that
/// maps files. Replace checkpoints by rename, never in place.
class MappedFile {
 public:
  /// @errors kNotFound if it is missing; kInvalidArgument if it is no regular file;
  ///         kResourceExhausted without a free descriptor; kInternal for other failures.
  static Result<MappedFile> open(const std::string& path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] uint64_t size() const { return size_; }

  /// Copies [begin, end). REQUIRES: begin <= end <= size().
  /// @errors kCorrupt if the file has changed its size; kInternal if reading fails.
  [[nodiscard]] Result<std::vector<std::byte>> read(uint64_t begin, uint64_t end) const;

  /// A mapping of the pages around [begin, end) and nothing else; the pointer is that of byte
  /// `begin`. REQUIRES: begin < end <= size(). @errors as read().
  [[nodiscard]] Result<std::shared_ptr<const std::byte>> map(uint64_t begin, uint64_t end) const;

 private:
  MappedFile(std::string path, std::shared_ptr<const int> descriptor, uint64_t size);
  [[nodiscard]] Result<void> check_size() const;

  std::string path_;
  std::shared_ptr<const int> descriptor_;
  uint64_t size_ = 0;
};

/// The whole of a small text file. @errors as MappedFile, and kInvalidArgument beyond `max_bytes`.
Result<std::string> read_text_file(const std::string& path, uint64_t max_bytes);

}  // namespace troupe::model
