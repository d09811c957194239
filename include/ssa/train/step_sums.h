// The sums of an optimizer step: one device tensor, so that one copy reads them, and its layout.
#pragma once

#include <vector>

#include "ssa/model/llama.h"
#include "ssa/runtime/arena.h"
#include "ssa/runtime/stream.h"

namespace ssa {

class StepSums {
 public:
  StepSums() = default;
  /// `buckets`: of the ParamTable.
  StepSums(Arena& arena, const ModelConfig& config, std::size_t buckets);

  /// Where the ops add.
  LossSums losses() const;
  AttentionSums attention() const;  ///< selected_mass and entropy
  /// [1] f64: of the gradients of a bucket that this rank owns, and of those that it computed, before they are reduced.
  Tensor squared_norm(std::size_t bucket) const;
  Tensor local_squared_norm(std::size_t bucket) const;

  void clear(Stream& stream) const { stream.zero(all_); }

  /// The sums on the host; attention sums are added up over the heads of each layer.
  struct Values {
    double ce, alignment;
    double squared_norm;                         ///< added up over the buckets
    std::vector<double> local_squared_norms;     ///< per bucket
    std::vector<double> selected_mass, entropy;  ///< by layer
  };
  Values read(Stream& stream) const;
  /// Every sum, to compare steps bit by bit.
  std::vector<double> read_all(Stream& stream) const;

 private:
  std::int64_t layers_ = 0, heads_ = 0, buckets_ = 0;
  Tensor all_;  ///< f64: ce, alignment, squared norms [buckets] twice, selected_mass [L, HQ], entropy [L, HQ]
};

}  // namespace ssa
