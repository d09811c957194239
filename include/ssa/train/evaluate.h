// Loss over all rows of a dataset, spread over the ranks.
#pragma once

#include "ssa/comm/comm.h"
#include "ssa/data/row_loader.h"
#include "ssa/model/llama.h"
#include "ssa/train/batch_staging.h"

namespace ssa {

struct EvalSums {
  double ce = 0;            ///< cross entropy, nats, summed over targets
  std::int64_t labels = 0;  ///< targets
  double mean() const { return labels > 0 ? ce / static_cast<double>(labels) : 0.0; }
};

/// Runs every row of the loader's epoch 0 once through the model. `batch`, `all_sums` (cleared) and `sums` are the
/// device tensors of model_state.h.
EvalSums evaluate_rows(Stream& stream, Comm& comm, const Llama& model, const MicroBatch& batch, const Tensor& all_sums,
                       const PassSums& sums, BatchStaging& staging, const RowLoader& loader);

}  // namespace ssa
