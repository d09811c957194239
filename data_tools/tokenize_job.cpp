#include "data_tools/tokenize_job.h"

#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "data_tools/growing_file.h"
#include "data_tools/json_line.h"
#include "data_tools/ordered_pipeline.h"
#include "data_tools/parquet_reader.h"
#include "data_tools/shard_writer.h"
#include "ssa/base/directory_lock.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/signals.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using json = nlohmann::ordered_json;
namespace {

constexpr std::size_t kBudgetPerWorker = 8 << 20;  // raw bytes in flight
constexpr int kShownFaults = 20;
constexpr const char* kStateDraft = ".job.json.tmp";  // what replace_file() writes first
constexpr auto kCheckpointInterval = std::chrono::seconds(10);

struct ReadBatch : RawBatch {
  std::size_t cost() const { return bytes.size() + bytes_elsewhere + 1; }
};

/// What became of one record.
struct Outcome {
  enum Kind : std::uint8_t { document, validation, empty, fault } kind;
  std::uint64_t row;
  std::size_t ids_end;  // the document's tokens end here in TokenizedBatch::ids
  std::uint64_t text_bytes, replaced;
  std::size_t fault_index;
};

struct Fault {
  std::string reason, record;
};

struct TokenizedBatch {
  std::size_t file = 0;
  IdBuffer ids;
  std::vector<Outcome> outcomes;
  std::vector<Fault> faults;
  InputPlace next;
  std::uint64_t file_bytes = 0;
};

/// One document in about 1 / fraction, by its text alone: copies of a document all fall on the same side.
bool is_validation(std::string_view text, double fraction) {
  if (fraction <= 0) return false;
  return static_cast<double>(XXH3_64bits(text.data(), text.size()) >> 11) * 0x1p-53 < fraction;
}

class Worker {
 public:
  Worker(const Tokenizer& tokenizer, const TokenizeOptions& options)
      : encoder_(tokenizer), eos_(tokenizer.eos_token_id()), options_(options) {}

  TokenizedBatch operator()(ReadBatch&& batch) {
    TokenizedBatch out{.file = batch.file,
                       .ids = {},
                       .outcomes = {},
                       .faults = {},
                       .next = batch.next,
                       .file_bytes = batch.file_bytes};
    out.outcomes.reserve(batch.records.size());
    for (const RawRecord& record : batch.records) {
      if (record.kind == RawRecord::rows)
        take_rows(record, batch.file, out);
      else
        take(record.kind, record.row, std::string_view(batch.bytes).substr(record.begin, record.size), out);
    }
    return out;
  }

 private:
  void take_rows(const RawRecord& rows, std::size_t file, TokenizedBatch& out) {
    std::uint64_t row = rows.row;
    try {
      ParquetReader reader(options_.input.files[file], options_.input.field, options_.input.field_kind);
      reader.skip_rows(rows.row - 1);
      const ParquetReader::Use use = [&](std::uint64_t number, bool good, std::string_view content) {
        row = number + 1;
        take(good ? RawRecord::text : RawRecord::fault, number, content, out);
      };
      while (reader.rows_done() < rows.row - 1 + rows.size && reader.next(use)) {
      }
    } catch (const Error& error) {  // the file has changed since the reading thread saw it
      take(RawRecord::fault, row, error.what(), out);
    }
  }

  void take(RawRecord::Kind kind, std::uint64_t row, std::string_view content, TokenizedBatch& out) {
    Outcome outcome{.kind = Outcome::fault, .row = row, .ids_end = 0, .text_bytes = 0, .replaced = 0, .fault_index = 0};
    try {
      if (kind == RawRecord::fault) fail(content);
      encode(kind, content, outcome, out.ids);
    } catch (const Error& error) {
      outcome.kind = Outcome::fault;
      outcome.fault_index = out.faults.size();
      const bool keep = options_.on_error == OnError::quarantine && kind != RawRecord::fault;
      out.faults.push_back({error.what(), keep ? std::string(content) : std::string()});
    }
    outcome.ids_end = out.ids.size();
    out.outcomes.push_back(outcome);
  }

  void encode(RawRecord::Kind kind, std::string_view content, Outcome& outcome, IdBuffer& ids) {
    std::string_view text = content;
    if (kind == RawRecord::json) {
      outcome.replaced = parse_json_line(content, options_.input.field, options_.input.field_kind, text_);
      text = text_;
    }
    if (valid_utf8_prefix(text) != text.size()) {
      if (kind != RawRecord::json) text_ = content;
      outcome.replaced += replace_invalid_utf8(text_);
      text = text_;
    }
    outcome.text_bytes = text.size();
    outcome.kind = Outcome::empty;
    if (text.empty()) return;
    const std::size_t start = ids.size();
    try {
      encoder_.encode(text, ids, options_.special_as_text);
    } catch (...) {
      ids.truncate(start);
      throw;
    }
    ids.push_back(eos_);
    outcome.kind = is_validation(text, options_.validation_fraction) ? Outcome::validation : Outcome::document;
  }

  Encoder encoder_;
  std::int32_t eos_;
  const TokenizeOptions& options_;
  std::string text_;
};

json to_json(const std::vector<ShardInfo>& shards) {
  json list = json::array();
  for (const ShardInfo& shard : shards) {
    json& fields = list.emplace_back();
    visit_fields(shard, [&](const char* key, const auto& value) { fields[key] = value; });
  }
  return list;
}

WriterState writer_state(const json& state) {
  WriterState out;
  for (const json& shard : state.at("shards"))
    visit_fields(out.shards.emplace_back(), [&](const char* key, auto& value) { shard.at(key).get_to(value); });
  out.open_documents = state.at("open_documents");
  out.open_tokens = state.at("open_tokens");
  return out;
}

const char* name_of(OnError on_error) {
  switch (on_error) {
    case OnError::skip: return "skip";
    case OnError::quarantine: return "quarantine";
    case OnError::fail: break;
  }
  return "fail";
}

/// Everything the output depends on. The number of workers is not among it.
json settings_of(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  json files = json::array();
  for (const fs::path& file : options.input.files)
    files.push_back({file.string(), file == "-" ? json(nullptr) : json(fs::file_size(file))});
  return {{"tokenizer", tokenizer.name()},
          {"tokenizer_sha256", tokenizer.sha256()},
          {"pre_tokenizer", options.tokenizer_options.pre_tokenizer},
          {"eos_token_id", tokenizer.eos_token_id()},
          {"inputs", files},
          {"field", options.input.field},
          {"conversations", options.input.field_kind == FieldKind::conversation},
          {"split_blank_lines", options.input.split_blank_lines},
          {"stdin_is_text", options.input.stdin_kind == InputKind::text},
          {"shard_tokens", options.shard_tokens},
          {"validation_fraction", options.validation_fraction},
          {"max_documents", options.max_documents},
          {"on_error", name_of(options.on_error)},
          {"special_as_text", options.special_as_text}};
}

std::string clock_time(double seconds) {
  const auto s = static_cast<long long>(seconds + 0.5);
  char text[48];
  std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
  return text;
}

/// A line a second that replaces the one before on a terminal, and a line every ten seconds elsewhere.
class Progress {
 public:
  Progress(const TokenizeOptions& options, std::uint64_t start_bytes, std::int64_t start_tokens)
      : quiet_(options.quiet), start_bytes_(start_bytes), start_tokens_(start_tokens) {
    for (const fs::path& file : options.input.files) {
      if (file == "-")
        known_ = false;
      else
        total_ += fs::file_size(file);
    }
  }

  void show(std::uint64_t bytes, std::int64_t tokens) {
    const auto now = Clock::now();
    if (quiet_ || now - last_ < (terminal_ ? std::chrono::seconds(1) : std::chrono::seconds(10))) return;
    last_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const auto done = static_cast<double>(bytes - std::min(bytes, start_bytes_));
    std::string line = concat(tokens, " tokens");
    char rate[96];
    std::snprintf(rate, sizeof rate, ", %.1f MB/s, %.0f tokens/s", done / seconds / 1e6,
                  static_cast<double>(tokens - start_tokens_) / seconds);
    line += rate;
    if (known_ && done > 0 && total_ > 0) {
      char part[64];
      std::snprintf(part, sizeof part, "%5.1f%%, ", 100.0 * static_cast<double>(bytes) / static_cast<double>(total_));
      line = concat(part, line, ", ",
                    clock_time(seconds * static_cast<double>(total_ - std::min(bytes, total_)) / done), " left");
    }
    std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
    std::fflush(stderr);
    shown_ = true;
  }

  void end() {
    if (shown_ && terminal_) std::fprintf(stderr, "\r\033[K");
    shown_ = false;
  }

 private:
  bool quiet_, terminal_ = ::isatty(STDERR_FILENO) == 1, known_ = true, shown_ = false;
  std::uint64_t total_ = 0, start_bytes_;
  std::int64_t start_tokens_;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

class Job {
 public:
  Job(const TokenizeOptions& options, const Tokenizer& tokenizer)
      : options_(options),
        tokenizer_(tokenizer),
        type_(token_type_for(tokenizer.vocab_size())),
        settings_(settings_of(options, tokenizer)) {
    const fs::path& directory = options.output;
    if (fs::exists(directory) && !fs::is_directory(directory))
      fail_usage("--output ", directory.string(), ": not a directory");
    make_directories(directory);
    lock_ = DirectoryLock(directory);
    if (!lock_.warning().empty()) std::fprintf(stderr, "warning: %s\n", lock_.warning().c_str());
    const bool resumes = fs::exists(directory / "job.json");
    if (!resumes) check_new(directory);
    json state;
    if (resumes) {
      state = load_state();
    } else {
      for (const fs::path& part : {directory, train_directory()}) make_directories(part);
      if (splits()) make_directories(validation_directory());
      json none = {{"shards", json::array()}, {"open_documents", 0}, {"open_tokens", 0}};
      state = {{"place", {{"file", 0}, {"row", 0}, {"offset", 0}}},
               {"counts", counts()},
               {"train", none},
               {"validation", splits() ? none : json(nullptr)},
               {"quarantine_bytes", 0}};
      save(state);
    }
    open(state);
    if (resumes && !options_.quiet)
      std::fprintf(stderr, "continues an interrupted job behind document %lld\n",
                   static_cast<long long>(report_.documents + report_.validation_documents));
  }

  TokenizeReport run() {
    Progress progress(options_, file_bytes_, report_.tokens + report_.validation_tokens);
    const unsigned workers = options_.workers ? options_.workers : std::max(1u, std::thread::hardware_concurrency());
    DocumentReader reader(options_.input, place_);
    OrderedPipeline<ReadBatch, TokenizedBatch> pipeline(
        workers, kBudgetPerWorker * workers, [&](ReadBatch& batch) { return reader.next(batch); },
        [&] {
          return [worker = std::make_shared<Worker>(tokenizer_, options_)](ReadBatch&& batch) {
            return (*worker)(std::move(batch));
          };
        });
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
      progress.show(file_bytes_, report_.tokens + report_.validation_tokens);
    }
    progress.end();
    finish();
    return report_;
  }

 private:
  bool splits() const { return options_.validation_fraction > 0; }
  fs::path train_directory() const { return splits() ? options_.output / "train" : options_.output; }
  fs::path validation_directory() const { return options_.output / "validation"; }
  bool enough() const {
    return options_.max_documents > 0 &&
           static_cast<std::uint64_t>(report_.documents + report_.validation_documents) >= options_.max_documents;
  }

  static void check_new(const fs::path& directory) {
    if (fs::exists(directory / "dataset.json"))
      fail_usage("--output ", directory.string(), ": holds a finished dataset already");
    for (const auto& entry : fs::directory_iterator(directory)) {
      // A job that was killed while it began leaves at most its directories and the draft of its state.
      const std::string name = entry.path().filename().string();
      const bool ours =
          name == kStateDraft || name == ".lock" || ((name == "train" || name == "validation") && fs::is_empty(entry));
      if (!ours)
        fail_usage("--output ", directory.string(), ": not empty (", name,
                   "), and holds no interrupted job: expected a new directory");
    }
  }

  json load_state() const {
    const fs::path path = options_.output / "job.json";
    try {
      json state = json::parse(read_file(path));
      const json& saved = state.at("settings");
      for (const auto& [key, value] : settings_.items())
        if (saved.at(key) != value)
          fail_usage(path.string(), ": the interrupted job has ", key, " ", saved.at(key).dump(), ", this one ",
                     value.dump(), ": expected the same, or another --output");
      return state;
    } catch (const json::exception& error) {
      fail(path.string(), ": not the state of a job: ", error.what(), "; remove the directory to start again");
    }
  }

  void open(const json& state) {
    try {
      place_ = {.file = state.at("place").at("file"),
                .row = state.at("place").at("row"),
                .offset = state.at("place").at("offset")};
      const json& counts = state.at("counts");
      report_.documents = counts.at("documents");
      report_.validation_documents = counts.at("validation_documents");
      report_.tokens = counts.at("tokens");
      report_.validation_tokens = counts.at("validation_tokens");
      report_.text_bytes = counts.at("text_bytes");
      report_.empty = counts.at("empty");
      report_.skipped = counts.at("skipped");
      report_.replaced = counts.at("replaced");
      file_bytes_ = counts.at("file_bytes");
      train_.emplace(train_directory(), type_, options_.shard_tokens, writer_state(state.at("train")));
      if (splits())
        validation_.emplace(validation_directory(), type_, options_.shard_tokens, writer_state(state.at("validation")));
      const fs::path quarantine = options_.output / "quarantine.jsonl";
      const std::uint64_t kept = state.at("quarantine_bytes");
      if (kept > 0)
        quarantine_.emplace(quarantine, kept, false);
      else
        fs::remove(quarantine);
    } catch (const json::exception& error) {
      fail((options_.output / "job.json").string(), ": not the state of a job: ", error.what(),
           "; remove the directory to start again");
    }
  }

  json counts() const {
    return {{"documents", report_.documents},   {"validation_documents", report_.validation_documents},
            {"tokens", report_.tokens},         {"validation_tokens", report_.validation_tokens},
            {"text_bytes", report_.text_bytes}, {"empty", report_.empty},
            {"skipped", report_.skipped},       {"replaced", report_.replaced},
            {"file_bytes", file_bytes_}};
  }

  void save(json state) const {
    json all = {{"settings", settings_}};
    all.update(state);
    replace_file(options_.output / "job.json", all.dump(1) + "\n");
  }

  void checkpoint() {
    const auto writer = [](ShardWriter& shards) -> json {
      const WriterState state = shards.checkpoint();
      return {{"shards", to_json(state.shards)},
              {"open_documents", state.open_documents},
              {"open_tokens", state.open_tokens}};
    };
    if (quarantine_) quarantine_->sync();
    save({{"place", {{"file", place_.file}, {"row", place_.row}, {"offset", place_.offset}}},
          {"counts", counts()},
          {"train", writer(*train_)},
          {"validation", validation_ ? writer(*validation_) : json(nullptr)},
          {"quarantine_bytes", quarantine_ ? quarantine_->bytes() : 0}});
  }

  /// False once there are as many documents as wanted.
  bool write(const TokenizedBatch& batch, bool& shard_ended) {
    std::size_t begin = 0;
    for (const Outcome& outcome : batch.outcomes) {
      const std::size_t size = outcome.ids_end - begin;
      switch (outcome.kind) {
        case Outcome::document:
        case Outcome::validation: {
          const bool train = outcome.kind == Outcome::document;
          shard_ended |= (train ? *train_ : *validation_).add({batch.ids.data() + begin, size});
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
    file_bytes_ = batch.file_bytes;
    return true;
  }

  void take_fault(const TokenizedBatch& batch, const Outcome& outcome) {
    const Fault& fault = batch.faults[outcome.fault_index];
    const std::string file = options_.input.files[batch.file].string();
    std::string_view reason = fault.reason;
    if (reason.starts_with(file + ": ")) reason.remove_prefix(file.size() + 2);
    if (options_.on_error == OnError::fail)
      fail(file, ":", outcome.row, ": ", reason, " (--on-error skip or quarantine goes on)");
    ++report_.skipped;
    if (shown_faults_ < kShownFaults)
      std::fprintf(stderr, "skipped %s:%llu: %.*s\n", file.c_str(), static_cast<unsigned long long>(outcome.row),
                   static_cast<int>(reason.size()), reason.data());
    if (++shown_faults_ == kShownFaults) std::fprintf(stderr, "further records with errors are only counted\n");
    if (options_.on_error != OnError::quarantine) return;
    if (!quarantine_) quarantine_.emplace(options_.output / "quarantine.jsonl", 0, false);
    const json entry = {{"file", file}, {"row", outcome.row}, {"error", reason}, {"record", fault.record}};
    const std::string line = entry.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    quarantine_->write(line.data(), line.size());
  }

  void write_dataset(const fs::path& directory, const ShardWriter& writer) const {
    const json dataset = {{"format", kDatasetFormat},
                          {"tokenizer", {{"name", tokenizer_.name()}, {"sha256", tokenizer_.sha256()}}},
                          {"vocab_size", tokenizer_.vocab_size()},
                          {"eos_token_id", tokenizer_.eos_token_id()},
                          {"dtype", ssa::name_of(type_)},
                          {"shards", to_json(writer.shards())}};
    replace_file(directory / "dataset.json", dataset.dump(1) + "\n");
  }

  void finish() {
    SSA_CHECK(report_.documents > 0, "no document", splits() ? " for training" : "",
              " in the inputs, expected at least one that is not empty");
    SSA_CHECK(!splits() || report_.validation_documents > 0, "no document for validation among ", report_.documents,
              ", expected a larger --validation-fraction");
    train_->close();
    if (validation_) validation_->close();
    checkpoint();
    write_dataset(train_directory(), *train_);
    train_->clean();
    if (validation_) {
      write_dataset(validation_directory(), *validation_);
      validation_->clean();
    }
    fs::remove(options_.output / "job.json");
    fs::remove(options_.output / kStateDraft);
    sync_directory(options_.output);
  }

  DirectoryLock lock_;
  const TokenizeOptions& options_;
  const Tokenizer& tokenizer_;
  TokenType type_;
  json settings_;
  TokenizeReport report_;
  InputPlace place_;
  std::uint64_t file_bytes_ = 0;
  int shown_faults_ = 0;
  std::optional<ShardWriter> train_, validation_;
  std::optional<GrowingFile> quarantine_;
};

}  // namespace

TokenizeReport tokenize(const TokenizeOptions& options) {
  const auto start = Clock::now();
  for (const fs::path& file : options.input.files) kind_of(file, options.input);
  const Tokenizer tokenizer = load_tokenizer(options.tokenizer, options.tokenizer_options);
  Job job(options, tokenizer);
  TokenizeReport report = job.run();
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace ssa
