#include <cstdio>

#include "kernels/matmul/plan.h"

namespace ssa::cuda {
namespace {

/// The largest power of two, up to 256, that divides the address.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

struct DestroyPreference {
  void operator()(cublasLtMatmulPreferenceOpaque_t* preference) const {
    log_failure(cublasLtMatmulPreferenceDestroy(preference), "matmul: preference");
  }
};

}  // namespace

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail("cuBLASLt: ", what, ": ", cublasLtGetStatusString(status));
}

void log_failure(cublasStatus_t status, const char* what) noexcept {
  if (status != CUBLAS_STATUS_SUCCESS)
    std::fprintf(stderr, "cuBLASLt: %s: %s\n", what, cublasLtGetStatusString(status));
}

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

void MatmulPlan::Destroy::operator()(cublasLtMatmulDescOpaque_t* operation) const {
  log_failure(cublasLtMatmulDescDestroy(operation), "matmul: descriptor");
}

void MatmulPlan::Destroy::operator()(cublasLtMatrixLayoutOpaque_t* layout) const {
  log_failure(cublasLtMatrixLayoutDestroy(layout), "matmul: layout");
}

MatmulPlan::Layout MatmulPlan::make_layout(cudaDataType_t type, std::int64_t rows, std::int64_t columns,
                                           std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns),
                                   stride),
        "matmul: layout");
  return Layout(layout);
}

MatmulPlan::MatmulPlan(const MatmulKey& key) : key_(key) {
  cublasLtMatmulDesc_t operation = nullptr;
  check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul: descriptor");
  operation_.reset(operation);
  const auto set_transpose = [&](cublasLtMatmulDescAttributes_t attribute, bool transpose) {
    const cublasOperation_t value = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)), "matmul: transpose");
  };
  set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b);
  set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a);
  a_ = key.transpose_b ? make_layout(CUDA_R_16BF, key.K, key.N, key.K) : make_layout(CUDA_R_16BF, key.N, key.K, key.N);
  b_ = key.transpose_a ? make_layout(CUDA_R_16BF, key.M, key.K, key.a_stride)
                       : make_layout(CUDA_R_16BF, key.K, key.M, key.a_stride);
  out_ = make_layout(key.out_f32 ? CUDA_R_32F : CUDA_R_16BF, key.N, key.M, key.out_stride);
}

std::vector<cublasLtMatmulAlgo_t> MatmulPlan::candidates(const CudaContext& context) const {
  constexpr int kCandidates = 8;
  cublasLtMatmulPreference_t created = nullptr;
  check(cublasLtMatmulPreferenceCreate(&created), "matmul: preference");
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DestroyPreference> preference(created);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
          "matmul: preference");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(context.blas_workspace_bytes));
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
