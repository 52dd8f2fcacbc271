#include "actors/kv_store.hpp"

#include <sys/mman.h>

#include <cstring>

namespace troupe::actors {

std::string arithmetic_class(const kernels::Ops& ops, DType kv_dtype) {
  const std::string computed = ops.arithmetic_class();
  return kv_dtype == DType::kBF16 ? computed + "+kv-bf16" : computed;
}

KvStore::KvStore(KvShape shape) : shape_(shape) {
  CHECK_GT(size_bytes(), size_t{0});
  // Mapped, not allocated: zero pages cost nothing until a block is used.
  void* memory = mmap(nullptr, size_bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  data_ = static_cast<std::byte*>(memory);
}

KvStore::~KvStore() { munmap(data_, size_bytes()); }

size_t KvStore::size_bytes() const {
  return (shape_.num_blocks + shape_.num_host_slots) * block_bytes();
}

void KvStore::copy(const std::vector<kvcache::Copy>& copies) const {
  for (const kvcache::Copy& copy : copies) {
    std::visit([this](const auto& c) { std::memcpy(whole(c.to), whole(c.from), block_bytes()); },
               copy);
  }
}

}  // namespace troupe::actors
