#include "ssa/train/run_store.h"

#include <fmt/format.h>
#include <omp.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "ssa/base/checksum.h"
#include "ssa/base/file.h"
#include "ssa/base/seconds_since.h"
#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/runtime/host_memory.h"
#include "ssa/train/export.h"
#include "ssa/train/init_from.h"
#include "ssa/train/model_tokenizer.h"
#include "ssa/train/rank_check.h"
#include "ssa/train/resume_check.h"

namespace ssa {
namespace {

/// Appends a bucket to a checkpoint, of which `own` is what this rank owns. The first ranks of `comm`, which share a
/// state with rank 0, call it for the same buckets: rank 0 has the writer, and the others send it their slices, piece
/// by piece in the order of the files. Rank 0 receives a piece while the one before is written.
///
/// With async_checkpoints, rank 0 receives the rest of the pieces after an error, which check() throws: a rank whose
/// thread waits until its piece is received could not end.
class BucketWriter {
 public:
  BucketWriter(const ModelState& state, Comm& comm) : state_(state), comm_(comm) {}

  /// On rank 0, before the first write().
  void open(const std::filesystem::path& output, std::int64_t step, const std::vector<TensorSpec>& parameters) {
    attempt([&] { writer_.emplace(output, step, parameters); });
  }

  void write(const Bucket& bucket, const StateSnapshot::Part& own) {
    for (const Param& p : state_.table().params()) {
      if (p.offset < bucket.range.begin || p.offset >= bucket.range.end) continue;
      using Values = std::span<const float>;
      write_values(bucket, p, "weight", own.master, [&](Values x) { writer_->add_weight(p.name, x); });
      write_values(bucket, p, "first moment", own.m, [&](Values x) { writer_->add_m(p.name, x); });
      write_values(bucket, p, "second moment", own.v, [&](Values x) { writer_->add_v(p.name, x); });
    }
    attempt([&] { wait_for_piece(); });
  }
  void check() const {
    if (error_) std::rethrow_exception(error_);
  }
  CheckpointWriter& writer() { return *writer_; }  ///< of rank 0
  std::int64_t bytes() const { return bytes_; }    ///< written

 private:
  using Add = std::function<void(std::span<const float>)>;
  static constexpr std::int64_t kPiece = std::int64_t{1} << 20;  ///< elements

  void write_values(const Bucket& bucket, const Param& param, const char* what, const Tensor& own, const Add& add) {
    for (int shard = 0; shard < shards_; ++shard) {
      const bool mine = shards_ == 1 || shard == comm_.rank();
      const Range slice = shards_ == 1 ? bucket.range : state_.table().slice(bucket, shard);
      const Range part = common({param.offset, param.offset + param.count()}, slice);
      for (std::int64_t begin = part.begin; begin < part.end; begin += kPiece) {
        const std::int64_t count = std::min(kPiece, part.end - begin), at = begin - slice.begin;
        if (comm_.rank() == 0) {
          const Tensor values = mine ? own.rows(at, at + count) : receive(own.dtype(), count, shard);
          attempt([&] {
            wait_for_piece();
            const auto write_piece = [=, this, &param] { append(param, what, begin, values, add); };
            if (shards_ > 1)
              piece_ = std::async(std::launch::async, write_piece);
            else
              write_piece();
          });
        } else if (mine) {
          comm_.send(own.rows(at, at + count), 0);
        }
      }
    }
  }

  Tensor receive(DType dtype, std::int64_t count, int from) {
    std::swap(received_, being_written_);
    received_.resize(static_cast<std::size_t>(kPiece) * sizeof(float));
    const Tensor values(received_.data(), dtype, {count});
    comm_.receive(values, from);
    return values;
  }

  /// Does `work`, but not after an error.
  template <class Work>
  void attempt(Work&& work) {
    if (error_) return;
    try {
      work();
    } catch (...) {
      if (shards_ == 1 || !state_.shape().async_checkpoints) throw;
      error_ = std::current_exception();
    }
  }

  /// Throws what its writing threw.
  void wait_for_piece() {
    if (piece_.valid()) piece_.get();
  }

  /// f32 or bf16. Throws Error for a value that is not finite: such a checkpoint must not replace a good one.
  void append(const Param& param, const char* what, std::int64_t begin, const Tensor& values, const Add& add) {
    const auto count = static_cast<std::size_t>(values.count());
    std::span<const float> all;
    if (values.dtype() == DType::f32) {
      all = {values.as<float>(), count};
    } else {
      const bfloat16* from = values.as<bfloat16>();
      wide_.resize(count);
      std::transform(from, from + count, wide_.begin(), [](bfloat16 x) { return static_cast<float>(x); });
      all = wide_;
    }
    check_finite(concat("checkpoint not written: ", what, " of ", param.name), all, begin - param.offset);
    add(all);
    bytes_ += static_cast<std::int64_t>(all.size_bytes());
  }

  const ModelState& state_;
  Comm& comm_;
  const int shards_ = StateSnapshot::owners(state_.shape());
  std::optional<CheckpointWriter> writer_;  ///< of rank 0
  std::exception_ptr error_;
  std::vector<char> received_, being_written_;
  std::vector<float> wide_;
  std::int64_t bytes_ = 0;
  std::future<void> piece_;  ///< the last to be written. Destroyed first: that waits for it
};

/// load_master_weights of weights that each rank can compute: a bucket that every rank of `comm` holds is computed by
/// one of them and sent to the others. What is read from files is not shared: all ranks read it, and compare it
/// afterwards.
void share_master_weights(Stream& stream, Comm& comm, const ModelState& state, const ReadParam& read) {
  if (state.shape().shards_state() || comm.size() == 1) return load_master_weights(stream, state, read);
  const std::vector<Bucket>& buckets = state.table().buckets();
  const auto maker = [&](std::size_t i) { return static_cast<int>(i % static_cast<std::size_t>(comm.size())); };
  for (std::size_t i = 0; i < buckets.size(); ++i)
    if (maker(i) == comm.rank()) load_owned(stream, state, buckets[i], state.owned_master(buckets[i]), read);
  for (std::size_t i = 0; i < buckets.size(); ++i) comm.broadcast(stream, state.owned_master(buckets[i]), maker(i));
}

/// What a run starts from: files of a parameter's weight and, if they are read too, of its moments.
struct StoredState {
  ReadParam weight, m = {}, v = {};
  std::string about = {};  ///< whatever else is read, as text
};

StoredState stored_in(const CheckpointReader& reader, const ModelConfig& model, bool with_moments) {
  using Read = void (CheckpointReader::*)(const TensorSpec&, std::span<float>, std::int64_t) const;
  const auto reading = [&](Read read) -> ReadParam {
    return
        [&reader, read, specs = published_parameters(model)](std::size_t i, std::span<float> out, std::int64_t first) {
          (reader.*read)(specs[i], out, first);
          check_finite(concat(reader.path().string(), ": tensor ", specs[i].name), out, first);
        };
  };
  StoredState stored{.weight = reading(&CheckpointReader::read_weight),
                     .about = concat(reader.trainer().dump(), reader.config())};
  if (!with_moments) return stored;
  stored.m = reading(&CheckpointReader::read_m);
  stored.v = reading(&CheckpointReader::read_v);
  return stored;
}

/// The same, but what is read is added to `hash`.
ReadParam hashed(const ReadParam& read, Xxh3& hash) {
  return [&read, &hash](std::size_t i, std::span<float> out, std::int64_t first) {
    read(i, out, first);
    hash.update(out.data(), out.size_bytes());
  };
}

/// The checksum of what load_stored reads on a rank with shard `shard`.
std::string hash_of_part(const ModelState& state, const StoredState& stored, int shard) {
  Xxh3 hash;
  hash.update(stored.about.data(), stored.about.size());
  for (const Bucket& bucket : state.table().buckets())
    for (const ReadParam* read : {&stored.weight, &stored.m, &stored.v})
      if (*read) read_range(state.table(), state.table().slice(bucket, shard), hashed(*read, hash));
  return hash.hex();
}

/// Fills the owned master weights and moments. A collective: every rank must have read what rank 0's files say. Where
/// ranks read their shards only, rank 0 reads the other shards as well, to compare: the weights that all have in the
/// end would hide a difference, and nothing else compares moments.
void load_stored(Stream& stream, Comm& comm, const ModelState& state, const StoredState& stored, const char* what,
                 const char* advice) {
  Xxh3 hash;
  hash.update(stored.about.data(), stored.about.size());
  for (const Bucket& bucket : state.table().buckets()) {
    load_owned(stream, state, bucket, state.owned_master(bucket), hashed(stored.weight, hash));
    if (stored.m) load_owned(stream, state, bucket, state.owned_view(state.m, bucket), hashed(stored.m, hash));
    if (stored.v) load_owned(stream, state, bucket, state.owned_view(state.v, bucket), hashed(stored.v, hash));
  }
  std::vector<std::string> expected;
  if (comm.rank() == 0) {
    const int shards = state.shape().shards_state() ? state.shape().shards() : 1;
    for (int shard = 0; shard < shards; ++shard)
      expected.push_back(shard == state.rank() ? hash.hex() : hash_of_part(state, stored, shard));
    while (std::ssize(expected) < comm.size())
      expected.push_back(expected[expected.size() - static_cast<std::size_t>(shards)]);
  }
  check_same_parts(comm, what, hash.hex(), expected, advice);
}

std::string what_of(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    return foreign_message(error);
  }
}

/// A run has a config.json of its own, which would replace that of a model. And programs take a directory with the
/// files of a run for a run. A run that is there already continues.
void expect_no_other_output(const std::filesystem::path& directory) {
  if (is_present(directory / "checkpoints")) return;
  for (const char* name : {"dataset.json", "shard-00000.idx", "model.safetensors", "model.safetensors.index.json"})
    if (is_present(directory / name))
      fail_usage("output_dir ", directory.string(), ": found ", name,
                 " of a dataset or a model, expected a new directory or a run");
}

/// A collective, called if rank 0 sees no checkpoint. If another rank does, the file system of output_dir may not be
/// mounted on the machine of rank 0, and the run would start again.
void expect_no_checkpoints(Comm& comm, const std::filesystem::path& output_dir) {
  const bool some = !find_checkpoints(output_dir, Verify::sizes).empty();
  const int none = comm.size();
  const int rank = static_cast<int>(all_reduce(comm, some ? comm.rank() : none, ReduceOp::min));
  if (rank < none)
    fail("output_dir ", output_dir.string(), ": found checkpoints on rank ", rank,
         " and none on rank 0, expected the same directory on all ranks; --resume none starts over");
}

constexpr const char* kSameCheckpoints = "do all ranks see the same checkpoints?";

}  // namespace

RunStore::RunStore(const Config& config, Comm& comm) : config_(config), comm_(comm) {
  if (comm.rank() != 0) return;
  expect_no_other_output(config.output_dir);
  make_directories(config.output_dir);
  lock_ = DirectoryLock(config.output_dir);
  if (!lock_.warning().empty()) spdlog::warn(lock_.warning());
  // A directory that cannot be written to is found now, not at the first save.
  const std::filesystem::path checkpoints = std::filesystem::path(config.output_dir) / "checkpoints";
  make_directories(checkpoints);
  const std::filesystem::path probe = checkpoints / ".write-test";
  FileWriter(probe).finish();
  std::filesystem::remove(probe);
}

std::string why_no_checkpoint_copy(std::size_t bytes, int ranks, bool async, std::size_t free) {
  const std::size_t wanted = bytes * static_cast<std::size_t>(ranks);
  if (wanted <= free) return {};
  return concat("out of host memory: a checkpoint needs ", wanted, " bytes of pinned memory",
                ranks > 1 ? concat(" for ", ranks, " ranks on this machine") : "", ", ", free, " are free",
                async ? "; checkpoint.async=false needs less" : "");
}

std::string why_not_async(std::size_t bytes, int ranks, std::size_t free, bool threads) {
  const std::size_t wanted = bytes * static_cast<std::size_t>(ranks);
  if (wanted > free / 2)
    return fmt::format("their copy takes {:.3g} GB of host memory on a machine, of which {:.3g} GB are free",
                       static_cast<double>(wanted) / 1e9, static_cast<double>(free) / 1e9);
  return threads ? "" : "MPI takes no calls from two threads";
}

RunStore::~RunStore() {
  if (!writer_.joinable()) return;
  enter_phase(Phase::save, saved_step_);  // after an error in a step, whose time-out is shorter
  writer_.join();
}

std::string RunStore::checkpoint_to_resume(const std::string& resume) {
  if (resume == "none") return "";
  if (resume != "auto") return resume;
  std::string path;
  if (comm_.rank() == 0) {
    std::vector<CheckpointInfo> skipped;
    std::optional<CheckpointInfo> newest;
    try {
      newest = newest_checkpoint(config_.output_dir, skipped);
    } catch (const Error& error) {
      fail(error.what(), "; --resume none starts over");
    }
    for (const CheckpointInfo& bad : skipped) spdlog::warn("skipping {}: {}", bad.path.string(), bad.problem);
    if (newest) {
      // A run that was killed right after its last save did not delete old checkpoints. Next to a damaged checkpoint
      // nothing is deleted.
      tidy_checkpoints(config_.output_dir, skipped.empty() ? config_.checkpoint.save_total_limit : 0);
      path = (newest->path.parent_path() / checkpoint_name(newest->step)).string();
    }
  }
  path = broadcast(comm_, path);
  if (path.empty()) expect_no_checkpoints(comm_, config_.output_dir);
  return path;
}

TrainerState RunStore::continue_from(Stream& stream, ModelState& state, SpikeDetector& spikes,
                                     const RestoreOptions& options, const std::string& checkpoint,
                                     Verify verify) const {
  const CheckpointReader reader(checkpoint, verify);
  TrainerState saved = trainer_state(reader.trainer(), checkpoint + "/trainer.json", spikes);
  Config saved_config = parse_config(reader.config(), checkpoint + "/config.json");
  if (continues_init_from_) {  // the other run came from elsewhere itself
    saved_config.init_from = config_.init_from;
    saved_config.init_state = config_.init_state;
  }
  const ResumeChanges changes = check_resume(saved_config, saved, options.run, options.allowed_changes, checkpoint);
  reader.check(published_parameters(config_.model));
  load_stored(stream, comm_, state, stored_in(reader, config_.model, true), "checkpoint", kSameCheckpoints);
  if (comm_.rank() == 0) {
    if (continues_init_from_)
      spdlog::info("starting from {}; {}", checkpoint, what_is_taken(InitState::run, saved));
    else
      spdlog::info("resuming from {}", checkpoint);
    for (const std::string& line : changes.lines) spdlog::warn("resume: {}", line);
    if (const auto data = training_dataset_info(config_.data))
      if (const std::string other = other_tokenizer(checkpoint, *data); !other.empty())
        spdlog::warn("resume: tokenizer of the data: {} in the checkpoint, {} now", other, tokenizer_of(*data));
    if (saved.dataset.empty() && saved.sources.empty())
      spdlog::warn("resume: {} records no fingerprint of its dataset, so that data.path was not compared", checkpoint);
  }
  for (const std::string& line : continue_data(saved, options.run, changes))
    if (comm_.rank() == 0) spdlog::warn("resume: {}", line);
  return saved;
}

TrainerState RunStore::start_from_checkpoint(Stream& stream, ModelState& state, const RestoreOptions& options,
                                             const std::string& checkpoint) const {
  const CheckpointReader reader(checkpoint, comm_.rank() == 0 ? Verify::checksums : Verify::sizes);
  std::vector<std::string> notes;
  check_init_checkpoint(config_, reader, notes);
  check_init_tokenizer(config_, checkpoint, options.allowed_changes, notes);
  SpikeDetector of_the_other(config_.train.spike_window);
  const TrainerState saved = trainer_state(reader.trainer(), checkpoint + "/trainer.json", of_the_other);
  TrainerState new_run;
  continue_data(new_run, options.run, {});
  const bool with_moments = config_.init_state == InitState::optimizer;
  load_stored(stream, comm_, state, stored_in(reader, config_.model, with_moments), "checkpoint", kSameCheckpoints);
  if (with_moments) new_run.earlier_steps = saved.earlier_steps + saved.step;
  if (comm_.rank() != 0) return new_run;
  spdlog::info("starting from {}; {}", checkpoint, what_is_taken(config_.init_state, saved));
  for (const std::string& note : notes) spdlog::warn(note);
  return new_run;
}

TrainerState RunStore::restore(Stream& stream, ModelState& state, SpikeDetector& spikes,
                               const RestoreOptions& options) {
  const ParamTable& table = state.table();
  const std::string checkpoint = checkpoint_to_resume(options.resume);
  if (!checkpoint.empty()) {
    // `auto` verified every byte when it chose the checkpoint; a directory named by the user is verified now, by one
    // rank.
    const bool verify = options.resume != "auto" && comm_.rank() == 0;
    TrainerState saved =
        continue_from(stream, state, spikes, options, checkpoint, verify ? Verify::checksums : Verify::sizes);
    last_checkpoint_ = checkpoint;
    return saved;
  }
  if (config_.init_from) {
    // One rank chooses, as a run may be saving its next checkpoint.
    const auto chosen = comm_.rank() == 0 ? init_checkpoint(config_) : std::nullopt;
    const std::string from = broadcast(comm_, chosen ? chosen->string() : std::string());
    continues_init_from_ = config_.init_state == InitState::run;
    if (continues_init_from_)
      return continue_from(stream, state, spikes, options, from, comm_.rank() == 0 ? Verify::checksums : Verify::sizes);
    if (!from.empty()) return start_from_checkpoint(stream, state, options, from);
  }
  TrainerState new_run;
  continue_data(new_run, options.run, {});
  if (config_.init_from) {
    const std::vector<TensorSpec> specs = published_parameters(config_.model);
    std::vector<std::string> notes;
    const HuggingFaceWeights weights = open_init_from(config_, notes);
    check_init_tokenizer(config_, *config_.init_from, options.allowed_changes, notes);
    const auto read = [&](std::size_t i, std::span<float> out, std::int64_t first) {
      weights.read(specs[i], out, first);
      check_finite(concat(*config_.init_from, ": tensor ", specs[i].name), out, first);
    };
    load_stored(stream, comm_, state, {.weight = read}, "weights", "do all ranks see the same init_from?");
    if (comm_.rank() != 0) return new_run;
    spdlog::info("starting from the weights of {}", *config_.init_from);
    for (const std::string& note : notes) spdlog::warn(note);
    return new_run;
  }
  const auto seed = static_cast<std::uint64_t>(config_.train.seed);
  share_master_weights(stream, comm_, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    initialize_param(table, config_.model, i, seed, out, first);
  });
  return new_run;
}

void RunStore::reserve(Stream& stream, const ModelState& state) {
  const bool sharded = state.shape().shards_state();
  if (state.shape().async_checkpoints && comm_.size() > 1) {
    writer_comm_ = comm_.for_thread();
    SSA_CHECK(writer_comm_ || !sharded,
              "checkpoint.async: found true, expected false with distributed.zero_stage above 0: MPI takes no "
              "calls from two threads");
  }
  const int owners = StateSnapshot::owners(state.shape());
  const bool owns = comm_.rank() < owners;
  const std::size_t bytes = StateSnapshot::bytes(state.shape(), state.table());
  if (stream.kind() == DeviceKind::cuda) {
    const int on_machine = std::min(owners, comm_.local_size());  // at most
    const std::string problem =
        owns ? why_no_checkpoint_copy(bytes, on_machine, state.shape().async_checkpoints, host_memory_info().free_bytes)
             : "";
    if (!problem.empty()) fail(problem);
    comm_.barrier();  // before any of them takes its part
  }
  if (!owns) return;
  const auto begun = Clock::now();
  snapshot_ = std::make_unique<StateSnapshot>(stream, state);
  if (comm_.rank() == 0 && stream.kind() == DeviceKind::cuda)
    spdlog::info("checkpoints: {:.3f} GB of pinned host memory{}, taken in {:.1f} s", static_cast<double>(bytes) / 1e9,
                 sharded ? " on each rank of a state" : "", seconds_since(begun));
}

void RunStore::begin_save() {
  save_begun_ = Clock::now();
  finish();
  waited_seconds_ = seconds_since(save_begun_);
}

void RunStore::save(Stream& stream, const ModelState& state, const TrainerState& trainer_state,
                    const SpikeDetector& spikes, Saving saving) {
  const std::filesystem::path output(config_.output_dir);
  const std::string name = checkpoint_name(trainer_state.step);
  const bool async = state.shape().async_checkpoints;
  const std::size_t buckets = state.table().buckets().size();
  being_saved_ = (output / "checkpoints" / name).string();
  saved_step_ = trainer_state.step;
  const auto write = [=, this, &state, begun = Clock::now(), step = trainer_state.step, config = config_json(config_),
                      trainer = to_json(trainer_state, spikes)] {
    BucketWriter to(state, writer_comm_ ? *writer_comm_ : comm_);
    if (comm_.rank() == 0) to.open(output, step, published_parameters(config_.model));
    for (std::size_t i = 0; i < buckets; ++i) {
      if (!async) {
        snapshot_->queue(i);
        snapshot_->copy_host(i);
      }
      to.write(state.table().buckets()[i], snapshot_->wait(i));
    }
    to.check();
    if (comm_.rank() > 0) return;
    to.writer().commit(trainer, config, {.save_total_limit = config_.checkpoint.save_total_limit, .keep = saving.keep});
    committed_ = true;
    written_seconds_ = seconds_since(begun);
    written_bytes_ = to.bytes();
    if (saving.export_too) export_to(output / "exports" / name);
  };
  if (async && (snapshot_ || writer_comm_)) {
    for (std::size_t i = 0; snapshot_ && i < buckets; ++i) snapshot_->queue(i);
    writing_ = true;
    writer_ = std::thread([this, buckets, write, cpu = stream.kind() == DeviceKind::cpu] {
      if (cpu) omp_set_num_threads(1);  // the main thread needs the cores
      if (snapshot_) {
        for (std::size_t i = 0; i < buckets; ++i) snapshot_->copy_host(i);
        snapshot_->host_is_copied();
      }
      const auto attempt = [&](const std::function<void()>& work) {
        try {
          work();
        } catch (...) {
          writer_error_ = std::current_exception();
        }
      };
      if (snapshot_) attempt(write);
      if (writer_comm_ && (comm_.rank() == 0 || !writer_error_)) attempt([&] { share_outcome(); });
      writing_ = false;
    });
    if (comm_.rank() == 0) spdlog::info("saving {}", being_saved_);
  } else if (!async) {
    if (snapshot_) {
      write();
      snapshot_->finish();
    }
    comm_.barrier();
  }
  paused_seconds_ = seconds_since(save_begun_);
  if (!async) finish();
}

/// Tells the other ranks whether the checkpoint is complete, or why it is not: one that ends with an error waits for
/// that, when rank 0 may wait for this rank in a collective.
void RunStore::share_outcome() {
  const std::string error = broadcast(*writer_comm_, writer_error_ ? what_of(writer_error_) : std::string());
  if (comm_.rank() > 0) error_of_rank_0_ = error;
}

void RunStore::before_update() {
  if (snapshot_) snapshot_->release();
}

void RunStore::export_to(const std::filesystem::path& directory) const {
  // A run that went back to an earlier checkpoint exports a step again, perhaps one whose export was killed.
  for (const char* suffix : {"", ".tmp"}) std::filesystem::remove_all(directory.string() + suffix);
  const ExportResult result = export_checkpoint(CheckpointReader(being_saved_, Verify::sizes), directory);
  const std::string notes = result.notes.empty() ? "" : fmt::format(" ({})", fmt::join(result.notes, "; "));
  spdlog::info("exported {}{}", directory.string(), notes);
}

void RunStore::poll() {
  // After an error of rank 0 its next poll() or finish() ends the job.
  if (!writing_ && error_of_rank_0_.empty()) finish();
}

void RunStore::finish() {
  if (!end_writing()) return;
  if (comm_.rank() == 0) spdlog::info("saved {}: {}", last_checkpoint_, timing());
  if (snapshot_) snapshot_->finish();
}

std::string RunStore::finish_after_error() {
  if (!writer_.joinable()) return {};
  enter_phase(Phase::save, saved_step_);  // its time-out is longer than that of a step
  const std::string path = being_saved_;
  try {
    end_writing();
  } catch (const std::exception&) {
    return concat("; while saving ", path, ": ", what_of(std::current_exception()));
  }
  if (comm_.rank() == 0) spdlog::info("saved {}", path);
  return {};
}

/// Waits for the checkpoint being written. Returns whether there was one; throws what its writing threw.
bool RunStore::end_writing() {
  if (writer_.joinable()) writer_.join();
  const std::string path = std::exchange(being_saved_, {});
  if (committed_.exchange(false)) last_checkpoint_ = path;
  if (writer_error_) std::rethrow_exception(std::exchange(writer_error_, nullptr));
  if (!error_of_rank_0_.empty()) throw Error("rank 0: " + std::exchange(error_of_rank_0_, {}));
  if (path.empty()) return false;
  last_checkpoint_ = path;
  return true;
}

/// "training paused 0.021 s, wrote 15.0 GB in 8.12 s (1.85 GB/s)"
std::string RunStore::timing() const {
  const double bytes = static_cast<double>(written_bytes_) / 1e9;
  std::string text = fmt::format("training paused {:.3f} s", paused_seconds_ + snapshot_->stall_seconds());
  if (waited_seconds_ >= 0.001)
    text += fmt::format(" ({:.3f} s until the checkpoint before was written)", waited_seconds_);
  return text + fmt::format(", wrote {:.3g} GB in {:.2f} s ({:.3g} GB/s)", bytes, written_seconds_,
                            bytes / std::max(written_seconds_, 1e-9));
}

}  // namespace ssa
