#pragma once

// Pages of 2 MiB and the like under memory that is read often: a fraction of the look-ups of 4 KiB.

#include <cstddef>

namespace troupe {

/// Asks the kernel for them under [memory, memory + bytes), which is anonymous and better not
/// touched yet. A wish: where transparent_hugepage is `never`, or the kernel has none at hand,
/// pages stay small. Memory smaller than one is left alone.
void wish_for_huge_pages(void* memory, size_t bytes);

}  // namespace troupe
