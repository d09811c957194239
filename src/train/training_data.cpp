#include "ssa/train/training_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

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

/// Whether a token has a target: with documents of one token, none has.
bool has_targets(const RowLoader& loader) {
  for (std::int64_t row = 0; row < loader.rows(); ++row)
    if (loader.label_count(0, row) > 0) return true;
  return false;
}

}  // namespace

namespace {

/// A dataset, and what an error calls it.
struct NamedDataset {
  std::string key, name;
  const Dataset& dataset;
};

/// Megatron's own datasets name no tokenizer. Losses of different tokenizers have different units.
void check_same_tokenizer(const NamedDataset& first, const NamedDataset& other) {
  const auto &expected = first.dataset.info(), &found = other.dataset.info();
  if (!expected || !found || expected->tokenizer_sha256 == found->tokenizer_sha256) return;
  fail_usage(other.key, ": ", other.name, " was made with the tokenizer ", found->tokenizer_name, ", sha256 ",
             found->tokenizer_sha256, ", expected the one of ", first.name, ", ", expected->tokenizer_name, ", sha256 ",
             expected->tokenizer_sha256);
}

/// The first source that names its tokenizer.
const TrainingSource& tokenizer_source(const std::deque<TrainingSource>& sources) {
  for (const TrainingSource& source : sources)
    if (source.dataset.info()) return source;
  return sources.front();
}

/// What a run has read of a source, as in metrics.jsonl.
struct SourceRead {
  std::int64_t rows = 0, tokens = 0;
  SourcePosition next{};

  double epochs(std::int64_t rows_per_epoch) const {
    return static_cast<double>(next.epoch) + static_cast<double>(next.row) / static_cast<double>(rows_per_epoch);
  }
};

SourceRead read_of(const std::string& source, const TrainerState& at) {
  for (std::size_t i = 0; i < std::min(at.sources.size(), at.position.sources.size()); ++i)
    if (const SourceState& state = at.sources[i]; state.name == source)
      return {.rows = state.rows, .tokens = state.tokens, .next = at.position.sources[i]};
  return {};
}

RowOptions eval_row_options(const Config& config) {
  RowOptions rows = row_options(config, /*min_document_tokens=*/0);
  rows.shuffle = false;
  rows.skip_train_samples = rows.max_train_samples = 0;
  return rows;
}

}  // namespace

TrainingSource::TrainingSource(const SourceConfig& source, const Config& config)
    : name(source.name),
      weight(source.weight),
      min_document_tokens(ssa::min_document_tokens(source, config.data)),
      dataset(open_dataset(source.path, config)),
      kept(kept_documents(dataset, min_document_tokens)),
      loader(dataset, row_options(config, min_document_tokens)) {}

TrainingData::TrainingData(const Config& config)
    : seed_(static_cast<std::uint64_t>(config.train.seed)), mixed_(!config.data.path) {
  if (!mixed_) {
    sources_.emplace_back(SourceConfig{.path = *config.data.path, .weight = 1, .name = "", .min_document_tokens = {}},
                          config);
    return;
  }
  for (const SourceConfig& source : config.data.sources) sources_.emplace_back(source, config);
  const TrainingSource& first = tokenizer_source(sources_);
  for (const TrainingSource& source : sources_)
    check_same_tokenizer({"data.sources", first.name, first.dataset}, {"data.sources", source.name, source.dataset});
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
    lines.push_back(fmt::format("{}{}{} of {} documents and {} of {} tokens are in documents of at least {} tokens",
                                source.name, source.name.empty() ? "" : ", ", source.kept.documents,
                                source.dataset.documents(), source.kept.tokens, source.dataset.tokens(),
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
    for (const Packing packing : kPackings) {
      if (packing == Packing::concat && source.kept.tokens < options.max_length) continue;  // makes no row
      options.packing = packing;
      lines.push_back(packing_line(source.name, packing, RowLoader(source.dataset, options)));
    }
  }
  return lines;
}

std::vector<std::string> source_table(const Config& config, const TrainingData& data, const TrainerState& at,
                                      std::optional<std::int64_t> rows_left) {
  const std::vector<SourceConfig>& sources = config.data.sources;
  std::vector<double> weights;
  std::size_t width = std::string("source").size();
  for (const SourceConfig& source : sources) {
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
  std::vector<std::string> too_rare;
  std::vector<std::string> lines = {line("source", "share", "documents", "tokens", "rows per epoch", "rows of the run",
                                         "tokens of it", "epochs of it")};
  for (std::size_t i = 0; i < mix.size(); ++i) {
    const std::string& name = sources[i].name;
    const auto found = std::ranges::find(data.sources(), name, &TrainingSource::name);
    const TrainingSource* source = found == data.sources().end() ? nullptr : &*found;
    const SourceRead read = read_of(name, at);
    const double left = rows_left ? mix.share(i) * static_cast<double>(*rows_left) : 0;
    if (rows_left && static_cast<double>(read.rows) + left < 1)
      too_rare.push_back(fmt::format("data.sources: {}: weight {} is less than one row of the run", name, weights[i]));
    const auto cell = [](bool known, const auto& value) { return known ? value() : std::string("-"); };
    const auto at_end = [&](std::int64_t before, double per_row) {
      return cell(rows_left.has_value(),
                  [&] { return fmt::format("{:.0f}", static_cast<double>(before) + left * per_row); });
    };
    lines.push_back(line(
        name, fmt::format("{:.4f}", mix.share(i)), cell(source, [&] { return std::to_string(source->kept.documents); }),
        cell(source, [&] { return std::to_string(source->kept.tokens); }),
        cell(source, [&] { return std::to_string(source->loader.rows()); }), at_end(read.rows, 1),
        at_end(read.tokens, static_cast<double>(config.train.max_length)), cell(source && rows_left, [&] {
          const std::int64_t rows = source->loader.rows();
          return fmt::format("{:.3f}", read.epochs(rows) + left / static_cast<double>(rows));
        })));
  }
  std::ranges::move(too_rare, std::back_inserter(lines));
  return lines;
}

EvalSet::EvalSet(const EvalConfig& set, const Config& config)
    : name(set.name), dataset(open_dataset(set.path, config)), loader(dataset, eval_row_options(config)) {}

std::deque<EvalSet> open_eval_sets(const Config& config, const TrainingData& data) {
  const TrainingSource& first = tokenizer_source(data.sources());
  const std::string name = first.name.empty() ? first.dataset.directory().string() : first.name;
  std::deque<EvalSet> sets;
  for (const EvalConfig& set : config.data.eval_path) {
    const EvalSet& added = sets.emplace_back(set, config);
    check_same_tokenizer({"data", name, first.dataset}, {"data.eval_path", set.path, added.dataset});
    SSA_CHECK(has_targets(added.loader), "data.eval_path ", set.path,
              ": no token has a target, expected documents of at least 2 tokens");
  }
  return sets;
}

}  // namespace ssa
