#include "data_tools/tokenize_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "data_tools/byte_source.h"
#include "data_tools/dataset_json.h"
#include "data_tools/job_state.h"
#include "data_tools/ordered_pipeline.h"
#include "data_tools/shard_writer.h"
#include "data_tools/tokenize_worker.h"
#include "ssa/base/directory_lock.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/progress.h"
#include "ssa/base/signals.h"

namespace ssa {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using json = nlohmann::ordered_json;
namespace {

constexpr std::size_t kBudgetPerWorker = 8 << 20;  // raw bytes in flight
constexpr int kShownFaults = 20;
constexpr auto kCheckpointInterval = std::chrono::seconds(10);

struct ReadBatch : RawBatch {
  std::size_t cost() const { return bytes.size() + bytes_elsewhere + 1; }
};

/// Share done, rate and time left, as far as the sizes of the inputs are known.
class Progress {
 public:
  Progress(bool quiet, const std::vector<std::optional<FileVersion>>& versions, std::uint64_t start_bytes,
           std::int64_t start_tokens)
      : line_(quiet), start_bytes_(start_bytes), start_tokens_(start_tokens) {
    for (const auto& version : versions) {
      known_ &= version.has_value();
      total_ += version ? version->bytes : 0;
    }
  }

  void show(std::uint64_t bytes, std::int64_t tokens) {
    if (!line_.due()) return;
    const double seconds = line_.seconds(), done = static_cast<double>(bytes - std::min(bytes, start_bytes_));
    std::string text = fmt::format("{} tokens, {:.1f} MB/s, {:.0f} tokens/s", tokens, done / seconds / 1e6,
                                   static_cast<double>(tokens - start_tokens_) / seconds);
    if (known_ && done > 0 && total_ > 0)
      text = fmt::format("{:5.1f}%, {}, {} left", 100.0 * static_cast<double>(bytes) / static_cast<double>(total_),
                         text, clock_text(seconds * static_cast<double>(total_ - std::min(bytes, total_)) / done));
    line_.show(text);
  }

  void end() { line_.clear(); }

 private:
  ProgressLine line_;
  bool known_ = true;
  std::uint64_t total_ = 0, start_bytes_;
  std::int64_t start_tokens_;
};

std::vector<std::optional<FileVersion>> versions_of(const std::vector<fs::path>& files) {
  std::vector<std::optional<FileVersion>> versions;
  for (const fs::path& file : files) versions.push_back(input_version(file));
  return versions;
}

class Job {
 public:
  Job(const TokenizeOptions& options, const Tokenizer& tokenizer)
      : options_(options),
        tokenizer_(tokenizer),
        type_(token_type_for(tokenizer.vocab_size())),
        versions_(versions_of(options.input.files)),
        settings_(job_settings(options, tokenizer, versions_)) {
    const fs::path& directory = options.output;
    if (fs::exists(directory) && !fs::is_directory(directory))
      fail_usage("--output ", directory.string(), ": not a directory");
    make_directories(directory);
    lock_ = DirectoryLock(directory);
    if (!lock_.warning().empty()) std::fprintf(stderr, "warning: %s\n", lock_.warning().c_str());
    const bool resumes = fs::exists(state_file());
    if (!resumes) check_new(directory);
    JobState state;
    if (resumes) {
      state = read_job_state(state_file(), settings_);
    } else {
      for (const fs::path& part : {directory, train_directory()}) make_directories(part);
      if (splits()) {
        make_directories(validation_directory());
        state.validation.emplace();
      }
      write_job_state(state_file(), settings_, state);
    }
    open(state);
    if (resumes && !options_.quiet)
      fmt::print(stderr, "continues an interrupted job after document {}\n",
                 report_.documents + report_.validation_documents);
  }

  TokenizeReport run() {
    Progress progress(options_.quiet, versions_, report_.file_bytes, report_.tokens + report_.validation_tokens);
    const unsigned workers = options_.workers ? options_.workers : std::max(1u, std::thread::hardware_concurrency());
    DocumentReader reader(options_.input, place_, versions_);
    OrderedPipeline<ReadBatch, TokenizedBatch> pipeline(
        workers, kBudgetPerWorker * workers, [&](ReadBatch& batch) { return reader.next(batch); },
        [&] {
          return [worker = std::make_shared<TokenizeWorker>(tokenizer_, options_)](ReadBatch&& batch) {
            return worker->tokenize(batch);
          };
        },
        [&] { reader.interrupt(); });
    auto last_checkpoint = Clock::now();
    TokenizedBatch batch;
    bool more = !enough();
    while (more) {
      if (stop_signal()) {
        checkpoint();
        progress.end();
        report_.stopped = true;
        return report_;
      }
      using Got = decltype(pipeline)::Got;
      const Got got = pipeline.next(batch, std::chrono::milliseconds(100));
      if (got == Got::end) break;
      if (got == Got::item) {
        bool shard_ended = false;
        more = write(batch, shard_ended);
        if (shard_ended || Clock::now() - last_checkpoint > kCheckpointInterval) {
          checkpoint();
          last_checkpoint = Clock::now();
        }
      }
      progress.show(report_.file_bytes, report_.tokens + report_.validation_tokens);
    }
    progress.end();
    finish();
    return report_;
  }

 private:
  bool splits() const { return options_.validation_fraction > 0; }
  fs::path state_file() const { return options_.output / kTokenizeStateName; }
  fs::path train_directory() const { return splits() ? options_.output / "train" : options_.output; }
  fs::path validation_directory() const { return options_.output / "validation"; }
  bool enough() const {
    return options_.max_documents > 0 &&
           static_cast<std::uint64_t>(report_.documents + report_.validation_documents) >= options_.max_documents;
  }

  void check_new(const fs::path& directory) const {
    if (fs::exists(directory / "dataset.json"))
      fail_usage("--output ", directory.string(), ": holds a finished dataset already");
    for (const auto& entry : fs::directory_iterator(directory)) {
      // A job that was killed at its start leaves at most its directories and the draft of its state.
      const std::string name = entry.path().filename().string();
      const bool ours = name == draft_of(state_file()).filename() || name == ".lock" ||
                        ((name == "train" || name == "validation") && fs::is_empty(entry));
      if (!ours)
        fail_usage("--output ", directory.string(), ": not empty (", name,
                   "), and holds no interrupted job: expected a new directory");
    }
  }

  void open(const JobState& state) {
    place_ = state.place;
    report_ = state.counts;
    train_.emplace(train_directory(), type_, options_.shard_tokens, state.train);
    if (splits()) validation_.emplace(validation_directory(), type_, options_.shard_tokens, *state.validation);
    const fs::path quarantine = options_.output / "quarantine.jsonl";
    if (state.quarantine_bytes > 0)
      quarantine_.emplace(FileWriter::continue_at(quarantine, state.quarantine_bytes));
    else
      fs::remove(quarantine);
  }

  void checkpoint() {
    if (quarantine_) quarantine_->sync();
    JobState state{.place = place_, .counts = report_, .train = train_->checkpoint()};
    if (validation_) state.validation = validation_->checkpoint();
    if (quarantine_) state.quarantine_bytes = quarantine_->checksum().bytes;
    write_job_state(state_file(), settings_, state);
  }

  /// False once there are max_documents.
  bool write(const TokenizedBatch& batch, bool& shard_ended) {
    std::size_t begin = 0;
    for (const Outcome& outcome : batch.outcomes) {
      const std::size_t size = outcome.ids_end - begin;
      report_.messages_without_text += outcome.messages_without_text;
      switch (outcome.kind) {
        case Outcome::document:
        case Outcome::validation: {
          const bool train = outcome.kind == Outcome::document;
          shard_ended |= (train ? *train_ : *validation_)
                             .add({batch.ids.data() + begin, size}, static_cast<std::int64_t>(outcome.text_bytes));
          (train ? report_.documents : report_.validation_documents) += 1;
          (train ? report_.tokens : report_.validation_tokens) += static_cast<std::int64_t>(size);
          report_.text_bytes += outcome.text_bytes;
          report_.replaced += outcome.replaced;
          break;
        }
        case Outcome::empty: ++report_.empty; break;
        case Outcome::fault: take_fault(batch, outcome); break;
      }
      begin = outcome.ids_end;
      if (enough()) return false;
    }
    place_ = batch.next;
    report_.file_bytes = batch.file_bytes;
    return true;
  }

  void take_fault(const TokenizedBatch& batch, const Outcome& outcome) {
    const Fault& fault = batch.faults[outcome.fault_index];
    const std::string file = options_.input.files[batch.file].string();
    std::string_view reason = fault.reason;
    if (reason.starts_with(file + ": ")) reason.remove_prefix(file.size() + 2);
    if (options_.on_error == OnError::fail)
      fail(file, ":", outcome.row, ": ", reason, " (--on-error skip or quarantine continues)");
    ++report_.skipped;
    if (shown_faults_ < kShownFaults) fmt::print(stderr, "skipped {}:{}: {}\n", file, outcome.row, reason);
    if (++shown_faults_ == kShownFaults) fmt::print(stderr, "further records with errors are only counted\n");
    if (options_.on_error != OnError::quarantine) return;
    if (!quarantine_) quarantine_.emplace(options_.output / "quarantine.jsonl");
    const json entry = {{"file", file}, {"row", outcome.row}, {"error", reason}, {"record", fault.record}};
    const std::string line = entry.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    quarantine_->write(line.data(), line.size());
  }

  void finish() {
    SSA_CHECK(report_.documents > 0, "no document", splits() ? " for training" : "",
              " in the inputs, expected at least one that is not empty");
    SSA_CHECK(!splits() || report_.validation_documents > 0, "no document for validation among ", report_.documents,
              ", expected more documents (a text file is one, with --split-documents none) or a larger "
              "--validation-fraction");
    train_->close();
    if (validation_) validation_->close();
    checkpoint();
    write_dataset_json(train_directory(), tokenizer_, type_, train_->shards());
    train_->clean();
    if (validation_) {
      write_dataset_json(validation_directory(), tokenizer_, type_, validation_->shards());
      validation_->clean();
    }
    fs::remove(state_file());
    fs::remove(draft_of(state_file()));
    sync_directory(options_.output);
  }

  DirectoryLock lock_;
  const TokenizeOptions& options_;
  const Tokenizer& tokenizer_;
  TokenType type_;
  std::vector<std::optional<FileVersion>> versions_;  // of the input files
  json settings_;
  TokenizeReport report_;
  InputPlace place_;
  int shown_faults_ = 0;
  std::optional<ShardWriter> train_, validation_;
  std::optional<FileWriter> quarantine_;
};

/// A conversation must become what the template means: each of its special tokens one id.
void check_chat(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  const std::string name(options.input.chat->name);
  for (const fs::path& file : options.input.files)
    if (kind_of(file, options.input) != InputKind::jsonl)
      fail_usage("--chat-template ", name, ": ", file.string(), " is not supported, expected JSON lines");
  if (options.special_as_text)
    fail_usage("--chat-template ", name, ": its special tokens would be ordinary text with --special-tokens text");
  Encoder encoder(tokenizer);
  for (const std::string_view token : options.input.chat->special_tokens) {
    IdBuffer ids;
    encoder.encode(token, ids);
    if (ids.size() != 1)
      fail_usage("--chat-template ", name, ": tokenizer ", tokenizer.name(), " has no token ", token);
  }
}

}  // namespace

TokenizeReport tokenize(const TokenizeOptions& options) {
  const auto start = Clock::now();
  for (const fs::path& file : options.input.files)
    if (kind_of(file, options.input) == InputKind::parquet) check_input_file(file);  // it is not read from start to end
  const Tokenizer tokenizer = load_tokenizer(options.tokenizer, options.tokenizer_options);
  if (options.input.chat) check_chat(options, tokenizer);
  Job job(options, tokenizer);
  TokenizeReport report = job.run();
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace ssa
