#include "ssa/data/row_loader.h"

#include <algorithm>
#include <bit>
#include <iterator>

#include "ssa/base/error.h"
#include "ssa/base/random.h"
#include "ssa/data/best_fit.h"

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

void find_pieces(std::span<const std::int32_t> positions, std::span<std::int32_t> begins,
                 std::span<std::int32_t> ends) {
  auto end = static_cast<std::int32_t>(positions.size());
  for (std::int32_t t = end - 1; t >= 0; --t) {
    const auto i = static_cast<std::size_t>(t);
    begins[i] = t - positions[i];
    ends[i] = end;
    if (begins[i] == t) end = t;
  }
}

KeptDocuments kept_documents(const Dataset& dataset, std::int64_t min_document_tokens) {
  if (min_document_tokens <= 0) return {dataset.documents(), dataset.tokens()};
  KeptDocuments kept;
  for (const IndexedDataset& shard : dataset.shards())
    for (std::int64_t d = 0; d < shard.documents(); ++d)
      if (const std::int64_t length = shard.length(d); length >= min_document_tokens) {
        ++kept.documents;
        kept.tokens += length;
      }
  return kept;
}

namespace {

/// A row is found by walking from the stored place before it: at most this many rows.
constexpr std::int64_t kStride = 32;

/// A window ends after as many tokens as so many rows have, or after so many pieces.
constexpr std::int64_t kWindowRows = 512, kWindowPieces = std::int64_t{1} << 16;

}  // namespace

/// The pieces of a window, packed.
struct RowLoader::Packer {
  explicit Packer(std::int64_t units_per_row) : fit(units_per_row) {}

  std::int64_t window = -1;
  std::int64_t rows = 0;
  std::vector<Place> places;
  std::vector<std::int32_t> lengths;  ///< in tokens
  std::vector<std::int32_t> units;    ///< the same in units
  BestFit fit;
};

RowLoader::RowLoader(const Dataset& dataset, const RowOptions& options)
    : dataset_(dataset), options_(options), skipped_(std::max<std::int64_t>(options.skip_train_samples, 0)) {
  SSA_CHECK(options.max_length > 0 && options.max_length <= INT32_MAX, "rows: max_length ", options.max_length,
            ", expected from 1 to ", INT32_MAX);
  SSA_CHECK(options.mask_block_size >= 0, "rows: mask_block_size ", options.mask_block_size, ", expected 0 or more");
  if (options.packing == Packing::best_fit)
    find_windows();
  else
    find_rows();
  rows_ = std::max<std::int64_t>(0, cost_.rows - skipped_);
  if (options.max_train_samples > 0) rows_ = std::min(rows_, options.max_train_samples);
  if (rows_ > 0) return;
  const KeptDocuments kept = kept_documents(dataset, options.min_document_tokens);
  const std::string which = options.min_document_tokens > 0 ? concat(" of ", kept.documents, " documents of at least ",
                                                                     options.min_document_tokens, " tokens")
                                                            : "";
  fail(dataset.directory().string(), ": ", kept.tokens, " tokens", which, " make ", cost_.rows, " rows of ",
       options.max_length, " (packing ", name_of(options.packing), "), and ", skipped_,
       " are skipped; expected at least one to be left");
}

RowLoader::~RowLoader() = default;

bool RowLoader::enough() const {
  return options_.max_train_samples > 0 && cost_.rows >= skipped_ + options_.max_train_samples;
}

bool RowLoader::at_end(const Place& place) const {
  return static_cast<std::size_t>(place.shard) == dataset_.shards().size();
}

/// Passes over tokens of the document, and to the next document at its end.
void RowLoader::advance(Place& place, std::int64_t tokens) const {
  const IndexedDataset& shard = dataset_.shards()[static_cast<std::size_t>(place.shard)];
  place.offset += static_cast<std::int32_t>(tokens);
  if (place.offset < shard.length(place.document)) return;
  place.offset = 0;
  if (++place.document == shard.documents()) place = {0, place.shard + 1, 0};
  leave_out_short(place);
}

RowLoader::Place RowLoader::first_place() const {
  Place place{0, 0, 0};
  leave_out_short(place);
  return place;
}

/// Passes over documents that are too short, from the begin of one on.
void RowLoader::leave_out_short(Place& place) const {
  while (options_.min_document_tokens > 0 && !at_end(place)) {
    const IndexedDataset& shard = dataset_.shards()[static_cast<std::size_t>(place.shard)];
    if (shard.length(place.document) >= options_.min_document_tokens) return;
    if (++place.document == shard.documents()) place = {0, place.shard + 1, 0};
  }
}

/// Adds a piece to the cost.
void RowLoader::count(const Place& from, std::int64_t tokens, PackingCost& cost) const {
  cost.tokens += tokens;
  ++cost.pieces;
  cost.piece_keys += static_cast<double>(tokens) * static_cast<double>(tokens + 1) / 2;
  if (from.offset > 0) return;
  ++cost.documents;
  cost.cut_documents += tokens < dataset_.shards()[static_cast<std::size_t>(from.shard)].length(from.document);
}

void RowLoader::find_rows() {
  for (Place place = first_place(); !enough() && !at_end(place);) {
    PackingCost cost = cost_;
    std::int64_t end = 0;
    const Place next = walk(place, [&](const Place& from, std::int64_t column, std::int64_t tokens) {
      count(from, tokens, cost);
      end = next_begin(column + tokens);
    });
    if (end == 0 || (options_.packing == Packing::concat && end < options_.max_length)) break;
    if (cost_.rows % kStride == 0) starts_.push_back(place);
    cost_ = cost;
    ++cost_.rows;
    place = next;
  }
  starts_.shrink_to_fit();
}

void RowLoader::find_windows() {
  packer_ = std::make_unique<Packer>(units_per_row());
  for (Place place = first_place(); !enough() && !at_end(place);) {
    windows_.push_back({cost_.rows, place});
    place = pack(place);
    if (packer_->rows == 0) windows_.pop_back();  // empty documents only
    cost_.rows += packer_->rows;
    for (std::size_t i = 0; i < packer_->places.size(); ++i) count(packer_->places[i], packer_->lengths[i], cost_);
  }
  windows_.shrink_to_fit();
}

/// Packs the window that begins at `place`, and returns the place after it.
RowLoader::Place RowLoader::pack(Place place) const {
  Packer& p = *packer_;
  p.places.clear();
  p.lengths.clear();
  p.units.clear();
  for (std::int64_t tokens = 0;
       tokens < kWindowRows * options_.max_length && std::ssize(p.places) < kWindowPieces && !at_end(place);) {
    const IndexedDataset& shard = dataset_.shards()[static_cast<std::size_t>(place.shard)];
    const std::int64_t piece = std::min(shard.length(place.document) - place.offset, options_.max_length);
    if (piece > 0) {
      p.places.push_back(place);
      p.lengths.push_back(static_cast<std::int32_t>(piece));
      // A piece that is longer than all units of a row has the row to itself.
      const std::int64_t units = document_mask() ? std::min(next_begin(piece) / unit(), units_per_row()) : piece;
      p.units.push_back(static_cast<std::int32_t>(units));
    }
    tokens += piece;
    advance(place, piece);
  }
  p.rows = p.fit.pack(p.units);
  return place;
}

/// The packing rule of greedy and concat, used to find the starts of rows and to read them: calls visit(from, column,
/// count) for each piece of the row that begins at `place`, and returns the start of the next row.
template <class Visit>
RowLoader::Place RowLoader::walk(Place place, Visit&& visit) const {
  std::int64_t column = 0;
  while (column < options_.max_length && !at_end(place)) {
    const IndexedDataset& shard = dataset_.shards()[static_cast<std::size_t>(place.shard)];
    const std::int64_t left = shard.length(place.document) - place.offset, room = options_.max_length - column;
    const std::int64_t piece = std::min(left, options_.packing == Packing::greedy ? options_.max_length : room);
    if (piece > room) break;
    if (piece > 0) visit(place, column, piece);
    column = next_begin(column + piece);
    advance(place, piece);
  }
  return place;
}

/// Calls visit(from, column, count) for each piece of a row.
template <class Visit>
void RowLoader::visit_row(std::int64_t epoch, std::int64_t index, Visit&& visit) const {
  SSA_CHECK(0 <= index && index < rows() && epoch >= 0, "rows: row ", index, " of epoch ", epoch,
            ", expected a row below ", rows());
  const std::int64_t row = skipped_ + (options_.shuffle ? permuted(index, rows(), options_.seed, epoch) : index);
  if (options_.packing != Packing::best_fit) {
    Place place = starts_[static_cast<std::size_t>(row / kStride)];
    for (std::int64_t i = 0; i < row % kStride; ++i) place = walk(place, [](auto&&...) {});
    walk(place, visit);
    return;
  }
  const std::lock_guard lock(packer_mutex_);
  const auto window = std::prev(std::ranges::upper_bound(windows_, row, {}, &Window::first_row));
  if (packer_->window != window - windows_.begin()) {
    pack(window->begin);
    packer_->window = window - windows_.begin();
  }
  std::int64_t column = 0;
  for (const std::int32_t piece : packer_->fit.order()) {
    const auto i = static_cast<std::size_t>(piece);
    if (packer_->fit.rows()[i] != row - window->first_row) continue;
    visit(packer_->places[i], column, packer_->lengths[i]);
    column += packer_->units[i] * unit();
  }
}

void RowLoader::load(std::int64_t epoch, std::int64_t index, std::span<std::int32_t> ids,
                     std::span<std::int32_t> targets, std::span<std::int32_t> positions) const {
  const auto T = static_cast<std::size_t>(options_.max_length);
  SSA_CHECK(ids.size() == T && targets.size() == T && positions.size() == T, "rows: buffers of ", ids.size(), ", ",
            targets.size(), " and ", positions.size(), " tokens, expected ", T);
  std::fill(targets.begin(), targets.end(), kIgnoredLabel);
  std::size_t last_begin = 0, filled = 0;
  const auto pad_to = [&](std::size_t end) {
    const std::size_t zero = document_mask() ? last_begin : filled;  // where the positions of the padding count from
    for (; filled < end; ++filled) {
      ids[filled] = options_.pad_id;
      positions[filled] = static_cast<std::int32_t>(filled - zero);
    }
  };
  visit_row(epoch, index, [&](const Place& from, std::int64_t column, std::int64_t count) {
    const IndexedDataset& shard = dataset_.shards()[static_cast<std::size_t>(from.shard)];
    const auto begin = static_cast<std::size_t>(column), n = static_cast<std::size_t>(count);
    pad_to(begin);
    const auto piece = ids.subspan(begin, n);
    shard.read(from.document, from.offset, piece);
    check_token_ids(shard, from.document, from.offset, piece, options_.vocab_size);
    for (std::size_t i = 0; i < n; ++i) positions[begin + i] = static_cast<std::int32_t>(i);
    for (std::size_t i = 1; i < n; ++i) targets[begin + i - 1] = piece[i];
    last_begin = begin;
    filled = begin + n;
  });
  pad_to(T);
}

std::int64_t RowLoader::label_count(std::int64_t epoch, std::int64_t index) const {
  std::int64_t labels = 0;
  visit_row(epoch, index, [&](const Place&, std::int64_t, std::int64_t count) { labels += count - 1; });
  return labels;
}

}  // namespace ssa
