#include "data_tools/document_reader.h"

#include <glob.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "data_tools/byte_source.h"
#include "data_tools/parquet_reader.h"
#include "ssa/base/error.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kBatchBytes = 1 << 20;
// Row groups up to this size are decoded whole, several at a time; larger ones are streamed by the reading thread.
constexpr std::size_t kLargestGroup = 16 << 20;

bool known_kind(std::string name, InputKind& kind) {
  for (const char* suffix : {".gz", ".zst"})
    if (name.ends_with(suffix)) name.resize(name.size() - std::strlen(suffix));
  if (name.ends_with(".txt"))
    kind = InputKind::text;
  else if (name.ends_with(".jsonl"))
    kind = InputKind::jsonl;
  else if (name.ends_with(".parquet"))
    kind = InputKind::parquet;
  else
    return false;
  return true;
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n\f\v") == line.npos; }

}  // namespace

InputKind kind_of(const fs::path& file, const InputOptions& options) {
  if (file == "-") return options.stdin_kind;
  InputKind kind;
  if (!known_kind(file.filename().string(), kind))
    fail_usage("--input ", file.string(), ": unknown kind, expected .txt, .jsonl (also with .gz or .zst) or .parquet");
  return kind;
}

std::vector<fs::path> expand_inputs(const std::vector<std::string>& inputs) {
  std::vector<fs::path> files;
  for (const std::string& input : inputs) {
    if (input == "-" || (fs::exists(input) && !fs::is_directory(input))) {
      files.emplace_back(input);
      continue;
    }
    const std::size_t before = files.size();
    if (fs::is_directory(input)) {
      InputKind kind;
      for (const auto& entry : fs::recursive_directory_iterator(input))
        if (entry.is_regular_file() && known_kind(entry.path().filename().string(), kind))
          files.push_back(entry.path());
      if (files.size() == before) fail_usage("--input ", input, ": a directory without .txt, .jsonl or .parquet files");
      std::sort(files.begin() + static_cast<std::ptrdiff_t>(before), files.end());
    } else {
      glob_t found{};
      if (::glob(input.c_str(), 0, nullptr, &found) == 0)
        for (std::size_t i = 0; i < found.gl_pathc; ++i) files.emplace_back(found.gl_pathv[i]);
      ::globfree(&found);
      if (files.size() == before) fail_usage("--input ", input, ": no such file, and no pattern that matches one");
    }
  }
  return files;
}

/// One input file while it is read.
class RecordFile {
 public:
  virtual ~RecordFile() = default;

  /// Fills the batch and moves `place` past it; false at the end. Throws Error when nothing more of the file can be
  /// read.
  virtual bool next(RawBatch& batch, InputPlace& place) = 0;
  /// Whether next() would return false, where that is known.
  virtual bool finished() const = 0;
  /// Bytes of the file on disk that have been read.
  virtual std::uint64_t bytes_read() const = 0;
};

namespace {

/// JSONL: a record per line.
class LineFile : public RecordFile {
 public:
  LineFile(const fs::path& path, const InputPlace& start) : source_(path), first_(start.offset == 0) {
    source_.skip(start.offset);
  }

  bool next(RawBatch& batch, InputPlace& place) override {
    if (done_) return false;
    std::string& bytes = batch.bytes;
    bytes.swap(rest_);
    rest_.clear();
    std::size_t last_newline = std::string::npos;
    while (!done_ && last_newline == std::string::npos) {
      if (bytes.size() > kMaxDocumentBytes) return too_long(batch, place);
      try {  // the size doubles, so that a long line is searched in linear time
        done_ = !source_.read_fully(bytes, std::max(kBatchBytes, bytes.size()));
      } catch (const Error& error) {  // the lines before the damage are good
        const std::size_t end = bytes.rfind('\n');
        if (end == std::string::npos) throw;
        bytes.resize(end + 1);
        damage_ = error.what();
        done_ = true;
      }
      last_newline = bytes.rfind('\n');
    }
    if (!done_) {
      rest_.assign(bytes, last_newline + 1);
      bytes.resize(last_newline + 1);
    }
    std::size_t begin = 0;
    if (first_ && bytes.starts_with("\xef\xbb\xbf")) begin = 3;  // a byte order mark
    first_ = false;
    while (begin < bytes.size()) {
      std::size_t end = bytes.find('\n', begin);
      if (end == std::string::npos) end = bytes.size();
      ++place.row;
      if (!is_blank(std::string_view(bytes).substr(begin, end - begin)))
        batch.records.push_back({RawRecord::json, place.row, begin, end - begin});
      begin = end + 1;
    }
    place.offset += bytes.size();
    if (!damage_.empty()) batch.add(RawRecord::fault, place.row + 1, std::exchange(damage_, {}));
    return true;
  }

  bool finished() const override { return done_; }
  std::uint64_t bytes_read() const override { return source_.file_bytes_read(); }

 private:
  /// Skips a line that is longer than a document may be.
  bool too_long(RawBatch& batch, InputPlace& place) {
    place.offset += batch.bytes.size();
    batch.bytes.clear();
    std::vector<char> block(kBatchBytes);
    while (!done_) {
      const std::size_t got = source_.read(block.data(), block.size());
      if (got == 0) done_ = true;
      const void* const found = std::memchr(block.data(), '\n', got);
      const std::size_t used =
          found ? static_cast<std::size_t>(static_cast<const char*>(found) - block.data()) + 1 : got;
      place.offset += used;
      if (found) {
        rest_.assign(block.data() + used, got - used);
        break;
      }
    }
    batch.add(RawRecord::fault, ++place.row, concat("a line of more than ", kMaxDocumentBytes, " bytes"));
    return true;
  }

  ByteSource source_;
  std::string rest_;  // the beginning of the next line
  bool first_, done_ = false;
  std::string damage_;  // why nothing more of the file can be read
};

/// Text whose documents are separated by blank lines.
class BlankLineFile : public RecordFile {
 public:
  BlankLineFile(const fs::path& path, const InputPlace& start) : source_(path) { source_.skip(start.offset); }

  bool next(RawBatch& batch, InputPlace& place) override {
    std::string& bytes = batch.bytes;
    while (!done_ || !rest_.empty()) {
      bytes.swap(rest_);
      rest_.clear();
      if (!done_) {
        SSA_CHECK(bytes.size() <= kMaxDocumentBytes, "a document of more than ", kMaxDocumentBytes, " bytes");
        done_ = !source_.read_fully(bytes, std::max(kBatchBytes, bytes.size()));
      }
      // Documents end before a blank line; what has no end yet waits for more.
      std::size_t begin = 0, line = 0;
      while (line < bytes.size()) {
        std::size_t end = bytes.find('\n', line);
        if (end == std::string::npos) {
          if (!done_) break;
          end = bytes.size();
        }
        const std::size_t next_line = std::min(end + 1, bytes.size());
        if (is_blank(std::string_view(bytes).substr(line, end - line))) {
          if (line > begin) batch.records.push_back({RawRecord::text, ++place.row, begin, line - begin});
          begin = next_line;
        }
        line = next_line;
      }
      if (done_) {
        if (begin < bytes.size()) batch.records.push_back({RawRecord::text, ++place.row, begin, bytes.size() - begin});
        begin = bytes.size();
      }
      rest_.assign(bytes, begin);
      bytes.resize(begin);
      place.offset += begin;
      if (!batch.records.empty()) return true;
      bytes.clear();
    }
    return false;
  }

  bool finished() const override { return done_ && rest_.empty(); }
  std::uint64_t bytes_read() const override { return source_.file_bytes_read(); }

 private:
  ByteSource source_;
  std::string rest_;
  bool done_ = false;
};

/// Text that is one document.
class WholeFile : public RecordFile {
 public:
  WholeFile(const fs::path& path, const InputPlace& start) : source_(path), done_(start.row > 0) {}

  bool next(RawBatch& batch, InputPlace& place) override {
    if (done_) return false;
    done_ = true;
    std::string& bytes = batch.bytes;
    for (bool more = true; more;) {
      more = source_.read_fully(bytes, std::max(kBatchBytes, bytes.size()));
      SSA_CHECK(bytes.size() <= kMaxDocumentBytes, "a document of more than ", kMaxDocumentBytes,
                " bytes, expected --split-documents blank-line for files of this size");
    }
    bytes.shrink_to_fit();
    batch.records.push_back({RawRecord::text, ++place.row, 0, bytes.size()});
    place.offset += bytes.size();
    return true;
  }

  bool finished() const override { return done_; }
  std::uint64_t bytes_read() const override { return source_.file_bytes_read(); }

 private:
  ByteSource source_;
  bool done_;
};

class ParquetFile : public RecordFile {
 public:
  ParquetFile(const fs::path& path, const InputOptions& options, const InputPlace& start)
      : reader_(path, options.field, options.field_kind), size_(fs::file_size(path)) {
    reader_.skip_rows(start.row);
  }

  bool next(RawBatch& batch, InputPlace& place) override {
    while (batch.bytes.size() + batch.bytes_elsewhere < kBatchBytes) {
      const ParquetReader::Group group = reader_.group_here();
      if (group.rows > 0 && group.bytes <= kLargestGroup) {
        batch.records.push_back({RawRecord::rows, reader_.rows_done() + 1, 0, group.rows});
        batch.bytes_elsewhere += group.bytes;
        reader_.skip_rows(group.rows);
        place.row = reader_.rows_done();
        continue;
      }
      const bool more = reader_.next([&](std::uint64_t row, bool good, std::string_view content) {
        batch.add(good ? RawRecord::text : RawRecord::fault, row, content);
      });
      place.row = reader_.rows_done();
      if (!more) break;
    }
    return !batch.records.empty();
  }

  bool finished() const override { return reader_.rows_done() == reader_.rows(); }
  std::uint64_t bytes_read() const override {
    return reader_.rows() == 0
               ? size_
               : static_cast<std::uint64_t>(static_cast<double>(size_) * static_cast<double>(reader_.rows_done()) /
                                            static_cast<double>(reader_.rows()));
  }

 private:
  ParquetReader reader_;
  std::uint64_t size_;
};

}  // namespace

DocumentReader::DocumentReader(InputOptions options, InputPlace start) : options_(std::move(options)), place_(start) {
  for (std::size_t i = 0; i < start.file; ++i)
    if (options_.files[i] != "-") finished_bytes_ += fs::file_size(options_.files[i]);
}

DocumentReader::~DocumentReader() = default;

std::unique_ptr<RecordFile> DocumentReader::open(InputPlace start) const {
  const fs::path& path = options_.files[start.file];
  switch (kind_of(path, options_)) {
    case InputKind::jsonl: return std::make_unique<LineFile>(path, start);
    case InputKind::parquet: return std::make_unique<ParquetFile>(path, options_, start);
    case InputKind::text: break;
  }
  if (options_.split_blank_lines) return std::make_unique<BlankLineFile>(path, start);
  return std::make_unique<WholeFile>(path, start);
}

bool DocumentReader::next(RawBatch& batch) {
  while (place_.file < options_.files.size()) {
    batch.bytes.clear();
    batch.records.clear();
    batch.bytes_elsewhere = 0;
    batch.file = place_.file;
    bool more;
    try {
      if (!file_) file_ = open(place_);
      more = file_->next(batch, place_);
    } catch (const UsageError&) {
      throw;
    } catch (const Error& error) {  // nothing more of this file can be read
      batch.bytes.clear();
      batch.records.clear();
      batch.add(RawRecord::fault, place_.row + 1, error.what());
      more = false;
    }
    batch.file_bytes = finished_bytes_ + (file_ ? file_->bytes_read() : 0);
    if (!more || file_->finished()) {
      file_.reset();
      if (options_.files[place_.file] != "-") {
        std::error_code ignored;
        const std::uintmax_t size = fs::file_size(options_.files[place_.file], ignored);
        if (!ignored) finished_bytes_ += size;
      }
      place_ = {.file = place_.file + 1, .row = 0, .offset = 0};
    }
    batch.next = place_;
    if (more || !batch.records.empty()) return true;
  }
  return false;
}

}  // namespace ssa
