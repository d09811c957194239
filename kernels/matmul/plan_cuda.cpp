#include "kernels/matmul/plan.h"

namespace ssa::cuda {
namespace {

/// The largest power of two, up to 256, that divides the address.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

}  // namespace

MatmulKey::MatmulKey(const Matmul& p)
    : M(p.M()),
      N(p.N()),
      K(p.K()),
      a_stride(p.a.dim(1)),
      out_stride(p.out.dim(1)),
      transpose_a(p.transpose_a),
      transpose_b(p.transpose_b),
      accumulate(p.accumulate),
      out_f32(p.out.dtype() == DType::f32),
      alignment_a(alignment_of(p.a.data())),
      alignment_b(alignment_of(p.b.data())),
      alignment_out(alignment_of(p.out.data())) {}

MatmulPlan::MatmulPlan(const MatmulKey& key) : key_(key), operation_(make_blas_operation("matmul")) {
  const auto transposed = [](bool transpose) { return transpose ? CUBLAS_OP_T : CUBLAS_OP_N; };
  set_attribute("matmul", operation_, CUBLASLT_MATMUL_DESC_TRANSA, transposed(key.transpose_b));
  set_attribute("matmul", operation_, CUBLASLT_MATMUL_DESC_TRANSB, transposed(key.transpose_a));
  const auto layout = [](cudaDataType_t type, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
    return make_blas_layout("matmul", type, rows, columns, stride);
  };
  a_ = key.transpose_b ? layout(CUDA_R_16BF, key.K, key.N, key.K) : layout(CUDA_R_16BF, key.N, key.K, key.N);
  b_ = key.transpose_a ? layout(CUDA_R_16BF, key.M, key.K, key.a_stride)
                       : layout(CUDA_R_16BF, key.K, key.M, key.a_stride);
  out_ = layout(key.out_f32 ? CUDA_R_32F : CUDA_R_16BF, key.N, key.M, key.out_stride);
}

std::vector<cublasLtMatmulAlgo_t> MatmulPlan::candidates(const CudaContext& context) const {
  constexpr int kCandidates = 8;
  const BlasPreference preference = make_blas_preference("matmul", context);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    set_attribute("matmul", preference, attribute, value);
  };
  // No split-K: its reductions round in another order.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key_.alignment_b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key_.alignment_a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key_.alignment_out);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key_.alignment_out);

  std::vector<cublasLtMatmulHeuristicResult_t> results(kCandidates);
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(context.blas, operation_.get(), a_.get(), b_.get(), out_.get(), out_.get(),
                                     preference.get(), kCandidates, results.data(), &count);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i)
    if (results[static_cast<std::size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
      algorithms.push_back(results[static_cast<std::size_t>(i)].algo);
  SSA_CHECK(status == CUBLAS_STATUS_SUCCESS && !algorithms.empty(), "matmul: cuBLASLt has no algorithm for [", key_.M,
            ", ", key_.K, "] @ [", key_.K, ", ", key_.N, "]: ", cublasLtGetStatusString(status));
  return algorithms;
}

cublasStatus_t MatmulPlan::start(const CudaContext& context, const cublasLtMatmulAlgo_t& algorithm, const Matmul& p,
                                 void* out, float alpha) const {
  const float beta = p.accumulate ? 1 : 0;
  return cublasLtMatmul(context.blas, operation_.get(), &alpha, p.b.data(), a_.get(), p.a.data(), b_.get(), &beta,
                        p.out.data(), out_.get(), out, out_.get(), &algorithm, context.blas_workspace,
                        context.blas_workspace_bytes, context.stream);
}

}  // namespace ssa::cuda
