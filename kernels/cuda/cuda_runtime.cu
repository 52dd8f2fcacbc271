// The CUDA runtime behind kernels/cuda/runtime.hpp: one device, one stream.

#include <cuda_runtime.h>

#include <cstring>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/log.hpp"
#include "kernels/cuda/cuda_ops.hpp"
#include "kernels/cuda/devices.hpp"
#include "kernels/cuda/runtime.hpp"

namespace troupe::kernels {

Result<std::vector<CudaDevice>> cuda_devices() {
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted != cudaSuccess) {
    int driver_version = 0;
    cudaDriverGetVersion(&driver_version);
    const bool nothing_there = counted == cudaErrorNoDevice || driver_version == 0;
    return Error{nothing_there ? Code::kNotFound : Code::kInternal, cudaGetErrorString(counted)};
  }
  std::vector<CudaDevice> devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    const cudaError_t asked = cudaGetDeviceProperties(&properties, i);
    if (asked == cudaSuccess) {
      devices.push_back({.name = properties.name,
                         .memory_bytes = properties.totalGlobalMem,
                         .sm = properties.major * 10 + properties.minor,
                         .block_shared_bytes = properties.sharedMemPerBlockOptin});
    } else {
      cudaGetLastError();  // is not to be found by who asks next
      devices.push_back({.name = "a GPU", .error = cudaGetErrorString(asked)});
    }
  }
  return devices;
}

namespace {

/// In this process's context on the device, which is created if there is none.
Result<size_t> free_bytes(int device) {
  size_t free = 0;
  size_t total = 0;
  cudaError_t asked = cudaSetDevice(device);
  if (asked == cudaSuccess) asked = cudaMemGetInfo(&free, &total);
  if (asked == cudaSuccess) return free;
  cudaGetLastError();  // is not to be found by who asks next
  return Error{Code::kUnavailable, cudaGetErrorString(asked)};
}

}  // namespace

CudaSystem cuda_system(bool with_free_memory) {
  CudaSystem system;
  system.nccl_version = nccl_version();
  cudaDriverGetVersion(&system.driver_version);
  cudaRuntimeGetVersion(&system.runtime_version);
  Result<std::vector<CudaDevice>> devices = cuda_devices();
  if (!devices.ok()) {
    system.error = devices.error().message;
    return system;
  }
  system.devices = std::move(*devices);
  for (size_t i = 0; with_free_memory && i < system.devices.size(); ++i) {
    system.devices[i].free_bytes = free_bytes(static_cast<int>(i));
  }
  for (size_t a = 0; a < system.devices.size(); ++a) {
    for (size_t b = 0; b < system.devices.size(); ++b) {
      int can = 0;
      const cudaError_t asked =
          cudaDeviceCanAccessPeer(&can, static_cast<int>(a), static_cast<int>(b));
      if (a != b && (asked != cudaSuccess || can == 0)) system.no_peer_access.emplace_back(a, b);
    }
  }
  return system;
}

namespace {

class CudaRuntime final : public cuda::Runtime {
 public:
  CudaRuntime(int number, const CudaDevice& device)
      : device_(number),
        name_("GPU " + std::to_string(number) + " (" + device.name + ")"),
        target_("sm" + std::to_string(device.sm)) {}

  ~CudaRuntime() override {
    cudaSetDevice(device_);
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);
    for (const Graph& graph : built_graphs_) destroy(graph);
    for (cudaEvent_t event : marks_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    cudaFree(staging_on_device_);
    cudaFreeHost(staging_on_host_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  CudaRuntime(const CudaRuntime&) = delete;
  CudaRuntime& operator=(const CudaRuntime&) = delete;

  /// Once, before anything else.
  Result<void> open(const CudaOptions& options) {
    const size_t half_bytes = options.staging_bytes / 2 / kUploadAlignment * kUploadAlignment;
    int count = 1;
    keep(cudaSetDevice(device_), "choosing the device");
    keep(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device_),
         "counting multiprocessors");
    num_multiprocessors_ = static_cast<unsigned>(count);
    keep(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
    keep(cudaMallocHost(&staging_on_host_, 2 * half_bytes),
         "allocating staging_bytes of pinned memory");
    keep(cudaMalloc(&staging_on_device_, 2 * half_bytes), "allocating staging_bytes");
    for (cudaEvent_t& event : marks_) {
      keep(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
    }
    if (failed()) return Error{Code::kResourceExhausted, error_};
    stage_in({.host = static_cast<std::byte*>(staging_on_host_),
              .device = static_cast<std::byte*>(staging_on_device_),
              .half_bytes = half_bytes});
    use_graphs(options.graphs);
    return {};
  }

  const char* target() const override { return target_.c_str(); }

  unsigned num_multiprocessors() const override { return num_multiprocessors_; }

  void keep_error(const char* what) override {
    if (what != nullptr && error_.empty()) error_ = name_ + ": " + what;
  }
  bool failed() const override { return !error_.empty(); }

  Result<void*> allocate(size_t bytes) override {
    void* memory = nullptr;
    cudaError_t error = cudaSetDevice(device_);
    if (error == cudaSuccess) error = cudaMalloc(&memory, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // is not to be found by who asks next
      size_t free = 0;
      size_t total = 0;
      cudaMemGetInfo(&free, &total);
      return Error{
          Code::kResourceExhausted,
          name_ + " has " + std::to_string(free) + " of " + std::to_string(total) +
              " bytes left and " + std::to_string(bytes) +
              " more are needed: end what else uses it, ask for fewer tokens, take a model "
              "in fewer bits, or compute on the CPU"};
    }
    keep(error, "allocating memory");
    if (failed()) return Error{Code::kInternal, error_};
    return memory;
  }
  void release(void* memory) override {
    keep(cudaSetDevice(device_), "choosing the device");
    start_kept();
    keep(cudaFree(memory), "releasing memory");
  }
  Result<uint64_t> bytes_left() override { return free_bytes(device_); }
  Result<void*> allocate_on_host(size_t bytes) override {
    void* memory = nullptr;
    cudaError_t error = cudaSetDevice(device_);
    if (error == cudaSuccess) error = cudaMallocHost(&memory, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // is not to be found by who asks next
      return Error{Code::kResourceExhausted, "the host has no " + std::to_string(bytes) +
                                                 " bytes that can be pinned for " + name_};
    }
    keep(error, "allocating pinned memory");
    if (failed()) return Error{Code::kInternal, error_};
    return memory;
  }
  void release_on_host(void* memory) override {
    keep(cudaSetDevice(device_), "choosing the device");
    start_kept();
    keep(cudaFreeHost(memory), "releasing pinned memory");
  }

  void copy_in(void* to, const void* from, size_t bytes) override {
    transfer(to, from, bytes, cudaMemcpyHostToDevice);
  }
  void copy_out(void* to, const void* from, size_t bytes) override {
    transfer(to, from, bytes, cudaMemcpyDeviceToHost);
  }
  void copy(void* to, const void* from, size_t bytes) override {
    transfer(to, from, bytes, cudaMemcpyDeviceToDevice);
  }

  Result<void> finish() override {
    if (!failed()) {
      const simt::Stream here = stream();
      wait([here] { return cudaStreamQuery(here); }, [here] { return cudaStreamSynchronize(here); },
           "computing");
      end_section();
    }
    if (failed()) return Error{Code::kInternal, error_};
    return {};
  }

 private:
  void send(size_t first, size_t bytes) override {
    keep(cudaMemcpyAsync(static_cast<std::byte*>(staging_on_device_) + first,
                         static_cast<const std::byte*>(staging_on_host_) + first, bytes,
                         cudaMemcpyHostToDevice, raw_stream()),
         "copying to the device");
  }
  void mark(unsigned half) override {
    keep(cudaEventRecord(marks_[half], raw_stream()), "staging");
  }
  void wait_for(unsigned half) override {
    const cudaEvent_t mark = marks_[half];
    wait([mark] { return cudaEventQuery(mark); }, [mark] { return cudaEventSynchronize(mark); },
         "staging");
  }
  /// A thread has a device of its own; the operations of one step may come from any thread.
  simt::Stream raw_stream() override {
    keep(cudaSetDevice(device_), "choosing the device");
    return stream_;
  }
  void allow_shared(const simt::Launch& launch) override {
    if (!may_share_.insert(launch.entry).second) return;
    keep(cudaSetDevice(device_), "choosing the device");
    keep(cudaFuncSetAttribute(launch.entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(kBlockSharedBytes)),
         "asking for shared memory");
  }
  void start_one(const simt::Launch& launch, std::span<const std::byte> parameters) override {
    keep_error(simt::start(raw_stream(), launch, parameters));
  }

  /// Memory that graphs leave to others.
  static constexpr size_t kKeptFree = size_t{256} << 20U;
  struct Graph {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    std::vector<cudaGraphNode_t> nodes = {};
  };
  /// What cudaGraph calls take for a launch.
  struct NodeParams {
    NodeParams(const cuda::LaunchList& launches, size_t i) {
      const simt::Launch& launch = launches.launch(i);
      params.func = const_cast<void*>(launch.entry);
      params.gridDim = dim3(launch.grid.x, launch.grid.y);
      params.blockDim = dim3(launch.threads);
      params.sharedMemBytes = static_cast<unsigned>(launch.shared_bytes);
      params.kernelParams = arguments;
      arguments[0] = const_cast<std::byte*>(launches.parameters(i).data());
    }
    NodeParams(const NodeParams&) = delete;
    NodeParams& operator=(const NodeParams&) = delete;

    void* arguments[1];
    cudaKernelNodeParams params = {};
  };
  static void destroy(const Graph& graph) {
    if (graph.ready != nullptr) cudaGraphExecDestroy(graph.ready);
    if (graph.graph != nullptr) cudaGraphDestroy(graph.graph);
  }
  bool build_graph(size_t number, const cuda::LaunchList& launches) override {
    if (number >= built_graphs_.size()) built_graphs_.resize(number + 1);
    Graph& graph = built_graphs_[number];
    size_t free = 0;
    size_t total = 0;
    cudaError_t error = cudaSetDevice(device_);
    destroy(graph);
    graph = {};
    if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total);
    if (error == cudaSuccess && free < kKeptFree) error = cudaErrorMemoryAllocation;
    if (error == cudaSuccess) error = cudaGraphCreate(&graph.graph, 0);
    for (size_t i = 0; i < launches.size() && error == cudaSuccess; ++i) {
      const NodeParams node(launches, i);
      cudaGraphNode_t& added = graph.nodes.emplace_back();
      error = cudaGraphAddKernelNode(&added, graph.graph, i == 0 ? nullptr : &graph.nodes[i - 1],
                                     i == 0 ? 0 : 1, &node.params);
    }
    if (error == cudaSuccess) error = cudaGraphInstantiate(&graph.ready, graph.graph, 0);
    if (error == cudaSuccess) error = cudaGraphUpload(graph.ready, stream_);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // is not to be found by who asks next
      log::warning("no_memory_for_graphs", {{"device", name_}, {"bytes_free", free}});
      destroy(graph);
      graph = {};
      return false;
    }
    keep(error, "building a graph of launches");
    return !failed();
  }
  void change_graph(size_t number, size_t i, const cuda::LaunchList& launches) override {
    const NodeParams node(launches, i);
    const Graph& graph = built_graphs_[number];
    keep(cudaSetDevice(device_), "choosing the device");
    keep(cudaGraphExecKernelNodeSetParams(graph.ready, graph.nodes[i], &node.params),
         "changing a graph of launches");
  }
  void run_graph(size_t number) override {
    keep(cudaGraphLaunch(built_graphs_[number].ready, raw_stream()),
         "starting a graph of launches");
  }

  /// Of several devices none waits longer than the others are well: what a device waits for from
  /// one that failed never comes.
  template <class Query, class Synchronize>
  void wait(const Query& query, const Synchronize& synchronize, const char* doing) {
    if (!is_watched()) return keep(synchronize(), doing);
    cudaError_t state = query();
    while (state == cudaErrorNotReady && ask_watched()) {
      std::this_thread::yield();
      state = query();
    }
    if (state != cudaErrorNotReady) keep(state, doing);
    if (!failed()) ask_watched();
  }

  void keep(cudaError_t error, const char* doing) {
    if (error != cudaSuccess)
      keep_error((std::string(doing) + ": " + cudaGetErrorString(error)).c_str());
  }
  /// Memory of the host that is not pinned is copied before the call returns, or staged by CUDA.
  void transfer(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (failed() || bytes == 0) return;
    keep(cudaMemcpyAsync(to, from, bytes, kind, stream()), "copying");
  }

  int device_;
  std::string name_;
  std::string target_;
  unsigned num_multiprocessors_ = 1;
  cudaStream_t stream_ = nullptr;
  void* staging_on_host_ = nullptr;
  void* staging_on_device_ = nullptr;
  cudaEvent_t marks_[2] = {};
  std::unordered_set<simt::Entry> may_share_;  ///< more than simt::kDefaultShared
  std::vector<Graph> built_graphs_;
  std::string error_;
};

}  // namespace

Result<Backend> make_cuda_backend(const CudaOptions& options) {
  const std::string gpu = "GPU " + std::to_string(options.device);
  const Result<std::vector<CudaDevice>> devices = cuda_devices();
  if (!devices.ok()) {
    return Error{devices.error().code,
                 gpu + " cannot be used; CUDA says: " + devices.error().message +
                     "; see what nvidia-smi and `troupe doctor` say"};
  }
  if (options.device < 0 || static_cast<size_t>(options.device) >= devices->size()) {
    return Error{Code::kNotFound, "there is no " + gpu + "; CUDA says: " +
                                      cudaGetErrorString(cudaErrorInvalidDevice) + "; it counts " +
                                      std::to_string(devices->size()) + ", from 0"};
  }
  const CudaDevice& device = (*devices)[static_cast<size_t>(options.device)];
  if (const std::string why = why_refused(device); !why.empty()) {
    return Error{Code::kUnsupported, gpu + " (" + device.name + ") cannot compute: " + why +
                                         "; use another one, or compute on the CPU"};
  }
  auto runtime = std::make_unique<CudaRuntime>(options.device, device);
  TRY(runtime->open(options));
  std::unique_ptr<Ops> ops = TRY(cuda::make_cuda_ops(*runtime, options));
  MatrixPeakRun peak = TRY(cuda::make_matrix_peak(*runtime));
  std::unique_ptr<RowSampler> sampler = TRY(cuda::make_row_sampler(*runtime, options));
  return Backend{.memory = std::move(runtime),
                 .ops = std::move(ops),
                 .device = device.name,
                 .reserved_bytes = options.workspace_bytes + options.staging_bytes,
                 .matrix_peak = std::move(peak),
                 .sampler = std::move(sampler)};
}

}  // namespace troupe::kernels
