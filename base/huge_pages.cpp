#include "base/huge_pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace troupe {

void wish_for_huge_pages(void* memory, size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20U;  // of x86, and of ARM with pages of 4 KiB
  if (bytes < kHugePage) return;
  // Whole pages, those at the ends included: pieces of a mapping with other wishes than their
  // neighbours count towards vm.max_map_count.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + bytes + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace troupe
