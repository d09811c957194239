// Checkpoints: output_dir/checkpoints/step-00001000/ with
//   model.safetensors      f32 master weights under their Hugging Face names
//   optimizer.safetensors  f32 first and second moments, m.NAME and v.NAME
//   trainer.json           the rest of the trainer's state (step, tokens, seed, ...)
//   config.json            the resolved config of the run
//   manifest.json          format, step, sequence number, whether it is kept for good; size and XXH3-64 of each file
//                          above; a checksum of itself
// Tensors are stored whole, independent of the number of ranks. A rank may read a part of one.
//
// A directory step-* is complete at all times, even after a kill or a power failure: a checkpoint is written to
// .tmp-step-*, synced, its manifest last, and renamed. An existing checkpoint of the same step is renamed to
// .old-step-* first and removed afterwards. A directory to be removed is first renamed to .trash-step-*. The next
// writer cleans up after a writer that was killed. Only one process at a time may write to an output_dir.
//
// "Newest" means saved last, by the manifests' sequence numbers: if a run is resumed from step 1000 and saves step
// 1500, the next resume uses 1500, not the abandoned 4000.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/io/safetensors.h"

namespace ssa {

/// The name of a checkpoint's directory in output_dir/checkpoints: "step-00001000".
std::string checkpoint_name(std::int64_t step);

/// Which checkpoints remain.
struct Retention {
  std::int64_t save_total_limit = 0;  ///< number of the newest; 0: all
  bool keep = false;                  ///< the checkpoint being written is kept for good and not counted
};

class CheckpointWriter {
 public:
  /// Cleans up after a killed writer and creates the temporary directory. `parameters` are f32, in the order of the
  /// calls of add_weight().
  CheckpointWriter(const std::filesystem::path& output_dir, std::int64_t step,
                   const std::vector<TensorSpec>& parameters);
  /// Removes the temporary directory unless commit() succeeded.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// The next elements of a parameter's weight, first moment and second moment. The weights come in the order of the
  /// parameters; so do the moments, m before v of each parameter. Weights and moments may be interleaved in any way. A
  /// failure, such as a full disk, removes the temporary directory and is rethrown.
  void add_weight(const std::string& name, std::span<const float> values);
  void add_m(const std::string& name, std::span<const float> values);
  void add_v(const std::string& name, std::span<const float> values);

  /// Completes the checkpoint and returns its directory. Then removes the oldest checkpoints, so that save_total_limit
  /// remain. Checksums are verified before a checkpoint is counted, once per process. A checkpoint
  /// that does not verify, or is kept for good, is neither counted nor removed.
  std::filesystem::path commit(const nlohmann::json& trainer, std::string_view config, Retention retention);

 private:
  template <class F>
  void guarded(F&& f);
  void abandon() noexcept;

  std::filesystem::path root_, temporary_, target_;
  std::int64_t step_;
  std::optional<SafetensorsWriter> weights_, moments_;
};

/// How much of a checkpoint is checked: the manifest and the sizes of the files, or also their checksums.
enum class Verify { sizes, checksums };

struct CheckpointInfo {
  std::filesystem::path path;
  std::int64_t step = 0;
  std::string problem;      ///< what is wrong, with the file; empty for a complete checkpoint
  bool unreadable = false;  ///< the problem is an I/O or permission error: the checkpoint may be intact

  bool complete() const { return problem.empty(); }
};

/// Why `directory` is not a complete checkpoint, or an empty string if it is one.
std::string checkpoint_problem(const std::filesystem::path& directory, Verify verify);

/// All checkpoints of a run, newest first. Those without a readable manifest come first, since their age is unknown.
/// Changes nothing on disk.
std::vector<CheckpointInfo> find_checkpoints(const std::filesystem::path& output_dir,
                                             Verify verify = Verify::checksums);

/// The newest complete checkpoint, with all checksums verified. Newer ones that are not complete are appended to
/// `skipped`. Throws Error if there are checkpoints and none is complete, and if one that may be intact cannot be read:
/// a run that continued without it would lose its steps.
std::optional<CheckpointInfo> newest_checkpoint(const std::filesystem::path& output_dir,
                                                std::vector<CheckpointInfo>& skipped);

/// Whether the directory is a checkpoint, also one that has lost its manifest and must not be taken for a Hugging Face
/// directory.
bool is_checkpoint(const std::filesystem::path& directory);

/// The checkpoint that `path` names: itself, or the newest complete one of a run, found as newest_checkpoint() does.
/// nullopt if `path` is neither a run nor a checkpoint. Throws Error for a run without a checkpoint.
std::optional<std::filesystem::path> checkpoint_at(const std::filesystem::path& path,
                                                   std::vector<CheckpointInfo>& skipped);

/// Cleans up after a killed writer, and removes the oldest checkpoints as commit() does. For a resumed run, which may
/// write no further checkpoint.
void tidy_checkpoints(const std::filesystem::path& output_dir, std::int64_t save_total_limit);

class CheckpointReader {
 public:
  /// Throws Error with the file, what was found and what was expected, unless `directory` is a complete checkpoint.
  explicit CheckpointReader(const std::filesystem::path& directory, Verify verify = Verify::checksums);
  ~CheckpointReader();

  const std::filesystem::path& path() const { return path_; }
  std::int64_t step() const { return step_; }
  const nlohmann::json& trainer() const { return *trainer_; }
  const std::string& config() const { return config_; }  ///< the content of config.json
  const SafetensorsReader& weights() const { return weights_; }
  const SafetensorsReader& moments() const { return moments_; }

  /// Throws unless the checkpoint has exactly these parameters and their moments.
  void check(const std::vector<TensorSpec>& parameters) const;

  /// Elements [first, first + out.size()) of a parameter's weight or moment. Throws if its shape differs.
  void read_weight(const TensorSpec& parameter, std::span<float> out, std::int64_t first = 0) const;
  void read_m(const TensorSpec& parameter, std::span<float> out, std::int64_t first = 0) const;
  void read_v(const TensorSpec& parameter, std::span<float> out, std::int64_t first = 0) const;

 private:
  std::filesystem::path path_;
  std::int64_t step_;
  SafetensorsReader weights_, moments_;
  std::unique_ptr<nlohmann::json> trainer_;
  std::string config_;
};

}  // namespace ssa
