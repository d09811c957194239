// Loss and perplexity a token of a tokenized dataset.
#pragma once

#include <cstdint>

#include "ssa/data/row_loader.h"
#include "ssa/dist/comm.h"
#include "ssa/eval/setting.h"
#include "ssa/train/evaluate.h"

namespace ssa::eval {

/// Every row of the loader's epoch 0, `rows` at a time, spread over the ranks; the sums are those of all ranks.
EvalSums dataset_loss(Stream& stream, Comm& comm, const ModelSource& source, const Setting& setting,
                      const RowLoader& loader, std::int64_t rows);

}  // namespace ssa::eval
