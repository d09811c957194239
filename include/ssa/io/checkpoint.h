// Checkpoints: output_dir/checkpoints/step-00001000/ with
//   model.safetensors      f32 master weights under their Hugging Face names
//   optimizer.safetensors  f32 first and second moments, m.NAME and v.NAME
//   trainer.json           what else the trainer needs to go on (step, tokens, seed, ...)
//   config.json            the resolved config of the run
//   manifest.json          format, step, sequence; of each file above its size and XXH3-64; a checksum of itself
// The data does not depend on the number of ranks: whole tensors, which a rank may read in part.
//
// A directory step-* is complete at every moment, also when the process is killed or the power fails. A checkpoint is
// written as .tmp-step-*, synced, its manifest last, and renamed; the one it replaces (same step) is renamed to
// .old-step-* before and removed after; what is removed is renamed to .trash-step-* first. The next writer puts right
// what a killed one left. One process at a time writes into an output_dir.
//
// "Newest" is the one saved last, by the manifests' sequence numbers: a run sent back to step 1000 that saves step 1500
// continues from there, not from the abandoned step 4000.
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

/// "step-00001000": the directory's name, below output_dir/checkpoints.
std::string checkpoint_name(std::int64_t step);

class CheckpointWriter {
 public:
  /// Clears what a killed run left and opens the temporary directory. `parameters` in the order in which they will come.
  CheckpointWriter(const std::filesystem::path& output_dir, std::int64_t step,
                   const std::vector<NamedShape>& parameters);
  /// Removes the temporary directory unless the checkpoint was committed.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// The next elements of a parameter's weight and moments. The weights come in the order of the parameters; the
  /// moments too, m before v of each. Weights and moments may be interleaved as the caller likes; a span may be reused
  /// at once. A failure (a full disk, say) removes the temporary directory before it is thrown on.
  void add_weight(const std::string& name, std::span<const float> values);
  void add_m(const std::string& name, std::span<const float> values);
  void add_v(const std::string& name, std::span<const float> values);

  /// Completes the checkpoint and returns its directory; then removes the oldest complete ones so that `save_total_limit`
  /// stay (0: all). Directories that are not complete neither count nor are removed.
  std::filesystem::path commit(const nlohmann::json& trainer, std::string_view config, std::int64_t save_total_limit);

 private:
  template <class F>
  void guarded(F&& f);
  void abandon() noexcept;

  std::filesystem::path root_, temporary_, target_;
  std::int64_t step_;
  std::optional<SafetensorsWriter> weights_, moments_;
};

/// How much of a checkpoint is looked at: the manifest and the files' sizes, or every byte.
enum class Verify { sizes, checksums };

struct CheckpointInfo {
  std::filesystem::path path;
  std::int64_t step = 0;
  std::string problem;  ///< empty = a complete checkpoint; else what is wrong, naming the file

  bool complete() const { return problem.empty(); }
};

/// Why `directory` is not a complete checkpoint; empty if it is one.
std::string checkpoint_problem(const std::filesystem::path& directory, Verify verify);

/// Every checkpoint of a run, newest first; those without a readable manifest, whose age is unknown, come before all.
/// Changes nothing on disk.
std::vector<CheckpointInfo> find_checkpoints(const std::filesystem::path& output_dir,
                                             Verify verify = Verify::checksums);

/// The newest complete checkpoint, every byte of it checked; those passed over are appended to `skipped`.
std::optional<CheckpointInfo> newest_checkpoint(const std::filesystem::path& output_dir,
                                                std::vector<CheckpointInfo>& skipped);

/// What a writer does before and after its checkpoint, for a run that may have none to write any more: puts right what
/// a killed one left, and removes the oldest complete ones so that `save_total_limit` stay (0: all).
void tidy_checkpoints(const std::filesystem::path& output_dir, std::int64_t save_total_limit);

class CheckpointReader {
 public:
  /// Throws, naming the file, what was found and what was expected, unless `directory` is a complete checkpoint.
  explicit CheckpointReader(const std::filesystem::path& directory, Verify verify = Verify::checksums);
  ~CheckpointReader();

  const std::filesystem::path& path() const { return path_; }
  std::int64_t step() const { return step_; }
  const nlohmann::json& trainer() const { return *trainer_; }
  const std::string& config() const { return config_; }  ///< text of config.json
  const SafetensorsReader& weights() const { return weights_; }
  const SafetensorsReader& moments() const { return moments_; }

  /// Throws unless the checkpoint holds exactly these parameters, their moments too.
  void check(const std::vector<NamedShape>& parameters) const;

  /// Elements [first, first + out.size()) of a parameter's weight or moment; throws if its shape is another.
  void read_weight(const NamedShape& parameter, std::span<float> out, std::int64_t first = 0) const;
  void read_m(const NamedShape& parameter, std::span<float> out, std::int64_t first = 0) const;
  void read_v(const NamedShape& parameter, std::span<float> out, std::int64_t first = 0) const;

 private:
  std::filesystem::path path_;
  std::int64_t step_;
  SafetensorsReader weights_, moments_;
  std::unique_ptr<nlohmann::json> trainer_;
  std::string config_;
};

}  // namespace ssa
