// Compares a resumed run with the run that saved the checkpoint.
#pragma once

#include <string>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/train/trainer_state.h"

namespace ssa {

/// One side of the comparison.
struct ResumedRun {
  const Config& config;
  std::string dataset;  ///< dataset_fingerprint() of data.path
  BatchSizes global_rows;
  std::int64_t rows_per_epoch, ranks;
  std::vector<SourceState> sources{};  ///< of data.sources, as of a run that starts now
};

struct ResumeChanges {
  std::vector<std::string> lines;  ///< for the log: every difference
  bool data_changed = false;       ///< the rows or their order differ: the saved position in the data is not valid
  bool mix_changed = false;        ///< other sources or weights: their shares count from here
};

/// Compares a run with the checkpoint that it resumes from. Throws UsageError that names every key that differs
/// and is AtResume::refused, unless `allowed` names it or a section around it. `checkpoint` is its name in messages.
ResumeChanges check_resume(const Config& saved_config, const TrainerState& saved, const ResumedRun& now,
                           const std::vector<std::string>& allowed, const std::string& checkpoint);

/// Sets position, sources and former_sources of a saved state, or of a new run's state, for the run that continues it.
/// A source of the same name and documents continues where it was, even if it had left the mix; so does the dataset of
/// data.path as one of data.sources. The others begin at their first row. Returns lines for the log that say which.
std::vector<std::string> continue_data(TrainerState& state, const ResumedRun& now, const ResumeChanges& changes);

/// Whether the keys of --allow-change have this key, or a section around it.
bool allows(const std::vector<std::string>& allowed, const std::string& key);

/// The keys of an argument of --allow-change. Throws UsageError for one that is not a config key.
std::vector<std::string> parse_allowed_changes(const std::string& argument);

}  // namespace ssa
