#include "ssa/data/row_loader.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "ssa/base/random.h"
#include "ssa/data/batch_plan.h"
#include "ssa/data/best_fit.h"
#include "support/catch.h"
#include "support/make_dataset.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::test;

namespace {

constexpr std::int32_t kEos = 256, kPad = 256;

struct Row {
  std::vector<std::int32_t> ids, targets, positions;
  bool operator==(const Row&) const = default;
};

Row load(const RowLoader& loader, std::int64_t epoch, std::int64_t index) {
  const auto T = static_cast<std::size_t>(loader.max_length());
  Row row{std::vector<std::int32_t>(T, -1), std::vector<std::int32_t>(T, -1), std::vector<std::int32_t>(T, -1)};
  loader.load(epoch, index, row.ids, row.targets, row.positions);
  return row;
}

/// A token of a row, before labels are shifted: its label is its id, or -100 at each piece's first token and in
/// padding.
struct Token {
  std::int32_t id, label, position;
  std::int64_t document = -1, offset = -1;  ///< -1: padding
};
using Tokens = std::vector<Token>;

/// Pads a row to the next multiple of `unit`, at most to T. `masked`: the positions of the padding count on.
void pad(Tokens& row, std::size_t unit, std::size_t T, bool masked) {
  const std::size_t end = std::min(T, (row.size() + unit - 1) / unit * unit);
  for (std::int32_t p = masked && !row.empty() ? row.back().position + 1 : 0; row.size() < end; ++p)
    row.push_back({kPad, kIgnoredLabel, p});
}

PackingCost naive_cost(const std::vector<Tokens>& rows, const Documents& documents) {
  PackingCost cost;
  cost.rows = std::ssize(rows);
  for (const Tokens& row : rows)
    for (std::size_t t = 0; t < row.size(); ++t) {
      const Token& token = row[t];
      if (token.document < 0) continue;
      ++cost.tokens;
      cost.pieces += token.position == 0;
      cost.piece_keys += token.position + 1;
      cost.documents += token.offset == 0;
      const bool last_of_piece = t + 1 == row.size() || row[t + 1].document < 0 || row[t + 1].position == 0;
      const bool last_of_document = token.offset + 1 == std::ssize(documents[static_cast<std::size_t>(token.document)]);
      cost.cut_documents += last_of_piece && token.offset == token.position && !last_of_document;
    }
  return cost;
}

/// Packs token by token, as the contract describes. `mask_block_size` as in RowOptions.
std::vector<Row> naive_rows(const Documents& documents, std::int64_t max_length, Packing packing,
                            std::int64_t mask_block_size, PackingCost& cost) {
  const auto T = static_cast<std::size_t>(max_length);
  const bool masked = mask_block_size > 0;
  const auto unit = static_cast<std::size_t>(masked ? mask_block_size : 1);
  std::vector<Tokens> rows(1);
  /// Documents as pieces of at most T tokens.
  const auto pieces_of = [&](std::size_t d) {
    std::vector<Tokens> pieces;
    for (std::size_t i = 0; i < documents[d].size(); ++i) {
      const auto position = static_cast<std::int32_t>(i % T);
      if (position == 0) pieces.emplace_back();
      const std::int32_t id = documents[d][i];
      pieces.back().push_back({id, position == 0 ? kIgnoredLabel : id, position, static_cast<std::int64_t>(d),
                               static_cast<std::int64_t>(i)});
    }
    return pieces;
  };
  if (packing == Packing::best_fit) {
    rows.clear();
    const std::size_t units_per_row = std::max<std::size_t>(1, T / unit);
    const auto units_of = [&](const Tokens& piece) {
      return std::min((piece.size() + unit - 1) / unit, units_per_row);
    };
    std::vector<Tokens> pieces;
    std::size_t tokens = 0, window = 0;  // `window`: the first row of the window
    const auto pack = [&] {
      std::ranges::stable_sort(pieces, [&](const auto& a, const auto& b) { return units_of(a) > units_of(b); });
      std::vector<std::size_t> last_filled, used;  // of each row of the window: the last piece, and units
      for (std::size_t p = 0; p < pieces.size(); ++p) {
        std::size_t best = used.size();
        for (std::size_t r = 0; r < used.size(); ++r) {
          if (used[r] + units_of(pieces[p]) > units_per_row) continue;
          if (best == used.size() || used[r] > used[best] ||
              (used[r] == used[best] && last_filled[r] > last_filled[best]))
            best = r;
        }
        if (best == used.size()) {
          rows.emplace_back();
          last_filled.emplace_back();
          used.emplace_back();
        }
        Tokens& row = rows[window + best];
        pad(row, unit, T, masked);
        row.insert(row.end(), pieces[p].begin(), pieces[p].end());
        last_filled[best] = p;
        used[best] += units_of(pieces[p]);
      }
      pieces.clear();
      tokens = 0;
      window = rows.size();
    };
    for (std::size_t d = 0; d < documents.size(); ++d)
      for (Tokens& piece : pieces_of(d)) {
        if (tokens >= 512 * T) pack();
        tokens += piece.size();
        pieces.push_back(std::move(piece));
      }
    pack();
  } else if (packing == Packing::greedy) {
    for (std::size_t d = 0; d < documents.size(); ++d)
      for (const Tokens& piece : pieces_of(d)) {
        if ((rows.back().size() + unit - 1) / unit * unit + piece.size() > T) rows.emplace_back();
        pad(rows.back(), unit, T, masked);
        rows.back().insert(rows.back().end(), piece.begin(), piece.end());
      }
  } else {
    for (std::size_t d = 0; d < documents.size(); ++d) {
      pad(rows.back(), unit, T, masked);
      std::int32_t position = 0;
      for (std::size_t i = 0; i < documents[d].size(); ++i, ++position) {
        if (rows.back().size() == T) {
          rows.emplace_back();
          position = 0;
        }
        const std::int32_t id = documents[d][i];
        rows.back().push_back({id, position == 0 ? kIgnoredLabel : id, position, static_cast<std::int64_t>(d),
                               static_cast<std::int64_t>(i)});
      }
    }
    pad(rows.back(), unit, T, masked);
    if (rows.back().size() < T) rows.pop_back();
  }
  cost = naive_cost(rows, documents);
  std::vector<Row> result;
  for (Tokens& row : rows) {
    pad(row, T, T, masked);
    Row r;
    for (std::size_t t = 0; t < T; ++t) {
      r.ids.push_back(row[t].id);
      r.positions.push_back(row[t].position);
      r.targets.push_back(t + 1 < T ? row[t + 1].label : kIgnoredLabel);
    }
    result.push_back(r);
  }
  return result;
}

Documents joined(const std::vector<Documents>& shards) {
  Documents all;
  for (const Documents& shard : shards) all.insert(all.end(), shard.begin(), shard.end());
  return all;
}

RowOptions options(std::int64_t max_length, Packing packing, bool shuffle = false) {
  return {.max_length = max_length, .packing = packing, .shuffle = shuffle, .pad_id = kPad, .vocab_size = 257};
}

std::string error_of(const Dataset& dataset, const RowOptions& o) {
  try {
    const RowLoader loader(dataset, o);
    for (std::int64_t i = 0; i < loader.rows(); ++i) load(loader, 0, i);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("packed rows equal the rows of a naive packer, with and without a document mask") {
  struct Case {
    std::int64_t longest, max_length;
  };
  // Documents much shorter than a row, about as long, and many rows long; a row of one token; all one-token documents.
  for (const Case c : {Case{20, 64}, {70, 64}, {1000, 64}, {30, 7}, {200, 33}, {9, 1}, {1, 5}, {300, 1000}})
    for (const Packing packing : kPackings)
      for (std::uint64_t seed = 0; seed < 8; ++seed) {
        const std::int64_t block = std::array{0, 0, 0, 0, 1, 4, 8, 16}[seed];
        CAPTURE(c.longest, c.max_length, name_of(packing), seed, block);
        std::vector<Documents> shards;
        const std::int64_t times = c.max_length <= 7 ? 20 : 1;  // several windows of best_fit
        for (const std::int64_t count : {13 * times, std::int64_t{1}, 40 * times})
          shards.push_back(random_documents(count, c.longest, seed * 10 + shards.size()));
        shards.back().push_back({});  // Megatron allows an empty sequence: it adds nothing, also as the last one
        TempDir dir;
        make_dataset(dir.path(), shards);
        const Dataset dataset(dir.path());
        PackingCost cost;
        const std::vector<Row> want = naive_rows(joined(shards), c.max_length, packing, block, cost);
        RowOptions o = options(c.max_length, packing);
        o.mask_block_size = block;
        if (want.empty()) {
          CHECK_THAT(error_of(dataset, o), has("make 0 rows"));
          continue;
        }
        const RowLoader loader(dataset, o);
        REQUIRE(loader.rows() == static_cast<std::int64_t>(want.size()));
        CHECK(loader.cost() == cost);
        for (std::int64_t i = 0; i < loader.rows(); ++i) {
          const Row row = load(loader, 0, i);
          const Row& expected = want[static_cast<std::size_t>(i)];
          CAPTURE(i);
          REQUIRE(row.ids == expected.ids);
          REQUIRE(row.targets == expected.targets);
          REQUIRE(row.positions == expected.positions);
          REQUIRE(loader.label_count(0, i) == std::count_if(row.targets.begin(), row.targets.end(),
                                                            [](std::int32_t t) { return t != kIgnoredLabel; }));
        }
      }
}

TEST_CASE("greedy packing of a few documents gives the expected rows") {
  TempDir dir;
  make_dataset(dir.path(), {{{1, 2, kEos}, {3, kEos}, {4, 5, 6, 7, 8, 9, kEos}}, {{kEos}}});
  const Dataset dataset(dir.path());
  const RowLoader loader(dataset, options(4, Packing::greedy));
  REQUIRE(loader.rows() == 4);
  CHECK(load(loader, 0, 0) == Row{{1, 2, kEos, kPad}, {2, kEos, -100, -100}, {0, 1, 2, 0}});
  CHECK(load(loader, 0, 1) == Row{{3, kEos, kPad, kPad}, {kEos, -100, -100, -100}, {0, 1, 0, 1}});
  CHECK(load(loader, 0, 2) == Row{{4, 5, 6, 7}, {5, 6, 7, -100}, {0, 1, 2, 3}});
  CHECK(load(loader, 0, 3) == Row{{8, 9, kEos, kEos}, {9, kEos, -100, -100}, {0, 1, 2, 0}});
}

TEST_CASE("with a document mask, pieces begin at multiples of block_size, and padding belongs to the piece before") {
  TempDir dir;
  make_dataset(dir.path(), {{{1, 2, kEos}, {kEos}, {4, 5, 6, 7, 8, 9, kEos}}, {{3, kEos}}});
  const Dataset dataset(dir.path());
  const auto rows = [&](Packing packing) {
    RowOptions o = options(7, packing);
    o.mask_block_size = 2;
    const RowLoader loader(dataset, o);
    std::vector<Row> all;
    for (std::int64_t i = 0; i < loader.rows(); ++i) all.push_back(load(loader, 0, i));
    return all;
  };
  const Row both{{1, 2, kEos, kPad, kEos, kPad, kPad}, {2, kEos, -100, -100, -100, -100, -100}, {0, 1, 2, 3, 0, 1, 2}};
  const Row third{{4, 5, 6, 7, 8, 9, kEos}, {5, 6, 7, 8, 9, kEos, -100}, {0, 1, 2, 3, 4, 5, 6}};
  const Row last{
      {3, kEos, kPad, kPad, kPad, kPad, kPad}, {kEos, -100, -100, -100, -100, -100, -100}, {0, 1, 2, 3, 4, 5, 6}};
  CHECK(rows(Packing::greedy) == std::vector<Row>{both, third, last});
  const Row cut{{1, 2, kEos, kPad, kEos, kPad, 4}, {2, kEos, -100, -100, -100, -100, -100}, {0, 1, 2, 3, 0, 1, 0}};
  const Row rest{{5, 6, 7, 8, 9, kEos, 3}, {6, 7, 8, 9, kEos, -100, -100}, {0, 1, 2, 3, 4, 5, 0}};
  CHECK(rows(Packing::concat) == std::vector<Row>{cut, rest});
  // Rows of three blocks: a piece of 7 tokens has a row to itself.
  const Row fitted{
      {1, 2, kEos, kPad, kEos, kPad, kPad}, {2, kEos, -100, -100, -100, -100, -100}, {0, 1, 2, 3, 0, 1, 2}};
  CHECK(rows(Packing::best_fit) == std::vector<Row>{third, fitted, last});

  std::vector<std::int32_t> begins(7), ends(7);
  find_pieces(both.positions, begins, ends);
  CHECK(begins == std::vector<std::int32_t>{0, 0, 0, 0, 4, 4, 4});
  CHECK(ends == std::vector<std::int32_t>{4, 4, 4, 4, 7, 7, 7});
  find_pieces(cut.positions, begins, ends);
  CHECK(begins == std::vector<std::int32_t>{0, 0, 0, 0, 4, 4, 6});
  CHECK(ends == std::vector<std::int32_t>{4, 4, 4, 4, 6, 6, 7});
}

TEST_CASE("best_fit packing of a few documents gives the expected rows, and pads less than greedy packing") {
  TempDir dir;
  make_dataset(dir.path(), {{{1, 2, kEos}, {3, kEos}, {4, 5, 6, 7, 8, 9, kEos}}, {{kEos}, {10, kEos}}});
  const Dataset dataset(dir.path());
  const RowLoader loader(dataset, options(4, Packing::best_fit));
  REQUIRE(loader.rows() == 4);
  CHECK(load(loader, 0, 0) == Row{{4, 5, 6, 7}, {5, 6, 7, -100}, {0, 1, 2, 3}});
  CHECK(load(loader, 0, 1) == Row{{1, 2, kEos, kEos}, {2, kEos, -100, -100}, {0, 1, 2, 0}});
  CHECK(load(loader, 0, 2) == Row{{8, 9, kEos, kPad}, {9, kEos, -100, -100}, {0, 1, 2, 0}});
  CHECK(load(loader, 0, 3) == Row{{3, kEos, 10, kEos}, {kEos, -100, kEos, -100}, {0, 1, 0, 1}});
  CHECK(loader.cost().padding(4) == 1.0 / 16);
  CHECK(loader.cost().cut() == 0.2);
  CHECK(RowLoader(dataset, options(4, Packing::greedy)).cost().padding(4) == 5.0 / 20);
}

TEST_CASE("best fit: each piece goes into the row with the least room that it fits into") {
  for (const std::int64_t length : {1, 2, 63, 64, 65, 4095, 4096, 5000, 300000}) {
    BestFit fit(length);
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      std::vector<std::int32_t> pieces(500);
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        const double x = random_uniform(seed, RandomPurpose::shuffle, 1, i);
        pieces[i] = 1 + static_cast<std::int32_t>(x * x * static_cast<double>(length - (i % 9 > 0)));
        pieces[i] = std::min(pieces[i], static_cast<std::int32_t>(length));
      }
      const std::int64_t rows = fit.pack(pieces);
      CAPTURE(length, seed, rows);
      REQUIRE(fit.order().size() == pieces.size());
      std::vector<std::int64_t> rooms;
      std::set<std::int32_t> seen;
      std::int32_t before = static_cast<std::int32_t>(length), last = -1;
      for (const std::int32_t piece : fit.order()) {
        const std::int32_t size = pieces[static_cast<std::size_t>(piece)];
        REQUIRE(size <= before);
        if (size == before) REQUIRE(piece > last);
        REQUIRE(seen.insert(piece).second);
        before = size;
        last = piece;
        std::int64_t least = length + 1;
        for (const std::int64_t room : rooms)
          if (room >= size) least = std::min(least, room);
        const auto row = static_cast<std::size_t>(fit.rows()[static_cast<std::size_t>(piece)]);
        if (least > length) {
          REQUIRE(row == rooms.size());
          rooms.push_back(length);
        } else {
          REQUIRE(row < rooms.size());
          REQUIRE(rooms[row] == least);
        }
        rooms[row] -= size;
      }
      REQUIRE(std::ssize(rooms) == rows);
    }
  }
  CHECK_THROWS_AS(BestFit(4).pack(std::vector<std::int32_t>{5}), Error);
  CHECK(BestFit(4).pack({}) == 0);
}

TEST_CASE("skipped and kept rows are counted in the unshuffled order") {
  TempDir dir;
  make_dataset(dir.path(), {random_documents(200, 90, 5)});
  const Dataset dataset(dir.path());
  for (const Packing packing : kPackings) {
    const RowLoader all(dataset, options(32, packing));
    for (const std::int64_t skip : {-1, 0, 3, 40})
      for (const std::int64_t keep : {0, 5, 50}) {
        if (std::max<std::int64_t>(skip, 0) + keep > all.rows()) continue;
        RowOptions o = options(32, packing);
        o.skip_train_samples = skip;
        o.max_train_samples = keep;
        const RowLoader some(dataset, o);
        const std::int64_t first = std::max<std::int64_t>(skip, 0);
        REQUIRE(some.rows() == (keep ? keep : all.rows() - first));
        for (std::int64_t i = 0; i < some.rows(); ++i) REQUIRE(load(some, 0, i) == load(all, 0, i + first));
      }
  }
  const RowLoader all(dataset, options(32, Packing::concat));
  RowOptions none = options(32, Packing::concat);
  none.skip_train_samples = all.rows();
  CHECK_THAT(error_of(dataset, none), has("are skipped; expected at least one to be left"));
}

TEST_CASE("min_document_tokens: the rows are those of a dataset without the short documents") {
  const TempDir directory;
  constexpr std::int64_t kMin = 9;
  std::vector<Documents> shards(4), long_ones(1);
  for (std::size_t s = 0; s < shards.size(); ++s) {
    // The second shard has short documents only; the first one begins and the last one ends with one.
    shards[s] = random_documents(120, s == 1 ? 8 : 60, s, kEos);
    if (s == 0) shards[s].insert(shards[s].begin(), TokenIds{1, kEos});
    if (s == 3) shards[s].push_back({2, kEos});
    for (const TokenIds& document : shards[s])
      if (std::ssize(document) >= kMin) long_ones[0].push_back(document);
  }
  make_dataset(directory / "all", shards);
  make_dataset(directory / "long", long_ones);
  const Dataset all(directory / "all"), only_long(directory / "long");
  CHECK(kept_documents(all, kMin) == KeptDocuments{only_long.documents(), only_long.tokens()});
  CHECK(kept_documents(all, 0) == KeptDocuments{all.documents(), all.tokens()});
  for (const Packing packing : kPackings) {
    RowOptions options{.max_length = 32, .packing = packing, .pad_id = kPad, .vocab_size = 257};
    const RowLoader expected(only_long, options);
    options.min_document_tokens = kMin;
    const RowLoader found(all, options);
    INFO(name_of(packing));
    CHECK(found.cost() == expected.cost());
    REQUIRE(found.rows() == expected.rows());
    for (std::int64_t i = 0; i < found.rows(); ++i) {
      REQUIRE(load(found, 1, i) == load(expected, 1, i));
      CHECK(found.label_count(1, i) == expected.label_count(1, i));
    }
  }
  RowOptions none{.max_length = 32, .pad_id = kPad, .vocab_size = 257};
  none.min_document_tokens = 1000;
  CHECK_THAT(error_of(all, none), has("0 tokens of 0 documents of at least 1000 tokens make 0 rows of 32"));
}

TEST_CASE("the error for a token id outside the vocabulary names shard and document") {
  TempDir dir;
  make_dataset(dir.path(), {{{1, kEos}}, {{2, kEos}, {3, 4, 300, kEos}}}, {.vocab_size = 400});
  CHECK_THAT(error_of(Dataset(dir.path()), options(3, Packing::greedy)),
             has("shard-00001.bin: document 1 holds token id 300 at 2, expected ids below vocab_size 257"));
}

TEST_CASE("the permutation of an epoch is a bijection that depends on seed and epoch") {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 15, 16, 17, 64, 65, 999, 1000, 1023, 1024, 1025, 5000})
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      std::set<std::int64_t> seen;
      for (std::int64_t i = 0; i < rows; ++i) seen.insert(permuted(i, rows, 42, epoch));
      CAPTURE(rows, epoch);
      REQUIRE(static_cast<std::int64_t>(seen.size()) == rows);
      REQUIRE(*seen.begin() == 0);
      REQUIRE(*seen.rbegin() == rows - 1);
    }
  const auto fixed = [](std::uint64_t seed_a, std::int64_t epoch_a, std::uint64_t seed_b, std::int64_t epoch_b) {
    std::int64_t same = 0;
    for (std::int64_t i = 0; i < 1000; ++i)
      same += permuted(i, 1000, seed_a, epoch_a) == permuted(i, 1000, seed_b, epoch_b);
    return same;
  };
  // Two random orders of 1000 agree in one place on average (Poisson): 10 would be a chance of 1e-7.
  CHECK(fixed(42, 0, 42, 1) < 10);
  CHECK(fixed(42, 0, 43, 0) < 10);
  CHECK(fixed(42, 5, 42, 5) == 1000);

  // Spread: the first tenth of the order comes from all over the rows. The mean of 1000 of 10000 has a standard
  // deviation of 87, so 400 is over four of them.
  double mean = 0;
  for (std::int64_t i = 0; i < 1000; ++i) mean += static_cast<double>(permuted(i, 10000, 7, 0)) / 1000;
  CHECK(std::abs(mean - 4999.5) < 400);

  // Far beyond 32 bits, where a table would be impossible.
  const std::int64_t huge = (std::int64_t{1} << 40) + 12345;
  CHECK(permuted(huge - 1, huge, 42, 0) < huge);
  CHECK_THROWS_AS(permuted(5, 5, 42, 0), Error);
}

TEST_CASE("each row is used once per epoch, and global batch k is the same on 1, 2 and 3 ranks") {
  TempDir dir;
  make_dataset(dir.path(), {random_documents(300, 60, 9), random_documents(211, 60, 10)});
  const Dataset dataset(dir.path());
  RowOptions o = options(24, Packing::greedy);
  std::vector<Row> rows;
  {
    const RowLoader unshuffled(dataset, o);
    for (std::int64_t i = 0; i < unshuffled.rows(); ++i) rows.push_back(load(unshuffled, 0, i));
  }
  o.shuffle = true;
  const RowLoader loader(dataset, o);
  constexpr std::int64_t kGlobal = 12, kEpochs = 3;
  std::vector<std::vector<Row>> reference;
  for (const std::int64_t ranks : {1, 2, 3}) {
    const BatchPlan plan({.sources = {{loader.rows()}}, .global_rows = kGlobal, .micro_rows = 2, .ranks = ranks});
    REQUIRE(plan.batches_per_epoch() == loader.rows() / kGlobal);
    REQUIRE(plan.dropped_rows() == loader.rows() % kGlobal);
    REQUIRE(plan.micro_batches() == kGlobal / 2 / ranks);
    DataPosition position;
    for (std::int64_t k = 0; k < kEpochs * plan.batches_per_epoch(); ++k) {
      const GlobalBatch global = plan.batch_at(position);
      position = global.next;
      // As the ranks run: each takes its rows on its own; a batch in order is slot after slot.
      std::vector<std::vector<Row>> slots(static_cast<std::size_t>(plan.micro_batches() * ranks));
      for (std::int64_t rank = 0; rank < ranks; ++rank)
        for (std::int64_t i = 0; i < plan.micro_batches(); ++i)
          for (const RowRef& row : plan.micro_batch(global, i, rank))
            slots[static_cast<std::size_t>(i * ranks + rank)].push_back(load(loader, row.epoch, row.row));
      std::vector<Row> batch;
      for (const auto& slot : slots) batch.insert(batch.end(), slot.begin(), slot.end());
      if (ranks == 1)
        reference.push_back(batch);
      else
        REQUIRE(batch == reference[static_cast<std::size_t>(k)]);
    }
  }
  // Rows may be equal in content, so count them against the unshuffled rows.
  const std::size_t per_epoch = reference.size() / kEpochs;
  std::vector<std::vector<std::size_t>> orders;
  for (std::size_t e = 0; e < kEpochs; ++e) {
    std::vector<int> used(rows.size(), 0);
    orders.emplace_back();
    for (std::size_t b = 0; b < per_epoch; ++b)
      for (const Row& row : reference[e * per_epoch + b]) {
        std::size_t found = 0;
        while (found < rows.size() && (used[found] || !(rows[found] == row))) ++found;
        REQUIRE(found < rows.size());  // a row of the data, not yet used in this epoch
        used[found] = 1;
        orders.back().push_back(found);
      }
    CHECK(std::accumulate(used.begin(), used.end(), 0) == static_cast<int>(rows.size() / kGlobal * kGlobal));
  }
  CHECK(orders[0] != orders[1]);
  CHECK(orders[1] != orders[2]);
}

TEST_CASE("a global batch that the ranks cannot share is a usage error with the numbers") {
  const auto message = [](BatchPlan::Options o) {
    try {
      BatchPlan plan(o);
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(message({.sources = {{12}}, .global_rows = 12, .micro_rows = 2, .ranks = 2}) == "no error");
  CHECK(message({.sources = {{11}}, .global_rows = 12, .micro_rows = 2, .ranks = 2}) ==
        "zero steps in an epoch: the data makes 11 rows, expected at least one global batch of 12");
  CHECK(message({.sources = {{100}}, .global_rows = 12, .micro_rows = 2, .ranks = 4}) ==
        "global batch of 12 rows, expected a multiple of 4 ranks x 2 rows per micro-batch");
}
