#include "ssa/train/batch_staging.h"

#include <algorithm>

namespace ssa {

namespace {
enum Which : std::int64_t { kIds, kTargets, kPositions, kBegins, kEnds, kStreams };
}

BatchStaging::BatchStaging(Stream& stream, std::int64_t rows, std::int64_t tokens)
    : stream_(stream), rows_(rows), tokens_(tokens) {
  const auto bytes = static_cast<std::size_t>(kStreams * rows * tokens + rows) * sizeof(std::int32_t);
  for (Half& half : halves_) half.memory = Buffer(stream, bytes, Buffer::Place::host);
}

std::int32_t* BatchStaging::at(std::int64_t which, std::int64_t row) {
  auto* memory = static_cast<std::int32_t*>(halves_[static_cast<std::size_t>(filling_)].memory.data());
  return memory + which * rows_ * tokens_ + (which == kStreams ? row : row * tokens_);
}

std::span<std::int32_t> BatchStaging::row_of(std::int64_t which, std::int64_t row) {
  SSA_CHECK(0 <= row && row < rows_, "micro-batch of ", rows_, " rows has no row ", row);
  if (!waited_) {  // before this half is overwritten, the copy that reads it must be done
    const Half& half = halves_[static_cast<std::size_t>(filling_)];
    if (half.copied) stream_.host_wait(*half.copied);
    waited_ = true;
  }
  return {at(which, row), static_cast<std::size_t>(tokens_)};
}

void BatchStaging::fill(std::int64_t row, const RowLoader& loader, std::int64_t epoch, std::int64_t index,
                        bool full_stream) {
  const std::span<std::int32_t> positions = row_of(kPositions, row);
  loader.load(epoch, index, row_of(kIds, row), row_of(kTargets, row), positions);
  if (loader.document_mask()) find_pieces(positions, row_of(kBegins, row), row_of(kEnds, row));
  masked_ &= loader.document_mask();
  whole_rows_ &= loader.document_mask() && *at(kEnds, row) == tokens_;  // of the row's first token
  *at(kStreams, row) = full_stream ? 1 : 0;
}

void BatchStaging::fill_empty(std::int64_t row) {
  std::ranges::fill(row_of(kIds, row), 0);
  std::ranges::fill(row_of(kTargets, row), kIgnoredLabel);
  std::ranges::fill(row_of(kPositions, row), 0);
  std::ranges::fill(row_of(kBegins, row), 0);
  std::ranges::fill(row_of(kEnds, row), static_cast<std::int32_t>(tokens_));
  *at(kStreams, row) = 0;
}

void BatchStaging::upload(MicroBatch& to) {
  SSA_CHECK(masked_ || !to.documents, "a micro-batch with a document mask was filled from rows without one");
  stream_.copy(to.ids.data(), at(kIds, 0), to.ids.bytes());
  stream_.copy(to.targets.data(), at(kTargets, 0), to.targets.bytes());
  stream_.copy(to.positions.data(), at(kPositions, 0), to.positions.bytes());
  stream_.copy(to.full_stream.data(), at(kStreams, 0), to.full_stream.bytes());
  if (to.documents) {
    stream_.copy(to.documents.begin.data(), at(kBegins, 0), to.documents.begin.bytes());
    stream_.copy(to.documents.end.data(), at(kEnds, 0), to.documents.end.bytes());
  }
  halves_[static_cast<std::size_t>(filling_)].copied = stream_.record();
  filling_ = 1 - filling_;
  to.whole_rows = whole_rows_;
  masked_ = whole_rows_ = true;
  waited_ = false;
}

}  // namespace ssa
