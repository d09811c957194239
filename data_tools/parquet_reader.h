// The texts of one column of a Parquet file, read by Apache Arrow C++ if the build has it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "data_tools/json_line.h"

namespace ssa {

class ParquetReader {
 public:
  struct Row {
    std::uint64_t number;  // from 1
    bool good;
    std::string_view content;  // the document if `good`, and otherwise the reason
    std::size_t messages_without_text;
  };
  using Use = std::function<void(const Row&)>;

  /// `column` a.b is member b of the struct a. Throws Error naming the file if it is not Parquet or has no such column
  /// of strings (for FieldKind::conversation: of what FieldKind says, where lists of structs have a string "content",
  /// or "from" and a string "value"), and UsageError in a build without Arrow.
  ParquetReader(const std::filesystem::path& path, const std::string& column, FieldKind kind);
  ~ParquetReader();
  ParquetReader(const ParquetReader&) = delete;
  ParquetReader& operator=(const ParquetReader&) = delete;

  std::uint64_t rows() const;
  /// Rows that were read, skipped or lost to damage.
  std::uint64_t rows_done() const;

  void skip_rows(std::uint64_t count);

  /// The rows of the row group that starts here and the bytes of its column; 0 rows if none starts here.
  struct Group {
    std::uint64_t rows = 0, bytes = 0;
  };
  Group group_here() const;

  /// Calls use() for the next few rows; false at the end. A damaged page loses the rest of its row group: use() is
  /// called once for it.
  bool next(const Use& use);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ssa
