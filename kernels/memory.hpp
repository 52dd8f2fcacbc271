#pragma once

// Where the operands of a backend's operations lie, and how they get there: the same calls for the
// host's memory and a device's. Everything is done in the order of the calls, operations of the
// backend among them; errors are kept for finish(). For one thread at a time.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.hpp"
#include "base/tensor_view.hpp"

namespace troupe::kernels {

class Memory {
 public:
  virtual ~Memory() = default;

  /// Whether it is the host's own: what lies there is here, too, and the other way round, so that
  /// nobody needs copy_in(), copy_out() and finish().
  [[nodiscard]] virtual bool is_host() const = 0;

  /// @returns `bytes` (> 0), aligned to 256; to be released before the Memory ends
  /// @errors kResourceExhausted
  virtual Result<void*> allocate(size_t bytes) = 0;
  virtual void release(void* memory) = 0;
  /// How many bytes can still be allocated here, others that use the device left out of account.
  /// @errors kUnavailable if nobody tells
  [[nodiscard]] virtual Result<uint64_t> bytes_left() = 0;

  /// Memory of the host from and to which copies are fastest: pinned for a GPU, where other memory
  /// makes the call wait. `bytes` (> 0), aligned to 256; to be released before the Memory ends.
  /// @errors kResourceExhausted
  virtual Result<void*> allocate_on_host(size_t bytes) = 0;
  virtual void release_on_host(void* memory) = 0;

  /// Host to here. `from` may change when the call returns; if it is of allocate_on_host(), after
  /// finish().
  virtual void copy_in(void* to, const void* from, size_t bytes) = 0;
  /// Here to host; there after finish().
  virtual void copy_out(void* to, const void* from, size_t bytes) = 0;
  /// Within here; must not overlap.
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  /// Same shapes; must not overlap.
  virtual void copy_rows(Rows to, ConstRows from) = 0;
  /// Row from[i] of `cols` elements becomes to[i]: rows to experts in order of the experts, rows
  /// back. REQUIRES: equal sizes; no two rows overlap.
  virtual void move_rows(std::span<const float* const> from, std::span<void* const> to,
                         size_t cols) = 0;

  /// A hint: the calls from here to finish(), start() or the next section come again in step after
  /// step from this `number` of this `owner` (any address), on operands that mostly lie where they
  /// lay. A device may prepare them, and then begins with them only at the end of the section, at
  /// the next copy, or when they are many.
  virtual void begin_section(const void* owner, uint32_t number) = 0;
  /// Operations called so far begin, if they have not, and the section ends: for what is to be
  /// computed while the host does something else. Waits for nothing.
  virtual void start() = 0;
  /// Waits for everything called so far. @errors the first one of any call, for good: what was
  /// computed since may be wrong, and a device that failed must be given up with its process.
  virtual Result<void> finish() = 0;
};

/// Memory::finish(). Where the device failed, or memory lacks that a step needs, the process ends
/// with exit code 1, and the log says why (`device_failed`): what it was to compute is computed by
/// whoever remains.
void finish_or_end(Memory& memory);
[[noreturn]] void end_process(const Error& device_failed);

/// The host's own memory, for the backends of kernels/backend.hpp.
std::unique_ptr<Memory> make_host_memory();

}  // namespace troupe::kernels
