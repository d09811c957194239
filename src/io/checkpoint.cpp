#include "ssa/io/checkpoint.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <limits>
#include <mutex>
#include <set>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1;
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kMomentsFile = "optimizer.safetensors";
constexpr const char* kTrainerFile = "trainer.json";
constexpr const char* kConfigFile = "config.json";
constexpr const char* kManifestFile = "manifest.json";
constexpr std::array kFiles{kWeightsFile, kMomentsFile, kTrainerFile, kConfigFile};

constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr std::string_view kAsidePrefix = ".old-";
constexpr std::string_view kTrashPrefix = ".trash-";

fs::path checkpoints_of(const fs::path& output_dir) { return output_dir / "checkpoints"; }

/// The step in "step-00001000"; nullopt for any other name.
std::optional<std::int64_t> parse_name(std::string_view name) {
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix)) return std::nullopt;
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || checkpoint_name(step) != name) return std::nullopt;
  return step;
}

fs::path prefixed(const fs::path& directory, std::string_view prefix) {
  return directory.parent_path() / fmt::format("{}{}", prefix, directory.filename().string());
}

/// Failure to remove is only a warning: readers ignore directories with these prefixes.
void remove_directory(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) spdlog::warn("{}: cannot remove: {}", path.string(), error.message());
}

/// Removes a checkpoint. The rename comes first, so that no reader sees one with missing files.
void discard(const fs::path& directory) {
  const fs::path trash = prefixed(directory, kTrashPrefix);
  std::error_code error;
  fs::rename(directory, trash, error);
  if (error)
    spdlog::warn("{}: cannot remove: {}", directory.string(), error.message());
  else
    remove_directory(trash);
}

/// Cleans up after a writer that was killed.
void recover(const fs::path& root) {
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(root)) entries.push_back(entry.path());
  for (const fs::path& path : entries) {
    const std::string name = path.filename().string();
    if (name.starts_with(kTemporaryPrefix) || name.starts_with(kTrashPrefix)) {
      remove_directory(path);
    } else if (name.starts_with(kAsidePrefix)) {
      // If the writer was killed between the two renames of a replacement, the old checkpoint is still valid.
      const fs::path target = root / name.substr(kAsidePrefix.size());
      if (!fs::exists(target) && checkpoint_problem(path, Verify::sizes).empty())
        rename_path(path, target);
      else
        discard(path);
    }
  }
}

struct Manifest {
  std::int64_t step = 0;
  std::int64_t sequence = 0;  ///< number of the save within the run, from 1
  bool keep = false;          ///< kept for good
  std::map<std::string, FileChecksum> files = {};
};

std::string manifest_checksum(json manifest) {
  manifest.erase("checksum");
  const std::string text = manifest.dump();
  return xxh3_hex(text.data(), text.size());
}

std::string to_text(const Manifest& manifest) {
  json files = json::object();
  for (const auto& [name, checksum] : manifest.files)
    files[name] = {{"bytes", checksum.bytes}, {"xxh3", checksum.xxh3}};
  json root{{"format", kFormat}, {"step", manifest.step}, {"sequence", manifest.sequence}, {"files", std::move(files)}};
  if (manifest.keep) root["keep"] = true;
  root["checksum"] = manifest_checksum(root);
  return root.dump(1) + "\n";
}

/// Whether the cause may be the machine and not the file: any error except a missing file or a directory in its place.
bool is_unreadable(const std::exception& error) {
  const auto* file_error = dynamic_cast<const FileError*>(&error);
  return file_error != nullptr && file_error->cause() != ENOENT && file_error->cause() != ENOTDIR &&
         file_error->cause() != EISDIR;
}

/// Throws if the file is known to be missing, or is a FIFO. Opening it reports any other cause.
void check_present(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error) && !error) fail(file.filename().string(), " is missing");
  check_input_file(file);
}

/// Throws unless the path is a directory. What a symbolic link names may be on a disk that is not mounted: that counts
/// as unreadable, not as damaged.
void check_is_directory(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return;
  if (fs::is_symlink(path, error) && !fs::exists(path, error))
    throw FileError(concat("a symbolic link to ", fs::read_symlink(path, error).string(), ", which cannot be opened"),
                    EACCES);
  fail("not a directory");
}

/// Throws an error that says what is wrong with the manifest.
Manifest read_manifest(const fs::path& directory) {
  check_present(directory / kManifestFile);
  const json root = parse_json_object(read_file(directory / kManifestFile), kManifestFile);
  // The format is checked first, because a later one may have its checksum elsewhere.
  const json format = root.value("format", json());
  SSA_CHECK(format == kFormat, kManifestFile, ": format ", format.dump(), ", expected ", kFormat);
  const json checksum = root.value("checksum", json());
  const std::string expected = manifest_checksum(root);
  SSA_CHECK(checksum == expected, kManifestFile, ": checksum ", checksum.dump(), ", expected ", expected);

  // The checksum is right, so the fields are those that the writer wrote.
  Manifest manifest{.step = root.at("step").get<std::int64_t>(),
                    .sequence = root.at("sequence").get<std::int64_t>(),
                    .keep = root.value("keep", false)};
  for (const auto& [name, file] : root.at("files").items())
    manifest.files[name] = {file.at("bytes").get<std::uint64_t>(), file.at("xxh3").get<std::string>()};
  return manifest;
}

/// Throws an error that says what is wrong with the files.
void check_files(const fs::path& directory, const Manifest& manifest, Verify verify) {
  std::string name = directory.filename().string();
  if (name.starts_with(kAsidePrefix)) name.erase(0, kAsidePrefix.size());
  // A copy elsewhere may have any name.
  if (const auto step = parse_name(name))
    SSA_CHECK(*step == manifest.step, kManifestFile, ": step ", manifest.step, ", the directory's name says ", *step);
  for (const char* file : kFiles) {
    const auto it = manifest.files.find(file);
    SSA_CHECK(it != manifest.files.end(), kManifestFile, ": no entry for ", file);
    check_present(directory / file);
    const std::uint64_t bytes = size_of_file(directory / file);
    SSA_CHECK(bytes == it->second.bytes, file, ": ", bytes, " bytes, the manifest says ", it->second.bytes);
    if (verify == Verify::checksums) {
      const FileChecksum checksum = checksum_file(directory / file);
      SSA_CHECK(checksum == it->second, file, ": checksum ", checksum.xxh3, ", the manifest says ", it->second.xxh3);
    }
  }
}

struct Found {
  CheckpointInfo info;
  std::int64_t sequence = std::numeric_limits<std::int64_t>::max();
  bool keep = false;
};

Found inspect(const fs::path& directory, std::int64_t step, Verify verify) {
  Found found{.info = {.path = directory, .step = step, .problem = {}}};
  try {
    check_is_directory(directory);
    const Manifest manifest = read_manifest(directory);
    found.sequence = manifest.sequence;
    found.keep = manifest.keep;
    check_files(directory, manifest, verify);
  } catch (const std::exception& e) {
    found.info.problem = e.what();
    found.info.unreadable = is_unreadable(e);
  }
  return found;
}

/// Changes when a file of the checkpoint is written: the manifest and the times of the files. Empty if it cannot be
/// read.
std::string identity_of(const fs::path& directory) {
  try {
    std::string identity = read_file(directory / kManifestFile);
    for (const char* file : kFiles)
      identity += concat(" ", fs::last_write_time(directory / file).time_since_epoch().count());
    return identity;
  } catch (const std::exception&) {
    return {};
  }
}

/// Caches whether a checkpoint's checksums are right: a checkpoint is read once per process, and never if this process
/// wrote it.
class KnownCheckpoints {
 public:
  void set(const fs::path& directory, bool verifies) {
    const std::lock_guard lock(mutex_);
    known_[identity_of(directory)] = verifies;
  }
  std::optional<bool> get(const fs::path& directory) {
    const std::lock_guard lock(mutex_);
    const auto it = known_.find(identity_of(directory));
    if (it == known_.end()) return std::nullopt;
    return it->second;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, bool> known_;  ///< by identity_of()
} known_checkpoints;

bool verifies(const fs::path& directory) {
  if (const auto known = known_checkpoints.get(directory)) return *known;
  const std::string problem = checkpoint_problem(directory, Verify::checksums);
  if (!problem.empty())
    spdlog::warn("{}: {}; checkpoint.save_total_limit neither counts nor removes it", directory.string(), problem);
  known_checkpoints.set(directory, problem.empty());
  return problem.empty();
}

std::vector<Found> find(const fs::path& root, Verify verify) {
  std::vector<Found> found;
  if (!fs::is_directory(root)) return found;
  for (const auto& entry : fs::directory_iterator(root)) {
    std::string name = entry.path().filename().string();
    if (name.starts_with(kAsidePrefix)) {
      name.erase(0, kAsidePrefix.size());
      if (fs::exists(fs::symlink_status(root / name))) continue;
    }
    const auto step = parse_name(name);
    if (step) found.push_back(inspect(entry.path(), *step, verify));
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::pair(a.sequence, a.info.step) > std::pair(b.sequence, b.info.step);
  });
  return found;
}

void prune(const fs::path& root, std::int64_t save_total_limit) {
  if (save_total_limit <= 0) return;
  std::vector<fs::path> candidates;
  for (const Found& found : find(root, Verify::sizes))
    if (found.info.complete() && !found.keep) candidates.push_back(found.info.path);
  if (static_cast<std::int64_t>(candidates.size()) <= save_total_limit) return;
  std::int64_t remaining = 0;
  for (const fs::path& candidate : candidates)
    if (verifies(candidate) && ++remaining > save_total_limit) discard(candidate);
  sync_directory(root);
}

std::vector<TensorSpec> moment_specs(const std::vector<TensorSpec>& parameters) {
  std::vector<TensorSpec> specs;
  for (const TensorSpec& p : parameters)
    for (const char* prefix : {"m.", "v."}) specs.push_back({prefix + p.name, p.shape});
  return specs;
}

fs::path checked(const fs::path& directory, Verify verify) {
  SSA_CHECK(fs::is_directory(directory), directory.string(), ": no such checkpoint directory");
  const std::string problem = checkpoint_problem(directory, verify);
  SSA_CHECK(problem.empty(), directory.string(), ": not a complete checkpoint: ", problem);
  return directory;
}

void check_exactly(const SafetensorsReader& file, const std::vector<TensorSpec>& expected) {
  std::set<std::string_view> names;
  for (const TensorSpec& spec : expected) {
    const auto& entry = file.at(spec.name, spec.shape);
    SSA_CHECK(entry.dtype == spec.dtype, file.path().string(), ": tensor ", spec.name, " is ", name_of(entry.dtype),
              ", expected ", name_of(spec.dtype));
    names.insert(spec.name);
  }
  for (const auto& entry : file.tensors())
    SSA_CHECK(names.contains(entry.name), file.path().string(), ": unexpected tensor ", entry.name, " ",
              to_string(entry.shape));
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("step-{:08}", step); }

CheckpointWriter::CheckpointWriter(const fs::path& output_dir, std::int64_t step,
                                   const std::vector<TensorSpec>& parameters)
    : root_(checkpoints_of(output_dir)),
      temporary_(root_ / fmt::format("{}{}", kTemporaryPrefix, checkpoint_name(step))),
      target_(root_ / checkpoint_name(step)),
      step_(step) {
  SSA_CHECK(step >= 0, "checkpoint: step ", step, ", expected 0 or more");
  make_directories(root_);
  sync_directory(output_dir);
  recover(root_);
  guarded([&] {
    make_directories(temporary_);
    weights_.emplace(temporary_ / kWeightsFile, parameters);
    moments_.emplace(temporary_ / kMomentsFile, moment_specs(parameters));
  });
}

CheckpointWriter::~CheckpointWriter() { abandon(); }

template <class F>
void CheckpointWriter::guarded(F&& f) {
  SSA_CHECK(!temporary_.empty(), target_.string(), ": this checkpoint was already completed or abandoned");
  try {
    f();
  } catch (...) {
    abandon();
    throw;
  }
}

void CheckpointWriter::abandon() noexcept {
  weights_.reset();
  moments_.reset();
  if (temporary_.empty()) return;
  remove_directory(temporary_);
  temporary_.clear();
}

void CheckpointWriter::add_weight(const std::string& name, std::span<const float> values) {
  guarded([&] { weights_->append(name, values); });
}

void CheckpointWriter::add_m(const std::string& name, std::span<const float> values) {
  guarded([&] { moments_->append("m." + name, values); });
}

void CheckpointWriter::add_v(const std::string& name, std::span<const float> values) {
  guarded([&] { moments_->append("v." + name, values); });
}

fs::path CheckpointWriter::commit(const json& trainer, std::string_view config, Retention retention) {
  guarded([&] {
    Manifest manifest{.step = step_, .sequence = 1, .keep = retention.keep};
    for (const Found& found : find(root_, Verify::sizes))
      if (found.sequence != std::numeric_limits<std::int64_t>::max())
        manifest.sequence = std::max(manifest.sequence, found.sequence + 1);
    manifest.files[kWeightsFile] = weights_->finish();
    manifest.files[kMomentsFile] = moments_->finish();
    manifest.files[kTrainerFile] = write_whole_file(temporary_ / kTrainerFile, trainer.dump(1) + "\n");
    manifest.files[kConfigFile] = write_whole_file(temporary_ / kConfigFile, config);
    sync_directory(temporary_);
    write_whole_file(temporary_ / kManifestFile, to_text(manifest));
    sync_directory(temporary_);

    const fs::path aside = prefixed(target_, kAsidePrefix);
    const bool replaces = fs::exists(fs::symlink_status(target_));
    if (replaces) rename_path(target_, aside);
    try {
      rename_path(temporary_, target_);
    } catch (...) {
      if (replaces) rename_path(aside, target_);
      throw;
    }
    temporary_.clear();
    sync_directory(root_);
    if (replaces) discard(aside);
  });

  known_checkpoints.set(target_, true);
  prune(root_, retention.save_total_limit);
  return target_;
}

std::string checkpoint_problem(const fs::path& directory, Verify verify) {
  return inspect(directory, 0, verify).info.problem;
}

std::vector<CheckpointInfo> find_checkpoints(const fs::path& output_dir, Verify verify) {
  std::vector<CheckpointInfo> infos;
  for (Found& found : find(checkpoints_of(output_dir), verify)) infos.push_back(std::move(found.info));
  return infos;
}

std::optional<CheckpointInfo> newest_checkpoint(const fs::path& output_dir, std::vector<CheckpointInfo>& skipped) {
  for (CheckpointInfo& info : find_checkpoints(output_dir, Verify::sizes)) {
    if (info.complete()) info = inspect(info.path, info.step, Verify::checksums).info;
    if (info.complete()) {
      known_checkpoints.set(info.path, true);
      return std::move(info);
    }
    if (info.unreadable)
      fail(info.path.string(), ": ", info.problem,
           "; expected a checkpoint that can be read. It may be intact: make it ",
           "readable, or remove it to resume from an older one");
    skipped.push_back(std::move(info));
  }
  if (skipped.empty()) return std::nullopt;
  std::string problems;
  for (const CheckpointInfo& info : skipped)
    problems += concat(problems.empty() ? "" : "; ", info.path.filename().string(), ": ", info.problem);
  fail(checkpoints_of(output_dir).string(), ": none of ", skipped.size(), " checkpoint", skipped.size() == 1 ? "" : "s",
       " is complete (", problems.c_str(), ")");
}

bool is_checkpoint(const fs::path& directory) {
  return is_present(directory / kManifestFile) || is_present(directory / kMomentsFile);
}

std::optional<fs::path> checkpoint_at(const fs::path& path, std::vector<CheckpointInfo>& skipped) {
  if (fs::is_directory(path / "checkpoints")) {
    const std::optional<CheckpointInfo> newest = newest_checkpoint(path, skipped);
    SSA_CHECK(newest, path.string(), ": no complete checkpoint");
    return newest->path;
  }
  if (is_checkpoint(path)) return path;
  return std::nullopt;
}

void tidy_checkpoints(const fs::path& output_dir, std::int64_t save_total_limit) {
  recover(checkpoints_of(output_dir));
  prune(checkpoints_of(output_dir), save_total_limit);
}

CheckpointReader::CheckpointReader(const fs::path& directory, Verify verify)
    : path_(checked(directory, verify)),
      step_(read_manifest(directory).step),
      weights_(directory / kWeightsFile),
      moments_(directory / kMomentsFile),
      trainer_(std::make_unique<json>(read_json_object(directory / kTrainerFile))),
      config_(read_file(directory / kConfigFile)) {}

CheckpointReader::~CheckpointReader() = default;

void CheckpointReader::check(const std::vector<TensorSpec>& parameters) const {
  check_exactly(weights_, parameters);
  check_exactly(moments_, moment_specs(parameters));
}

void CheckpointReader::read_weight(const TensorSpec& parameter, std::span<float> out, std::int64_t first) const {
  weights_.read(weights_.at(parameter.name, parameter.shape), out, first);
}

void CheckpointReader::read_m(const TensorSpec& parameter, std::span<float> out, std::int64_t first) const {
  moments_.read(moments_.at("m." + parameter.name, parameter.shape), out, first);
}

void CheckpointReader::read_v(const TensorSpec& parameter, std::span<float> out, std::int64_t first) const {
  moments_.read(moments_.at("v." + parameter.name, parameter.shape), out, first);
}

}  // namespace ssa
