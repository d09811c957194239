// cuBLASLt, with the algorithm of each shape chosen by measurement the first time the shape is seen.
//
// Row-major out = op(a) op(b) is column-major out^T = op(b)^T op(a)^T: b is cuBLAS's A and a its B.
//
// Results must not depend on what was measured, or a resumed run would differ from one that never stopped. So the first
// answer of the heuristics (a function of shape, device and library) fixes the result, and of the others only those
// that give the same bits on the data at hand may replace it. Split-K and its reductions are left out from the start.
#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <vector>

#include "kernels/matmul/checksum.h"
#include "matmul.h"
#include "src/runtime/cuda_context.h"

namespace ssa::cuda {
namespace {

/// Products smaller than this take the heuristics' first answer: measuring would cost more than it could win.
constexpr double kMeasuredFlops = 1e9;
constexpr int kCandidates = 8;
constexpr std::size_t kRounds = 5;

/// Of products from this size on, those within kNear of the fastest are measured again, each running alone for as long
/// as the power limit needs to set the clock: the fastest of single runs may draw more power, and then be slower.
constexpr double kSustainedFlops = 1e11;
constexpr float kNear = 1.08f, kSettlingMs = 15, kSustainedMs = 30;
constexpr int kSustainedRounds = 2;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail("cuBLASLt: ", what, ": ", cublasLtGetStatusString(status));
}

/// The largest power of two, up to 256, that divides the address.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

struct Key {
  std::int64_t M, N, K;
  bool transpose_a, transpose_b, accumulate, out_f32;
  std::uint32_t alignment_a, alignment_b, alignment_out;
  auto operator<=>(const Key&) const = default;
};

struct Candidate {
  cublasLtMatmulAlgo_t algorithm;
  std::array<float, kRounds> rounds{};
  float ms = 0;

  static bool faster(const Candidate& a, const Candidate& b) { return a.ms < b.ms; }
};

/// Memory and events of one measurement.
struct Trial {
  Trial() {
    cuda::check(cudaMalloc(reinterpret_cast<void**>(&checksum), sizeof(*checksum)), "matmul: measuring");
    for (cudaEvent_t& event : events) cuda::check(cudaEventCreate(&event), "matmul: measuring");
  }
  ~Trial() {
    cudaFree(checksum);
    cudaFree(copy);
    for (cudaEvent_t event : events)
      if (event) cudaEventDestroy(event);
  }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  std::uint64_t* checksum = nullptr;
  void* copy = nullptr;  ///< receives the result where `out` must keep what it holds
  std::array<cudaEvent_t, 2> events{};
};

}  // namespace

class MatmulPlans {
 public:
  explicit MatmulPlans(CudaContext& context) : context_(context) {}
  ~MatmulPlans() {
    for (auto& [key, plan] : plans_) {
      for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.out})
        if (layout) cublasLtMatrixLayoutDestroy(layout);
      if (plan.operation) cublasLtMatmulDescDestroy(plan.operation);
    }
  }
  MatmulPlans(const MatmulPlans&) = delete;
  MatmulPlans& operator=(const MatmulPlans&) = delete;

  void run(Stream& stream, const Matmul& p) {
    const std::int64_t M = p.out.dim(0), N = p.out.dim(1), K = p.a.dim(p.transpose_a ? 0 : 1);
    const Key key{M,
                  N,
                  K,
                  p.transpose_a,
                  p.transpose_b,
                  p.accumulate,
                  p.out.dtype() == DType::f32,
                  alignment_of(p.a.data()),
                  alignment_of(p.b.data()),
                  alignment_of(p.out.data())};
    auto found = plans_.find(key);
    if (found == plans_.end() || !found->second.chosen) {
      found = plans_.try_emplace(key).first;
      try {
        if (!found->second.operation) make(found->second, key);
        choose(stream, found->second, key, p);
      } catch (...) {
        plans_.erase(found);
        throw;
      }
    }
    const Plan& plan = found->second;
    check(start(plan, plan.algorithm, p, p.out.data()), "matmul");
    if (context_.debug) cuda::check(cudaStreamSynchronize(context_.stream), "matmul");
  }

 private:
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, out = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    bool chosen = false;
  };

  static void make(Plan& plan, const Key& key) {
    check(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul: descriptor");
    const cublasOperation_t of_a = key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t of_b = key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &of_a, sizeof(of_a)),
          "matmul: transpose");
    check(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, &of_b, sizeof(of_b)),
          "matmul: transpose");
    const auto layout = [](cublasLtMatrixLayout_t& matrix, cudaDataType_t type, std::int64_t rows,
                           std::int64_t columns) {
      check(cublasLtMatrixLayoutCreate(&matrix, type, static_cast<std::uint64_t>(rows),
                                       static_cast<std::uint64_t>(columns), rows),
            "matmul: layout");
    };
    if (key.transpose_b)
      layout(plan.a, CUDA_R_16BF, key.K, key.N);
    else
      layout(plan.a, CUDA_R_16BF, key.N, key.K);
    if (key.transpose_a)
      layout(plan.b, CUDA_R_16BF, key.M, key.K);
    else
      layout(plan.b, CUDA_R_16BF, key.K, key.M);
    layout(plan.out, key.out_f32 ? CUDA_R_32F : CUDA_R_16BF, key.N, key.M);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Plan& plan, const Key& key) const {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "matmul: preference");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)), "matmul: preference");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(context_.blas_workspace_bytes));
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignment_b);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignment_a);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignment_out);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignment_out);
    std::vector<cublasLtMatmulHeuristicResult_t> found(kCandidates);
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(context_.blas, plan.operation, plan.a, plan.b, plan.out, plan.out, preference,
                                       kCandidates, found.data(), &count);
    cublasLtMatmulPreferenceDestroy(preference);
    SSA_CHECK(status == CUBLAS_STATUS_SUCCESS && count > 0, "matmul: cuBLASLt has no algorithm for [", key.M, ", ",
              key.K, "] @ [", key.K, ", ", key.N, "]: ", cublasLtGetStatusString(status));
    found.resize(static_cast<std::size_t>(count));
    std::erase_if(found, [](const auto& result) { return result.state != CUBLAS_STATUS_SUCCESS; });
    return found;
  }

  cublasStatus_t start(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Matmul& p, void* out,
                       float alpha = 1) const {
    const float beta = p.accumulate ? 1 : 0;
    return cublasLtMatmul(context_.blas, plan.operation, &alpha, p.b.data(), plan.a, p.a.data(), plan.b, &beta,
                          p.out.data(), plan.out, out, plan.out, &algorithm, context_.blas_workspace,
                          context_.blas_workspace_bytes, context_.stream);
  }

  /// Leaves `out` as it was where the product is to be added to it; else overwrites it.
  void choose(Stream& stream, Plan& plan, const Key& key, const Matmul& p) const {
    const std::vector<cublasLtMatmulHeuristicResult_t> found = candidates(plan, key);
    SSA_CHECK(!found.empty(), "matmul: cuBLASLt has no algorithm for [", key.M, ", ", key.K, "] @ [", key.K, ", ",
              key.N, "]");
    plan.algorithm = found[0].algo;
    plan.chosen = true;
    const double flops = 2.0 * static_cast<double>(key.M) * static_cast<double>(key.N) * static_cast<double>(key.K);
    if (found.size() == 1 || flops < kMeasuredFlops || !stream.times_alternatives()) return;
    Trial trial;
    if (p.accumulate && cudaMalloc(&trial.copy, p.out.bytes()) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return;  // no room for a copy: the first answer is good
    }
    void* const out = p.accumulate ? trial.copy : p.out.data();
    check(start(plan, plan.algorithm, p, out, 0), "matmul: measuring");
    const std::uint64_t zero_sum = checksum(stream, trial, out, p.out.bytes());
    std::vector<Candidate> same;  // of those that give the first one's bits
    std::uint64_t first_sum = 0;
    for (const auto& result : found) {
      if (start(plan, result.algo, p, out) != CUBLAS_STATUS_SUCCESS) continue;  // also warms it up
      const std::uint64_t sum = checksum(stream, trial, out, p.out.bytes());
      if (same.empty()) first_sum = sum;
      if (sum == first_sum) same.push_back({.algorithm = result.algo});
    }
    if (same.empty()) return;
    if (first_sum == zero_sum) {  // a product of zeros tells nothing about bits
      plan.chosen = false;
      return;
    }
    // Round robin, that all meet the same clock.
    for (std::size_t round = 0; round < kRounds; ++round)
      for (Candidate& candidate : same) candidate.rounds[round] = measure(plan, candidate.algorithm, p, out, trial, 1);
    for (Candidate& candidate : same) {
      std::nth_element(candidate.rounds.begin(), candidate.rounds.begin() + kRounds / 2, candidate.rounds.end());
      candidate.ms = candidate.rounds[kRounds / 2];
    }
    if (flops >= kSustainedFlops) {
      const float limit = kNear * std::min_element(same.begin(), same.end(), Candidate::faster)->ms;
      std::erase_if(same, [&](const Candidate& candidate) { return candidate.ms > limit; });
      const auto runs_of = [](const Candidate& candidate, float ms) { return 1 + static_cast<int>(ms / candidate.ms); };
      std::vector<float> sustained(same.size());
      for (int round = 0; round < kSustainedRounds; ++round)
        for (std::size_t place = 0; place < same.size(); ++place) {
          const std::size_t i = round % 2 == 0 ? place : same.size() - 1 - place;  // the GPU warms up meanwhile
          const Candidate& candidate = same[i];
          measure(plan, candidate.algorithm, p, out, trial, runs_of(candidate, kSettlingMs));
          sustained[i] += measure(plan, candidate.algorithm, p, out, trial, runs_of(candidate, kSustainedMs));
        }
      for (std::size_t i = 0; i < same.size(); ++i) same[i].ms = sustained[i];
    }
    plan.algorithm = std::min_element(same.begin(), same.end(), Candidate::faster)->algorithm;
  }

  /// Milliseconds of one of so many runs in a row.
  float measure(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Matmul& p, void* out, const Trial& trial,
                int runs) const {
    cuda::check(cudaEventRecord(trial.events[0], context_.stream), "matmul: measuring");
    for (int i = 0; i < runs; ++i) check(start(plan, algorithm, p, out), "matmul: measuring");
    cuda::check(cudaEventRecord(trial.events[1], context_.stream), "matmul: measuring");
    cuda::check(cudaEventSynchronize(trial.events[1]), "matmul: measuring");
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, trial.events[0], trial.events[1]), "matmul: measuring");
    return ms / static_cast<float>(runs);
  }

  std::uint64_t checksum(Stream& stream, const Trial& trial, const void* data, std::size_t bytes) const {
    std::uint64_t sum = 0;
    cuda::check(cudaMemsetAsync(trial.checksum, 0, sizeof(sum), context_.stream), "matmul: measuring");
    add_checksum(stream, trial.checksum, data, bytes);
    cuda::check(cudaMemcpyAsync(&sum, trial.checksum, sizeof(sum), cudaMemcpyDefault, context_.stream),
                "matmul: measuring");
    cuda::check(cudaStreamSynchronize(context_.stream), "matmul: measuring");
    return sum;
  }

  CudaContext& context_;
  std::map<Key, Plan> plans_;
};

void matmul(Stream& stream, const Matmul& p) {
  if (p.out.count() == 0) return;
  if (p.a.count() == 0) {  // no terms: cuBLASLt has no algorithm for that
    if (!p.accumulate) stream.zero(p.out);
    return;
  }
  CudaContext& context = stream.cuda();
  if (!context.matmul_plans) context.matmul_plans = std::make_shared<MatmulPlans>(context);
  context.matmul_plans->run(stream, p);
}

}  // namespace ssa::cuda
