// Raw documents from the inputs, in order, in batches: what the reading thread hands to the tokenizing ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data_tools/json_line.h"

namespace ssa {

enum class InputKind { text, jsonl, parquet };

/// One document or more are in memory at a time, so that a single one may not be of any size.
inline constexpr std::size_t kMaxDocumentBytes = std::size_t{1} << 30;

struct InputOptions {
  std::vector<std::filesystem::path> files;  // "-" is standard input
  InputKind stdin_kind = InputKind::jsonl;
  std::string field = "text";  // of JSONL and Parquet records
  FieldKind field_kind = FieldKind::text;
  bool split_blank_lines = false;  // .txt: blank lines separate documents; otherwise a file is one
};

/// What a file holds, by its name (.txt .jsonl .parquet, the first two also with .gz or .zst). Throws UsageError.
InputKind kind_of(const std::filesystem::path& file, const InputOptions& options);

/// Files as they are, directories by all files of a known kind in them, patterns (* ? [...]) by what they match; each
/// directory's and pattern's files sorted by name. Throws UsageError naming what does not exist or matches nothing.
std::vector<std::filesystem::path> expand_inputs(const std::vector<std::string>& inputs);

/// Where reading continues.
struct InputPlace {
  std::uint64_t file = 0;    // index of the input
  std::uint64_t row = 0;     // lines, rows or documents of it that are done
  std::uint64_t offset = 0;  // decompressed bytes of it that are done (not Parquet)
};

struct RawRecord {
  enum Kind : std::uint8_t {
    json,   // a line, to be parsed
    text,   // a document
    rows,   // `size` rows of a Parquet file, for the tokenizing thread to decode: what takes time is done in parallel
    fault,  // no document: the bytes say what is wrong
  } kind;
  std::uint64_t row;  // counted from 1
  std::size_t begin, size;
};

struct RawBatch {
  std::size_t file = 0;
  std::string bytes;
  std::vector<RawRecord> records;
  std::size_t bytes_elsewhere = 0;  // of the documents that RawRecord::rows stand for
  InputPlace next;                  // where reading continues behind this batch
  std::uint64_t file_bytes = 0;     // of all inputs so far, as they lie on the disk

  void add(RawRecord::Kind kind, std::uint64_t row, std::string_view content) {
    records.push_back({kind, row, bytes.size(), content.size()});
    bytes += content;
  }
};

class DocumentReader {
 public:
  DocumentReader(InputOptions options, InputPlace start);
  ~DocumentReader();
  DocumentReader(const DocumentReader&) = delete;
  DocumentReader& operator=(const DocumentReader&) = delete;

  /// Reads about a megabyte, or one larger document. False when all inputs are done. A file that cannot be read on is a
  /// fault record, and reading goes on behind the damage: with the next row group of a Parquet file, or the next file.
  bool next(RawBatch& batch);

 private:
  struct File;

  std::unique_ptr<File> open(InputPlace start) const;

  InputOptions options_;
  InputPlace place_;
  std::unique_ptr<File> file_;
  std::uint64_t finished_bytes_ = 0;  // of the files before this one
};

}  // namespace ssa
