// Raw documents of the inputs, in order, in batches: what the reading thread hands to the tokenizing threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data_tools/byte_source.h"
#include "data_tools/interrupt.h"
#include "data_tools/json_line.h"

namespace ssa {

enum class InputKind { text, jsonl, parquet };

/// A document is in memory as a whole.
inline constexpr std::size_t kMaxDocumentBytes = std::size_t{1} << 30;

struct InputOptions {
  std::vector<std::filesystem::path> files;  // "-" is standard input
  InputKind stdin_kind = InputKind::jsonl;
  std::string field = "text";  // of JSONL and Parquet records
  FieldKind field_kind = FieldKind::text;
  const ChatTemplate* chat = nullptr;  // renders conversations; null: their texts are joined
  bool split_blank_lines = false;      // .txt: blank lines separate documents; otherwise a file is one
};

/// The kind of a file by its name: .txt, .jsonl .ndjson .json for JSON lines, .parquet; the text ones also with .gz or
/// .zst. Throws UsageError for another name.
InputKind kind_of(const std::filesystem::path& file, const InputOptions& options);

/// The input files: files as given, the files of records in directories, all matches of patterns (* ? [...]). The files
/// of a directory are sorted by path, the matches of a pattern too. Symbolic links in a directory are followed; what
/// they lead to is read once, under its own name if that is in the directory. Of a directory, hidden files, files of
/// other kinds, .json files without JSON lines that hold `field`, the directory `output`, links to what is read
/// already, and links without a target that have no input's name are passed over, with a line on stderr for each
/// reason. Throws UsageError naming what does not exist, matches nothing or cannot be listed, a link with an input's
/// name and no target, a link to a directory that the link is in and that is not read, a file of a directory with an
/// input's name that is no regular file, and a socket or device.
std::vector<std::filesystem::path> expand_inputs(const std::vector<std::string>& inputs,
                                                 const std::string& field = InputOptions().field,
                                                 const std::filesystem::path& output = {});

/// Where reading continues.
struct InputPlace {
  std::uint64_t file = 0;    // index of the input
  std::uint64_t row = 0;     // lines, rows or documents of the file that are done
  std::uint64_t offset = 0;  // decompressed bytes of the file that are done (not Parquet)
};

struct RawRecord {
  enum Kind : std::uint8_t {
    json,   // a line, to be parsed
    text,   // a document
    rows,   // `size` rows of a Parquet file, which the tokenizing threads decode in parallel
    fault,  // no document: the bytes say what is wrong
  } kind;
  std::uint64_t row;  // counted from 1
  std::size_t begin, size;
  std::size_t messages_without_text = 0;  // of Kind::text
};

struct RawBatch {
  std::size_t file = 0;
  std::string bytes;
  std::vector<RawRecord> records;
  std::size_t bytes_elsewhere = 0;  // of the documents that RawRecord::rows stand for
  InputPlace next;                  // where reading continues after this batch
  std::uint64_t file_bytes = 0;     // of all inputs so far, on disk

  void add(RawRecord::Kind kind, std::uint64_t row, std::string_view content, std::size_t messages_without_text = 0) {
    records.push_back({kind, row, bytes.size(), content.size(), messages_without_text});
    bytes += content;
  }
};

class RecordFile;

class DocumentReader {
 public:
  /// `versions` are the versions of options.files (input_version) when the job began. A file that is another one at its
  /// end is damaged.
  DocumentReader(InputOptions options, InputPlace start, std::vector<std::optional<FileVersion>> versions);
  ~DocumentReader();
  DocumentReader(const DocumentReader&) = delete;
  DocumentReader& operator=(const DocumentReader&) = delete;

  /// Reads about a megabyte, or one larger document. False when all inputs are done. Damage is a fault record, and
  /// reading continues with the next row group of a Parquet file, or with the next file.
  /// From a pipe that becomes idle, the documents that have arrived completely are a batch.
  bool next(RawBatch& batch);

  /// Makes next() throw Interrupted, also one that waits for input in another thread.
  void interrupt() noexcept { interrupt_.raise(); }

 private:
  std::unique_ptr<RecordFile> open(InputPlace start) const;
  /// Adds a fault record if the file that is open is not the version with which the job began.
  void add_change(RawBatch& batch) const;

  Interrupt interrupt_;
  InputOptions options_;
  InputPlace place_;
  std::vector<std::optional<FileVersion>> versions_;
  std::unique_ptr<RecordFile> file_;
  std::uint64_t finished_bytes_ = 0;  // of the files before this one
};

}  // namespace ssa
