#include <vector>

#include "kernels/cpu/convert.hpp"
#include "kernels/cpu/scalar.hpp"
#include "kernels/cpu/sum16.hpp"

namespace troupe::kernels::scalar {

void gemm(const GemmParams& p, Range outputs) {
  std::vector<float> weights(p.w.in);
  for (size_t o = outputs.first; o < outputs.last; ++o) {
    weight_row(p.w, o, weights.data());
    for (size_t r = 0; r < p.x.rows; ++r) {
      const float sum = dot(p.x.row(r), weights.data(), p.w.in);
      p.y.row(r)[o] = p.bias == nullptr ? sum : sum + p.bias[o];
    }
  }
}

void embed(const EmbedParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) {
    weight_row(p.table, static_cast<size_t>(p.tokens[r]), p.out.row(r));
  }
}

}  // namespace troupe::kernels::scalar
