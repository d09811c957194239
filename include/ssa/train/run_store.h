// Loads and saves a run's weights and optimizer state: random initialization, init_from, checkpoints.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ssa/base/directory_lock.h"
#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/io/checkpoint.h"
#include "ssa/train/model_state.h"
#include "ssa/train/resume_check.h"
#include "ssa/train/state_snapshot.h"
#include "ssa/train/trainer_state.h"

namespace ssa {

/// Why `ranks` ranks of a machine cannot copy a checkpoint to `bytes` of pinned host memory each where `free` bytes are
/// free; empty if they can. `async`: checkpoint.async, which copies the whole state at once.
std::string why_no_checkpoint_copy(std::size_t bytes, int ranks, bool async, std::size_t free);

/// Why a run of which `ranks` ranks of a machine copy `bytes` of a checkpoint each does not write checkpoints while it
/// trains where checkpoint.async is null and `free` bytes of host memory are free; empty if it does. It takes at most
/// half: the data and the files being written need memory too. `threads`: MPI takes calls from several threads.
std::string why_not_async(std::size_t bytes, int ranks, std::size_t free, bool threads);

struct RestoreOptions {
  std::string resume;  ///< TrainOptions::resume
  std::vector<std::string> allowed_changes;
  ResumedRun run;
};

/// Options of a save.
struct Saving {
  bool keep = false;        ///< it is kept for good (checkpoint.keep_every)
  bool export_too = false;  ///< to output_dir/exports (checkpoint.export_every)
};

class RunStore {
 public:
  /// On rank 0, makes output_dir/checkpoints and checks that it can be written to.
  RunStore(const Config& config, Comm& comm);
  /// Waits until the checkpoint that is being written is complete, on every rank: a rank that ends with an error ends
  /// the others too, and rank 0 writes.
  ~RunStore();

  /// Fills the owned master weights and moments of `state`: from the checkpoint that options.resume selects, else from
  /// init_from, else random. Returns the state of the run that the checkpoint was saved in, or of a new run, with
  /// the data as continue_data() sets it; with init_state `run`, init_from is such a checkpoint. Logs every difference
  /// from that run, what is taken from init_from, and damaged checkpoints that `auto` skips. Throws Error for values
  /// that are not finite, if there are checkpoints of which none can be used, and as check_resume() does.
  TrainerState restore(Stream& stream, ModelState& state, SpikeDetector& spikes, const RestoreOptions& options);

  /// Takes the host memory of a StateSnapshot on the ranks that own what rank 0 writes. A collective. Throws Error
  /// where a machine has not enough for all of its ranks: in a container, the kernel ends a process that takes more
  /// than the limit.
  void reserve(Stream& stream, const ModelState& state);

  /// Waits for the checkpoint that is being written, as finish() does. What happens until save() returns counts as the
  /// pause of the next one.
  void begin_save();

  /// Writes a checkpoint and logs it: rank 0 writes, the others send what they own. With checkpoint.async it returns
  /// when the copies are queued, and the next update calls before_update(). Throws Error on rank 0, for example on a
  /// full disk or for values that are not finite, with checkpoint.async later: earlier checkpoints are untouched. After
  /// begin_save() and reserve().
  void save(Stream& stream, const ModelState& state, const TrainerState& trainer_state, const SpikeDetector& spikes,
            Saving saving);

  /// The stream may change the state after this: it waits for the copies that a checkpoint is written from.
  void before_update();

  /// Logs the checkpoint that was being written, once it is complete, or rethrows its error.
  void poll();
  /// Waits for the checkpoint being written, then does the same.
  void finish();
  /// The same, for the line of an error that ends the run: returns what went wrong with that checkpoint, as "; while
  /// saving PATH: CAUSE", or nothing. last_checkpoint() is then the one that the run leaves.
  std::string finish_after_error();

  /// Path of the newest complete checkpoint of this run, or "none".
  const std::string& last_checkpoint() const { return last_checkpoint_; }
  /// Whether restore() continued the run of init_from (init_state run).
  bool continues_init_from() const { return continues_init_from_; }

 private:
  std::string checkpoint_to_resume(const std::string& resume);
  TrainerState continue_from(Stream& stream, ModelState& state, SpikeDetector& spikes, const RestoreOptions& options,
                             const std::string& checkpoint, Verify verify) const;
  TrainerState start_from_checkpoint(Stream& stream, ModelState& state, const RestoreOptions& options,
                                     const std::string& checkpoint) const;
  void export_to(const std::filesystem::path& directory) const;
  std::string timing() const;
  bool end_writing();
  void share_outcome();

  using Clock = std::chrono::steady_clock;

  const Config& config_;
  Comm& comm_;
  DirectoryLock lock_;
  std::string last_checkpoint_ = "none";
  bool continues_init_from_ = false;
  std::unique_ptr<Comm> writer_comm_;        ///< of comm_, for writer_; null without checkpoint.async or threads of MPI
  std::unique_ptr<StateSnapshot> snapshot_;  ///< null on ranks that own nothing of what rank 0 writes
  std::string being_saved_;                  ///< path of the checkpoint being written; empty if there is none
  std::thread writer_;
  std::atomic<bool> writing_ = false;  ///< by writer_
  std::exception_ptr writer_error_;
  std::string error_of_rank_0_;          ///< on the other ranks: why the checkpoint was not written
  std::atomic<bool> committed_ = false;  ///< the checkpoint being written is complete; its export may not be

  // Of the checkpoint being written.
  std::int64_t saved_step_ = 0;
  Clock::time_point save_begun_;
  double waited_seconds_ = 0, paused_seconds_ = 0;  ///< for the checkpoint before; until save() returned
  double written_seconds_ = 0;
  std::int64_t written_bytes_ = 0;  ///< of tensors
};

}  // namespace ssa
