// The texts of one column of a Parquet file, through Apache Arrow C++ where the build has it.
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
  /// row counts from 1; content is the document if it is good, and otherwise says what is wrong.
  using Use = std::function<void(std::uint64_t row, bool good, std::string_view content)>;

  /// Throws Error naming the file for a file that is no Parquet or has no such column of strings (for
  /// FieldKind::conversation: of lists of structs with a string "content"); UsageError in a build without Arrow.
  ParquetReader(const std::filesystem::path& path, const std::string& column, FieldKind kind);
  ~ParquetReader();
  ParquetReader(const ParquetReader&) = delete;
  ParquetReader& operator=(const ParquetReader&) = delete;

  std::uint64_t rows() const;
  /// Given out, skipped, or lost to damage.
  std::uint64_t rows_done() const;

  void skip_rows(std::uint64_t count);

  /// The rows of the row group that starts here and the bytes of its column; 0 rows when none starts here.
  struct Group {
    std::uint64_t rows = 0, bytes = 0;
  };
  Group group_here() const;

  /// Gives out the next rows, a small number; false at the end. A damaged page costs the rest of its row group: one
  /// fault is given out for it.
  bool next(const Use& use);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ssa
