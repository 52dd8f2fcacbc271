// Which half of the staging memory is written when. Also compiled as C++ by the tests.

#include "kernels/cuda/runtime.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>

namespace troupe::kernels::cuda {

const void* Runtime::upload_bytes(const void* from, size_t bytes) {
  const size_t room = (bytes + kUploadAlignment - 1) / kUploadAlignment * kUploadAlignment;
  if (room > staging_.half_bytes - uploaded_) {
    keep_error(
        "an operation uploads more than half of CudaOptions::staging_bytes: raise it, or "
        "give it fewer rows");
  }
  if (failed() || bytes == 0) return nullptr;
  Set* known = nullptr;
  if (bytes <= kMaxFoundBytes) {
    const std::string_view content(static_cast<const char*>(from), bytes);
    known = &known_[std::hash<std::string_view>()(content) % kSets];
    const auto found = std::ranges::find_if(*known, [&](const Uploaded& uploaded) {
      return uploaded.turn == turn_ && uploaded.bytes == bytes &&
             std::memcmp(staging_.host + uploaded.at, from, bytes) == 0;
    });
    if (found != known->end()) {
      std::rotate(known->begin(), found, found + 1);
      return staging_.device + known->front().at;
    }
  }
  uploaded_ += room;
  if (room > staging_.half_bytes - used_) {
    start_kept();  // what is kept back reads this half
    send_uploads();
    mark(half_);
    half_ ^= 1U;
    ++turn_;
    used_ = 0;
    sent_ = 0;
    wait_for(half_);
  }
  const size_t at = half_ * staging_.half_bytes + used_;
  std::memcpy(staging_.host + at, from, bytes);
  if (known != nullptr) {
    std::rotate(known->begin(), known->end() - 1, known->end());
    known->front() = {.at = at, .bytes = bytes, .turn = turn_};
  }
  used_ += room;
  return staging_.device + at;
}

void Runtime::begin_section(const void* owner, uint32_t number) {
  start_kept();
  if (uses_graphs_) section_ = {.owner = owner, .section = number};
}

void Runtime::start() {
  start_kept();
  section_.reset();
}

void Runtime::start_kept() {
  if (kept_.empty()) return;
  send_uploads();
  std::optional<size_t> graph;
  if (section_) {
    graph = graphs_.find(*section_, kept_, changed_);
    ++section_->part;
  }
  if (graph) {
    for (const size_t i : changed_) {
      if (!failed()) change_graph(*graph, i, kept_);
    }
    if (!failed()) run_graph(*graph);
  } else {
    for (size_t i = 0; i < kept_.size() && !failed(); ++i) {
      start_one(kept_.launch(i), kept_.parameters(i));
    }
  }
  kept_.clear();
}

void Runtime::end_section() {
  section_.reset();
  if (failed()) return;
  graphs_.build_wanted(
      [this](size_t number, const LaunchList& launches) { return build_graph(number, launches); });
}

void Runtime::send_uploads() {
  if (failed() || sent_ == used_) return;
  send(half_ * staging_.half_bytes + sent_, used_ - sent_);
  sent_ = used_;
}

}  // namespace troupe::kernels::cuda
