// Host side of row_sampling.cuh. Also compiled as C++ by the tests, with the emulator.

#include "kernels/row_sampler.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.hpp"
#include "kernels/array.hpp"
#include "kernels/cuda/cuda_ops.hpp"
#include "kernels/cuda/row_sampling.cuh"
#include "kernels/cuda/runtime.hpp"

namespace troupe::kernels::cuda {
namespace {

static_assert(sizeof(RowAnswer) % alignof(LikelyToken) == 0);

class CudaRowSampler final : public RowSampler {
 public:
  CudaRowSampler(Runtime& runtime, const CudaOptions& options)
      : runtime_(runtime), part_bytes_(options.staging_bytes / 4) {}

  /// For nearly all steps, so that they need not allocate.
  Result<void> make_room() {
    TRY(unedited_.reserve<float>(runtime_, kRoomForEdits));
    TRY(answers_.reserve<std::byte>(runtime_, kRoomForAnswers));
    return on_host_array_.reserve_on_host<std::byte>(runtime_, kRoomForAnswers);
  }

  void ask(std::span<const AskedRow> rows, size_t vocab) override {
    places_.clear();
    size_t num_lists = 0;
    size_t num_edits = 0;
    for (const AskedRow& row : rows) {
      const RowQuestion& question = *row.question;
      check(question, vocab);
      places_.push_back({.likely = num_lists, .top = num_lists + question.num_likely});
      num_lists += question.num_likely + question.num_top;
      num_edits += question.edits.size();
    }
    const size_t bytes = rows.size() * sizeof(RowAnswer) + num_lists * sizeof(LikelyToken);
    if (bytes == 0) return;
    // Once for all parts: what a launch that waits will use must not move.
    unedited_.room<float>(runtime_, std::max<size_t>(1, num_edits));
    auto* answers = answers_.room<std::byte>(runtime_, bytes);
    on_host_ = on_host_array_.room_on_host<std::byte>(runtime_, bytes);
    num_rows_ = rows.size();
    for (size_t first = 0; first < rows.size();) {
      const size_t last = end_of_part(rows, first);
      launch(rows.subspan(first, last - first), first, vocab, answers);
      first = last;
    }
    runtime_.copy_out(on_host_, answers, bytes);
  }

  AnsweredRow answer(size_t i) const override {
    CHECK_LT(i, places_.size());
    AnsweredRow out;
    std::memcpy(&out.row, on_host_ + i * sizeof(RowAnswer), sizeof(RowAnswer));
    const LikelyToken* lists = lists_of(on_host_);
    out.likely = {lists + places_[i].likely, out.row.num_likely};
    out.top = {lists + places_[i].top, out.row.num_top};
    return out;
  }

 private:
  static constexpr size_t kRoomForEdits = size_t{64} << 10U;
  static constexpr size_t kRoomForAnswers = size_t{1} << 20U;  ///< bytes

  /// Where the lists of a row begin.
  struct Place {
    size_t likely = 0;
    size_t top = 0;
  };
  static void check(const RowQuestion& question, size_t vocab) {
    CHECK(question.mask.empty() || question.mask.size() >= (vocab + 63) / 64);
    CHECK_LE(question.num_likely, kMaxLikely);
    CHECK_LE(question.num_top, kMaxLikely);
    CHECK_LT(question.scored, static_cast<TokenId>(vocab));
    CHECK(question.temperature > 0);
  }

  static size_t upload_bytes(const RowQuestion& question) {
    return question.edits.size() * sizeof(LogitEdit) + question.mask.size() * sizeof(uint64_t) +
           sizeof(RowWork) + 64;
  }
  /// Rows that are launched together: what they upload has to fit, but for a row alone.
  size_t end_of_part(std::span<const AskedRow> rows, size_t first) const {
    size_t last = first + 1;
    size_t bytes = upload_bytes(*rows[first].question);
    while (last < rows.size() && bytes + upload_bytes(*rows[last].question) <= part_bytes_) {
      bytes += upload_bytes(*rows[last++].question);
    }
    return last;
  }

  LikelyToken* lists_of(std::byte* answers) const {
    return reinterpret_cast<LikelyToken*>(answers + num_rows_ * sizeof(RowAnswer));
  }

  void launch(std::span<const AskedRow> rows, size_t first, size_t vocab, std::byte* answers) {
    auto* unedited = unedited_.room<float>(runtime_, 1);
    runtime_.begin_operation();
    work_.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      const RowQuestion& question = *rows[i].question;
      LikelyToken* lists = lists_of(answers);
      work_.push_back({.logits = rows[i].logits,
                       .edits = runtime_.upload(std::span<const LogitEdit>(question.edits)),
                       .unedited = unedited,
                       .num_edits = static_cast<uint32_t>(question.edits.size()),
                       .mask = runtime_.upload(std::span<const uint64_t>(question.mask)),
                       .penalties = question.penalties,
                       .temperature = question.temperature,
                       .least = question.least,
                       .uniform = question.uniform,
                       .wants_total = question.wants_total,
                       .wants_draw = question.wants_draw,
                       .wants_logprob = question.wants_logprob,
                       .scored = question.scored,
                       .num_likely = question.num_likely,
                       .num_top = question.num_top,
                       .answer = reinterpret_cast<RowAnswer*>(answers) + first + i,
                       .likely = lists + places_[first + i].likely,
                       .top = lists + places_[first + i].top});
      unedited += question.edits.size();
    }
    SampleRows kernel;
    kernel.rows = runtime_.upload(std::span<const RowWork>(work_));
    kernel.vocab = static_cast<unsigned>(vocab);
    runtime_.launch(kernel, {static_cast<unsigned>(rows.size()), 1});
  }

  Runtime& runtime_;
  size_t part_bytes_;
  size_t num_rows_ = 0;
  std::vector<Place> places_;
  std::vector<RowWork> work_;
  Array answers_;  ///< RowAnswer of each row, then all lists
  Array on_host_array_;
  Array unedited_;
  std::byte* on_host_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<RowSampler>> make_row_sampler(Runtime& runtime, const CudaOptions& options) {
  auto sampler = std::make_unique<CudaRowSampler>(runtime, options);
  if (auto room = sampler->make_room(); !room.ok()) {
    return std::move(room).error().with_context("memory for choosing tokens");
  }
  return std::unique_ptr<RowSampler>(std::move(sampler));
}

}  // namespace troupe::kernels::cuda
