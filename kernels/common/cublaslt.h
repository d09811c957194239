// cuBLASLt's objects with one owner each, and its errors. `op` names the op in error messages.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <cstdio>
#include <memory>

#include "src/runtime/cuda_context.h"

namespace ssa::cuda {

/// Throws unless `status` is success.
inline void check(cublasStatus_t status, const char* op) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail("cuBLASLt: ", op, ": ", cublasLtGetStatusString(status));
}

/// The same for code that cannot throw: an error is logged to stderr.
inline void log_failure(cublasStatus_t status, const char* what) noexcept {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    std::fprintf(stderr, "cuBLASLt: %s: %s\n", what, cublasLtGetStatusString(status));
}

struct DestroyBlas {
  void operator()(cublasLtMatmulDescOpaque_t* operation) const {
    log_failure(cublasLtMatmulDescDestroy(operation), "cublasLtMatmulDescDestroy");
  }
  void operator()(cublasLtMatrixLayoutOpaque_t* layout) const {
    log_failure(cublasLtMatrixLayoutDestroy(layout), "cublasLtMatrixLayoutDestroy");
  }
  void operator()(cublasLtMatmulPreferenceOpaque_t* preference) const {
    log_failure(cublasLtMatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
  }
};
using BlasOperation = std::unique_ptr<cublasLtMatmulDescOpaque_t, DestroyBlas>;
using BlasLayout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, DestroyBlas>;
using BlasPreference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DestroyBlas>;

/// A product in float32.
inline BlasOperation make_blas_operation(const char* op) {
  cublasLtMatmulDesc_t operation = nullptr;
  check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), op);
  return BlasOperation(operation);
}

/// A column-major matrix, whose columns begin `stride` elements after each other.
inline BlasLayout make_blas_layout(const char* op, cudaDataType_t type, std::int64_t rows, std::int64_t columns,
                                   std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns),
                                   stride),
        op);
  return BlasLayout(layout);
}

template <class T>
void set_attribute(const char* op, const BlasOperation& operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)), op);
}

template <class T>
void set_attribute(const char* op, const BlasPreference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
                   T value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)), op);
}

/// Algorithms that need no more than the context's workspace.
inline BlasPreference make_blas_preference(const char* op, const CudaContext& context) {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), op);
  BlasPreference owner(preference);
  set_attribute(op, owner, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                static_cast<std::uint64_t>(context.blas_workspace_bytes));
  return owner;
}

}  // namespace ssa::cuda
