#include "actors/kv_store.hpp"

#include <sys/mman.h>

#include <cstring>

namespace troupe::actors {

KvStore::KvStore(KvShape shape) : shape_(shape) {
  CHECK_GT(size_bytes(), size_t{0});
  // Mapped, not allocated: zero pages cost nothing until a block is used.
  void* memory = mmap(nullptr, size_bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  data_ = static_cast<float*>(memory);
}

KvStore::~KvStore() { munmap(data_, size_bytes()); }

size_t KvStore::size_bytes() const {
  return (shape_.num_blocks + shape_.num_host_slots) * block_floats() * sizeof(float);
}

void KvStore::copy(const std::vector<kvcache::Copy>& copies) const {
  for (const kvcache::Copy& copy : copies) {
    std::visit(
        [this](const auto& c) {
          std::memcpy(whole(c.to), whole(c.from), block_floats() * sizeof(float));
        },
        copy);
  }
}

}  // namespace troupe::actors
