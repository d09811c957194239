// FP8 products on CUDA: which kernel computes one, and the calls of cuBLASLt. cuBLASLt has one algorithm per product
// with these scales, so nothing is chosen by measurement. It may split a long sum, and adds the parts in a fixed order.
#include <map>
#include <memory>
#include <tuple>

#include "fp8_matmul.h"
#include "kernels/common/cublaslt.h"
#include "kernels/fp8_matmul/fp8_matmul_hopper.h"
#include "kernels/fp8_matmul/last_rows.h"
#include "kernels/matmul/plans.h"

namespace ssa::cuda {

#if CUBLAS_VERSION >= 120900

/// Everything that the choice of an algorithm depends on.
using Fp8Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, bool, bool>;  ///< M, N, K, a has row blocks, f32

/// A product of the whole rows of a.
class Fp8Plan {
 public:
  Fp8Plan(CudaContext& context, const Fp8Matmul& p) : operation_(make_blas_operation("fp8_matmul")) {
    const std::int64_t M = fp8_whole_rows(p.a.rows), N = p.out.dim(1), K = p.a.values.dim(1);
    // cuBLASLt is column-major: its matrix A is our b, its B our a, and its D the transpose of our out.
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, scale_mode(p.b));
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, scale_mode(p.a));
    set_scales(p);  // without scales there is no algorithm
    a_ = make_blas_layout("fp8_matmul", CUDA_R_8F_E4M3, K, N, K);
    b_ = make_blas_layout("fp8_matmul", CUDA_R_8F_E4M3, K, M, K);
    out_ = make_blas_layout("fp8_matmul", p.out.dtype() == DType::f32 ? CUDA_R_32F : CUDA_R_16BF, N, M, N);

    const BlasPreference preference = make_blas_preference("fp8_matmul", context);
    cublasLtMatmulHeuristicResult_t result{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(context.blas, operation_.get(), a_.get(), b_.get(), out_.get(), out_.get(),
                                       preference.get(), 1, &result, &count);
    SSA_CHECK(status == CUBLAS_STATUS_SUCCESS && count == 1, "fp8_matmul: cuBLASLt has no algorithm for [", M, ", ", K,
              "] @ [", N, ", ", K, "]^T with ", name_of(p.out.dtype()), " output: ", cublasLtGetStatusString(status));
    algorithm_ = result.algo;
  }

  void start(const CudaContext& context, const Fp8Matmul& p) {
    set_scales(p);
    const float alpha = 1, beta = p.accumulate ? 1 : 0;
    check(cublasLtMatmul(context.blas, operation_.get(), &alpha, p.b.values.data(), a_.get(), p.a.values.data(),
                         b_.get(), &beta, p.out.data(), out_.get(), p.out.data(), out_.get(), &algorithm_,
                         context.blas_workspace, context.blas_workspace_bytes, context.stream),
          "fp8_matmul");
    if (context.debug) check(cudaStreamSynchronize(context.stream), "fp8_matmul");
  }

 private:
  static cublasLtMatmulMatrixScale_t scale_mode(const Fp8Matrix& m) {
    return m.blocks == Fp8Blocks::row ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F
                                      : CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  }
  void set_scales(const Fp8Matmul& p) {
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(p.b.scales.data()));
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(p.a.scales.data()));
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    set_attribute("fp8_matmul", operation_, attribute, value);
  }

  BlasOperation operation_;
  BlasLayout a_, b_, out_;
  cublasLtMatmulAlgo_t algorithm_{};
};

/// The plans of one stream.
class Fp8Plans {
 public:
  Fp8Plan& plan_for(CudaContext& context, const Fp8Matmul& p) {
    const Fp8Key key(fp8_whole_rows(p.a.rows), p.out.dim(1), p.a.values.dim(1), p.a.blocks == Fp8Blocks::row,
                     p.out.dtype() == DType::f32);
    const auto found = plans_.find(key);
    return found != plans_.end() ? found->second : plans_.try_emplace(key, context, p).first->second;
  }

 private:
  std::map<Fp8Key, Fp8Plan> plans_;
};

namespace {

/// The faster one, as measured at the shapes of training (README.md).
Fp8Kernel chosen_kernel(Stream& stream, const Fp8Matmul& p) {
  if (!stream.cuda().hopper_kernels) return Fp8Kernel::cublaslt;
  return p.accumulate && !fp8_matmul_hopper_splits(stream, p) ? Fp8Kernel::cublaslt : Fp8Kernel::hopper;
}

}  // namespace

void fp8_matmul(Stream& stream, const Fp8Matmul& p) {
  const std::int64_t whole = fp8_whole_rows(p.a.rows);
  if (whole < p.a.rows) fp8_last_rows(stream, p);
  if (whole == 0) return;
  const Fp8Kernel kernel = p.kernel == Fp8Kernel::chosen ? chosen_kernel(stream, p) : p.kernel;
  if (kernel == Fp8Kernel::hopper) return fp8_matmul_hopper(stream, p);
  CudaContext& context = stream.cuda();
  if (!context.matmul_plans) context.matmul_plans = std::make_shared<MatmulPlans>(context);
  std::shared_ptr<Fp8Plans>& plans = context.matmul_plans->fp8;
  if (!plans) plans = std::make_shared<Fp8Plans>();
  plans->plan_for(context, p).start(context, p);
}

std::string why_no_fp8(Stream& stream) {
  const cudaDeviceProp& gpu = stream.cuda().properties;
  if (gpu.major != 9 || gpu.minor != 0)
    return concat("FP8 products with block scales need a Hopper GPU (compute capability 9.0); ", gpu.name, " has ",
                  gpu.major, ".", gpu.minor);
  constexpr std::size_t kSharedBytes = std::size_t{114} << 10;  // swiglu's backward takes most
  if (gpu.sharedMemPerBlockOptin < kSharedBytes)
    return concat("training in FP8 needs ", kSharedBytes / 1024,
                  " KB of shared memory per CTA; SSA_SHARED_MEMORY_KB is ", gpu.sharedMemPerBlockOptin / 1024);
  return {};
}

#else

void fp8_matmul(Stream&, const Fp8Matmul&) { fail("fp8_matmul: this build's CUDA is older than 12.9"); }

std::string why_no_fp8(Stream&) { return "FP8 products with block scales need a build with CUDA 12.9 or newer"; }

#endif

}  // namespace ssa::cuda
