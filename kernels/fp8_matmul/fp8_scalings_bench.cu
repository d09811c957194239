// Compares the scalings of FP8 matrix products that cuBLASLt has on Hopper: TFLOP/s against bf16, and the error against
// float64. The shapes are the linear layers of configs/ssa-1b.json at 4 x 8192 tokens: forward, input gradient, and the
// weight gradient, which is added to a float32 gradient. docs/fp8.md has the results. Needs a Hopper GPU.
//
// Both operands are K-major: out [M, N] = a [M, K] @ b [N, K]^T, as FP8 on Hopper requires. Data: "normal", and
// "heavy": log-normal scales of channels and tokens, some channels and tokens much larger than the others.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}
void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "%s: %s\n", what, cublasLtGetStatusString(status));
  std::exit(1);
}

// ---------------------------------------------------------------------------------------------------------------- data

__device__ std::uint64_t hash(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
__device__ float normal(std::uint64_t seed, std::uint64_t index) {
  const std::uint64_t bits = hash(seed * 0x9e3779b97f4a7c15ull + index);
  const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
  const float v = static_cast<float>(bits & 0xffffff) * 0x1p-24f;
  return sqrtf(-2 * logf(u)) * cospif(2 * v);
}

enum class Kind { activation, gradient, weight };

/// A value of the matrix [tokens, features] (for weights: [outputs, inputs]).
__device__ float value(Kind kind, bool heavy, std::uint64_t seed, std::int64_t token, std::int64_t feature,
                       std::int64_t features) {
  float x = normal(seed, token * features + feature);
  if (kind == Kind::weight) return 0.02f * (heavy ? x * expf(0.5f * normal(seed + 1, feature)) : x);
  if (!heavy) return kind == Kind::gradient ? 1e-5f * x : x;
  const float channel = expf(0.5f * normal(seed + 1, feature)) * (hash(seed + feature * 7919) % 64 == 0 ? 30.f : 1.f);
  const float per_token = expf((kind == Kind::gradient ? 1.5f : 0.5f) * normal(seed + 2, token)) *
                          (hash(seed + 3 + token * 104729) % 128 == 0 ? 20.f : 1.f);
  return (kind == Kind::gradient ? 1e-5f : 1.f) * x * channel * per_token;
}

/// out [rows, columns]; transposed: row = feature, column = token.
__global__ void fill(__nv_bfloat16* out, std::int64_t rows, std::int64_t columns, Kind kind, bool heavy,
                     bool transposed, std::uint64_t seed) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < rows * columns;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t r = i / columns, c = i % columns;
    out[i] =
        __float2bfloat16(transposed ? value(kind, heavy, seed, c, r, rows) : value(kind, heavy, seed, r, c, columns));
  }
}

// ------------------------------------------------------------------------------------------------------------- scaling

enum class Scaling { tensor, row, vector128, block128 };

/// Where the scale of element (r, k) is, in cuBLASLt's layouts.
__host__ __device__ std::int64_t scale_index(Scaling s, std::int64_t rows, std::int64_t K, std::int64_t r,
                                             std::int64_t k) {
  switch (s) {
    case Scaling::tensor: return 0;
    case Scaling::row: return r;
    case Scaling::vector128: return k / 128 * rows + r;
    default: return r / 128 * (((K + 127) / 128 + 3) / 4 * 4) + k / 128;
  }
}
std::int64_t scale_count(Scaling s, std::int64_t rows, std::int64_t K) {
  const std::int64_t blocks = (K + 127) / 128;
  switch (s) {
    case Scaling::tensor: return 1;
    case Scaling::row: return rows;
    case Scaling::vector128: return blocks * rows;
    default: return (rows + 127) / 128 * ((blocks + 3) / 4 * 4);
  }
}

/// The largest magnitude that shares each scale, as the bits of a float.
__global__ void largest(unsigned* amax, const __nv_bfloat16* x, Scaling s, std::int64_t rows, std::int64_t K) {
  const std::int64_t groups = (K + 31) / 32;  // a warp takes 32 elements of a row: they share a scale
  for (std::int64_t g = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) / 32; g < rows * groups;
       g += std::int64_t{gridDim.x} * blockDim.x / 32) {
    const std::int64_t r = g / groups, k = g % groups * 32 + threadIdx.x % 32;
    const unsigned bits = k < K ? __float_as_uint(fabsf(__bfloat162float(x[r * K + k]))) : 0;
    const unsigned most = __reduce_max_sync(~0u, bits);
    if (threadIdx.x % 32 == 0) atomicMax(amax + scale_index(s, rows, K, r, g % groups * 32), most);
  }
}
/// pow2: the smallest power of two with amax / scale <= 448.
__global__ void to_scales(float* scales, const unsigned* amax, std::int64_t count, bool pow2) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const float most = __uint_as_float(amax[i]);
    float s = most == 0 ? 1.f : most / 448.f;
    if (pow2) {
      int e;
      const float m = frexpf(s, &e);
      s = ldexpf(1.f, m == 0.5f ? e - 1 : e);
    }
    scales[i] = s;
  }
}
__global__ void to_fp8(__nv_fp8_e4m3* out, const __nv_bfloat16* x, const float* scales, Scaling s, std::int64_t rows,
                       std::int64_t K) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < rows * K;
       i += std::int64_t{gridDim.x} * blockDim.x)
    out[i] = __nv_fp8_e4m3(__bfloat162float(x[i]) / scales[scale_index(s, rows, K, i / K, i % K)]);
}

// ----------------------------------------------------------------------------------------------------------- reference

constexpr int kSample = 128;  ///< the error is over kSample x kSample outputs, evenly spread

__global__ void reference(double* out, const __nv_bfloat16* a, const __nv_bfloat16* b, const __nv_fp8_e4m3* a8,
                          const __nv_fp8_e4m3* b8, const float* a_scales, const float* b_scales, Scaling sa, Scaling sb,
                          std::int64_t M, std::int64_t N, std::int64_t K) {
  const std::int64_t m = blockIdx.x * M / kSample, n = blockIdx.y * N / kSample;
  double sum = 0;
  for (std::int64_t k = threadIdx.x; k < K; k += blockDim.x)
    if (a8)
      sum += static_cast<double>(static_cast<float>(a8[m * K + k])) * a_scales[scale_index(sa, M, K, m, k)] *
             static_cast<double>(static_cast<float>(b8[n * K + k])) * b_scales[scale_index(sb, N, K, n, k)];
    else
      sum += static_cast<double>(__bfloat162float(a[m * K + k])) * static_cast<double>(__bfloat162float(b[n * K + k]));
  __shared__ double sums[256];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x * kSample + blockIdx.y] = sums[0];
}
__global__ void sample(double* out, const void* product, bool f32, std::int64_t M, std::int64_t N) {
  const std::int64_t i = (blockIdx.x * M / kSample) * N + threadIdx.x * N / kSample;
  out[blockIdx.x * kSample + threadIdx.x] =
      f32 ? static_cast<const float*>(product)[i] : __bfloat162float(static_cast<const __nv_bfloat16*>(product)[i]);
}
__global__ void add_hash(unsigned long long* sum, const std::uint16_t* data, std::int64_t count) {
  unsigned long long local = 0;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * blockDim.x)
    local += hash(static_cast<std::uint64_t>(i) << 16 | data[i]);
  atomicAdd(sum, local);
}

double relative_error(const std::vector<double>& x, const std::vector<double>& reference) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    difference += (x[i] - reference[i]) * (x[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  return std::sqrt(difference / norm);
}

// ------------------------------------------------------------------------------------------------------------- product

struct Buffers {
  __nv_bfloat16 *a, *b;
  __nv_fp8_e4m3 *a8, *b8;
  float *a_scales, *b_scales;
  unsigned* amax;
  void *out, *workspace;
  double* samples;
  unsigned long long* hash;
};
constexpr std::size_t kWorkspace = std::size_t{64} << 20;

struct Shape {
  const char* name;
  std::int64_t M, N, K;
  Kind a, b;
  bool weight_gradient;
};

struct Recipe {
  const char* name;
  bool fp8, fast;
  Scaling a, b;
};

struct Result {
  double tflops = 0, error = 0, accumulation = 0;
  int candidates = 0, same_bits = 0;
};

template <class T>
void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof(value)), "descriptor");
}

cublasLtMatmulMatrixScale_t mode_of(Scaling s) {
  switch (s) {
    case Scaling::tensor: return CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    case Scaling::row: return CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    case Scaling::vector128: return CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    default: return CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  }
}

void quantize(__nv_fp8_e4m3* out, float* scales, unsigned* amax, const __nv_bfloat16* x, Scaling s, std::int64_t rows,
              std::int64_t K, bool pow2) {
  const std::int64_t count = scale_count(s, rows, K);
  check(cudaMemset(amax, 0, static_cast<std::size_t>(count) * sizeof(unsigned)), "memset");
  largest<<<4096, 256>>>(amax, x, s, rows, K);
  to_scales<<<256, 256>>>(scales, amax, count, pow2);
  to_fp8<<<8192, 256>>>(out, x, scales, s, rows, K);
  check(cudaGetLastError(), "quantize");
}

Result run(cublasLtHandle_t blas, const Buffers& d, const Shape& p, const Recipe& r, bool pow2, bool timed) {
  Result result;
  if (r.fp8) {
    quantize(d.a8, d.a_scales, d.amax, d.a, r.a, p.M, p.K, pow2);
    quantize(d.b8, d.b_scales, d.amax, d.b, r.b, p.N, p.K, pow2);
  }
  const auto type = r.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  cublasLtMatmulDesc_t desc;
  check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
  // cuBLASLt is column-major: its A is our b, its B our a, its D the transposed output.
  set(desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(desc, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  if (r.fp8) {
    set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode_of(r.b));
    set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode_of(r.a));
    set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(d.b_scales));
    set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(d.a_scales));
    set(desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<std::int8_t>(r.fast));
  }
  cublasLtMatrixLayout_t a, b, out;
  const auto out_type = p.weight_gradient ? CUDA_R_32F : CUDA_R_16BF;
  check(cublasLtMatrixLayoutCreate(&a, type, static_cast<std::uint64_t>(p.K), static_cast<std::uint64_t>(p.N), p.K),
        "");
  check(cublasLtMatrixLayoutCreate(&b, type, static_cast<std::uint64_t>(p.K), static_cast<std::uint64_t>(p.M), p.K),
        "");
  check(
      cublasLtMatrixLayoutCreate(&out, out_type, static_cast<std::uint64_t>(p.N), static_cast<std::uint64_t>(p.M), p.N),
      "");
  cublasLtMatmulPreference_t preference;
  check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const auto workspace = static_cast<std::uint64_t>(kWorkspace);
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                             sizeof(workspace)),
        "preference");
  const auto no_split = static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE);
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split,
                                             sizeof(no_split)),
        "preference");
  std::vector<cublasLtMatmulHeuristicResult_t> found(8);
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(blas, desc, a, b, out, out, preference, 8, found.data(), &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    result.candidates = 0;
    return result;
  }
  result.candidates = count;
  const std::size_t out_bytes = static_cast<std::size_t>(p.M * p.N) * (p.weight_gradient ? 4 : 2);
  const auto start = [&](int i, float beta) {
    const float one = 1;
    const void *ap = r.fp8 ? static_cast<const void*>(d.b8) : d.b, *bp = r.fp8 ? static_cast<const void*>(d.a8) : d.a;
    return cublasLtMatmul(blas, desc, &one, ap, a, bp, b, &beta, d.out, out, d.out, out,
                          &found[static_cast<std::size_t>(i)].algo, d.workspace, kWorkspace, nullptr);
  };
  const float beta = p.weight_gradient ? 1 : 0;
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  const auto time = [&](int i, int runs) {
    check(cudaEventRecord(begin), "event");
    for (int n = 0; n < runs; ++n) check(start(i, beta), "product");
    check(cudaEventRecord(end), "event");
    check(cudaEventSynchronize(end), "product");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    return static_cast<double>(ms) / runs;
  };
  int best = -1;
  double best_ms = 1e30;
  unsigned long long first_hash = 0;
  for (int i = 0; i < count; ++i) {
    check(cudaMemset(d.out, 0xff, out_bytes), "poison");
    if (beta != 0) check(cudaMemset(d.out, 0, out_bytes), "clear");
    if (start(i, beta) != CUBLAS_STATUS_SUCCESS) continue;
    check(cudaMemset(d.hash, 0, 8), "memset");
    add_hash<<<1024, 256>>>(d.hash, static_cast<const std::uint16_t*>(d.out), static_cast<std::int64_t>(out_bytes / 2));
    unsigned long long sum = 0;
    check(cudaMemcpy(&sum, d.hash, 8, cudaMemcpyDeviceToHost), "copy");
    if (best < 0) {
      first_hash = sum;
      best = i;
      std::vector<double> x(kSample * kSample), exact(x.size()), of_fp8(x.size());
      const auto get = [&](std::vector<double>& to) {
        check(cudaMemcpy(to.data(), d.samples, to.size() * sizeof(double), cudaMemcpyDeviceToHost), "copy");
      };
      sample<<<kSample, kSample>>>(d.samples, d.out, p.weight_gradient, p.M, p.N);
      get(x);
      const dim3 grid(kSample, kSample);
      reference<<<grid, 256>>>(d.samples, d.a, d.b, nullptr, nullptr, nullptr, nullptr, r.a, r.b, p.M, p.N, p.K);
      get(exact);
      result.error = relative_error(x, exact);
      if (r.fp8) {
        reference<<<grid, 256>>>(d.samples, nullptr, nullptr, d.a8, d.b8, d.a_scales, d.b_scales, r.a, r.b, p.M, p.N,
                                 p.K);
        get(of_fp8);
        result.accumulation = relative_error(x, of_fp8);
      }
      if (!timed) break;
    }
    if (sum == first_hash) {
      ++result.same_bits;
      const double ms = time(i, 3);
      if (ms < best_ms) best_ms = ms, best = i;
    }
  }
  if (best >= 0 && timed) {
    time(best, 1 + static_cast<int>(15 / best_ms));
    const double ms = time(best, 1 + static_cast<int>(40 / best_ms));
    result.tflops = 2e-9 * static_cast<double>(p.M) * static_cast<double>(p.N) * static_cast<double>(p.K) / ms;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(a);
  cublasLtMatrixLayoutDestroy(b);
  cublasLtMatrixLayoutDestroy(out);
  cublasLtMatmulDescDestroy(desc);
  return result;
}

}  // namespace

int main() {
  constexpr std::int64_t T = 32768, H = 2048, F = 8192, Q = 2400;
  constexpr auto act = Kind::activation, grad = Kind::gradient, w = Kind::weight;
  const Shape shapes[] = {
      {"gate_up forward", T, 2 * F, H, act, w, false},
      {"gate_up input gradient", T, H, 2 * F, grad, w, false},
      {"gate_up weight gradient", 2 * F, H, T, grad, act, true},
      {"down forward", T, H, F, act, w, false},
      {"down input gradient", T, F, H, grad, w, false},
      {"down weight gradient", H, F, T, grad, act, true},
      {"o forward", T, H, H, act, w, false},
      {"o weight gradient", H, H, T, grad, act, true},
      {"qkvg forward", T, Q, H, act, w, false},
      {"qkvg input gradient", T, H, Q, grad, w, false},
      {"qkvg input gradient, K 2432", T, H, 2432, grad, w, false},
      {"qkvg weight gradient", Q, H, T, grad, act, true},
  };
  constexpr auto tensor = Scaling::tensor, row = Scaling::row, vec = Scaling::vector128, blk = Scaling::block128;
  const Recipe recipes[] = {
      {"bf16", false, false, tensor, tensor},         {"tensor, fast", true, true, tensor, tensor},
      {"tensor, exact", true, false, tensor, tensor}, {"row, fast", true, true, row, row},
      {"row, exact", true, false, row, row},          {"1x128 @ 128x128", true, false, vec, blk},
      {"128x128 @ 1x128", true, false, blk, vec},     {"1x128 @ 1x128", true, false, vec, vec},
  };
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "no GPU");
  std::printf("# %s, cuBLASLt %zu\n", properties.name, cublasLtGetVersion());
  cublasLtHandle_t blas;
  check(cublasLtCreate(&blas), "cublasLtCreate");
  Buffers d;
  const std::size_t most = static_cast<std::size_t>(T) * 2 * F;
  const auto allocate = [](auto*& pointer, std::size_t bytes) {
    void* memory;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    pointer = static_cast<std::remove_reference_t<decltype(pointer)>>(memory);
  };
  void* out;
  void* workspace;
  allocate(d.a, most * 2);
  allocate(d.b, most * 2);
  allocate(d.a8, most);
  allocate(d.b8, most);
  allocate(d.a_scales, most / 16);
  allocate(d.b_scales, most / 16);
  allocate(d.amax, most / 16);
  check(cudaMalloc(&out, most * 2), "cudaMalloc");
  check(cudaMalloc(&workspace, kWorkspace), "cudaMalloc");
  d.out = out;
  d.workspace = workspace;
  allocate(d.samples, kSample * kSample * sizeof(double));
  allocate(d.hash, 8);

  std::printf("%-28s %-18s %8s %10s %10s %10s %10s %10s %s\n", "product", "scaling", "TFLOP/s", "normal", "heavy",
              "heavy 2^n", "acc norm", "acc heavy", "same bits");
  for (const Shape& p : shapes)
    for (const Recipe& r : recipes) {
      const auto data = [&](bool heavy) {
        fill<<<8192, 256>>>(d.a, p.M, p.K, p.a, heavy, p.weight_gradient, 1);
        // The input gradient's second operand is the transposed weight.
        fill<<<8192, 256>>>(d.b, p.N, p.K, p.b, heavy, p.weight_gradient || (p.a == Kind::gradient), 2);
        check(cudaDeviceSynchronize(), "data");
      };
      data(false);
      const Result normal = run(blas, d, p, r, false, true);
      if (normal.candidates == 0) {
        std::printf("%-28s %-18s not supported\n", p.name, r.name);
        continue;
      }
      data(true);
      const Result heavy = run(blas, d, p, r, false, false);
      const Result pow2 = run(blas, d, p, r, true, false);
      std::printf("%-28s %-18s %8.0f %10.6f %10.6f %10.6f %10.6f %10.6f %d/%d\n", p.name, r.name, normal.tflops,
                  normal.error, heavy.error, r.fp8 ? pow2.error : 0, normal.accumulation, heavy.accumulation,
                  normal.same_bits, normal.candidates);
      std::fflush(stdout);
    }
  return 0;
}
