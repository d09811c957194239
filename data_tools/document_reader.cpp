#include "data_tools/document_reader.h"

#include <glob.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "data_tools/byte_source.h"
#include "data_tools/parquet_reader.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/file_kind.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kBatchBytes = 1 << 20;
// Row groups up to this size are decoded whole, several at a time; larger ones are streamed by the reading thread.
constexpr std::size_t kLargestGroup = 16 << 20;

constexpr const char* kKnownKinds = ".txt, .jsonl, .ndjson, .json (also with .gz or .zst) or .parquet";

std::string without_compression(std::string name) {
  for (const char* suffix : {".gz", ".zst"})
    if (name.ends_with(suffix)) name.resize(name.size() - std::strlen(suffix));
  return name;
}

bool is_json_name(const fs::path& file) { return without_compression(file.filename().string()).ends_with(".json"); }

std::optional<InputKind> known_kind(const fs::path& file) {
  const std::string name = without_compression(file.filename().string());
  if (name.ends_with(".txt")) return InputKind::text;
  if (name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json")) return InputKind::jsonl;
  if (name.ends_with(".parquet")) return InputKind::parquet;
  return std::nullopt;
}

/// The files of a directory that are no input, named in one line per reason.
class PassedOver {
 public:
  PassedOver(std::string directory, std::string reason)
      : directory_(std::move(directory)), reason_(std::move(reason)) {}
  void add(const fs::path& file) {
    if (count_++ == 0 || file.string() < first_) first_ = file.string();
  }
  void print() const {
    if (count_ > 0)
      std::fprintf(stderr, "--input %s: passed over %zu %s: %s%s\n", shown(directory_).c_str(), count_, reason_.c_str(),
                   shown(first_).c_str(), count_ > 1 ? ", ..." : "");
  }

 private:
  std::string directory_, reason_, first_;
  std::size_t count_ = 0;
};

/// The length in bytes of a UTF-8 byte-order mark at the start of a file, or 0. Throws Error for the byte-order mark of
/// another encoding.
std::size_t byte_order_mark(std::string_view bytes) {
  using namespace std::string_view_literals;
  if (bytes.starts_with("\xef\xbb\xbf"sv)) return 3;
  if (bytes.starts_with("\xff\xfe\0\0"sv) || bytes.starts_with("\0\0\xfe\xff"sv))
    fail("begins with the byte-order mark of UTF-32, expected UTF-8");
  if (bytes.starts_with("\xff\xfe"sv) || bytes.starts_with("\xfe\xff"sv))
    fail("begins with the byte-order mark of UTF-16, expected UTF-8");
  return 0;
}

/// The length in bytes of the byte-order mark of a text file. Throws Error for a file that is no text in UTF-8.
std::size_t start_of_text(std::string_view bytes) {
  const std::size_t mark = byte_order_mark(bytes);
  const std::string kind = not_text_kind(bytes);
  SSA_CHECK(kind.empty(), kind, ", expected text in UTF-8");
  return mark;
}

/// Throws Error for a NUL byte in the first document of a text file, which begins at byte `begin` of it, from 0.
void check_no_nul(std::string_view document, std::uint64_t begin) {
  const std::size_t nul = find_nul(document);
  SSA_CHECK(nul == document.npos, "byte ", begin + nul + 1,
            " is NUL, as in files that are no text, expected text in UTF-8");
}

/// The length in bytes of the byte-order mark of a file of JSON lines. Throws Error for a file of another format.
std::size_t start_of_lines(std::string_view bytes) {
  const std::size_t mark = byte_order_mark(bytes);
  const std::string kind = foreign_kind(bytes);
  SSA_CHECK(kind.empty(), kind, ", expected JSON lines");
  return mark;
}

// foreign_kind() looks at no more bytes, after white space, except for a tar archive, whose NUL bytes are found too.
constexpr std::size_t kKindBytes = 64;

/// Whether more bytes would change nothing of what start_of_lines() finds: the first line that is not blank is
/// complete, and long enough or the start of an object, which no other kind of file has.
bool start_is_known(std::string_view bytes) {
  const std::size_t mark = bytes.starts_with("\xef\xbb\xbf") ? 3 : 0;
  const std::size_t text = bytes.find_first_not_of(" \t\r\n", mark);
  return bytes.find('\n', text) != bytes.npos &&
         (bytes.size() - text >= kKindBytes || (bytes[text] == '{' && bytes.size() >= 8));
}

/// Whether a .json file holds JSON lines with this field: whether its first line is an object that has it. True for a
/// file that cannot be read.
bool holds_records(const fs::path& file, const std::string& field) {
  std::string bytes;
  try {
    ByteSource source(file);
    while (bytes.find('\n') == bytes.npos && bytes.size() <= kMaxDocumentBytes &&
           source.read_fully(bytes, std::max(kBatchBytes, bytes.size()))) {
    }
  } catch (const Error&) {
    return true;  // that it cannot be read is said when it is read
  }
  try {
    const std::size_t begin = byte_order_mark(bytes);
    const std::string_view line = std::string_view(bytes).substr(begin, bytes.find('\n', begin) - begin);
    std::string text;
    parse_json_line(line, field, FieldKind::conversation, text);
    return true;
  } catch (const Error& error) {
    return std::string_view(error.what()).starts_with("field");  // it is there, and of another type
  }
}

/// The type of the file at the end of symbolic links; nullopt if there is none. Throws UsageError if it cannot be told.
std::optional<fs::file_type> type_of(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::not_found || error == std::errc::too_many_symbolic_link_levels) return std::nullopt;
  if (error) fail_usage("--input ", path.string(), ": cannot read: ", error.message());
  return type;
}

/// Where a symbolic link points.
fs::path target_of(const fs::path& link) {
  std::error_code ignored;
  return fs::read_symlink(link, ignored);
}

/// The files of records in a directory and below.
class DirectoryWalk {
 public:
  DirectoryWalk(const std::string& input, const std::string& field, const fs::path& output)
      : input_(input),
        field_(field),
        output_(output.empty() ? output : fs::weakly_canonical(output)),
        hidden_(input, "hidden file(s)"),
        other_(input, "file(s) of other kinds"),
        no_records_(input, concat(".json file(s) whose first line is no object with a field \"", field, "\"")),
        outputs_(input, "directory of the output"),
        again_(input, "name(s) of what is read under another name"),
        nowhere_(input, "link(s) that lead nowhere") {}

  /// Sorted by name.
  std::vector<fs::path> files() {
    walk(input_);
    // Links come last, so that what is in the directory itself keeps its own name.
    while (!links_.empty()) {
      std::vector<fs::path> links;
      links.swap(links_);
      std::sort(links.begin(), links.end());
      for (const fs::path& link : links) follow(link);
    }
    for (const PassedOver* passed : {&hidden_, &other_, &no_records_, &outputs_, &again_, &nowhere_}) passed->print();
    if (files_.empty())
      fail_usage("--input ", input_, ": a directory without files of records, expected ", kKnownKinds);
    std::sort(files_.begin(), files_.end());
    return std::move(files_);
  }

 private:
  void walk(const fs::path& top) {
    std::vector<fs::path> directories = {top};
    while (!directories.empty()) {
      const fs::path directory = std::move(directories.back());
      directories.pop_back();
      std::error_code error;
      const fs::path real = fs::canonical(directory, error);
      auto it = error ? fs::directory_iterator() : fs::directory_iterator(directory, error);
      if (!error && real == output_) {
        outputs_.add(directory);
        continue;
      }
      if (!error && !seen_.insert(real).second) {
        again_.add(directory);
        continue;
      }
      for (; !error && it != fs::directory_iterator(); it.increment(error)) {
        const fs::path path = it->path(), name = path.filename();
        // macOS writes ._NAME and .DS_Store, and __MACOSX into archives.
        if (name.string().starts_with('.') || name == "__MACOSX")
          hidden_.add(path);
        else if (it->is_symlink(error))
          links_.push_back(path);
        else if (it->is_directory(error))
          directories.push_back(path);
        else
          add(path, real / name, type_of(path));
      }
      if (error) fail_usage("--input ", input_, ": ", directory.string(), " cannot be listed: ", error.message());
    }
  }

  void follow(const fs::path& link) {
    const std::optional<fs::file_type> type = type_of(link);
    if (type == fs::file_type::directory) {
      check_no_loop(link);
      return walk(link);
    }
    if (type) return add(link, fs::canonical(link), type);
    if (known_kind(link))
      fail_usage("--input ", input_, ": ", link.string(), " is a link to ", target_of(link).string(),
                 ", where no file is, expected one (git annex get fetches annexed files) or no link");
    nowhere_.add(link);
  }

  /// Throws UsageError for a link to a directory that holds the link: what else is in there was not meant.
  void check_no_loop(const fs::path& link) const {
    const fs::path target = fs::canonical(link), holder = fs::canonical(link.parent_path());
    const bool holds = std::mismatch(target.begin(), target.end(), holder.begin(), holder.end()).first == target.end();
    if (holds && !seen_.contains(target))
      fail_usage("--input ", input_, ": ", link.string(), " is a link to ", target_of(link).string(),
                 ", a directory that the link is in, expected no loop: remove the link, or name the files");
  }

  void add(const fs::path& path, const fs::path& real, std::optional<fs::file_type> type) {
    if (!known_kind(path)) {
      other_.add(path);
      return;
    }
    if (type != fs::file_type::regular)
      fail_usage("--input ", input_, ": ", path.string(), " is ", type ? concat("a ", file_type_name(*type)) : "gone",
                 ", expected a regular file");
    if (!seen_.insert(real).second)
      again_.add(path);
    else if (is_json_name(path) && !holds_records(path, field_))
      no_records_.add(path);
    else
      files_.push_back(path);
  }

  const std::string& input_;
  const std::string& field_;
  const fs::path output_;  // without links
  PassedOver hidden_, other_, no_records_, outputs_, again_, nowhere_;
  std::vector<fs::path> files_, links_;
  std::set<fs::path> seen_;  // files and directories, without links
};

/// The files and directories that a pattern matches, sorted. Throws UsageError if there are none, or if a directory
/// cannot be listed.
std::vector<std::string> matches_of(const std::string& pattern) {
  static thread_local std::string unreadable;
  unreadable.clear();
  const auto take_error = [](const char* directory, int error) {
    if (error == ENOENT || error == ENOTDIR || error == ELOOP) return 0;
    unreadable = concat(directory, " cannot be listed: ", std::generic_category().message(error));
    return 1;
  };
  glob_t found{};
  const int result = ::glob(pattern.c_str(), 0, take_error, &found);
  std::vector<std::string> matches(found.gl_pathv, found.gl_pathv + (result == 0 ? found.gl_pathc : 0));
  ::globfree(&found);
  if (!unreadable.empty()) fail_usage("--input ", pattern, ": ", unreadable);
  if (matches.empty()) fail_usage("--input ", pattern, ": no such file, and no pattern that matches one");
  return matches;
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n\f\v") == line.npos; }

}  // namespace

InputKind kind_of(const fs::path& file, const InputOptions& options) {
  if (file == "-") return options.stdin_kind;
  const std::optional<InputKind> kind = known_kind(file);
  if (!kind) fail_usage("--input ", file.string(), ": unknown kind, expected ", kKnownKinds);
  return *kind;
}

std::vector<fs::path> expand_inputs(const std::vector<std::string>& inputs, const std::string& field,
                                    const fs::path& output) {
  std::vector<fs::path> files;
  const auto add = [&](const std::string& input) {
    const std::optional<fs::file_type> type = type_of(input);
    if (!type)
      fail_usage("--input ", input, ": a link to ", target_of(input).string(), ", where no file is, expected one");
    if (type == fs::file_type::directory) {
      const std::vector<fs::path> found = DirectoryWalk(input, field, output).files();
      files.insert(files.end(), found.begin(), found.end());
    } else if (type == fs::file_type::regular || type == fs::file_type::fifo) {
      files.emplace_back(input);
    } else {
      fail_usage("--input ", input, ": is a ", file_type_name(*type),
                 ", expected a regular file, a directory or a FIFO");
    }
  };
  for (const std::string& input : inputs) {
    if (input == "-")
      files.emplace_back(input);
    else if (type_of(input) || fs::is_symlink(input))
      add(input);
    else
      for (const std::string& match : matches_of(input)) add(match);
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
  /// What is read; nullopt for a pipe.
  virtual std::optional<FileVersion> version() const = 0;
};

namespace {

/// JSONL: a record per line.
class LineFile : public RecordFile {
 public:
  LineFile(const fs::path& path, const InputPlace& start, const Interrupt& interrupt)
      : source_(path, &interrupt), json_name_(is_json_name(path)), first_(start.offset == 0) {
    source_.skip(start.offset);
  }

  bool next(RawBatch& batch, InputPlace& place) override {
    if (done_) return false;
    std::string& bytes = batch.bytes;
    bytes.swap(rest_);
    rest_.clear();
    std::size_t last_newline = std::string::npos;
    const auto start_is_open = [&] { return first_ && bytes.size() < kBatchBytes && !start_is_known(bytes); };
    while (!done_ && (last_newline == std::string::npos || start_is_open())) {
      if (bytes.size() > kMaxDocumentBytes) return too_long(batch, place);
      try {  // the size doubles, so that a long line is searched in linear time
        done_ = !source_.read_until_idle(bytes, std::max(kBatchBytes, bytes.size()));
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
    if (first_) {
      begin = start_of_lines(bytes);
      if (json_name_) check_lines(std::string_view(bytes).substr(begin));
      first_ = false;
    }
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
  std::optional<FileVersion> version() const override { return source_.version(); }

 private:
  /// A .json file may also be one JSON value. Throws Error if it looks like one.
  static void check_lines(std::string_view text) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
    SSA_CHECK(!text.starts_with('['), "a JSON array, expected JSON lines: one object per line (jq -c '.[]')");
    const std::string_view line = text.substr(0, text.find('\n'));
    SSA_CHECK(line.empty() || line[0] != '{' || !is_blank(line.substr(1)) || line.size() == text.size(),
              "a JSON object over several lines, expected JSON lines: one object per line (jq -c .)");
  }

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
  bool json_name_, first_, done_ = false;
  std::string damage_;  // why nothing more of the file can be read
};

/// Text whose documents are separated by blank lines.
class BlankLineFile : public RecordFile {
 public:
  BlankLineFile(const fs::path& path, const InputPlace& start, const Interrupt& interrupt)
      : source_(path, &interrupt), first_(start.offset == 0) {
    source_.skip(start.offset);
  }

  bool next(RawBatch& batch, InputPlace& place) override {
    std::string& bytes = batch.bytes;
    while (!done_ || !rest_.empty()) {
      bytes.swap(rest_);
      rest_.clear();
      if (!done_) {
        SSA_CHECK(bytes.size() <= kMaxDocumentBytes, "a document of more than ", kMaxDocumentBytes, " bytes");
        do done_ = !source_.read_until_idle(bytes, std::max(kBatchBytes, bytes.size()));
        while (!done_ && first_ && bytes.size() < kKindBytes);
      }
      // Documents end before a blank line; what has no end yet waits for more.
      std::size_t begin = first_ ? start_of_text(bytes) : 0, line = begin;
      first_ = false;
      while (line < bytes.size()) {
        std::size_t end = bytes.find('\n', line);
        if (end == std::string::npos) {
          if (!done_) break;
          end = bytes.size();
        }
        const std::size_t next_line = std::min(end + 1, bytes.size());
        if (is_blank(std::string_view(bytes).substr(line, end - line))) {
          if (line > begin) add(batch, place, begin, line);
          begin = next_line;
        }
        line = next_line;
      }
      if (done_) {
        if (begin < bytes.size()) add(batch, place, begin, bytes.size());
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
  std::optional<FileVersion> version() const override { return source_.version(); }

 private:
  static void add(RawBatch& batch, InputPlace& place, std::size_t begin, std::size_t end) {
    if (place.row == 0) check_no_nul(std::string_view(batch.bytes).substr(begin, end - begin), place.offset + begin);
    batch.records.push_back({RawRecord::text, ++place.row, begin, end - begin});
  }

  ByteSource source_;
  std::string rest_;
  bool first_, done_ = false;
};

/// Text that is one document.
class WholeFile : public RecordFile {
 public:
  WholeFile(const fs::path& path, const InputPlace& start, const Interrupt& interrupt)
      : source_(path, &interrupt), done_(start.row > 0) {}

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
    const std::size_t begin = start_of_text(bytes);
    check_no_nul(bytes, 0);
    batch.records.push_back({RawRecord::text, ++place.row, begin, bytes.size() - begin});
    place.offset += bytes.size();
    return true;
  }

  bool finished() const override { return done_; }
  std::uint64_t bytes_read() const override { return source_.file_bytes_read(); }
  std::optional<FileVersion> version() const override { return source_.version(); }

 private:
  ByteSource source_;
  bool done_;
};

class ParquetFile : public RecordFile {
 public:
  ParquetFile(const fs::path& path, const InputOptions& options, const InputPlace& start)
      : path_(path), reader_(path, options.field, options.field_kind), size_(fs::file_size(path)) {
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
      const bool more = reader_.next([&](const ParquetReader::Row& row) {
        batch.add(row.good ? RawRecord::text : RawRecord::fault, row.number, row.content, row.messages_without_text);
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
  std::optional<FileVersion> version() const override { return input_version(path_); }  // the workers open it again

 private:
  fs::path path_;
  ParquetReader reader_;
  std::uint64_t size_;
};

}  // namespace

DocumentReader::DocumentReader(InputOptions options, InputPlace start, std::vector<std::optional<FileVersion>> versions)
    : options_(std::move(options)), place_(start), versions_(std::move(versions)) {
  for (std::size_t i = 0; i < start.file; ++i)
    if (versions_[i]) finished_bytes_ += versions_[i]->bytes;
}

DocumentReader::~DocumentReader() = default;

std::unique_ptr<RecordFile> DocumentReader::open(InputPlace start) const {
  const fs::path& path = options_.files[start.file];
  switch (kind_of(path, options_)) {
    case InputKind::jsonl: return std::make_unique<LineFile>(path, start, interrupt_);
    case InputKind::parquet: return std::make_unique<ParquetFile>(path, options_, start);
    case InputKind::text: break;
  }
  if (options_.split_blank_lines) return std::make_unique<BlankLineFile>(path, start, interrupt_);
  return std::make_unique<WholeFile>(path, start, interrupt_);
}

void DocumentReader::add_change(RawBatch& batch) const {
  const std::optional<FileVersion>& before = versions_[place_.file];
  if (!before) return;
  const std::optional<FileVersion> now = file_->version();
  if (now == before) return;
  batch.add(RawRecord::fault, place_.row + 1,
            concat("changed after the job began: ", to_string(*before), ", now ",
                   now ? to_string(*now) : "no regular file", ", expected inputs that stay as they are"));
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
      if (!more || file_->finished()) add_change(batch);
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
      if (versions_[place_.file]) finished_bytes_ += versions_[place_.file]->bytes;
      place_ = {.file = place_.file + 1, .row = 0, .offset = 0};
    }
    batch.next = place_;
    if (more || !batch.records.empty()) return true;
  }
  return false;
}

}  // namespace ssa
