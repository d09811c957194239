#include "kernels/matmul/autotune.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/matmul/checksum.h"

namespace ssa::cuda {
namespace {

/// Smaller products take the first candidate: measuring would cost more than it could save.
constexpr double kMeasuredFlops = 1e9;
constexpr std::int64_t kMeasuredColumns = 8;  ///< with fewer the product is the rest of a padded one (matmul_cuda.cpp)
constexpr std::size_t kRounds = 5;            ///< single runs per algorithm; their median counts

/// From this size on, the algorithms within kNear of the fastest single run are measured again in sustained runs. Each
/// runs alone until the power limit has settled the clock, then long enough to be timed: the fastest of single runs may
/// draw more power, and then be slower.
constexpr double kSustainedFlops = 1e11;
constexpr float kNear = 1.08f, kSettlingMs = 15, kSustainedMs = 30;
constexpr int kSustainedRounds = 2;

constexpr auto kWhat = "matmul: measuring";

struct FreeMemory {
  void operator()(void* memory) const { log_failure(cudaFree(memory), kWhat); }
};
struct DestroyEvent {
  void operator()(cudaEvent_t event) const { log_failure(cudaEventDestroy(event), kWhat); }
};
using DeviceMemory = std::unique_ptr<void, FreeMemory>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

/// Null if there is not enough memory.
DeviceMemory try_allocate(std::size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // or the next launch would report it
    return nullptr;
  }
  check(status, kWhat);
  return DeviceMemory(memory);
}

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), kWhat);
  return Event(event);
}

struct Candidate {
  cublasLtMatmulAlgo_t algorithm;
  std::size_t index = 0;  ///< in plan.admitted
  float ms = 0;
};

bool faster(const Candidate& a, const Candidate& b) { return a.ms < b.ms; }

/// Runs one product with several algorithms, to compare their bits and to time them.
class Trial {
 public:
  Trial(Stream& stream, const MatmulPlan& plan, const Matmul& p)
      : stream_(stream), context_(stream.cuda()), plan_(plan), p_(p), begin_(make_event()), end_(make_event()) {}

  /// False if there is no memory for the trial. A product that is to be added to `out` goes to a copy instead.
  bool allocate() {
    checksum_ = try_allocate(sizeof(std::uint64_t));
    if (p_.accumulate) copy_ = try_allocate(p_.out.bytes());
    out_ = p_.accumulate ? copy_.get() : p_.out.data();
    return checksum_ && out_;
  }

  /// The first run of an algorithm also warms it up.
  cublasStatus_t run(const cublasLtMatmulAlgo_t& algorithm, float alpha = 1) {
    return plan_.start(context_, algorithm, p_, out_, alpha);
  }

  /// A hash of the bits of the last run.
  std::uint64_t checksum() {
    std::uint64_t sum = 0;
    check(cudaMemsetAsync(checksum_.get(), 0, sizeof(sum), context_.stream), kWhat);
    add_checksum(stream_, static_cast<std::uint64_t*>(checksum_.get()), out_, p_.out.bytes());
    check(cudaMemcpyAsync(&sum, checksum_.get(), sizeof(sum), cudaMemcpyDefault, context_.stream), kWhat);
    check(cudaStreamSynchronize(context_.stream), kWhat);
    return sum;
  }

  /// Milliseconds per run, over `runs` runs in sequence.
  float time(const Candidate& candidate, int runs) {
    check(cudaEventRecord(begin_.get(), context_.stream), kWhat);
    for (int i = 0; i < runs; ++i) check(plan_.start(context_, candidate.algorithm, p_, out_), kWhat);
    check(cudaEventRecord(end_.get(), context_.stream), kWhat);
    check(cudaEventSynchronize(end_.get()), kWhat);
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin_.get(), end_.get()), kWhat);
    return ms / static_cast<float>(runs);
  }

 private:
  Stream& stream_;
  CudaContext& context_;
  const MatmulPlan& plan_;
  const Matmul& p_;
  Event begin_, end_;
  DeviceMemory checksum_, copy_;
  void* out_ = nullptr;
};

/// The algorithms that give the same bits as the first one that runs, and whether the product was of zeros.
struct SameBits {
  std::vector<Candidate> candidates;
  bool zeros = false;
};

SameBits with_same_bits(Trial& trial, const std::vector<cublasLtMatmulAlgo_t>& algorithms) {
  check(trial.run(algorithms[0], 0), kWhat);
  const std::uint64_t zero_sum = trial.checksum();
  SameBits same;
  std::uint64_t first_sum = 0;
  for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
    if (trial.run(algorithm) != CUBLAS_STATUS_SUCCESS) continue;
    const std::uint64_t sum = trial.checksum();
    if (same.candidates.empty()) first_sum = sum;
    if (sum == first_sum) same.candidates.push_back({algorithm, same.candidates.size()});
  }
  same.zeros = first_sum == zero_sum;
  return same;
}

/// Sets ms to the median of single runs. The algorithms take turns, so that all see the same clock.
void time_single_runs(Trial& trial, std::vector<Candidate>& candidates) {
  std::vector<std::array<float, kRounds>> rounds(candidates.size());
  for (std::size_t round = 0; round < kRounds; ++round)
    for (std::size_t i = 0; i < candidates.size(); ++i) rounds[i][round] = trial.time(candidates[i], 1);
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    std::nth_element(rounds[i].begin(), rounds[i].begin() + kRounds / 2, rounds[i].end());
    candidates[i].ms = rounds[i][kRounds / 2];
  }
}

/// Keeps the candidates near the fastest and sets ms to their time in sustained runs.
void time_sustained_runs(Trial& trial, std::vector<Candidate>& candidates) {
  const float limit = kNear * std::min_element(candidates.begin(), candidates.end(), faster)->ms;
  std::erase_if(candidates, [&](const Candidate& candidate) { return candidate.ms > limit; });
  std::vector<float> sustained(candidates.size());
  for (int round = 0; round < kSustainedRounds; ++round)
    for (std::size_t turn = 0; turn < candidates.size(); ++turn) {
      // Every other round runs in reverse order, because the GPU warms up meanwhile.
      const std::size_t i = round % 2 == 0 ? turn : candidates.size() - 1 - turn;
      const auto runs_in = [&](float ms) { return 1 + static_cast<int>(ms / candidates[i].ms); };
      trial.time(candidates[i], runs_in(kSettlingMs));
      sustained[i] += trial.time(candidates[i], runs_in(kSustainedMs));
    }
  for (std::size_t i = 0; i < candidates.size(); ++i) candidates[i].ms = sustained[i] / kSustainedRounds;
}

/// A product as a choice file names it.
std::string name_of(const MatmulKey& key) {
  return concat(key.M, " ", key.N, " ", key.K, ", rows of ", key.a_stride, " and ", key.out_stride,
                key.transpose_a ? " T" : " N", key.transpose_b ? "T" : "N", key.out_f32 ? " f32" : " bf16",
                key.accumulate ? " add" : " overwrite", ", aligned to ", key.alignment_a, " ", key.alignment_b, " ",
                key.alignment_out);
}

/// An algorithm as a choice file names it: cuBLASLt's own bytes in hexadecimal digits.
std::string name_of(const cublasLtMatmulAlgo_t& algorithm) {
  constexpr char kDigits[] = "0123456789abcdef";
  unsigned char bytes[sizeof algorithm];
  std::memcpy(bytes, &algorithm, sizeof bytes);
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

/// Takes the algorithm of that name. False if it is not among the candidates, or does not give the bits of the first.
bool take_saved(Trial& trial, MatmulPlan& plan, const std::vector<cublasLtMatmulAlgo_t>& algorithms,
                const std::string& name) {
  const auto saved = std::find_if(algorithms.begin(), algorithms.end(),
                                  [&](const cublasLtMatmulAlgo_t& algorithm) { return name_of(algorithm) == name; });
  if (saved == algorithms.end()) return false;
  if (saved != algorithms.begin()) {
    const SameBits same = with_same_bits(trial, {algorithms[0], *saved});
    if (same.candidates.size() < 2) return false;
    if (same.zeros) {
      plan.choice.final = false;
      return true;
    }
    plan.admitted = {algorithms[0], *saved};
    plan.choice.admitted = 2;
    plan.choice.chosen = 1;
  }
  plan.choice.from_file = true;
  return true;
}

}  // namespace

std::string describe_device(const CudaContext& context) {
  const cudaDeviceProp& gpu = context.properties;
  return concat(gpu.name, ", compute capability ", gpu.major, ".", gpu.minor, ", ", gpu.multiProcessorCount,
                " SMs, cuBLASLt ", cublasLtGetVersion(), ", workspace of ", context.blas_workspace_bytes, " bytes");
}

void choose_algorithm(Stream& stream, MatmulPlan& plan, const Matmul& p, MatmulChoiceFile& saved) {
  const std::vector<cublasLtMatmulAlgo_t> algorithms = plan.candidates(stream.cuda());
  plan.admitted = {algorithms[0]};
  plan.choice = {.candidates = algorithms.size(), .admitted = 1, .tunings = plan.choice.tunings + 1, .final = true};

  const double flops = plan.key().flops();
  if (algorithms.size() == 1 || flops < kMeasuredFlops || plan.key().N < kMeasuredColumns ||
      !stream.times_alternatives())
    return;
  Trial trial(stream, plan, p);
  if (!trial.allocate()) return;

  const std::string product = name_of(plan.key());
  if (const std::string* algorithm = saved.find(product))
    if (take_saved(trial, plan, algorithms, *algorithm)) return;

  SameBits same = with_same_bits(trial, algorithms);
  if (same.candidates.empty()) return;
  if (same.zeros) {  // every algorithm gives zeros: the comparison says nothing
    plan.choice.final = false;
    return;
  }
  plan.admitted.clear();
  for (const Candidate& candidate : same.candidates) plan.admitted.push_back(candidate.algorithm);

  time_single_runs(trial, same.candidates);
  if (flops >= kSustainedFlops) time_sustained_runs(trial, same.candidates);
  const Candidate& fastest = *std::min_element(same.candidates.begin(), same.candidates.end(), faster);
  plan.choice.admitted = plan.admitted.size();
  plan.choice.chosen = fastest.index;
  plan.choice.measured = true;
  saved.add(product, name_of(fastest.algorithm));
}

}  // namespace ssa::cuda
