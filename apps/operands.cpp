#include "apps/operands.hpp"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/check.hpp"
#include "base/random.hpp"

namespace troupe::apps {
namespace {

constexpr size_t kAlignment = 256;

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Repeats a pattern. What is there already is copied, so that little goes to a device.
void fill(kernels::Memory& memory, void* to, size_t bytes, const void* pattern, size_t period) {
  size_t done = std::min(period, bytes);
  memory.copy_in(to, pattern, done);
  while (done < bytes) {
    const size_t more = std::min(done, bytes - done);
    memory.copy(static_cast<std::byte*>(to) + done, to, more);
    done += more;
  }
}

}  // namespace

size_t bytes_beyond_caches() {
  const auto last_level = static_cast<size_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
  return std::max(size_t{256} << 20U, 4 * last_level);
}

Result<std::unique_ptr<Operands>> Operands::make(const kernels::Backend& backend,
                                                 size_t cold_bytes) {
  kernels::Memory& memory = *backend.memory;
  std::unique_ptr<Operands> operands(new Operands(backend));
  operands->cold_bytes_ = round_up(cold_bytes);
  operands->cold_ = TRY(kernels::allocate(memory, operands->cold_bytes_));
  const std::vector<std::byte> pattern(size_t{1} << 20U, std::byte{0x31});
  fill(memory, operands->cold_.get(), operands->cold_bytes_, pattern.data(), pattern.size());
  return operands;
}

void* Operands::array(size_t bytes, Allocate* allocate) {
  if (!state_.ok()) return nullptr;
  Result<kernels::OwnedMemory> memory = allocate(*backend_.memory, bytes);
  if (!memory.ok()) {
    state_ = std::move(memory).error();
    return nullptr;
  }
  return arrays_.emplace_back(std::move(*memory)).get();
}

float* Operands::values(size_t n) {
  constexpr size_t kPeriod = 4096;
  auto* to = room<float>(n);
  if (to == nullptr) return nullptr;
  std::vector<float> numbers(kPeriod);
  for (size_t i = 0; i < kPeriod; ++i) numbers[i] = static_cast<float>(random_uniform(1, i)) - 0.5F;
  fill(*backend_.memory, to, n * sizeof(float), numbers.data(), kPeriod * sizeof(float));
  return to;
}

float* Operands::on_host(size_t n) {
  auto* to = static_cast<float*>(array(n * sizeof(float), &kernels::allocate_on_host));
  if (to != nullptr) std::fill_n(to, n, 0.25F);
  return to;
}

const std::byte* Operands::cold(size_t bytes) {
  const size_t piece = round_up(bytes);
  CHECK_LE(piece, cold_bytes_);
  if (at_ + piece > cold_bytes_) at_ = 0;
  return static_cast<const std::byte*>(cold_.get()) + std::exchange(at_, at_ + piece);
}

}  // namespace troupe::apps
