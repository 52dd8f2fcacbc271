#include "cluster/machine_findings.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

namespace troupe::cluster {
namespace {

constexpr uint64_t kGiB = 1ULL << 30;
const Error kRefused{Code::kUnavailable, "permission denied"};

kernels::CudaDevice a100() {
  return {.name = "A100",
          .memory_bytes = 80 * kGiB,
          .sm = 80,
          .block_shared_bytes = 163 << 10,
          .free_bytes = 79 * kGiB};
}

/// A machine with two GPUs and RDMA that is the head and both nodes of a small cluster, with
/// nothing to find fault with.
MachineFacts sound() {
  ClusterConfig config{.model = "/models/m",
                       .nodes = {{.name = "r", .role = Role::kRouter, .threads = 4},
                                 {.name = "s", .role = Role::kExperts, .threads = 4}}};
  return {
      .cpus = {.target = "avx3", .num_cpus = 16, .num_allowed = 16U},
      .memory = MemoryFacts{.total_bytes = 64 * kGiB, .available_bytes = 60 * kGiB},
      .limits = ProcessLimits{.open_files = 65536, .locked_bytes = kUnlimited},
      .shared_memory =
          SharedMemoryFacts{.total_bytes = 32 * kGiB, .free_bytes = 32 * kGiB, .is_writable = true},
      .clock = ClockFacts{.source = std::string("tsc"), .is_synchronised = true},
      .gpus = {.driver = "NVRM version: 580.1",
               .cuda = kernels::CudaSystem{.driver_version = 13000,
                                           .runtime_version = 13000,
                                           .nccl_version = 22809,
                                           .devices = {a100(), a100()}}},
      .ucx = {.version = "1.13.1",
              .transports = std::vector<transport::UcxTransport>{{"self", "memory0"},
                                                                 {"posix", "memory"},
                                                                 {"cma", "memory"},
                                                                 {"tcp", "eth0"},
                                                                 {"rc_mlx5", "mlx5_0:1"}},
              .ptrace_scope = 1U,
              .rdma_ports = {{"mlx5_0:1", "4: ACTIVE", "200 Gb/sec"}}},
      .addresses = std::vector<std::string>{"eth0 10.0.0.2"},
      .cluster = ClusterFacts{
          .config = config,
          .nodes = config.nodes,
          .weight_bytes = uint64_t{20} * kGiB,
          .needs = MemoryNeeds{.nodes = {{.node = "r", .kv_blocks = 8 * kGiB}, {.node = "s"}},
                               .mapped = 20 * kGiB}}};
}

/// Its nodes compute there, with a host tier of 2 GiB.
void on_gpus(MachineFacts& facts) {
  for (auto* nodes : {&facts.cluster->nodes, &facts.cluster->config.nodes}) {
    for (uint32_t i = 0; i < nodes->size(); ++i) (*nodes)[i].device.gpus = {i};
  }
  facts.cluster->needs =
      MemoryNeeds{.nodes = {{.node = "r", .kv_host_blocks = 2 * kGiB}, {.node = "s"}}};
}

std::string told(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    text.append(finding.check).append(": ").append(to_string(finding.verdict)).append(", ");
    text.append(finding.found).append(" -> ").append(finding.advice).append("\n");
  }
  return text;
}

TEST(MachineFindings, OfASoundMachineAreAllOk) {
  const auto findings = examine(sound());
  EXPECT_TRUE(std::ranges::all_of(findings, [](const Finding& finding) {
    return finding.verdict == Verdict::kOk && finding.advice.empty() && !finding.found.empty();
  })) << told(findings);
}

/// What is changed of a sound machine, and the one finding that is no longer ok.
struct Case {
  const char* name;
  std::function<void(MachineFacts&)> change;
  const char* check;
  Verdict verdict;
  const char* word;  ///< in what was found or in the advice
};

const Case kCases[] = {
    {"no vectors", [](auto& m) { m.cpus.target = "scalar"; }, "instructions", Verdict::kNote,
     "AVX2"},
    {"affinity refused", [](auto& m) { m.cpus.num_allowed = kRefused; }, "CPUs", Verdict::kNote,
     "permission denied"},
    {"a quota with room for the threads", [](auto& m) { m.groups->cpus = 8; }, "CPUs",
     Verdict::kNote, "time of 8"},
    {"memory unread", [](auto& m) { m.memory = kRefused; }, "memory", Verdict::kNote,
     "permission denied"},
    {"strict overcommit", [](auto& m) { m.memory->overcommit = 2; }, "overcommit", Verdict::kNote,
     "vm.overcommit_memory"},
    {"huge pages forbidden", [](auto& m) { m.memory->huge_pages = "never"; }, "huge pages",
     Verdict::kNote, "transparent_hugepage"},
    {"no huge pages", [](auto& m) { m.memory->huge_pages = ""; }, "huge pages", Verdict::kNote,
     "none in this kernel"},
    {"few files", [](auto& m) { m.limits->open_files = 1024; }, "open files", Verdict::kNote,
     "1280"},
    {"hardly any files", [](auto& m) { m.limits->open_files = 64; }, "open files",
     Verdict::kProblem, "LimitNOFILE"},
    {"RDMA without locked memory", [](auto& m) { m.limits->locked_bytes = 8 << 20; },
     "locked memory", Verdict::kNote, "LimitMEMLOCK"},
    {"/dev/shm of a stranger", [](auto& m) { m.shared_memory->is_writable = false; }, "/dev/shm",
     Verdict::kProblem, "not writable"},
    {"small /dev/shm", [](auto& m) { m.shared_memory->free_bytes = 1 << 20; }, "/dev/shm",
     Verdict::kProblem, "--shm-size"},
    {"no /dev/shm", [](auto& m) { m.shared_memory = kRefused; }, "/dev/shm", Verdict::kNote,
     "not known"},
    {"slow clock", [](auto& m) { m.clock->source = std::string("hpet"); }, "clock source",
     Verdict::kNote, "hpet"},
    {"unknown clock", [](auto& m) { m.clock->source = kRefused; }, "clock source", Verdict::kNote,
     "not known"},
    {"clock that drifts", [](auto& m) { m.clock->is_synchronised = false; }, "clock",
     Verdict::kNote, "chrony"},
    {"adjtimex refused", [](auto& m) { m.clock = kRefused; }, "clock", Verdict::kNote,
     "permission denied"},
    {"built without CUDA", [](auto& m) { m.gpus.cuda.reset(); }, "CUDA", Verdict::kNote, "580.1"},
    {"a GPU that no build of ours uses", [](auto& m) { m.gpus.cuda.reset(); }, "CUDA",
     Verdict::kNote, "--device cuda:N"},
    {"a node on a GPU that is not there",
     [](auto& m) {
       on_gpus(m);
       m.cluster->nodes[1].device.gpus = {2};
     },
     "GPUs of nodes", Verdict::kProblem, "s on cuda:2: CUDA counts 2 GPUs"},
    {"a router on two GPUs, one of which is not there",
     [](auto& m) {
       on_gpus(m);
       m.cluster->nodes[0].device.gpus = {0, 2};
     },
     "GPUs of nodes", Verdict::kProblem, "r on cuda:0,2: CUDA counts 2 GPUs"},
    {"a router on two GPUs without NCCL",
     [](auto& m) {
       on_gpus(m);
       m.cluster->nodes[0].device.gpus = {0, 1};
       m.gpus.cuda->nccl_version = 0;
     },
     "GPUs of nodes", Verdict::kProblem, "r on cuda:0,1: several GPUs need NCCL"},
    {"a router on GPUs of different kinds",
     [](auto& m) {
       on_gpus(m);
       m.cluster->nodes[0].device.gpus = {0, 1};
       m.gpus.cuda->devices[1].name = "H200";
     },
     "GPUs of nodes", Verdict::kProblem, "and GPU 1 of the kind H200"},
    {"a host tier larger than memory",
     [](auto& m) {
       on_gpus(m);
       m.memory->available_bytes = kGiB;
     },
     "memory of nodes", Verdict::kProblem, "limits.kv_host_blocks"},
    {"no driver",
     [](auto& m) {
       m.gpus = {.cuda = kernels::CudaSystem{.runtime_version = 13000, .error = "insufficient"}};
     },
     "CUDA", Verdict::kNote, "no driver"},
    {"old driver",
     [](auto& m) {
       m.gpus.cuda = {.driver_version = 12040, .runtime_version = 13000, .error = "insufficient"};
     },
     "CUDA", Verdict::kNote, "driver for 12.4"},
    {"driver without GPUs", [](auto& m) { m.gpus.cuda->devices.clear(); }, "CUDA", Verdict::kNote,
     "CUDA_VISIBLE_DEVICES"},
    {"old GPU", [](auto& m) { m.gpus.cuda->devices[1].sm = 70; }, "GPU 1", Verdict::kNote, "sm_80"},
    {"GPU with little shared memory",
     [](auto& m) {
       m.gpus.cuda->devices[1] = {"RTX 4090", 24 * kGiB, 89, 99 << 10};
     },
     "GPU 1", Verdict::kNote, "101376 bytes of shared memory"},
    {"GPU that tells nothing", [](auto& m) { m.gpus.cuda->devices[0] = {.error = "is lost"}; },
     "GPU 0", Verdict::kNote, "is lost"},
    {"a GPU that others use",
     [](auto& m) { m.gpus.cuda->devices[1].free_bytes = size_t{30} * kGiB; }, "GPU 1",
     Verdict::kNote, "Others use 50.00 GiB"},
    {"a GPU whose memory others have",
     [](auto& m) {
       m.gpus.cuda->devices[0].free_bytes = Error{Code::kUnavailable, "out of memory"};
     },
     "GPU 0", Verdict::kNote, "not known what is free: out of memory"},
    {"GPUs apart",
     [](auto& m) {
       m.gpus.cuda->no_peer_access = {{0, 1}, {1, 0}};
     },
     "peer access", Verdict::kNote, "0 to 1, 1 to 0"},
    {"UCX does not open shared memory",
     [](auto& m) {
       m.ucx.shm = Error{Code::kUnsupported, "no device"};
     },
     "UCX shared memory", Verdict::kNote, "slower"},
    {"UCX fails at shared memory",
     [](auto& m) {
       m.ucx.shm = Error{Code::kInternal, "ucp_init failed"};
     },
     "UCX shared memory", Verdict::kProblem, "ucp_init failed"},
    {"shared memory alone, and there is none",
     [](auto& m) {
       m.cluster->config.wires = Wires::kShm;
       m.ucx.shm = Error{Code::kUnsupported, "no device"};
     },
     "UCX shared memory", Verdict::kProblem, "no device"},
    {"no CMA",
     [](auto& m) { std::erase_if(*m.ucx.transports, [](auto& t) { return t.name == "cma"; }); },
     "CMA", Verdict::kNote, "SYS_PTRACE"},
    {"CMA for administrators", [](auto& m) { m.ucx.ptrace_scope = 2; }, "CMA", Verdict::kNote,
     "ptrace_scope 2"},
    {"no network", [](auto& m) { m.ucx.net = kRefused; }, "UCX network", Verdict::kProblem,
     "UCX_NET_DEVICES"},
    {"a network device that is not here",
     [](auto& m) {
       m.ucx.settings = {"UCX_NET_DEVICES=nope"};
       m.ucx.net = Error{Code::kUnsupported, "no device"};
     },
     "UCX network", Verdict::kProblem, "no device with UCX_NET_DEVICES=nope"},
    {"RDMA that UCX does not use", [](auto& m) { m.ucx.transports->pop_back(); }, "RDMA",
     Verdict::kNote, "/dev/infiniband"},
    {"RDMA unplugged", [](auto& m) { m.ucx.rdma_ports[0].state = "1: DOWN"; }, "RDMA",
     Verdict::kNote, "No port is active"},
    {"no address", [](auto& m) { m.addresses->clear(); }, "addresses", Verdict::kNote, "loopback"},
    {"model damaged",
     [](auto& m) {
       m.cluster->weight_bytes = Error{Code::kCorrupt, "truncated"};
     },
     "model", Verdict::kProblem, "truncated"},
    {"more threads than CPUs", [](auto& m) { m.cpus.num_allowed = 7U; }, "threads", Verdict::kNote,
     "8 compute threads"},
    {"unknown nodes", [](auto& m) { m.cluster->nodes.clear(); }, "threads", Verdict::kNote,
     "--node"},
    {"KV beyond the memory", [](auto& m) { m.memory->available_bytes = 7 * kGiB; },
     "memory of nodes", Verdict::kProblem, "limits.kv_blocks"},
    {"KV beyond what a container has left", [](auto& m) { m.groups->memory_left = 7 * kGiB; },
     "memory of nodes", Verdict::kProblem, "limits.kv_blocks"},
    {"copies of weights beyond the memory",
     [](auto& m) { m.cluster->needs->nodes[1].copies = 60 * kGiB; }, "memory of nodes",
     Verdict::kProblem, "quantize"},
    {"weights beyond the memory", [](auto& m) { m.memory->available_bytes = 20 * kGiB; },
     "memory of nodes", Verdict::kNote, "quantize"},
    {"pins that overlap",
     [](auto& m) {
       m.cluster->needs = Error{Code::kInvalidArgument, "the configuration's placement: overlap"};
     },
     "memory of nodes", Verdict::kProblem, "overlap"},
    {"head unreachable", [](auto& m) { m.cluster->interface = kRefused; }, "way to the head",
     Verdict::kProblem, "control.host"},
    {"control port taken", [](auto& m) { m.cluster->control_port = PortState::kTaken; },
     "control port", Verdict::kProblem, "7600"},
    {"cluster running",
     [](auto& m) {
       m.cluster->http_port = PortState::kTaken;
       m.cluster->is_serving = true;
     },
     "HTTP port", Verdict::kNote, "gateway"},
    {"HTTP port refused", [](auto& m) { m.cluster->http_port = kRefused; }, "HTTP port",
     Verdict::kProblem, "permission denied"},
    {"HTTP address of another", [](auto& m) { m.cluster->http_port = PortState::kNotOurAddress; },
     "HTTP port", Verdict::kProblem, "http.host"},
};

TEST(MachineFindings, NameTheOneThatIsNotSoundAndWhatToDo) {
  for (const Case& c : kCases) {
    MachineFacts facts = sound();
    c.change(facts);
    auto findings = examine(facts);
    std::erase_if(findings, [](const Finding& f) { return f.verdict == Verdict::kOk; });
    ASSERT_EQ(findings.size(), 1U) << c.name << "\n" << told(findings);
    EXPECT_EQ(findings[0].check, c.check) << c.name;
    EXPECT_EQ(findings[0].verdict, c.verdict) << c.name << "\n" << told(findings);
    EXPECT_FALSE(findings[0].advice.empty()) << c.name;
    EXPECT_NE((findings[0].found + findings[0].advice).find(c.word), std::string::npos)
        << c.name << "\n"
        << told(findings);
  }
}

/// Changes that leave everything ok.
TEST(MachineFindings, AreOkWithWhatIsNotNeeded) {
  const std::pair<const char*, std::function<void(MachineFacts&)>> kChanges[] = {
      {"no configuration", [](auto& m) { m.cluster.reset(); }},
      {"no RDMA, no locked memory",
       [](auto& m) {
         m.ucx.rdma_ports.clear();
         m.limits->locked_bytes = 0;
       }},
      {"RDMA and the capability to lock all memory",
       [](auto& m) {
         m.limits->locked_bytes = 8 << 20;
         m.limits->has_ipc_lock = true;
       }},
      {"no control groups", [](auto& m) { m.groups = kRefused; }},
      {"quota above what may be used", [](auto& m) { m.groups->cpus = 20; }},
      {"few files where the head is elsewhere",
       [](auto& m) {
         m.limits->open_files = 1024;
         m.cluster->control_port = PortState::kNotOurAddress;
       }},
      {"network alone, no shared memory",
       [](auto& m) {
         m.cluster->config.wires = Wires::kNet;
         m.ucx.shm = kRefused;
         m.ucx.ptrace_scope = 2;
         m.shared_memory->free_bytes = 0;
         m.shared_memory->is_writable = false;
       }},
      {"network alone, no /dev/shm",
       [](auto& m) {
         m.cluster->config.wires = Wires::kNet;
         m.shared_memory = kRefused;
       }},
      {"little memory left while the cluster runs",
       [](auto& m) {
         m.cluster->is_serving = true;
         m.memory->available_bytes = kGiB;
         m.gpus.cuda->devices[0].free_bytes = kGiB;
         m.groups->memory_left = kGiB;
         m.shared_memory->free_bytes = 0;
       }},
      {"nodes on GPUs need little memory of the host",
       [](auto& m) {
         on_gpus(m);
         m.memory->available_bytes = 3 * kGiB;
       }},
      {"an expert shard's machine needs no room for KV",
       [](auto& m) {
         m.cluster->nodes.erase(m.cluster->nodes.begin());
         m.cluster->needs->nodes.erase(m.cluster->needs->nodes.begin());
         m.memory->available_bytes = 21 * kGiB;
       }},
  };
  for (const auto& [name, change] : kChanges) {
    MachineFacts facts = sound();
    change(facts);
    auto findings = examine(facts);
    std::erase_if(findings, [](const Finding& f) { return f.verdict == Verdict::kOk; });
    EXPECT_TRUE(findings.empty()) << name << "\n" << told(findings);
  }
}

TEST(MachineFindings, CudaThatNodesNeedAndThatIsNotBuiltInIsAProblem) {
  MachineFacts facts = sound();
  on_gpus(facts);
  facts.gpus.cuda.reset();
  const auto findings = examine(facts);
  const auto found = std::ranges::find(findings, "GPUs of nodes", &Finding::check);
  ASSERT_NE(found, findings.end());
  EXPECT_EQ(found->verdict, Verdict::kProblem);
  EXPECT_EQ(found->found,
            "r on cuda:0: this troupe was built without CUDA; "
            "s on cuda:1: this troupe was built without CUDA");
}

TEST(MachineFindings, OfAnEmptyReadingDoNotCrash) {
  MachineFacts facts{.groups = kRefused,
                     .memory = kRefused,
                     .limits = kRefused,
                     .shared_memory = kRefused,
                     .clock = kRefused,
                     .addresses = kRefused,
                     .cluster = ClusterFacts{.weight_bytes = kRefused,
                                             .control_port = kRefused,
                                             .http_port = kRefused,
                                             .interface = kRefused}};
  facts.cpus.num_allowed = kRefused;
  facts.ucx.transports = kRefused;
  facts.ucx.shm = facts.ucx.net = kRefused;
  for (const Finding& finding : examine(facts)) {
    EXPECT_EQ(finding.advice.empty(), finding.verdict == Verdict::kOk) << finding.check;
  }
}

}  // namespace
}  // namespace troupe::cluster
