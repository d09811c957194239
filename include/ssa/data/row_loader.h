// Rows (sequences) of max_length tokens, made of pieces of documents, in an order that needs no stored index.
//
//   greedy   Each document is cut every max_length tokens. A piece that does not fit into the rest of a row begins the
//            next row; the rest of the row is padding.
//   concat   The documents are concatenated and cut every max_length tokens. An incomplete last row is dropped.
//   best_fit Each document is cut every max_length tokens. The pieces of a window, which has the documents of about 512
//            rows, are packed longest first, each into the row with the least room left that it fits into (best_fit.h).
//            The rest of each row is padding.
//
// Positions count from 0 in each piece, and in the padding after the last piece. The label of a piece's first token,
// and of padding, is -100.
//
// With a document mask, each piece begins at a multiple of block_size, so that no block of keys is in two pieces. The
// tokens before it are padding of the piece before, whose positions continue in it: token t is in the piece that begins
// at t - positions[t]. best_fit then counts blocks instead of tokens, and at most max_length / block_size of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "ssa/data/dataset.h"
#include "ssa/data/packing.h"

namespace ssa {

/// The row at position `place` of the shuffled epoch: a permutation of [0, rows) keyed by (seed, epoch). A Feistel
/// network over the next power of four, applied again while the value is outside [0, rows) (Black and Rogaway, "Ciphers
/// with Arbitrary Finite Domains", CT-RSA 2002).
std::int64_t permuted(std::int64_t place, std::int64_t rows, std::uint64_t seed, std::int64_t epoch);

struct RowOptions {
  std::int64_t max_length;
  Packing packing = Packing::greedy;
  std::int64_t mask_block_size = 0;  ///< data.document_mask: the model's block_size; 0 = no mask
  bool shuffle = true;
  std::uint64_t seed = 42;
  std::int64_t skip_train_samples = -1;  ///< rows skipped at the start of the unshuffled order; -1 or 0: none
  std::int64_t max_train_samples = 0;    ///< rows used after the skipped ones; 0: all
  std::int64_t min_document_tokens = 0;  ///< shorter documents, end-of-text token included, are left out
  std::int32_t pad_id;                   ///< the model's end-of-text id
  std::int64_t vocab_size;               ///< the model's; all ids must be below it
};

/// What packing costs, over all rows of the dataset, or up to the last one that is used.
struct PackingCost {
  std::int64_t rows = 0, tokens = 0, documents = 0;
  std::int64_t cut_documents = 0;  ///< in more than one piece
  std::int64_t pieces = 0;
  double piece_keys = 0;  ///< tokens of its piece up to itself, summed over all tokens
  double padding(std::int64_t max_length) const {
    return rows ? 1 - static_cast<double>(tokens) / static_cast<double>(rows * max_length) : 0;
  }
  double keys_per_token() const { return tokens ? piece_keys / static_cast<double>(tokens) : 0; }
  bool operator==(const PackingCost&) const = default;
  double cut() const { return documents ? static_cast<double>(cut_documents) / static_cast<double>(documents) : 0; }
};

/// The piece that each token of a row with a document mask is in, from the positions of the row: its first token, and
/// the token after its last one. All three have the same length.
void find_pieces(std::span<const std::int32_t> positions, std::span<std::int32_t> begins, std::span<std::int32_t> ends);
/// The documents that min_document_tokens keeps.
struct KeptDocuments {
  std::int64_t documents = 0, tokens = 0;
  bool operator==(const KeptDocuments&) const = default;
};
KeptDocuments kept_documents(const Dataset& dataset, std::int64_t min_document_tokens);

/// The rows of an epoch. Thread-safe after construction. Keeps half a byte per row: the place of every 32nd row, or of
/// every window. The dataset must outlive it.
class RowLoader {
 public:
  /// Throws Error if no rows remain, with the number of rows before skipping.
  RowLoader(const Dataset& dataset, const RowOptions& options);
  ~RowLoader();

  std::int64_t rows() const { return rows_; }  ///< per epoch
  const PackingCost& cost() const { return cost_; }
  std::int64_t max_length() const { return options_.max_length; }
  bool document_mask() const { return options_.mask_block_size > 0; }
  void set_seed(std::uint64_t seed) { options_.seed = seed; }

  /// Row `index` in the order of `epoch`; each span has max_length elements. `targets[t]` is the token that position t
  /// must predict, that is, the label of token t + 1, or -100; it is -100 at the end of the row. Throws Error with
  /// shard and document for a token id outside the vocabulary.
  void load(std::int64_t epoch, std::int64_t index, std::span<std::int32_t> ids, std::span<std::int32_t> targets,
            std::span<std::int32_t> positions) const;

  /// The number of targets of the row that are not -100. Reads no tokens.
  std::int64_t label_count(std::int64_t epoch, std::int64_t index) const;

 private:
  struct Place {
    std::int64_t document;  ///< within the shard
    std::int32_t shard, offset;
  };

  /// Documents that best_fit packs together.
  struct Window {
    std::int64_t first_row;
    Place begin;
  };
  struct Packer;

  bool at_end(const Place& place) const;
  /// Tokens from which on a piece may begin.
  std::int64_t unit() const { return document_mask() ? options_.mask_block_size : 1; }
  /// The first column from `column` on at which a piece may begin.
  std::int64_t next_begin(std::int64_t column) const {
    return document_mask() ? (column + unit() - 1) / unit() * unit() : column;
  }
  std::int64_t units_per_row() const { return std::max<std::int64_t>(1, options_.max_length / unit()); }
  Place first_place() const;
  void leave_out_short(Place& place) const;
  void advance(Place& place, std::int64_t tokens) const;
  void find_rows();
  void find_windows();
  Place pack(Place place) const;
  void count(const Place& from, std::int64_t tokens, PackingCost& cost) const;
  /// Whether the rows are found that max_train_samples wants.
  bool enough() const;
  template <class Visit>
  Place walk(Place place, Visit&& visit) const;
  template <class Visit>
  void visit_row(std::int64_t epoch, std::int64_t index, Visit&& visit) const;

  const Dataset& dataset_;
  RowOptions options_;
  std::int64_t skipped_ = 0, rows_ = 0;
  PackingCost cost_;
  std::vector<Place> starts_;               ///< of every kStride-th row; greedy and concat
  std::vector<Window> windows_;             ///< best_fit
  mutable std::unique_ptr<Packer> packer_;  ///< the window that was packed last
  mutable std::mutex packer_mutex_;
};

}  // namespace ssa
