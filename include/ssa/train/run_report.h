// A training run as one HTML page that needs no other file and no network: curves, attention by layer, warnings,
// checkpoints, log and config.
#pragma once

#include <filesystem>
#include <string>

namespace ssa {

/// The page of the run in `directory` (a run's output_dir). A browser that shows it loads it again every
/// `reload_seconds`; 0: never. Of a run with very many steps each curve has the least and the greatest value of some
/// adjacent steps. The chart of the validation loss has the entropy of the tokens' frequencies as a baseline if the
/// evaluation dataset is there. Throws Error if there is no metrics.jsonl, or if a line of it is not an object with a
/// step.
std::string run_report(const std::filesystem::path& directory, int reload_seconds = 0);

}  // namespace ssa
