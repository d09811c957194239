#include "ssa/train/run_store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"

namespace ssa {
namespace {

/// Copies a whole bucket, of which each rank has `owned`, to the host of every rank. Where the ranks own slices, they are
/// gathered through the staging buffer, a piece of every slice at a time.
void gather_bucket(Stream& stream, Comm& comm, const ModelState& state, const Bucket& bucket, const Tensor& owned,
                   std::vector<float>& host) {
  const std::int64_t slice = owned.count();
  host.resize(static_cast<std::size_t>(bucket.range.count()));
  if (slice == bucket.range.count()) {
    stream.copy(host.data(), owned.data(), owned.bytes());
    stream.synchronize();
    return;
  }
  const std::int64_t ranks = comm.size(), largest_piece = state.checkpoint_staging.count() / ranks;
  for (std::int64_t begin = 0; begin < slice; begin += largest_piece) {
    const std::int64_t piece = std::min(largest_piece, slice - begin);
    const Tensor gathered = state.checkpoint_staging.rows(0, ranks * piece);
    comm.all_gather(stream, owned.rows(begin, begin + piece), gathered);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const Tensor from = gathered.rows(rank * piece, (rank + 1) * piece);
      stream.copy(&host[static_cast<std::size_t>(rank * slice + begin)], from.data(), from.bytes());
    }
  }
  stream.synchronize();
}

/// The state of one bucket on the host.
struct BucketCopy {
  Range range;
  std::vector<float> master, m, v;
};

void write_bucket(CheckpointWriter& writer, const ParamTable& table, const BucketCopy& bucket) {
  for (const Param& p : table.params()) {
    if (p.offset < bucket.range.begin || p.offset >= bucket.range.end) continue;
    const auto values = [&](const std::vector<float>& from) {
      return std::span<const float>(from.data() + (p.offset - bucket.range.begin), static_cast<std::size_t>(p.count()));
    };
    writer.add_weight(p.name, values(bucket.master));
    writer.add_m(p.name, values(bucket.m));
    writer.add_v(p.name, values(bucket.v));
  }
}

}  // namespace

RunStore::RunStore(const Config& config, Comm& comm) : config_(config), comm_(comm) {
  if (comm.rank() != 0) return;
  make_directories(config.output_dir);
  lock_ = DirectoryLock(config.output_dir);
  if (!lock_.warning().empty()) spdlog::warn(lock_.warning());
}

RunStore::~RunStore() {
  if (writer_.joinable()) writer_.join();
}

std::string RunStore::checkpoint_to_resume(const std::string& resume) {
  if (resume == "none") return "";
  if (resume != "auto") return resume;
  std::string path;
  if (comm_.rank() == 0) {
    std::vector<CheckpointInfo> skipped;
    const std::optional<CheckpointInfo> newest = newest_checkpoint(config_.output_dir, skipped);
    for (const CheckpointInfo& bad : skipped) spdlog::warn("skipping {}: {}", bad.path.string(), bad.problem);
    if (newest) {
      // A run that was killed right after its last save did not delete old checkpoints. Next to a damaged checkpoint
      // nothing is deleted.
      tidy_checkpoints(config_.output_dir, skipped.empty() ? config_.checkpoint.save_total_limit : 0);
      path = (newest->path.parent_path() / checkpoint_name(newest->step)).string();
    }
  }
  return broadcast(comm_, path);
}

std::int64_t RunStore::restore(Stream& stream, ModelState& state, const std::string& resume) {
  const ParamTable& table = state.table();
  const std::vector<NamedShape> shapes = published_parameters(config_.model);
  const std::string checkpoint = checkpoint_to_resume(resume);
  if (!checkpoint.empty()) {
    // `auto` checked every byte when it chose the checkpoint; a directory named by the user is checked now, by one rank.
    const bool check_all = resume != "auto" && comm_.rank() == 0;
    const CheckpointReader reader(checkpoint, check_all ? Verify::checksums : Verify::sizes);
    reader.check(shapes);
    load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
      reader.read_weight(shapes[i], out, first);
    });
    for (const Bucket& bucket : table.buckets()) {
      load_owned(
          stream, state, bucket, state.owned_view(state.m, bucket),
          [&](std::size_t i, std::span<float> out, std::int64_t first) { reader.read_m(shapes[i], out, first); });
      load_owned(
          stream, state, bucket, state.owned_view(state.v, bucket),
          [&](std::size_t i, std::span<float> out, std::int64_t first) { reader.read_v(shapes[i], out, first); });
    }
    last_checkpoint_ = checkpoint;
    if (comm_.rank() == 0) spdlog::info("resuming from {}", checkpoint);
    return reader.step();
  }
  if (config_.init_from) {
    const HuggingFaceWeights weights(*config_.init_from, shapes, config_.model.tie_word_embeddings);
    load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
      weights.read(shapes[i], out, first);
    });
    if (comm_.rank() == 0) spdlog::info("starting from the weights of {}", *config_.init_from);
    return 0;
  }
  const auto seed = static_cast<std::uint64_t>(config_.train.seed);
  load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    initialize_param(table, config_.model, i, seed, out, first);
  });
  return 0;
}

void RunStore::save(Stream& stream, const ModelState& state, std::int64_t step, const TrainerRecord& record) {
  finish();
  const ParamTable& table = state.table();
  const nlohmann::json trainer = {{"step", step},
                                  {"total_steps", record.total_steps},
                                  {"tokens", record.tokens},
                                  {"global_batch_rows", record.global_rows},
                                  {"rows_per_epoch", record.rows_per_epoch},
                                  {"seed", config_.train.seed},
                                  {"ranks", comm_.size()}};
  const std::string config = config_json(config_);
  const bool writes = comm_.rank() == 0, async = config_.checkpoint.async;

  std::unique_ptr<CheckpointWriter> writer;
  if (writes)
    writer = std::make_unique<CheckpointWriter>(config_.output_dir, step, published_parameters(config_.model));
  auto copies = std::make_shared<std::vector<BucketCopy>>();
  for (const Bucket& bucket : table.buckets()) {
    BucketCopy copy{bucket.range, {}, {}, {}};
    gather_bucket(stream, comm_, state, bucket, state.owned_master(bucket), copy.master);
    gather_bucket(stream, comm_, state, bucket, state.owned_view(state.m, bucket), copy.m);
    gather_bucket(stream, comm_, state, bucket, state.owned_view(state.v, bucket), copy.v);
    if (!writes) continue;
    if (async)
      copies->push_back(std::move(copy));
    else
      write_bucket(*writer, table, copy);
  }

  std::string directory = (std::filesystem::path(config_.output_dir) / "checkpoints" / checkpoint_name(step)).string();
  if (writes && async) {
    writer_ = std::thread(
        [this, &table, copies, trainer, config, writer = std::shared_ptr<CheckpointWriter>(std::move(writer))] {
          try {
            for (const BucketCopy& copy : *copies) write_bucket(*writer, table, copy);
            writer->commit(trainer, config, config_.checkpoint.save_total_limit);
          } catch (...) {
            writer_error_ = std::current_exception();
          }
        });
  } else if (writes) {
    writer->commit(trainer, config, config_.checkpoint.save_total_limit);
  }
  comm_.barrier();
  last_checkpoint_ = directory;
}

void RunStore::finish() {
  if (writer_.joinable()) writer_.join();
  if (writer_error_) std::rethrow_exception(std::exchange(writer_error_, nullptr));
}

}  // namespace ssa
