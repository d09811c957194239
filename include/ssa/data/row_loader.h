// Rows of max_length tokens made of pieces of documents, in an order that needs no stored index.
//
//   greedy   each document is cut every max_length tokens; a piece that does not fit in what is left of a row begins
//   the
//            next one; the rest of the row is padding.
//   concat   the documents end to end, cut every max_length tokens; the tail that fills no row is dropped.
//
// Positions count from 0 in each piece, and in the padding after the last. The label of a piece's first token and of
// padding is -100.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ssa/data/dataset.h"
#include "ssa/data/packing.h"

namespace ssa {

inline constexpr std::int32_t kIgnoredLabel = -100;

/// Where `place` of epoch `epoch` goes: a bijection of [0, rows) keyed by (seed, epoch). A Feistel network over the
/// next power of four; a value outside [0, rows) is sent through again (Black and Rogaway, "Ciphers with Arbitrary
/// Finite Domains", CT-RSA 2002).
std::int64_t permuted(std::int64_t place, std::int64_t rows, std::uint64_t seed, std::int64_t epoch);

struct RowOptions {
  std::int64_t max_length;
  Packing packing = Packing::greedy;
  bool shuffle = true;
  std::uint64_t seed = 42;
  std::int64_t skip_train_samples = -1;  ///< rows left out at the start of the unshuffled order; -1 or 0: none
  std::int64_t max_train_samples = 0;    ///< rows kept after that; 0: all
  std::int32_t pad_id;                   ///< the model's end-of-text id
  std::int64_t vocab_size;               ///< the model's; every id must be below it
};

/// The rows of an epoch. Const and thread-safe after construction; keeps 16 bytes a row. The dataset must outlive it.
class RowLoader {
 public:
  /// Throws Error when no row is left, saying how many there were.
  RowLoader(const Dataset& dataset, const RowOptions& options);

  std::int64_t rows() const { return static_cast<std::int64_t>(starts_.size()); }  ///< in each epoch
  std::int64_t max_length() const { return options_.max_length; }

  /// Row `index` of the order of `epoch`; each span has max_length elements. `targets[t]` is the label of token t + 1:
  /// what position t must predict, or -100; always -100 at the end of the row. Throws Error at a token id outside the
  /// vocabulary, naming shard and document.
  void load(std::int64_t epoch, std::int64_t index, std::span<std::int32_t> ids, std::span<std::int32_t> targets,
            std::span<std::int32_t> positions) const;

  /// How many targets of that row are not -100. Reads no tokens.
  std::int64_t label_count(std::int64_t epoch, std::int64_t index) const;

 private:
  struct Place {
    std::int64_t document;  ///< within the shard
    std::int32_t shard, offset;
  };

  bool at_end(const Place& place) const;
  template <class Visit>
  Place walk(Place place, Visit&& visit) const;
  const Place& start_of(std::int64_t epoch, std::int64_t index) const;

  const Dataset& dataset_;
  RowOptions options_;
  std::vector<Place> starts_;
};

}  // namespace ssa
