// Several GPUs that compute a router together, joined by NCCL.

#include <cuda_runtime.h>
#include <nccl.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/array.hpp"
#include "kernels/cuda/cuda_ops.hpp"
#include "kernels/cuda/devices.hpp"
#include "kernels/cuda/runtime.hpp"

namespace troupe::kernels {
namespace {

/// NCCL's word for what went wrong, and its last one for why.
std::string word_of(ncclResult_t result, ncclComm_t comm) {
  std::string text = std::string("NCCL: ") + ncclGetErrorString(result);
  const char* why = ncclGetLastError(comm);
  if (why != nullptr && *why != '\0') text += std::string(": ") + why;
  return text;
}

class NcclCollective final : public Collective {
 public:
  /// Takes the communicator over. @param runtime outlives the object
  NcclCollective(cuda::Runtime& runtime, ncclComm_t comm, size_t rank, size_t num_ranks)
      : runtime_(runtime), comm_(comm), rank_(rank), num_ranks_(num_ranks) {
    runtime_.watch([this] { return wrong(); });
  }
  ~NcclCollective() override {
    runtime_.watch(nullptr);
    ncclCommDestroy(comm_);
  }
  NcclCollective(const NcclCollective&) = delete;
  NcclCollective& operator=(const NcclCollective&) = delete;

  size_t rank() const override { return rank_; }
  size_t num_ranks() const override { return num_ranks_; }

  void all_gather(const float* part, size_t count, float* parts) override {
    if (runtime_.failed()) return;
    const ncclResult_t called =
        ncclAllGather(part, parts, count, ncclFloat32, comm_, runtime_.stream());
    if (called != ncclSuccess) runtime_.keep_error(word_of(called, comm_).c_str());
  }

 private:
  /// What happened since, while the device waits for the others.
  std::string wrong() const {
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result);
    if (asked != ncclSuccess) result = asked;
    return result == ncclSuccess || result == ncclInProgress ? "" : word_of(result, comm_);
  }

  cuda::Runtime& runtime_;
  ncclComm_t comm_;
  size_t rank_;
  size_t num_ranks_;
};

/// The first gather connects the devices, which takes long and may fail; so it is done when they
/// are opened. From then on a device may wait for one that does not come, and what waits cannot be
/// taken down: what fails ends the process.
Result<void> connect(const Backend& group) {
  const size_t count = group.num_devices();
  std::vector<OwnedMemory> parts;
  std::vector<std::vector<float>> gathered(count, std::vector<float>(count));
  for (size_t k = 0; k < count; ++k) {
    Memory& memory = *group.of_rank(k).memory;
    parts.push_back(TRY(allocate(memory, (count + 1) * sizeof(float))));
    const auto number = static_cast<float>(k);
    memory.copy_in(parts[k].get(), &number, sizeof number);
    TRY(memory.finish());
  }
  ncclGroupStart();  // one thread calls for all of them
  for (size_t k = 0; k < count; ++k) {
    auto* part = static_cast<float*>(parts[k].get());
    group.of_rank(k).collective->all_gather(part, 1, part + 1);
  }
  const ncclResult_t called = ncclGroupEnd();
  if (called != ncclSuccess) end_process({Code::kInternal, word_of(called, nullptr)});
  for (size_t k = 0; k < count; ++k) {
    Memory& memory = *group.of_rank(k).memory;
    memory.copy_out(gathered[k].data(), static_cast<float*>(parts[k].get()) + 1,
                    count * sizeof(float));
    finish_or_end(memory);
  }
  for (const std::vector<float>& numbers : gathered) {
    for (size_t k = 0; k < count; ++k) {
      if (numbers[k] == static_cast<float>(k)) continue;
      return Error{Code::kInternal, "a gather over NCCL gave other numbers than were sent"};
    }
  }
  return {};
}

Result<Backend> join(std::vector<Backend> devices, const std::vector<int>& numbers) {
  std::vector<ncclComm_t> comms(numbers.size());
  const ncclResult_t made =
      ncclCommInitAll(comms.data(), static_cast<int>(numbers.size()), numbers.data());
  if (made != ncclSuccess) return Error{Code::kInternal, word_of(made, nullptr)};
  for (size_t k = 0; k < devices.size(); ++k) {
    devices[k].collective = std::make_unique<NcclCollective>(
        static_cast<cuda::Runtime&>(*devices[k].memory), comms[k], k, devices.size());
  }
  Backend group = std::move(devices[0]);
  for (size_t k = 1; k < devices.size(); ++k) group.others.push_back(std::move(devices[k]));
  TRY(connect(group));
  return Result<Backend>(std::move(group));
}

}  // namespace

int nccl_version() {
  int version = 0;
  ncclGetVersion(&version);
  return version;
}

Result<Backend> make_cuda_group(const std::vector<int>& devices, const CudaOptions& options) {
  // A kernel that is loaded when it is first launched waits for what runs on its device, and a
  // gather that runs there waits for the other device's thread, which may want to load one. Source:
  // CUDA C++ Programming Guide, Lazy Loading. Read when CUDA starts.
  setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
  // NCCL allocates for each of its algorithms when a gather first takes it, unless it does so now.
  setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
  const Result<std::vector<CudaDevice>> there = cuda_devices();
  std::vector<Backend> opened;
  for (const int device : devices) {
    CudaOptions one = options;
    one.device = device;
    one.graphs = false;  // building one may wait for a device that waits for this one
    opened.push_back(TRY(make_cuda_backend(one)));  // or why not, in its words
  }
  if (const std::string why = why_not_together(*there, devices); !why.empty()) {
    return Error{Code::kUnsupported, why};
  }
  Result<Backend> group = join(std::move(opened), devices);
  if (!group.ok()) {
    return std::move(group).error().with_context(
        "joining " + std::to_string(devices.size()) +
        " GPUs (NCCL_DEBUG=INFO says more; one device per node needs no NCCL)");
  }
  return group;
}

}  // namespace troupe::kernels
