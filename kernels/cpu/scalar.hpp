#pragma once

// The scalar version of every operation: the specification that all others follow bit for bit.
// Contracts are in kernels/ops.hpp; shapes have been checked by the caller.

#include "kernels/kernel_set.hpp"

namespace troupe::kernels::scalar {

void embed(const EmbedParams& p, Range rows);
void gemm(const GemmParams& p, Range outputs);
void quantise(const QuantiseParams& p, Range rows);
void quantised_gemm(const QuantisedGemmParams& p, Range outputs);
void rms_norm(const RmsNormParams& p, Range rows);
void rope(const RopeParams& p, Range rows);
void silu_mul(const SiluMulParams& p, Range rows);
void add(const AddParams& p, Range rows);
void topk_gate(const TopkGateParams& p, Range rows);
void store_kv(const StoreKvParams& p, Range rows);
void mla_absorbed(const MlaAbsorbedParams& p, Range rows, Range heads);
void mla_expanded(const MlaExpandedParams& p, Range rows, Range heads);
void combine(const CombineParams& p, Range rows);
uint64_t float_peak(size_t rounds);
uint64_t integer_peak(size_t rounds);

}  // namespace troupe::kernels::scalar
