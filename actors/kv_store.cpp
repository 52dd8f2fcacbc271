#include "actors/kv_store.hpp"

#include <sys/mman.h>

#include "base/huge_pages.hpp"

namespace troupe::actors {

std::string arithmetic_class(const kernels::Ops& ops, DType kv_dtype) {
  const std::string computed = ops.arithmetic_class();
  return kv_dtype == DType::kBF16 ? computed + "+kv-bf16" : computed;
}

KvStore::KvStore(KvShape shape, kernels::Memory& memory, kernels::OwnedMemory blocks)
    : shape_(shape), memory_(memory), owned_(std::move(blocks)) {
  CHECK_GT(size_bytes(), size_t{0});
  if (mapped_bytes() > 0) {
    // Mapped, not allocated: zero pages cost nothing until a block is used.
    void* mapped = mmap(nullptr, mapped_bytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(mapped != MAP_FAILED);
    wish_for_huge_pages(mapped, mapped_bytes());
    mapped_ = static_cast<std::byte*>(mapped);
  }
  CHECK_EQ(memory_.is_host(), owned_ == nullptr);
  blocks_ = memory_.is_host() ? mapped_ : static_cast<std::byte*>(owned_.get());
  slots_ = memory_.is_host() ? mapped_ + shape_.blocks_bytes() : mapped_;
}

KvStore::~KvStore() {
  if (mapped_ != nullptr) munmap(mapped_, mapped_bytes());
}

size_t KvStore::mapped_bytes() const {
  return memory_.is_host() ? size_bytes() : shape_.host_slots_bytes();
}

void KvStore::read_block(BlockId id, std::byte* to) const {
  memory_.copy_out(to, whole(id), block_bytes());
  finish_or_end(memory_);
}

void KvStore::write_block(BlockId id, const std::byte* from) const {
  memory_.copy_in(whole(id), from, block_bytes());
}

void KvStore::copy(const std::vector<kvcache::Copy>& copies) const {
  for (const kvcache::Copy& copy : copies) {
    std::visit([this](const auto& c) { copy_one(c); }, copy);
  }
  finish_or_end(memory_);  // the host's slots are written
}

void KvStore::copy_one(const kvcache::CopyToHost& copy) const {
  memory_.copy_out(whole(copy.to), whole(copy.from), block_bytes());
}

void KvStore::copy_one(const kvcache::CopyToDevice& copy) const {
  memory_.copy_in(whole(copy.to), whole(copy.from), block_bytes());
}

void KvStore::copy_one(const kvcache::CopyBlock& copy) const {
  memory_.copy(whole(copy.to), whole(copy.from), block_bytes());
}

}  // namespace troupe::actors
