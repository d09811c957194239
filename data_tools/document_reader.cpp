#include "data_tools/document_reader.h"

#include <glob.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string_view>
#include <utility>
#include <variant>

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

namespace {

// The files below share two functions: next() fills the batch and moves `place` behind it, false at the end, and throws
// Error where the file cannot be read on; finished() is true when the next next() would be false, where that is known;
// bytes_read() says how much of the file has been read.

/// JSONL: a record a line.
class LineFile {
 public:
  LineFile(const fs::path& path, const InputPlace& start) : source_(path) {
    source_.skip(start.offset);
    if (start.offset == 0) first_ = true;
  }

  bool next(RawBatch& batch, InputPlace& place) {
    if (done_) return false;
    std::string& bytes = batch.bytes;
    bytes.swap(rest_);
    rest_.clear();
    std::size_t searched = 0, line_ends = std::string::npos;
    while (line_ends == std::string::npos) {
      const std::size_t old = bytes.size();
      if (old > kMaxDocumentBytes) return too_long(batch, place);
      bytes.resize(old + std::max(kBatchBytes, old));  // growing steps: a long line is searched once
      std::size_t filled = old;
      try {
        while (filled < bytes.size()) {
          const std::size_t got = source_.read(bytes.data() + filled, bytes.size() - filled);
          if (got == 0) {
            done_ = true;
            break;
          }
          filled += got;
        }
      } catch (const Error&) {  // the lines before the damage are good
        bytes.resize(filled);
        line_ends = bytes.rfind('\n');
        if (line_ends == std::string::npos) throw;
        bytes.resize(line_ends + 1);
        damaged_ = std::current_exception();
        done_ = true;
        break;
      }
      bytes.resize(filled);
      if (done_) break;
      line_ends = bytes.rfind('\n');
      if (line_ends != std::string::npos && line_ends < searched) line_ends = std::string::npos;
      searched = filled;
    }
    if (!done_) {
      rest_.assign(bytes, line_ends + 1);
      bytes.resize(line_ends + 1);
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
    if (damaged_) {
      const std::exception_ptr error = std::exchange(damaged_, nullptr);
      try {
        std::rethrow_exception(error);
      } catch (const Error& what) {
        batch.add(RawRecord::fault, place.row + 1, what.what());
      }
    }
    return true;
  }

  bool finished() const { return done_; }
  std::uint64_t bytes_read() const { return source_.file_bytes_read(); }

 private:
  /// A line longer than any document may be: it is read past.
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
  bool first_ = false, done_ = false;
  std::exception_ptr damaged_;
};

/// Text whose documents are separated by blank lines.
class BlockFile {
 public:
  BlockFile(const fs::path& path, const InputPlace& start) : source_(path) { source_.skip(start.offset); }

  bool next(RawBatch& batch, InputPlace& place) {
    std::string& bytes = batch.bytes;
    while (!done_ || !rest_.empty()) {
      bytes.swap(rest_);
      rest_.clear();
      const std::size_t old = bytes.size();
      if (!done_) {
        SSA_CHECK(old <= kMaxDocumentBytes, "a document of more than ", kMaxDocumentBytes, " bytes");
        bytes.resize(old + std::max(kBatchBytes, old));
        std::size_t filled = old;
        while (filled < bytes.size()) {
          const std::size_t got = source_.read(bytes.data() + filled, bytes.size() - filled);
          if (got == 0) {
            done_ = true;
            break;
          }
          filled += got;
        }
        bytes.resize(filled);
      }
      // Documents end before a blank line; what has no end yet waits for more.
      std::size_t begin = 0, line = 0;
      while (line < bytes.size()) {
        std::size_t end = bytes.find('\n', line);
        if (end == std::string::npos) {
          if (!done_) break;
          end = bytes.size();
        }
        const std::size_t behind = std::min(end + 1, bytes.size());
        if (is_blank(std::string_view(bytes).substr(line, end - line))) {
          if (line > begin) batch.records.push_back({RawRecord::text, ++place.row, begin, line - begin});
          begin = behind;
        }
        line = behind;
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

  bool finished() const { return done_ && rest_.empty(); }
  std::uint64_t bytes_read() const { return source_.file_bytes_read(); }

 private:
  ByteSource source_;
  std::string rest_;
  bool done_ = false;
};

/// Text that is one document.
class WholeFile {
 public:
  WholeFile(const fs::path& path, const InputPlace& start) : source_(path), done_(start.row > 0) {}

  bool next(RawBatch& batch, InputPlace& place) {
    if (done_) return false;
    done_ = true;
    std::string& bytes = batch.bytes;
    std::size_t filled = 0;
    while (true) {
      if (filled == bytes.size()) bytes.resize(std::max(kBatchBytes, bytes.size() * 2));
      const std::size_t got = source_.read(bytes.data() + filled, bytes.size() - filled);
      if (got == 0) break;
      filled += got;
      SSA_CHECK(filled <= kMaxDocumentBytes, "a document of more than ", kMaxDocumentBytes,
                " bytes, expected --split-documents blank-line for files of this size");
    }
    bytes.resize(filled);
    bytes.shrink_to_fit();
    batch.records.push_back({RawRecord::text, ++place.row, 0, filled});
    place.offset += filled;
    return true;
  }

  bool finished() const { return done_; }
  std::uint64_t bytes_read() const { return source_.file_bytes_read(); }

 private:
  ByteSource source_;
  bool done_;
};

class ParquetFile {
 public:
  ParquetFile(const fs::path& path, const InputOptions& options, const InputPlace& start)
      : reader_(path, options.field, options.field_kind), size_(fs::file_size(path)) {
    reader_.skip_rows(start.row);
  }

  bool next(RawBatch& batch, InputPlace& place) {
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

  bool finished() const { return reader_.rows_done() == reader_.rows(); }
  std::uint64_t bytes_read() const {
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

struct DocumentReader::File {
  std::variant<std::unique_ptr<LineFile>, std::unique_ptr<BlockFile>, std::unique_ptr<WholeFile>,
               std::unique_ptr<ParquetFile>>
      as;

  bool next(RawBatch& batch, InputPlace& place) {
    return std::visit([&](auto& file) { return file->next(batch, place); }, as);
  }
  bool finished() const {
    return std::visit([](const auto& file) { return file->finished(); }, as);
  }
  std::uint64_t bytes_read() const {
    return std::visit([](const auto& file) { return file->bytes_read(); }, as);
  }
};

DocumentReader::DocumentReader(InputOptions options, InputPlace start) : options_(std::move(options)), place_(start) {
  for (std::size_t i = 0; i < start.file; ++i)
    if (options_.files[i] != "-") finished_bytes_ += fs::file_size(options_.files[i]);
}

DocumentReader::~DocumentReader() = default;

std::unique_ptr<DocumentReader::File> DocumentReader::open(InputPlace start) const {
  const fs::path& path = options_.files[start.file];
  switch (kind_of(path, options_)) {
    case InputKind::jsonl: return std::make_unique<File>(File{std::make_unique<LineFile>(path, start)});
    case InputKind::parquet: return std::make_unique<File>(File{std::make_unique<ParquetFile>(path, options_, start)});
    case InputKind::text: break;
  }
  if (options_.split_blank_lines) return std::make_unique<File>(File{std::make_unique<BlockFile>(path, start)});
  return std::make_unique<File>(File{std::make_unique<WholeFile>(path, start)});
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
    } catch (const Error& error) {  // of this file nothing more can be had
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
