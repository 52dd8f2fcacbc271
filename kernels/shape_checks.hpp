#pragma once

// CHECKs the shape rules of kernels/ops.hpp once per call, before any element is touched. They
// guard memory, so they stay on in every build.

#include "kernels/ops.hpp"

namespace troupe::kernels {

void check_shapes(const EmbedParams& p);
void check_shapes(const GemmParams& p);
void check_shapes(const RmsNormParams& p);
void check_shapes(const RopeParams& p);
void check_shapes(const SiluMulParams& p);
void check_shapes(const AddParams& p);
void check_shapes(const TopkGateParams& p);
void check_shapes(const StoreKvParams& p);
void check_shapes(const MlaAbsorbedParams& p);
void check_shapes(const MlaExpandedParams& p);
void check_shapes(const FfnParams& p);
void check_shapes(const CombineParams& p);

}  // namespace troupe::kernels
