#pragma once

#include <algorithm>
#include <climits>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "kernels/memory.hpp"

namespace troupe::kernels {

/// Behaves like a device's, over the host's, so that the CPUs' operations can compute there; counts
/// what is allocated.
class OtherMemory : public Memory {
 public:
  bool is_host() const override { return false; }
  Result<void*> allocate(size_t bytes) override {
    if (allocations_left == 0) return Error{Code::kResourceExhausted, "full"};
    --allocations_left;
    ++num_allocated;
    ++num_allocations;
    num_bytes += bytes;
    void* memory = TRY(host_->allocate(bytes));
    held_[memory] = bytes;
    return memory;
  }
  void release(void* memory) override {
    --num_allocated;
    held_.erase(memory);
    host_->release(memory);
  }
  Result<uint64_t> bytes_left() override { return left; }
  Result<void*> allocate_on_host(size_t bytes) override {
    if (allocations_left_on_host == 0) return Error{Code::kResourceExhausted, "the host is full"};
    --allocations_left_on_host;
    ++num_allocations_on_host;
    void* memory = TRY(host_->allocate_on_host(bytes));
    held_on_host_[memory] = bytes;
    return memory;
  }
  void release_on_host(void* memory) override {
    held_on_host_.erase(memory);
    host_->release_on_host(memory);
  }
  void copy_in(void* to, const void* from, size_t bytes) override {
    num_unpinned += is_pinned(from) ? 0 : 1;
    host_->copy_in(to, from, bytes);
  }
  /// Arrives with finish(), as it may from a device.
  void copy_out(void* to, const void* from, size_t bytes) override {
    num_unpinned += is_pinned(to) ? 0 : 1;
    const auto* first = static_cast<const std::byte*>(from);
    arriving_.push_back({to, {first, first + bytes}});
  }
  void copy(void* to, const void* from, size_t bytes) override { host_->copy(to, from, bytes); }
  void copy_rows(Rows to, ConstRows from) override { host_->copy_rows(to, from); }
  void move_rows(std::span<const float* const> from, std::span<void* const> to,
                 size_t cols) override {
    host_->move_rows(from, to, cols);
  }
  void begin_section(const void* /*owner*/, uint32_t /*number*/) override {}
  void start() override { ++num_started; }
  Result<void> finish() override {
    for (const Arriving& a : arriving_) std::memcpy(a.to, a.bytes.data(), a.bytes.size());
    arriving_.clear();
    return failure;
  }

  /// Whether it is of allocate_on_host().
  [[nodiscard]] bool is_pinned(const void* memory) const {
    return std::ranges::any_of(held_on_host_, [memory](const auto& held) {
      const auto* first = static_cast<const std::byte*>(held.first);
      return memory >= first && memory < first + held.second;
    });
  }
  [[nodiscard]] size_t bytes_held() const { return sum(held_); }
  [[nodiscard]] size_t bytes_held_on_host() const { return sum(held_on_host_); }

  int num_allocated = 0;    ///< and not released
  int num_allocations = 0;  ///< ever
  int num_allocations_on_host = 0;
  size_t num_bytes = 0;  ///< of all that were ever allocated
  int num_started = 0;   ///< calls of start()
  int num_unpinned = 0;  ///< copies in and out of other memory
  /// Then there is no room.
  int allocations_left = INT_MAX, allocations_left_on_host = INT_MAX;
  Result<void> failure = {};  ///< of the device
  Result<uint64_t> left = Error{Code::kUnavailable, "nobody counted"};

 private:
  struct Arriving {
    void* to;
    std::vector<std::byte> bytes;
  };
  using BytesOf = std::map<void*, size_t>;
  static size_t sum(const BytesOf& held) {
    size_t bytes = 0;
    for (const auto& [memory, size] : held) bytes += size;
    return bytes;
  }

  std::unique_ptr<Memory> host_ = make_host_memory();
  std::vector<Arriving> arriving_;
  BytesOf held_, held_on_host_;
};

}  // namespace troupe::kernels
