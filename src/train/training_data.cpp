#include "ssa/train/training_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "ssa/base/checksum.h"
#include "ssa/data/mix.h"
#include "ssa/train/dataset_fingerprint.h"
#include "ssa/train/run_plan.h"

namespace ssa {
namespace {

/// data.path is ordered by the run's seed alone. Sources of the same number of rows have different orders.
std::uint64_t order_seed(std::uint64_t seed, const std::string& order) {
  if (order.empty()) return seed;
  return seed ^ std::stoull(xxh3_hex(order.data(), order.size()), nullptr, 16);
}

/// `name` is empty for data.path.
std::string packing_line(const std::string& name, Packing packing, const RowLoader& loader) {
  const PackingCost& cost = loader.cost();
  std::string line = fmt::format("{}{}packing {}: {} rows, {:.2f} % padding, {:.2f} % of documents cut", name,
                                 name.empty() ? "" : ", ", name_of(packing), cost.rows,
                                 100 * cost.padding(loader.max_length()), 100 * cost.cut());
  if (loader.document_mask())
    line +=
        fmt::format("; with the document mask a token attends to at most {:.1f} tokens on average, {:.1f} without it",
                    cost.keys_per_token(), static_cast<double>(loader.max_length() + 1) / 2);
  return line;
}

/// The documents of a source, and which of them it keeps. For data.path, the config says which.
std::string fingerprint_of(const TrainingSource& source, bool mixed) {
  const std::string documents = dataset_fingerprint(source.dataset);
  if (!mixed || source.min_document_tokens == 0) return documents;
  return fmt::format("{}, documents of at least {} tokens", documents, source.min_document_tokens);
}

}  // namespace

TrainingSource::TrainingSource(const SourceConfig& source, const Config& config)
    : name(source.name),
      weight(source.weight),
      min_document_tokens(ssa::min_document_tokens(source, config.data)),
      dataset(open_dataset(source.path, config)),
      loader(dataset, row_options(config, min_document_tokens)) {}

TrainingData::TrainingData(const Config& config)
    : seed_(static_cast<std::uint64_t>(config.train.seed)), mixed_(!config.data.path) {
  if (!mixed_) {
    sources_.emplace_back(SourceConfig{.path = *config.data.path, .weight = 1, .name = "", .min_document_tokens = {}},
                          config);
    return;
  }
  for (const SourceConfig& source : config.data.sources) sources_.emplace_back(source, config);
  const TrainingSource* first = nullptr;
  for (const TrainingSource& source : sources_) {
    const auto& info = source.dataset.info();
    if (!info) continue;
    if (!first) first = &source;
    if (info->tokenizer_sha256 != first->dataset.info()->tokenizer_sha256)
      fail_usage("data.sources: ", source.name, " was made with the tokenizer ", info->tokenizer_name, ", sha256 ",
                 info->tokenizer_sha256, ", expected the one of ", first->name, ", ",
                 first->dataset.info()->tokenizer_name, ", sha256 ", first->dataset.info()->tokenizer_sha256);
  }
  for (TrainingSource& source : sources_) source.loader.set_seed(order_seed(seed_, source.name));
}

std::int64_t TrainingData::rows_per_epoch() const {
  std::int64_t rows = 0;
  for (const TrainingSource& source : sources_) rows += source.loader.rows();
  return rows;
}

std::vector<BatchPlan::Source> TrainingData::plan_sources() const {
  std::vector<BatchPlan::Source> all;
  for (const TrainingSource& source : sources_)
    all.push_back({.rows_per_epoch = source.loader.rows(), .weight = source.weight});
  return all;
}

std::vector<SourceState> TrainingData::source_states() const {
  std::vector<SourceState> states;
  for (const TrainingSource& source : sources_)
    states.push_back({.name = source.name,
                      .order = source.name,
                      .dataset = fingerprint_of(source, mixed_),
                      .rows_per_epoch = source.loader.rows()});
  return states;
}

void TrainingData::set_orders(const std::vector<SourceState>& states) {
  SSA_CHECK(states.size() == sources_.size(), "training data: ", states.size(), " orders, expected ", sources_.size());
  for (std::size_t i = 0; i < states.size(); ++i) sources_[i].loader.set_seed(order_seed(seed_, states[i].order));
}

std::vector<std::string> kept_lines(const TrainingData& data) {
  std::vector<std::string> lines;
  for (const TrainingSource& source : data.sources()) {
    if (source.min_document_tokens == 0) continue;
    const KeptDocuments kept = kept_documents(source.dataset, source.min_document_tokens);
    lines.push_back(fmt::format("{}{}{} of {} documents and {} of {} tokens are in documents of at least {} tokens",
                                source.name, source.name.empty() ? "" : ", ", kept.documents,
                                source.dataset.documents(), kept.tokens, source.dataset.tokens(),
                                source.min_document_tokens));
  }
  return lines;
}

std::int64_t attended_length(const TrainingData& data, const Config& config) {
  if (!config.data.document_mask) return config.train.max_length;
  double keys = 0, weights = 0;
  for (const TrainingSource& source : data.sources()) {
    keys += source.weight * source.loader.cost().keys_per_token();
    weights += source.weight;
  }
  return std::max<std::int64_t>(1, std::llround(2 * keys / weights - 1));
}

std::vector<std::string> packing_lines(const TrainingData& data, const Config& config) {
  std::vector<std::string> lines;
  for (const TrainingSource& source : data.sources())
    lines.push_back(packing_line(source.name, config.data.packing, source.loader));
  return lines;
}

std::vector<std::string> packing_comparison(const TrainingData& data, const Config& config) {
  std::vector<std::string> lines;
  for (const TrainingSource& source : data.sources()) {
    RowOptions options = row_options(config, source.min_document_tokens);
    options.skip_train_samples = options.max_train_samples = 0;
    const std::int64_t tokens = kept_documents(source.dataset, source.min_document_tokens).tokens;
    for (const Packing packing : kPackings) {
      if (packing == Packing::concat && tokens < options.max_length) continue;  // makes no row
      options.packing = packing;
      lines.push_back(packing_line(source.name, packing, RowLoader(source.dataset, options)));
    }
  }
  return lines;
}

std::vector<std::string> source_table(const TrainingData& data, std::int64_t rows, std::int64_t max_length) {
  std::vector<double> weights;
  std::size_t width = std::string("source").size();
  for (const TrainingSource& source : data.sources()) {
    weights.push_back(source.weight);
    width = std::max(width, source.name.size());
  }
  const Mix mix(weights);
  const auto line = [&](const auto& name, const auto&... cells) {
    std::string text = fmt::format("{:<{}}", name, width);
    const auto add = [&](const auto& cell) { text += fmt::format("{:>16}", cell); };
    (add(cells), ...);
    return text;
  };
  std::vector<std::string> lines = {line("source", "share", "documents", "tokens", "rows per epoch", "rows of the run",
                                         "tokens of it", "epochs of it")};
  for (std::size_t i = 0; i < mix.size(); ++i) {
    const TrainingSource& source = data.sources()[i];
    const double read = mix.share(i) * static_cast<double>(rows);
    lines.push_back(line(source.name, fmt::format("{:.4f}", mix.share(i)), source.dataset.documents(),
                         source.dataset.tokens(), source.loader.rows(), fmt::format("{:.0f}", read),
                         fmt::format("{:.0f}", read * static_cast<double>(max_length)),
                         fmt::format("{:.3f}", read / static_cast<double>(source.loader.rows()))));
  }
  return lines;
}

}  // namespace ssa
