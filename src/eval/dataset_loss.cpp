#include "ssa/eval/dataset_loss.h"

#include <algorithm>
#include <cmath>

namespace ssa::eval {
namespace {

RowOptions row_options(const Dataset& dataset, const ModelConfig& model, std::int64_t max_length, bool document_mask,
                       std::int64_t min_document_tokens) {
  dataset.check_model(model.vocab_size, model.eos_token_id);
  return {.max_length = max_length ? max_length : std::min<std::int64_t>(model.max_position_embeddings, 2048),
          .mask_block_size = document_mask ? model.block_size : 0,
          .shuffle = false,
          .min_document_tokens = min_document_tokens,
          .pad_id = static_cast<std::int32_t>(model.eos_token_id),
          .vocab_size = model.vocab_size};
}

}  // namespace

DatasetRows::DatasetRows(const std::filesystem::path& directory, const ModelConfig& model, std::int64_t max_length,
                         bool document_mask, std::int64_t min_document_tokens)
    : dataset_(directory),
      options_(row_options(dataset_, model, max_length, document_mask, min_document_tokens)),
      loader_(dataset_, options_),
      kept_(kept_documents(dataset_, min_document_tokens)) {}

std::vector<std::vector<std::int32_t>> DatasetRows::filled(std::int64_t limit) const {
  RowOptions options = options_;
  options.packing = Packing::concat;
  options.mask_block_size = 0;
  const RowLoader loader(dataset_, options);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(options.max_length)), targets(ids), positions(ids);
  std::vector<std::vector<std::int32_t>> rows;
  for (std::int64_t i = 0; i < std::min(limit, loader.rows()); ++i) {
    loader.load(0, i, ids, targets, positions);
    rows.push_back(ids);
  }
  return rows;
}

Progress dataset_progress(const ForwardPass& pass, const Comm& comm, const DatasetRows& data, std::int64_t per_batch) {
  const RowLoader& loader = data.loader();
  return Progress(comm, concat(data.dataset().directory().string(), ", ", pass.setting().name()),
                  (loader.rows() + per_batch - 1) / per_batch, loader.rows() * loader.max_length());
}

TaskResult dataset_loss(ForwardPass& pass, Comm& comm, const DatasetRows& data, std::int64_t rows) {
  const RowLoader& loader = data.loader();
  const std::int64_t per_batch = std::min(rows, loader.rows());
  Progress progress = dataset_progress(pass, comm, data, per_batch);
  const EvalSums sums = pass.dataset_loss(comm, loader, per_batch, [&](std::int64_t batch) {
    progress.at(batch, batch * per_batch * loader.max_length());
  });
  progress.done();
  return dataset_result(data, sums);
}

TaskResult dataset_result(const DatasetRows& data, const EvalSums& sums) {
  SSA_CHECK(sums.labels > 0, data.dataset().directory().string(), ": no token to predict, expected longer documents");
  const double loss = sums.mean();
  TaskResult result = {.task = data.dataset().directory().string(),
                       .dataset = data.dataset().directory().string(),
                       .output_type = "loglikelihood_rolling",
                       .documents = data.dataset().documents(),
                       .evaluated = data.kept().documents,
                       .document_mask = data.loader().document_mask(),
                       .metrics = {{.name = "loss", .value = loss, .higher_is_better = false},
                                   {.name = "token_perplexity", .value = std::exp(loss), .higher_is_better = false}}};
  const bool all = data.kept().documents == data.dataset().documents();
  if (const auto bits = bits_per_byte(data.dataset(), loss); bits && all)
    result.metrics.push_back({.name = "bits_per_byte", .value = *bits, .higher_is_better = false});
  return result;
}

}  // namespace ssa::eval
