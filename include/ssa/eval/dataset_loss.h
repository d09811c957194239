// Loss and perplexity per token of a tokenized dataset.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/data/row_loader.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/progress.h"
#include "ssa/eval/report.h"

namespace ssa::eval {

/// The rows (sequences) of a dataset in file order, with greedy packing. Error when the dataset's vocabulary or
/// end-of-text token does not fit the model.
class DatasetRows {
 public:
  /// `max_length` 0 means the model's max_position_embeddings, at most 2048. `document_mask` as data.document_mask,
  /// with the model's block_size. Documents of fewer than `min_document_tokens` tokens are left out.
  DatasetRows(const std::filesystem::path& directory, const ModelConfig& model, std::int64_t max_length,
              bool document_mask = false, std::int64_t min_document_tokens = 0);

  const RowLoader& loader() const { return loader_; }
  const Dataset& dataset() const { return dataset_; }
  const KeptDocuments& kept() const { return kept_; }
  /// The first `limit` rows of the concatenated documents, without padding and without a document mask.
  std::vector<std::vector<std::int32_t>> filled(std::int64_t limit) const;

 private:
  Dataset dataset_;
  RowOptions options_;
  RowLoader loader_;
  KeptDocuments kept_;
};

/// The progress of running every row, `per_batch` rows per batch. Its tokens include padding, as in training.
Progress dataset_progress(const ForwardPass& pass, const Comm& comm, const DatasetRows& data, std::int64_t per_batch);
/// Runs every row, `rows` per batch, spread over the ranks. Metrics: loss (mean over all labels, nats per token),
/// token_perplexity, and bits_per_byte where the dataset records its bytes and all documents are kept.
TaskResult dataset_loss(ForwardPass& pass, Comm& comm, const DatasetRows& data, std::int64_t rows);
/// The same of sums that are known.
TaskResult dataset_result(const DatasetRows& data, const EvalSums& sums);

}  // namespace ssa::eval
