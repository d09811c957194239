// The datasets that a run trains on: data.path, or the mix of data.sources.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/data/batch_plan.h"
#include "ssa/data/dataset.h"
#include "ssa/data/row_loader.h"
#include "ssa/train/trainer_state.h"

namespace ssa {

struct TrainingSource {
  TrainingSource(const SourceConfig& source, const Config& config);

  std::string name;  ///< empty for data.path
  double weight;
  std::int64_t min_document_tokens;
  Dataset dataset;
  KeptDocuments kept;  ///< documents of at least min_document_tokens
  RowLoader loader;
};

class TrainingData {
 public:
  /// Opens every dataset. Throws Error as Dataset, Dataset::check_model() and RowLoader do, and UsageError for sources
  /// that were made with different tokenizers.
  explicit TrainingData(const Config& config);

  bool mixed() const { return mixed_; }  ///< data.sources
  const std::deque<TrainingSource>& sources() const { return sources_; }
  std::int64_t rows_per_epoch() const;  ///< of all sources
  std::vector<BatchPlan::Source> plan_sources() const;

  /// What a checkpoint of a run that starts now records. Computes the fingerprints.
  std::vector<SourceState> source_states() const;
  /// Sets the row order of each source: what orders its rows is SourceState::order.
  void set_orders(const std::vector<SourceState>& states);

 private:
  std::uint64_t seed_;
  bool mixed_;
  std::deque<TrainingSource> sources_;
};

/// For each source that leaves out short documents: how many documents and tokens it keeps.
std::vector<std::string> kept_lines(const TrainingData& data);

/// train.max_length; with a document mask, the length of one document per row in which a token attends to as many
/// tokens on average as in the rows of the run. FLOPs are counted for it.
std::int64_t attended_length(const TrainingData& data, const Config& config);

/// Padding and cut documents of each source, in percent, with the packing of the config.
std::vector<std::string> packing_lines(const TrainingData& data, const Config& config);
/// The same for every packing.
std::vector<std::string> packing_comparison(const TrainingData& data, const Config& config);

/// The table of the mix of `config`, with a line per source, of a run that is at `at` and reads `rows_left` more rows.
/// The rows, tokens and epochs of a source are those at the end of the run, and include what was read before `at`. A
/// cell that needs a source that `data` lacks, or the unknown number of rows, is "-". After the table, a line for each
/// source whose weight is too small for one row of the run.
std::vector<std::string> source_table(const Config& config, const TrainingData& data, const TrainerState& at,
                                      std::optional<std::int64_t> rows_left);

/// A dataset of data.eval_path.
struct EvalSet {
  EvalSet(const EvalConfig& set, const Config& config);

  std::string name;  ///< empty if there is only one
  Dataset dataset;
  RowLoader loader;  ///< every row of every document, in order
};

/// Opens the datasets of data.eval_path. Throws Error as Dataset, Dataset::check_model() and RowLoader do, and
/// UsageError for one that was made with another tokenizer than the training data.
std::deque<EvalSet> open_eval_sets(const Config& config, const TrainingData& data);

}  // namespace ssa
