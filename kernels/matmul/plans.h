// The plans of one stream, each with its algorithm.
#pragma once

#include <chrono>
#include <map>
#include <memory>

#include "kernels/matmul/autotune.h"
#include "kernels/matmul/choice_file.h"
#include "kernels/matmul/plan.h"

namespace ssa::cuda {

class Fp8Plans;  // the plans of FP8 products, in fp8_matmul_cuda.cpp

/// The plans of one stream.
class MatmulPlans {
 public:
  explicit MatmulPlans(const CudaContext& context) : saved_(cache_directory(), describe_device(context)) {}

  /// The plan of products like `p`, with an algorithm chosen. While the stream records, the choice of an earlier
  /// product remains.
  const MatmulPlan& plan_for(Stream& stream, const Matmul& p) {
    const MatmulKey key(p);
    auto found = plans_.find(key);
    if (found != plans_.end() && (found->second.choice.final || stream.is_recording())) return found->second;
    if (found == plans_.end()) found = plans_.try_emplace(key, key).first;
    try {
      const auto begin = std::chrono::steady_clock::now();
      choose_algorithm(stream, found->second, p, saved_);
      seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    } catch (...) {
      plans_.erase(found);
      throw;
    }
    return found->second;
  }

  /// Null if no such product was computed.
  const MatmulPlan* find(const Matmul& p) const {
    const auto found = plans_.find(MatmulKey(p));
    return found == plans_.end() ? nullptr : &found->second;
  }

  MatmulChoiceReport report() const {
    MatmulChoiceReport report{.seconds = seconds_, .file = saved_.path().string(), .problem = saved_.problem()};
    for (const auto& [key, plan] : plans_) {
      report.measured += plan.choice.measured;
      report.from_file += plan.choice.from_file;
    }
    return report;
  }

  std::shared_ptr<Fp8Plans> fp8;  ///< made by the first FP8 product

 private:
  std::map<MatmulKey, MatmulPlan> plans_;
  MatmulChoiceFile saved_;
  double seconds_ = 0;  ///< that choices took
};

}  // namespace ssa::cuda
