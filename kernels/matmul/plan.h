// A plan is one kind of matrix product in cuBLASLt's terms: its descriptors, and the algorithm that autotuning chose.
//
// cuBLASLt is column-major. Row-major out = op(a) op(b) is column-major out^T = op(b)^T op(a)^T: b is cuBLASLt's matrix
// A, and a is its matrix B.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "kernels/common/cublaslt.h"
#include "kernels/matmul/choice.h"

namespace ssa::cuda {

/// Everything that the choice of an algorithm may depend on.
struct MatmulKey {
  std::int64_t M, N, K, a_stride, out_stride;
  bool transpose_a, transpose_b, accumulate, out_f32;
  std::uint32_t alignment_a, alignment_b, alignment_out;  ///< of the addresses, in bytes, up to 256

  explicit MatmulKey(const Matmul& p);
  auto operator<=>(const MatmulKey&) const = default;
  double flops() const { return 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K); }
};

class MatmulPlan {
 public:
  explicit MatmulPlan(const MatmulKey& key);

  const MatmulKey& key() const { return key_; }

  /// The algorithms that cuBLASLt's heuristics propose, best first, at least one. They depend on key, device, library.
  std::vector<cublasLtMatmulAlgo_t> candidates(const CudaContext& context) const;

  /// Starts out = alpha * op(a) op(b), plus p.out if the plan accumulates. `out` may be another buffer than p.out.
  cublasStatus_t start(const CudaContext& context, const cublasLtMatmulAlgo_t& algorithm, const Matmul& p, void* out,
                       float alpha = 1) const;

  const cublasLtMatmulAlgo_t& algorithm() const { return admitted[choice.chosen]; }

  MatmulChoice choice;
  std::vector<cublasLtMatmulAlgo_t> admitted;  ///< algorithms that give the same bits as the first candidate

 private:
  MatmulKey key_;
  BlasOperation operation_;
  BlasLayout a_, b_, out_;  ///< cuBLASLt's A (our b), B (our a), and C and D
};

}  // namespace ssa::cuda
