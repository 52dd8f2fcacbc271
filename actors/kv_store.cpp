#include "actors/kv_store.hpp"

#include <sys/mman.h>

#include "base/check_ok.hpp"

namespace troupe::actors {

std::string arithmetic_class(const kernels::Ops& ops, DType kv_dtype) {
  const std::string computed = ops.arithmetic_class();
  return kv_dtype == DType::kBF16 ? computed + "+kv-bf16" : computed;
}

KvStore::KvStore(KvShape shape, kernels::Memory& memory) : shape_(shape), memory_(memory) {
  CHECK_GT(size_bytes(), size_t{0});
  if (mapped_bytes() > 0) {
    // Mapped, not allocated: zero pages cost nothing until a block is used.
    void* mapped = mmap(nullptr, mapped_bytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(mapped != MAP_FAILED);
    mapped_ = static_cast<std::byte*>(mapped);
  }
  const size_t blocks_bytes = shape_.num_blocks * block_bytes();
  if (memory_.is_host()) {
    blocks_ = mapped_;
    slots_ = mapped_ + blocks_bytes;
  } else {
    device_ = CHECK_OK(kernels::allocate(memory_, blocks_bytes));
    blocks_ = static_cast<std::byte*>(device_.get());
    slots_ = mapped_;
  }
}

KvStore::~KvStore() {
  if (mapped_ != nullptr) munmap(mapped_, mapped_bytes());
}

size_t KvStore::size_bytes() const {
  return (shape_.num_blocks + shape_.num_host_slots) * block_bytes();
}

size_t KvStore::mapped_bytes() const {
  return memory_.is_host() ? size_bytes() : shape_.num_host_slots * block_bytes();
}

void KvStore::read_block(BlockId id, std::byte* to) const {
  memory_.copy_out(to, whole(id), block_bytes());
  CHECK_OK(memory_.finish());
}

void KvStore::write_block(BlockId id, const std::byte* from) const {
  memory_.copy_in(whole(id), from, block_bytes());
}

void KvStore::copy(const std::vector<kvcache::Copy>& copies) const {
  for (const kvcache::Copy& copy : copies) {
    std::visit([this](const auto& c) { copy_one(c); }, copy);
  }
  CHECK_OK(memory_.finish());  // the host's slots are written
}

void KvStore::copy_one(const kvcache::CopyToHost& copy) const {
  memory_.copy_out(whole(copy.to), whole(copy.from), block_bytes());
}

void KvStore::copy_one(const kvcache::CopyToDevice& copy) const {
  memory_.copy_in(whole(copy.to), whole(copy.from), block_bytes());
}

void KvStore::copy_one(const kvcache::CopyBlock& copy) const {
  // A row of float32, whatever the elements are: their bytes alone matter.
  CHECK_EQ(block_bytes() % sizeof(float), size_t{0});
  const size_t floats = block_bytes() / sizeof(float);
  memory_.copy_rows(Rows(reinterpret_cast<float*>(whole(copy.to)), 1, floats),
                    ConstRows(reinterpret_cast<const float*>(whole(copy.from)), 1, floats));
}

}  // namespace troupe::actors
