// Loads and saves a run's weights and optimizer state: random initialization, a Hugging Face directory, checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "ssa/base/directory_lock.h"
#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"

namespace ssa {

/// What trainer.json records besides the step.
struct TrainerRecord {
  std::int64_t total_steps, tokens, global_rows, rows_per_epoch;
};

class RunStore {
 public:
  /// Makes output_dir; rank 0 writes the resolved config there when the run starts.
  RunStore(const Config& config, Comm& comm);
  ~RunStore();

  /// Fills the owned master weights and moments of `state` and returns the step they belong to: from the checkpoint
  /// that `resume` (TrainOptions::resume) selects, else from init_from, else random. Damaged checkpoints that `auto`
  /// skips are named in the log.
  std::int64_t restore(Stream& stream, ModelState& state, const std::string& resume);

  /// Writes a checkpoint: rank 0 writes, the others send what they own. With checkpoint.async it returns after the copy
  /// to host memory. Throws Error on rank 0, for example on a full disk; earlier checkpoints are untouched.
  void save(Stream& stream, const ModelState& state, std::int64_t step, const TrainerRecord& record);

  /// Waits for the checkpoint being written and rethrows its error.
  void finish();

  /// Path of the newest checkpoint of this run, or "none".
  const std::string& last_checkpoint() const { return last_checkpoint_; }

 private:
  std::string checkpoint_to_resume(const std::string& resume);

  const Config& config_;
  Comm& comm_;
  DirectoryLock lock_;
  std::string last_checkpoint_ = "none";
  std::thread writer_;
  std::exception_ptr writer_error_;
};

}  // namespace ssa
