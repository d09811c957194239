// Pinned host memory for two micro-batches: one is filled while the other is copied to the device.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "ssa/data/row_loader.h"
#include "ssa/model/llama.h"
#include "ssa/runtime/stream.h"

namespace ssa {

class BatchStaging {
 public:
  BatchStaging(Stream& stream, std::int64_t rows, std::int64_t tokens);

  /// Fills sequence `row` of the micro-batch with row `index` of the loader's epoch; `full_stream` as in MicroBatch.
  void fill(std::int64_t row, const RowLoader& loader, std::int64_t epoch, std::int64_t index, bool full_stream);
  /// Leaves sequence `row` unused: token 0, no targets.
  void fill_empty(std::int64_t row);
  /// Queues the copy of the filled micro-batch to the device, and sets `to.whole_rows`. Error if `to` has documents and
  /// a row was loaded without a document mask.
  void upload(MicroBatch& to);

 private:
  struct Half {
    Buffer memory;
    std::shared_ptr<Stream::Event> copied;
  };
  /// i32 of the half being filled: ids, targets, positions, begins and ends of documents, each [rows, tokens], then
  /// full_stream [rows].
  std::int32_t* at(std::int64_t which, std::int64_t row);
  std::span<std::int32_t> row_of(std::int64_t which, std::int64_t row);

  Stream& stream_;
  std::int64_t rows_, tokens_;
  std::array<Half, 2> halves_;
  int filling_ = 0;
  bool waited_ = true;
  bool masked_ = true;      ///< every row filled since the last upload has its documents
  bool whole_rows_ = true;  ///< and is one piece
};

}  // namespace ssa
