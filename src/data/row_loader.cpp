#include "ssa/data/row_loader.h"

#include <algorithm>
#include <bit>

#include "ssa/base/error.h"
#include "ssa/base/random.h"

namespace ssa {

std::int64_t permuted(std::int64_t place, std::int64_t rows, std::uint64_t seed, std::int64_t epoch) {
  SSA_CHECK(0 <= place && place < rows, "permutation: ", place, ", expected from 0 to below ", rows);
  constexpr std::uint64_t kRounds = 6;
  const int half = (std::bit_width(static_cast<std::uint64_t>(rows - 1)) + 1) / 2;  // 4^half >= rows
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto value = static_cast<std::uint64_t>(place);
  do {
    std::uint64_t left = value >> half, right = value & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed =
          random_bits(seed, RandomPurpose::shuffle, static_cast<std::uint64_t>(epoch), round << 32 | right);
      left ^= mixed & mask;
      std::swap(left, right);
    }
    value = left << half | right;
  } while (value >= static_cast<std::uint64_t>(rows));
  return static_cast<std::int64_t>(value);
}

RowLoader::RowLoader(const Dataset& dataset, const RowOptions& options) : dataset_(dataset), options_(options) {
  SSA_CHECK(options.max_length > 0 && options.max_length <= INT32_MAX, "rows: max_length ", options.max_length,
            ", expected from 1 to ", INT32_MAX);
  const std::int64_t skip = std::max<std::int64_t>(options.skip_train_samples, 0);
  const std::int64_t keep = options.max_train_samples > 0 ? options.max_train_samples : INT64_MAX;
  std::int64_t found = 0;
  for (Place place{0, 0, 0}; rows() < keep && !at_end(place); ++found) {
    std::int64_t filled = 0;
    const Place next = walk(place, [&](const Place&, std::int64_t, std::int64_t count) { filled += count; });
    if (filled == 0 || (options.packing == Packing::concat && filled < options.max_length)) break;
    if (found >= skip) starts_.push_back(place);
    place = next;
  }
  starts_.shrink_to_fit();
  SSA_CHECK(!starts_.empty(), dataset.directory().string(), ": ", dataset.tokens(), " tokens make ", found, " rows of ",
            options.max_length, " (packing ", name_of(options.packing), "), and ", skip,
            " are skipped; expected at least one to be left");
}

bool RowLoader::at_end(const Place& place) const {
  return static_cast<std::size_t>(place.shard) == dataset_.shards().size();
}

/// The packing rule, used to find the starts of rows and to read them: calls visit(from, column, count) for each piece
/// of the row that begins at `place`, and returns the start of the next row.
template <class Visit>
RowLoader::Place RowLoader::walk(Place place, Visit&& visit) const {
  std::int64_t column = 0;
  while (column < options_.max_length && !at_end(place)) {
    const IndexedDataset& shard = dataset_.shards()[static_cast<std::size_t>(place.shard)];
    const std::int64_t left = shard.length(place.document) - place.offset, room = options_.max_length - column;
    const std::int64_t piece = std::min(left, options_.packing == Packing::greedy ? options_.max_length : room);
    if (piece > room) break;
    if (piece > 0) visit(place, column, piece);
    column += piece;
    if (piece < left) {
      place.offset += static_cast<std::int32_t>(piece);
    } else {
      place.offset = 0;
      if (++place.document == shard.documents()) place = {0, place.shard + 1, 0};
    }
  }
  return place;
}

const RowLoader::Place& RowLoader::start_of(std::int64_t epoch, std::int64_t index) const {
  SSA_CHECK(0 <= index && index < rows() && epoch >= 0, "rows: row ", index, " of epoch ", epoch,
            ", expected a row below ", rows());
  return starts_[static_cast<std::size_t>(options_.shuffle ? permuted(index, rows(), options_.seed, epoch) : index)];
}

void RowLoader::load(std::int64_t epoch, std::int64_t index, std::span<std::int32_t> ids,
                     std::span<std::int32_t> targets, std::span<std::int32_t> positions) const {
  const auto T = static_cast<std::size_t>(options_.max_length);
  SSA_CHECK(ids.size() == T && targets.size() == T && positions.size() == T, "rows: buffers of ", ids.size(), ", ",
            targets.size(), " and ", positions.size(), " tokens, expected ", T);
  std::fill(targets.begin(), targets.end(), kIgnoredLabel);
  std::size_t filled = 0;
  walk(start_of(epoch, index), [&](const Place& from, std::int64_t column, std::int64_t count) {
    const IndexedDataset& shard = dataset_.shards()[static_cast<std::size_t>(from.shard)];
    const auto begin = static_cast<std::size_t>(column), n = static_cast<std::size_t>(count);
    const auto piece = ids.subspan(begin, n);
    shard.read(from.document, from.offset, piece);
    check_token_ids(shard, from.document, from.offset, piece, options_.vocab_size);
    for (std::size_t i = 0; i < n; ++i) positions[begin + i] = static_cast<std::int32_t>(i);
    for (std::size_t i = 1; i < n; ++i) targets[begin + i - 1] = piece[i];
    filled = begin + n;
  });
  for (std::size_t t = filled; t < T; ++t) {
    ids[t] = options_.pad_id;
    positions[t] = static_cast<std::int32_t>(t - filled);
  }
}

std::int64_t RowLoader::label_count(std::int64_t epoch, std::int64_t index) const {
  std::int64_t labels = 0;
  walk(start_of(epoch, index), [&](const Place&, std::int64_t, std::int64_t count) { labels += count - 1; });
  return labels;
}

}  // namespace ssa
