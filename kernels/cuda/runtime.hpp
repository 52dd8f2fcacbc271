#pragma once

// What CudaOps asks of the device beside kernels: memory, uploads, the first error. The CUDA one is
// in cuda_runtime.cu; the tests have one over host memory for the emulator.

#include <array>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/cuda/launch_graphs.hpp"
#include "kernels/cuda/simt.cuh"
#include "kernels/memory.hpp"

namespace troupe::kernels::cuda {

class Runtime : public Memory {
 public:
  [[nodiscard]] bool is_host() const override { return false; }
  /// The kind of device, as in its arithmetic class: "sm80", "sm90"...
  [[nodiscard]] virtual const char* target() const = 0;
  /// Blocks that run at the same time, if one fills a multiprocessor.
  [[nodiscard]] virtual unsigned num_multiprocessors() const = 0;
  /// For what is called next, behind all that was called before.
  simt::Stream stream() {
    start_kept();
    return raw_stream();
  }

  void begin_section(const void* owner, uint32_t number) final;
  void start() final;

  /// Before the uploads of an operation, which must fit into half of the staging memory together.
  void begin_operation() { uploaded_ = 0; }
  /// Small host data on the device, for the kernels of this operation. Allocates nothing. What was
  /// uploaded before and is still there (descriptions of the same work, a step ago) is not copied
  /// again. @returns an address that is a multiple of 16; on errors nullptr, and the error is kept
  template <class T>
  const T* upload(std::span<const T> values) {
    return static_cast<const T*>(upload_bytes(values.data(), values.size_bytes()));
  }

  /// Keeps the first error for finish(). @param what nullptr: none
  virtual void keep_error(const char* what) = 0;
  [[nodiscard]] virtual bool failed() const = 0;

  /// Asked while the host waits for the device, which itself waits for others: what is wrong with
  /// those, or "". What it says is the first error. @param wrong nullptr: nobody
  void watch(std::function<std::string()> wrong) { watched_ = std::move(wrong); }

  /// Behind all that was called before. Kept back in a section, where graphs are used.
  template <class Kernel>
  void launch(Kernel kernel, simt::Grid grid) {
    if (failed() || grid.x == 0 || grid.y == 0) return;
#if __has_builtin(__builtin_clear_padding)
    __builtin_clear_padding(&kernel);  // else launches that are the same may look changed
#endif
    const simt::Launch launch = simt::launch_of(kernel, grid);
    if (launch.shared_bytes > simt::kDefaultShared) allow_shared(launch);
    kept_.add(launch, simt::parameters_of(kernel));
    if (!section_ || kept_.size() == kMaxKept) start_kept();
  }

  void copy_rows(Rows to, ConstRows from) override;
  void move_rows(std::span<const float* const> from, std::span<void* const> to,
                 size_t cols) override;

 protected:
  /// Before the first launch.
  void use_graphs(bool whether) { uses_graphs_ = whether; }
  /// Where launches go that are started; kept back ones are not.
  virtual simt::Stream raw_stream() = 0;
  /// Of copies and whatever else needs what is kept back.
  void start_kept();
  /// Of finish(), when the device computes nothing.
  void end_section();
  [[nodiscard]] bool is_watched() const { return watched_ != nullptr; }
  /// @returns whether all is well
  bool ask_watched() {
    if (const std::string wrong = watched_(); !wrong.empty()) keep_error(wrong.c_str());
    return !failed();
  }
  /// Pinned host memory and its copy on the device, used in turns by halves: one is written again
  /// when the copies from it are done, and read again in the order of the stream. What was uploaded
  /// since the last start() goes over in one copy before the launches that were kept back.
  struct Staging {
    std::byte* host = nullptr;    ///< [2 * half_bytes]
    std::byte* device = nullptr;  ///< [2 * half_bytes], aligned to 16
    size_t half_bytes = 0;        ///< a multiple of 16
  };
  static constexpr size_t kUploadAlignment = 16;
  /// Once, before the first upload.
  void stage_in(const Staging& staging) { staging_ = staging; }

 private:
  /// Copies these bytes of the staging memory to the device, in the order of the stream.
  virtual void send(size_t first, size_t bytes) = 0;
  /// Notes where the stream is: behind all copies from this half, 0 or 1.
  virtual void mark(unsigned half) = 0;
  /// Until the stream is past the last mark of this half; at once if there is none.
  virtual void wait_for(unsigned half) = 0;

  /// Blocks of this kernel ask for more than simt::kDefaultShared.
  virtual void allow_shared(const simt::Launch& launch) = 0;
  virtual void start_one(const simt::Launch& launch, std::span<const std::byte> parameters) = 0;
  /// @returns false if memory for it lacks
  virtual bool build_graph(size_t number, const LaunchList& launches) = 0;
  /// For the next times that it is run.
  virtual void change_graph(size_t number, size_t i, const LaunchList& launches) = 0;
  virtual void run_graph(size_t number) = 0;

  /// Something in the half at hand.
  struct Uploaded {
    size_t at = 0;  ///< in the staging memory
    size_t bytes = 0;
    uint64_t turn = 0;  ///< of the half
  };
  /// Larger ones are not looked for: they are lists of KV blocks, which change.
  static constexpr size_t kMaxFoundBytes = size_t{32} << 10U;
  /// By the hash of their bytes; of a set the last used come first and the last goes, so what steps
  /// have in common stays. A step of 60 layers has some 700 of those.
  static constexpr size_t kSets = 1024;
  using Set = std::array<Uploaded, 4>;

  const void* upload_bytes(const void* from, size_t bytes);
  void send_uploads();

  /// Kept back at most. A layer has some 30.
  static constexpr size_t kMaxKept = 64;

  bool uses_graphs_ = false;
  std::optional<LaunchPlace> section_;  ///< and the part that is next
  LaunchList kept_;
  LaunchGraphs graphs_;
  std::vector<size_t> changed_;
  Staging staging_;
  unsigned half_ = 0;    ///< the one at hand
  size_t used_ = 0;      ///< bytes of it
  size_t sent_ = 0;      ///< of those
  size_t uploaded_ = 0;  ///< bytes, by this operation
  uint64_t turn_ = 1;    ///< of the halves: one more with each change
  std::array<Set, kSets> known_{};
  std::function<std::string()> watched_;
};

/// Backend::matrix_peak. @param runtime outlives the result
/// @errors kResourceExhausted
Result<MatrixPeakRun> make_matrix_peak(Runtime& runtime);

}  // namespace troupe::kernels::cuda
