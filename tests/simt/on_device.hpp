#pragma once

// In the emulator the device's memory is the host's, so a kernel that is given a pointer to the
// host computes what it should. Here such a pointer ends the test, as it would end the kernel.

#include <map>
#include <memory>
#include <utility>

#include "base/check.hpp"
#include "kernels/ops.hpp"

namespace troupe::kernels {

/// What was allocated on the device, or pinned for it.
class DeviceRanges {
 public:
  void add(const void* memory, size_t bytes) { ranges_[address(memory)] = bytes; }
  void remove(const void* memory) { CHECK_EQ(ranges_.erase(address(memory)), 1U); }
  [[nodiscard]] uint64_t bytes() const {
    uint64_t sum = 0;
    for (const auto& [first, bytes] : ranges_) sum += bytes;
    return sum;
  }

  [[nodiscard]] bool contain(const void* from, size_t bytes) const {
    auto range = ranges_.upper_bound(address(from));
    if (range == ranges_.begin()) return false;
    --range;
    return address(from) + bytes <= range->first + range->second;
  }
  void check(const void* from, size_t bytes) const { CHECK(bytes == 0 || contain(from, bytes)); }
  void check(const ConstRows& rows) const {
    if (rows.rows * rows.cols == 0) return;
    check(rows.data, ((rows.rows - 1) * rows.stride + rows.cols) * sizeof(float));
  }
  /// May be absent.
  void check_floats(const float* from, size_t count) const {
    if (from != nullptr) check(from, count * sizeof(float));
  }
  void check(const WeightView& w) const {
    check(w.data, w.size_bytes());
    check_floats(w.scales, w.num_block_scales());
    if (!is_integer(w.dtype)) return;
    const size_t num_scales = w.out * w.num_groups();
    check(w.group_scales.data, num_scales * size_of(w.group_scales.dtype));
    if (w.group_scales.zeros != nullptr) check(w.group_scales.zeros, num_scales);
  }

 private:
  static uintptr_t address(const void* memory) { return reinterpret_cast<uintptr_t>(memory); }

  std::map<uintptr_t, size_t> ranges_;
};

/// The same operations, which check that their operands lie on the device.
class OnDevice final : public Ops {
 public:
  /// @param device outlives the object
  OnDevice(std::unique_ptr<Ops> ops, const DeviceRanges& device)
      : ops_(std::move(ops)), device_(device) {}

  const char* arithmetic_class() const override { return ops_->arithmetic_class(); }
  const char* target() const override { return ops_->target(); }
  Limits limits() const override { return ops_->limits(); }

  void embed(const EmbedParams& p) override {
    check_all(p.table, p.out);
    ops_->embed(p);
  }
  void gemm(const GemmParams& p) override { gemm_many({&p, 1}); }
  void gemm_many(std::span<const GemmParams> products) override {
    for (const GemmParams& p : products) {
      check_all(p.x, p.w, p.y);
      device_.check_floats(p.bias, p.w.out);
    }
    ops_->gemm_many(products);
  }
  void rms_norm(const RmsNormParams& p) override {
    check_all(p.x, p.out);
    device_.check_floats(p.weight, p.x.cols);
    ops_->rms_norm(p);
  }
  void rope(const RopeParams& p) override {
    check_all(p.x);
    ops_->rope(p);
  }
  void silu_mul(const SiluMulParams& p) override {
    check_all(p.gate, p.up, p.out);
    ops_->silu_mul(p);
  }
  void add(const AddParams& p) override {
    check_all(p.x, p.y);
    ops_->add(p);
  }
  void topk_gate(const TopkGateParams& p) override {
    check_all(p.logits);
    device_.check_floats(p.bias, p.logits.cols);
    device_.check(p.topk_idx, p.logits.rows * p.topk * sizeof(ExpertIdx));
    device_.check(p.topk_weight, p.logits.rows * p.topk * sizeof(float));
    ops_->topk_gate(p);
  }
  void store_kv(const StoreKvParams& p) override {
    check_all(p.x);
    for (const void* out : p.out) device_.check(out, p.x.cols * size_of(p.kv_dtype));
    ops_->store_kv(p);
  }
  void mla_absorbed(const MlaAbsorbedParams& p) override {
    check_all(p.q_latent, p.q_rope, p.out);
    check_blocks(p);
    ops_->mla_absorbed(p);
  }
  void mla_expanded(const MlaExpandedParams& p) override {
    check_all(p.q, p.out);
    device_.check_floats(p.kv_b, p.num_heads * (p.nope_dim + p.v_dim) * p.kv_rank);
    check_blocks(p);
    ops_->mla_expanded(p);
  }
  void grouped_ffn(std::span<const FfnParams> experts) override {
    for (const FfnParams& p : experts) check_all(p.x, p.gate, p.up, p.down, p.y);
    ops_->grouped_ffn(experts);
  }
  void combine(const CombineParams& p) override {
    check_all(p.shared, p.residual);
    for (size_t i = 0; i < p.residual.rows * p.topk; ++i) {
      device_.check_floats(p.expert_rows[i], p.residual.cols);
    }
    device_.check_floats(p.topk_weight, p.residual.rows * p.topk);
    ops_->combine(p);
  }

 private:
  template <class... Operands>
  void check_all(const Operands&... operands) const {
    (device_.check(operands), ...);
  }
  template <class Params>
  void check_blocks(const Params& p) const {
    const size_t bytes = p.block_tokens * (p.kv_rank + p.rope_dim) * size_of(p.kv_dtype);
    for (const AttentionRow& row : p.rows) {
      for (const void* block : row.blocks) device_.check(block, bytes);
    }
  }

  std::unique_ptr<Ops> ops_;
  const DeviceRanges& device_;
};

}  // namespace troupe::kernels
