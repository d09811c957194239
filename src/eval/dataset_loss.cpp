#include "ssa/eval/dataset_loss.h"

#include <algorithm>
#include <cmath>

#include "ssa/eval/progress.h"

namespace ssa::eval {
namespace {

RowOptions row_options(const Dataset& dataset, const ModelConfig& model, std::int64_t max_length, bool document_mask) {
  dataset.check_model(model.vocab_size, model.eos_token_id);
  return {.max_length = max_length ? max_length : std::min<std::int64_t>(model.max_position_embeddings, 2048),
          .mask_block_size = document_mask ? model.block_size : 0,
          .shuffle = false,
          .pad_id = static_cast<std::int32_t>(model.eos_token_id),
          .vocab_size = model.vocab_size};
}

}  // namespace

DatasetRows::DatasetRows(const std::filesystem::path& directory, const ModelConfig& model, std::int64_t max_length,
                         bool document_mask)
    : dataset_(directory),
      options_(row_options(dataset_, model, max_length, document_mask)),
      loader_(dataset_, options_) {}

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

TaskResult dataset_loss(ForwardPass& pass, Comm& comm, const DatasetRows& data, std::int64_t rows) {
  const RowLoader& loader = data.loader();
  const std::int64_t per_batch = std::min(rows, loader.rows());
  Progress progress(comm, concat(data.dataset().directory().string(), ", ", pass.setting().name()),
                    (loader.rows() + per_batch - 1) / per_batch);
  const EvalSums sums = pass.dataset_loss(comm, loader, per_batch, [&](std::int64_t batch) { progress.at(batch); });
  SSA_CHECK(sums.labels > 0, data.dataset().directory().string(), ": no token to predict, expected longer documents");
  const double loss = sums.mean();
  TaskResult result = {.task = data.dataset().directory().string(),
                       .dataset = data.dataset().directory().string(),
                       .output_type = "loglikelihood_rolling",
                       .documents = data.dataset().documents(),
                       .evaluated = data.dataset().documents(),
                       .document_mask = loader.document_mask(),
                       .metrics = {{.name = "loss", .value = loss, .higher_is_better = false},
                                   {.name = "token_perplexity", .value = std::exp(loss), .higher_is_better = false}}};
  if (const auto bits = bits_per_byte(data.dataset(), loss))
    result.metrics.push_back({.name = "bits_per_byte", .value = *bits, .higher_is_better = false});
  return result;
}

}  // namespace ssa::eval
