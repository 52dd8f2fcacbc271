// The CUDA backend over host memory and the emulator.

#include "tests/simt/emulated_backend.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/check.hpp"
#include "kernels/cuda/runtime.hpp"
#include "tests/simt/emulated_exchange.hpp"
#include "tests/simt/emulator.hpp"
#include "tests/simt/on_device.hpp"
#include "tests/simt/traffic.hpp"

namespace troupe::kernels {
namespace {

constexpr int kNothing = 0xff;  // NaNs, so that nothing counts on zeros or on what was there before

/// Memory of the host that is pinned for all devices of a group, as CUDA pins it for all.
class Pinned {
 public:
  void add(const void* memory, size_t bytes) {
    const std::lock_guard lock(mutex_);
    ranges_.add(memory, bytes);
  }
  void remove(const void* memory) {
    const std::lock_guard lock(mutex_);
    ranges_.remove(memory);
  }
  bool contain(const void* from, size_t bytes) const {
    const std::lock_guard lock(mutex_);
    return ranges_.contain(from, bytes);
  }

 private:
  mutable std::mutex mutex_;
  DeviceRanges ranges_;
};

class EmulatedRuntime final : public cuda::Runtime {
 public:
  EmulatedRuntime(const CudaOptions& options, EmulatedDevice kind, std::shared_ptr<Pinned> pinned)
      : pinned_(std::move(pinned)), kind_(std::move(kind)) {
    half_bytes_ = options.staging_bytes / 2 / kUploadAlignment * kUploadAlignment;
    for (auto* staging : {&staging_on_host_, &staging_on_device_}) {
      staging->resize(2 * half_bytes_ / sizeof(simt::Words<4>));
      std::memset(staging->data(), kNothing, 2 * half_bytes_);
    }
    stage_in({.host = bytes_of(staging_on_host_),
              .device = bytes_of(staging_on_device_),
              .half_bytes = half_bytes_});
    use_graphs(options.graphs);
  }

  const char* target() const override { return "emulated"; }
  /// Few, so that small batches use one block for all splits of a row, and single rows do not.
  unsigned num_multiprocessors() const override { return 2; }
  [[nodiscard]] const Traffic& traffic() const { return traffic_; }
  void keep_error(const char* what) override {
    if (what != nullptr && error_.empty()) error_ = what;
  }
  bool failed() const override { return !error_.empty(); }

  Result<void*> allocate(size_t bytes) override {
    check_no_gather("allocated");
    if (const uint64_t left = left_beside(kind_.bytes_for_others); bytes > left) {
      return Error{Code::kResourceExhausted, "the emulated device has " + std::to_string(left) +
                                                 " bytes left and " + std::to_string(bytes) +
                                                 " more are needed"};
    }
    void* memory = TRY(host_->allocate(bytes));
    std::memset(memory, kNothing, bytes);
    device_.add(memory, bytes);
    return memory;
  }
  void release(void* memory) override {
    check_no_gather("released");
    start_kept();
    run_until(stream_.position());
    device_.remove(memory);
    host_->release(memory);
  }
  Result<uint64_t> bytes_left() override {
    if (!kind_.memory_bytes) return Error{Code::kUnavailable, "it has as much as the host"};
    return left_beside(0);
  }
  /// Not known to the device: an operation that gets such a pointer ends the test, too.
  Result<void*> allocate_on_host(size_t bytes) override {
    check_no_gather("pinned");
    void* memory = TRY(host_->allocate_on_host(bytes));
    std::memset(memory, kNothing, bytes);
    pinned_->add(memory, bytes);
    return memory;
  }
  void release_on_host(void* memory) override {
    check_no_gather("unpinned");
    start_kept();
    run_until(stream_.position());
    pinned_->remove(memory);
    host_->release_on_host(memory);
  }
  void copy_in(void* to, const void* from, size_t bytes) override {
    start_kept();
    ++traffic_.copies;
    device_.check(to, bytes);
    if (pinned_->contain(from, bytes)) {  // read when the stream gets there
      stream_.add_silent([=, this] { host_->copy_in(to, from, bytes); });
      return;
    }
    const auto* first = static_cast<const std::byte*>(from);
    stream_.add_silent([this, to, values = std::vector<std::byte>(first, first + bytes)] {
      host_->copy_in(to, values.data(), values.size());
    });
  }
  void copy_out(void* to, const void* from, size_t bytes) override {
    start_kept();
    ++traffic_.copies;
    device_.check(from, bytes);
    stream_.add_silent([=, this] { host_->copy_out(to, from, bytes); });
  }
  void copy(void* to, const void* from, size_t bytes) override {
    start_kept();
    ++traffic_.copies;
    device_.check(to, bytes);
    device_.check(from, bytes);
    stream_.add_silent([=, this] { host_->copy(to, from, bytes); });
  }
  void copy_rows(Rows to, ConstRows from) override {
    device_.check(to);
    device_.check(from);
    Runtime::copy_rows(to, from);
  }
  void move_rows(std::span<const float* const> from, std::span<void* const> to,
                 size_t cols) override {
    for (const float* row : from) device_.check(row, cols * sizeof(float));
    for (const void* row : to) device_.check(row, cols * sizeof(float));
    Runtime::move_rows(from, to, cols);
  }
  [[nodiscard]] const DeviceRanges& device() const { return device_; }
  /// In the order of the stream. @param exchange outlives the work
  void gather(EmulatedExchange& exchange, size_t rank, const float* part, size_t count,
              float* parts) {
    if (failed()) return;
    device_.check(part, count * sizeof(float));
    device_.check(parts, exchange.num_ranks() * count * sizeof(float));
    start_kept();
    stream_.add([=, &exchange] { return exchange.gather(rank, part, count, parts); });
    after_gathers_ = stream_.position();
  }
  Result<void> finish() override {
    start_kept();
    run_until(stream_.position());
    end_section();
    if (failed()) return Error{Code::kInternal, error_};
    return {};
  }

 private:
  [[nodiscard]] uint64_t left_beside(uint64_t others) const {
    const uint64_t all = kind_.memory_bytes.value_or(UINT64_MAX);
    return all - std::min(all, device_.bytes() + 2 * half_bytes_ + others);
  }
  void send(size_t first, size_t bytes) override {
    ++traffic_.uploads;
    traffic_.uploaded_bytes += bytes;
    stream_.add_silent([=, this] {
      std::memcpy(bytes_of(staging_on_device_) + first, bytes_of(staging_on_host_) + first, bytes);
    });
  }
  void mark(unsigned half) override { marks_[half] = stream_.position(); }
  void wait_for(unsigned half) override {
    run_until(marks_[half]);
    std::memset(bytes_of(staging_on_host_) + half * half_bytes_, kNothing, half_bytes_);
    stream_.add_silent([=, this] {
      std::memset(bytes_of(staging_on_device_) + half * half_bytes_, kNothing, half_bytes_);
    });
  }

  simt::Stream raw_stream() override { return &stream_; }
  void allow_shared(const simt::Launch& /*launch*/) override {}
  void start_one(const simt::Launch& launch, std::span<const std::byte> parameters) override {
    ++traffic_.launches;
    add_launch(launch, parameters);
  }
  bool build_graph(size_t number, const cuda::LaunchList& launches) override {
    CHECK_EQ(stream_.done(), stream_.position());
    ++traffic_.built;
    graphs_[number] = {};
    for (size_t i = 0; i < launches.size(); ++i) graphs_[number].emplace_back(launches, i);
    return !kind_.has_no_room_for_graphs;
  }
  void change_graph(size_t number, size_t i, const cuda::LaunchList& launches) override {
    ++traffic_.changes;
    Node& node = graphs_.at(number).at(i);
    CHECK(node.launch.entry == launches.launch(i).entry);  // CUDA lets a node keep its kernel only
    node = Node(launches, i);
  }
  void run_graph(size_t number) override {
    ++traffic_.graphs;
    for (const Node& node : graphs_.at(number)) add_launch(node.launch, node.parameters);
  }
  void add_launch(const simt::Launch& launch, std::span<const std::byte> parameters) {
    if (std::string wrong = kind_.fault ? kind_.fault() : ""; !wrong.empty()) {
      stream_.add([wrong = std::move(wrong)] { return wrong; });
    }
    keep_error(simt::start(&stream_, launch, parameters));
  }

  void run_until(uint64_t position) {
    if (failed()) return;
    if (const std::string report = stream_.run_until(position); !report.empty()) {
      keep_error(report.c_str());
    }
  }
  void check_no_gather(const char* what) {
    if (stream_.done() >= after_gathers_) return;
    keep_error(("memory is " + std::string(what) +
                " while a gather is under way, which on GPUs "
                "may wait for it forever")
                   .c_str());
  }
  static std::byte* bytes_of(std::vector<simt::Words<4>>& words) {
    return reinterpret_cast<std::byte*>(words.data());
  }

  /// Of a graph: what it was told, which is all that it knows.
  struct Node {
    Node(const cuda::LaunchList& launches, size_t i)
        : launch(launches.launch(i)),
          parameters(launches.parameters(i).begin(), launches.parameters(i).end()) {}
    simt::Launch launch;
    std::vector<std::byte> parameters;
  };

  std::unique_ptr<Memory> host_ = make_host_memory();
  std::map<size_t, std::vector<Node>> graphs_;
  DeviceRanges device_;
  std::shared_ptr<Pinned> pinned_;
  simt::EmulatedStream stream_;
  Traffic traffic_;
  size_t half_bytes_ = 0;
  std::vector<simt::Words<4>> staging_on_host_;
  std::vector<simt::Words<4>> staging_on_device_;
  uint64_t marks_[2] = {};
  uint64_t after_gathers_ = 0;  ///< position in the stream
  EmulatedDevice kind_;
  std::string error_;
};

class EmulatedCollective final : public Collective {
 public:
  /// @param runtime outlives the object
  EmulatedCollective(EmulatedRuntime& runtime, std::shared_ptr<EmulatedExchange> exchange,
                     size_t rank)
      : runtime_(runtime), exchange_(std::move(exchange)), rank_(rank) {}

  size_t rank() const override { return rank_; }
  size_t num_ranks() const override { return exchange_->num_ranks(); }
  void all_gather(const float* part, size_t count, float* parts) override {
    runtime_.gather(*exchange_, rank_, part, count, parts);
  }

 private:
  EmulatedRuntime& runtime_;
  std::shared_ptr<EmulatedExchange> exchange_;
  size_t rank_;
};

}  // namespace

namespace {

Result<Backend> make_device(const CudaOptions& options, EmulatedDevice device,
                            const std::shared_ptr<Pinned>& pinned) {
  auto runtime = std::make_unique<EmulatedRuntime>(options, std::move(device), pinned);
  std::unique_ptr<Ops> ops = TRY(cuda::make_cuda_ops(*runtime, options));
  auto checked = std::make_unique<OnDevice>(std::move(ops), runtime->device());
  MatrixPeakRun peak = TRY(cuda::make_matrix_peak(*runtime));
  std::unique_ptr<RowSampler> sampler = TRY(cuda::make_row_sampler(*runtime, options));
  return Backend{.memory = std::move(runtime),
                 .ops = std::move(checked),
                 .device = "an emulated device",
                 .reserved_bytes = options.workspace_bytes + options.staging_bytes,
                 .matrix_peak = std::move(peak),
                 .sampler = std::move(sampler)};
}

}  // namespace

Traffic traffic_of(const Memory& memory) {
  return static_cast<const EmulatedRuntime&>(memory).traffic();
}

Result<Backend> make_emulated_backend(const CudaOptions& options, EmulatedDevice device) {
  return make_device(options, std::move(device), std::make_shared<Pinned>());
}

Result<Backend> make_emulated_group(CudaOptions options, std::vector<EmulatedDevice> devices) {
  CHECK(!devices.empty());
  options.graphs = false;
  const auto exchange = std::make_shared<EmulatedExchange>(devices.size());
  const auto pinned = std::make_shared<Pinned>();
  Backend first;
  for (size_t k = 0; k < devices.size(); ++k) {
    Backend device = TRY(make_device(options, std::move(devices[k]), pinned));
    auto& runtime = static_cast<EmulatedRuntime&>(*device.memory);
    device.collective = std::make_unique<EmulatedCollective>(runtime, exchange, k);
    if (k == 0) {
      first = std::move(device);
    } else {
      first.others.push_back(std::move(device));
    }
  }
  return first;
}

}  // namespace troupe::kernels
