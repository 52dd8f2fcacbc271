#include "actors/kv_store.hpp"

#include <sys/mman.h>

#include "base/huge_pages.hpp"

namespace troupe::actors {

std::string arithmetic_class(const kernels::Ops& ops, DType kv_dtype) {
  const std::string computed = ops.arithmetic_class();
  return kv_dtype == DType::kBF16 ? computed + "+kv-bf16" : computed;
}

Result<KvOnDevice> allocate_kv(const KvShape& shape, kernels::Memory& memory) {
  KvOnDevice kv{.blocks = TRY(kernels::allocate(memory, shape.blocks_bytes())), .host_slots = {}};
  if (shape.num_host_slots > 0) {
    kv.host_slots = TRY(kernels::allocate_on_host(memory, shape.host_slots_bytes()));
  }
  return kv;
}

KvStore::KvStore(KvShape shape, kernels::Memory& memory, KvOnDevice on_device)
    : shape_(shape), memory_(memory), on_device_(std::move(on_device)) {
  CHECK_GT(size_bytes(), size_t{0});
  if (!memory_.is_host()) {
    CHECK(on_device_.blocks != nullptr);
    CHECK_EQ(on_device_.host_slots != nullptr, shape_.num_host_slots > 0);
    blocks_ = static_cast<std::byte*>(on_device_.blocks.get());
    slots_ = static_cast<std::byte*>(on_device_.host_slots.get());
    return;
  }
  // Mapped, not allocated: zero pages cost nothing until a block is used.
  void* mapped = mmap(nullptr, size_bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(mapped != MAP_FAILED);
  wish_for_huge_pages(mapped, size_bytes());
  mapped_ = static_cast<std::byte*>(mapped);
  blocks_ = mapped_;
  slots_ = mapped_ + shape_.blocks_bytes();
}

KvStore::~KvStore() {
  if (mapped_ != nullptr) munmap(mapped_, size_bytes());
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
    std::visit([this](const auto& c) { begin_copy(c, *this); }, copy);
  }
  finish_or_end(memory_);  // what it took is the price of a copy, here and for slots read back
}

void KvStore::begin_copy(const kvcache::CopyToHost& copy, const KvStore& host_tier) const {
  memory_.copy_out(host_tier.whole(copy.to), whole(copy.from), block_bytes());
}

void KvStore::begin_copy(const kvcache::CopyToDevice& copy, const KvStore& host_tier) const {
  memory_.copy_in(whole(copy.to), host_tier.whole(copy.from), block_bytes());
}

void KvStore::begin_copy(const kvcache::CopyBlock& copy, const KvStore&) const {
  memory_.copy(whole(copy.to), whole(copy.from), block_bytes());
}

}  // namespace troupe::actors
