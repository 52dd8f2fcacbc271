#include <cstring>
#include <new>

#include "base/check.hpp"
#include "base/huge_pages.hpp"
#include "base/memory_room.hpp"
#include "kernels/memory.hpp"

namespace troupe::kernels {
namespace {

constexpr std::align_val_t kAlignment{256};

class HostMemory final : public Memory {
 public:
  bool is_host() const override { return true; }

  Result<void*> allocate(size_t bytes) override {
    void* memory = ::operator new(bytes, kAlignment, std::nothrow);
    if (memory == nullptr) {
      return Error{Code::kResourceExhausted, "the host has no " + std::to_string(bytes) + " bytes"};
    }
    wish_for_huge_pages(memory, bytes);
    return memory;
  }
  void release(void* memory) override { ::operator delete(memory, kAlignment); }
  Result<uint64_t> bytes_left() override { return available_memory(); }
  Result<void*> allocate_on_host(size_t bytes) override { return allocate(bytes); }
  void release_on_host(void* memory) override { release(memory); }

  void copy_in(void* to, const void* from, size_t bytes) override { copy(to, from, bytes); }
  void copy_out(void* to, const void* from, size_t bytes) override { copy(to, from, bytes); }

  void copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }

  void copy_rows(Rows to, ConstRows from) override {
    CHECK_EQ(to.rows, from.rows);
    CHECK_EQ(to.cols, from.cols);
    for (size_t r = 0; r < to.rows; ++r) {
      std::memcpy(to.row(r), from.row(r), to.cols * sizeof(float));
    }
  }

  void move_rows(std::span<const float* const> from, std::span<void* const> to,
                 size_t cols) override {
    CHECK_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) std::memcpy(to[i], from[i], cols * sizeof(float));
  }

  void begin_section(const void* /*owner*/, uint32_t /*number*/) override {}
  void start() override {}
  Result<void> finish() override { return {}; }
};

}  // namespace

std::unique_ptr<Memory> make_host_memory() { return std::make_unique<HostMemory>(); }

}  // namespace troupe::kernels
