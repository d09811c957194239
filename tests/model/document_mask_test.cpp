// data.document_mask in the model: a piece of a packed sequence computes what it computes alone.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/model/llama.h"
#include "ssa/train/batch_staging.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "support/op_runner.h"
#include "support/temp_dir.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

namespace {

const std::vector<PathCase> kMaskedPaths = path_cases(/*window=*/6);

/// A document piece with random tokens; the last one has no target.
struct Piece {
  std::vector<std::int32_t> ids, targets;

  Piece(std::int64_t tokens, std::int64_t vocab_size, std::uint64_t seed) {
    for (std::int64_t i = 0; i < tokens; ++i)
      ids.push_back(
          static_cast<std::int32_t>(random_uniform(seed, RandomPurpose::test, 1, static_cast<std::uint64_t>(i)) *
                                    static_cast<double>(vocab_size)));
    targets.assign(ids.begin() + 1, ids.end());
    targets.push_back(-100);
  }
  std::int64_t tokens() const { return std::ssize(ids); }
};

/// The pieces in one sequence, each at a multiple of block_size, the last one padded to `tokens`.
HostBatch packed(const std::vector<Piece>& pieces, std::int64_t block_size, std::int64_t tokens,
                 std::int32_t full_stream) {
  HostBatch batch;
  std::int64_t begin = 0;
  const auto pad_to = [&](std::int64_t end) {
    while (std::ssize(batch.ids) < end) {
      batch.positions.push_back(static_cast<std::int32_t>(std::ssize(batch.ids) - begin));
      batch.ids.push_back(0);
      batch.targets.push_back(-100);
    }
  };
  for (const Piece& piece : pieces) {
    pad_to((std::ssize(batch.ids) + block_size - 1) / block_size * block_size);
    begin = std::ssize(batch.ids);
    for (std::int64_t i = 0; i < piece.tokens(); ++i) batch.positions.push_back(static_cast<std::int32_t>(i));
    batch.ids.insert(batch.ids.end(), piece.ids.begin(), piece.ids.end());
    batch.targets.insert(batch.targets.end(), piece.targets.begin(), piece.targets.end());
  }
  pad_to(tokens);
  batch.full_stream = {full_stream};
  return batch;
}

/// Sums and gradients over sequences of one piece each, or of one packed sequence.
struct Sums {
  double ce = 0, alignment = 0;
  Values gradients;
};

/// One micro-batch per batch, all with the same scales.
Sums train_on(const ModelConfig& config, const PathCase& path, BlockSelection selection,
              GradientCheckpointing checkpointing, bool document_mask, const std::vector<HostBatch>& batches,
              const PassScales& scales, const Fp8Layers& fp8 = {}) {
  Sums total;
  for (const HostBatch& batch : batches) {
    TestModel m(config,
                {.rows = 1,
                 .tokens = std::ssize(batch.ids),
                 .path = path.path,
                 .checkpointing = checkpointing,
                 .fp8 = fp8,
                 .document_mask = document_mask},
                selection);
    m.initialize(3);
    m.step(batch, scales);
    const StepSums::Values sums = m.state.sums.read(m.stream);
    const std::vector<float> gradients = m.read<float>(m.state.gradients);
    total.ce += sums.ce;
    total.alignment += sums.alignment;
    total.gradients.resize(gradients.size());
    for (std::size_t i = 0; i < gradients.size(); ++i) total.gradients[i] += gradients[i];
  }
  return total;
}

/// Both sides are f32 with sums in different orders. d_q and d_k are differences of much larger terms: P (dP - delta).
/// So the gradients of their projections have the largest rounding errors, relative to their own size.
void check_same(const ModelConfig& config, const Sums& got, const Sums& want) {
  constexpr double kRelativeError = 1e-6, kRelativeErrorOfOne = 4e-6;
  CHECK(std::abs(got.ce - want.ce) <= kRelativeError * want.ce);
  CHECK(std::abs(got.alignment - want.alignment) <= kRelativeError * want.alignment);
  const auto error = [&](std::int64_t first, std::int64_t count) {
    const auto of = [&](const Sums& sums) {
      return Values(sums.gradients.begin() + first, sums.gradients.begin() + first + count);
    };
    return relative_error(of(got), of(want));
  };
  const ParamTable table(config);
  for (const Param& param : table.params()) {
    INFO(param.name << ": relative error " << error(param.offset, param.count()));
    CHECK(error(param.offset, param.count()) <= kRelativeErrorOfOne);
  }
  const double of_all = error(0, std::ssize(want.gradients));
  INFO("relative error of all gradients " << of_all);
  CHECK(of_all <= kRelativeError);
}

ModelConfig config_of(const PathCase& path, std::int64_t key_heads = 2) {
  ModelConfig config = small_model();
  config.window_size = path.window;
  config.initializer_range = 0.1;  // small enough for gradients in f32 to 1e-6
  config.num_key_value_heads = key_heads;
  return config;
}

/// Pieces of one token, of a block, of a block and a token, of several blocks. The last one has an odd length.
std::vector<Piece> pieces_of(const ModelConfig& config) {
  std::vector<Piece> pieces;
  for (const std::int64_t tokens : {4, 1, 5, 26, 1, 8, 13})
    pieces.emplace_back(tokens, config.vocab_size, 100 + pieces.size());
  return pieces;
}

PassScales scales_of(const ModelConfig& config, std::int64_t tokens, bool aligned) {
  const double alignment =
      aligned ? 1.0 / static_cast<double>(tokens * config.q_width() * config.num_hidden_layers) : 0.0;
  return {.alignment = alignment,
          .ce_gradient = static_cast<float>(1.0 / static_cast<double>(tokens)),
          .alignment_gradient = static_cast<float>(10 * alignment)};
}

}  // namespace

TEST_CASE("document mask: losses and gradients of packed pieces are those of one piece per sequence, with every path") {
  for (const PathCase& path : kMaskedPaths)
    for (const std::int64_t key_heads : {1, 2, 4})
      for (const BlockSelection selection : {BlockSelection::exact, BlockSelection::reference}) {
        if (selection == BlockSelection::reference && key_heads != 2) continue;
        INFO(path.name << ", " << key_heads << " key/value heads, selection " << name_of(selection));
        const ModelConfig config = config_of(path, key_heads);
        const std::int64_t block = config.block_size;
        const std::vector<Piece> pieces = pieces_of(config);
        const HostBatch row = packed(pieces, block, 0, path.full_stream);
        REQUIRE(row.ids.size() % 4 == 1);
        std::vector<HostBatch> alone, padded;
        for (const Piece& piece : pieces) {
          const bool last = &piece == &pieces.back();
          alone.push_back(packed({piece}, block, 0, path.full_stream));
          // Padding counts in the alignment loss, as in the packed sequence.
          padded.push_back(
              packed({piece}, block, last ? 0 : (piece.tokens() + block - 1) / block * block, path.full_stream));
        }
        const auto train = [&](bool mask, const std::vector<HostBatch>& batches, bool aligned) {
          return train_on(config, path, selection, GradientCheckpointing::none, mask, batches,
                          scales_of(config, std::ssize(row.ids), aligned));
        };
        const Sums want = train(false, padded, true);
        check_same(config, train(true, {row}, true), want);
        // Without the alignment loss, padding changes nothing.
        check_same(config, train(true, {row}, false), train(false, alone, false));
        // The mask is what makes it so.
        const Sums crossing = train(false, {row}, true);
        CHECK(std::abs(crossing.ce - want.ce) > 1e-3 * want.ce);
      }
}

TEST_CASE("document mask: in FP8 packed pieces have the losses that each has alone, with every path") {
  for (const PathCase& path : kMaskedPaths) {
    INFO(path.name);
    ModelConfig config = config_of(path);
    config.vocab_size = 67;
    std::vector<Piece> pieces;
    for (const std::int64_t tokens : {16, 48, 32, 80}) pieces.emplace_back(tokens, config.vocab_size, 200 + tokens);
    std::vector<HostBatch> alone;
    for (const Piece& piece : pieces) alone.push_back(packed({piece}, config.block_size, 0, path.full_stream));
    const HostBatch row = packed(pieces, config.block_size, 0, path.full_stream);
    for (const Fp8Mode mode : {Fp8Mode::linear, Fp8Mode::all}) {
      const Fp8Layers fp8(config, mode, {});
      const auto train = [&](bool mask, const std::vector<HostBatch>& batches) {
        return train_on(config, path, BlockSelection::exact, GradientCheckpointing::none, mask, batches,
                        scales_of(config, std::ssize(row.ids), true), fp8);
      };
      const Sums got = train(true, {row}), want = train(false, alone), crossing = train(false, {row});
      // Forward, the blocks of a token's operands are its own. Attention sums in another order, and 1 of 10^6 codes
      // changes. Backward, a block of 128 tokens has tokens of several pieces, so that roundings of 4 % differ.
      CHECK(got.ce == Approx(want.ce).epsilon(1e-5));
      CHECK(std::abs(crossing.ce - want.ce) > 10 * std::abs(got.ce - want.ce));
      CHECK(relative_error(got.gradients, want.gradients) < 0.06);
    }
  }
}

TEST_CASE("document mask: rows and micro-batches without one are refused where a mask is expected") {
  const ModelConfig config = small_model();
  TestModel m(config, {.rows = 1, .tokens = 8, .path = AttentionPath::full, .document_mask = true});
  m.initialize(3);
  MicroBatch batch = m.state.batch;
  for (const Tensor& tensor : {batch.ids, batch.targets, batch.positions}) m.stream.zero(tensor);
  batch.documents = {};
  check_error(error_of([&] { forward(m.stream, m.state.model(), batch, {}, {}); }),
              "a micro-batch without documents, expected one with");

  const TempDir directory;
  make_dataset(directory.path(), {{{1, 2, 3, 4, 5, 6, 7, 0}}}, {.vocab_size = 61, .eos_token_id = 0});
  const Dataset dataset(directory.path());
  const RowLoader loader(dataset, {.max_length = 8, .pad_id = 0, .vocab_size = 61});
  BatchStaging staging(m.stream, 1, 8);
  staging.fill(0, loader, 0, 0, false);
  check_error(error_of([&] { staging.upload(m.state.batch); }), "was filled from rows without one");
}

TEST_CASE("document mask: attention runs without it where every row of a micro-batch is one piece") {
  const ModelConfig config = small_model();
  TestModel m(config, {.rows = 2, .tokens = 16, .path = AttentionPath::full, .document_mask = true});
  const TempDir directory;
  make_dataset(directory.path(),
               {{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0},
                 {1, 2, 3, 4, 5, 6, 0},
                 {7, 6, 5, 4, 3, 2, 0},
                 {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0}}},
               {.vocab_size = 61, .eos_token_id = 0});
  const Dataset dataset(directory.path());
  const RowLoader loader(dataset,
                         {.max_length = 16, .mask_block_size = 4, .shuffle = false, .pad_id = 0, .vocab_size = 61});
  BatchStaging staging(m.stream, 2, 16);
  MicroBatch& batch = m.state.batch;
  const auto upload = [&](std::int64_t first, std::int64_t second) {
    staging.fill(0, loader, 0, first, false);
    staging.fill(1, loader, 0, second, false);
    staging.upload(batch);
    return batch.whole_rows;
  };
  // Greedy rows: the first document with its padding, the next two, the last one.
  CHECK(upload(0, 2));
  CHECK_FALSE(batch.mask());
  CHECK_FALSE(upload(0, 1));
  CHECK(batch.mask());
  CHECK_FALSE(upload(1, 2));
  CHECK(upload(2, 0));
  staging.fill(0, loader, 0, 0, false);
  staging.fill_empty(1);
  staging.upload(batch);
  CHECK(batch.whole_rows);
}

TEST_CASE("document mask: gradient checkpointing changes no bit, and a mask over one piece changes no bit") {
  for (const PathCase& path : kMaskedPaths) {
    const ModelConfig config = config_of(path);
    const std::vector<Piece> pieces = pieces_of(config);
    const auto run = [&](const HostBatch& batch, GradientCheckpointing checkpointing, bool mask) {
      return train_on(config, path, BlockSelection::exact, checkpointing, mask, {batch},
                      scales_of(config, std::ssize(batch.ids), true));
    };
    const auto check = [&](const Sums& got, const Sums& want) {
      CHECK(got.ce == want.ce);
      CHECK(got.alignment == want.alignment);
      CHECK(std::memcmp(got.gradients.data(), want.gradients.data(), got.gradients.size() * sizeof(double)) == 0);
    };
    const HostBatch row = packed(pieces, config.block_size, 0, path.full_stream);
    const Sums kept = run(row, GradientCheckpointing::none, true);
    for (const GradientCheckpointing mode : {GradientCheckpointing::selective, GradientCheckpointing::full}) {
      INFO(path.name << ", checkpointing " << name_of(mode));
      check(run(row, mode, true), kept);
    }
    INFO(path.name << ", one piece");
    const HostBatch one = packed({pieces[3]}, config.block_size, 0, path.full_stream);
    check(run(one, GradientCheckpointing::none, true), run(one, GradientCheckpointing::none, false));
  }
}

TEST_CASE("document mask: a token changes no bit of another piece, and later bits of its own") {
  for (const PathCase& path : kMaskedPaths) {
    const ModelConfig config = config_of(path);
    const std::vector<Piece> pieces = pieces_of(config);
    HostBatch batch = packed(pieces, config.block_size, 0, path.full_stream);
    const std::int64_t tokens = std::ssize(batch.ids);
    TestModel m(config, {.rows = 1, .tokens = tokens, .path = path.path, .document_mask = true});
    m.initialize(3);
    const auto hidden = [&](const HostBatch& at) {
      m.upload(at);
      forward(m.stream, m.state.model(), m.state.batch, {}, m.state.sums.losses());
      return m.read<float>(m.state.activations.final_norm);
    };
    const std::vector<float> before = hidden(batch);
    for (std::int64_t changed = 0; changed < tokens; ++changed) {
      const auto at = static_cast<std::size_t>(changed);
      HostBatch other = batch;
      other.ids[at] = (batch.ids[at] + 7) % static_cast<std::int32_t>(config.vocab_size);
      const std::vector<float> after = hidden(other);
      const std::int64_t begin = changed - batch.positions[at];
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::int64_t own_begin = t - batch.positions[static_cast<std::size_t>(t)];
        const bool same = std::memcmp(&before[static_cast<std::size_t>(t * config.hidden_size)],
                                      &after[static_cast<std::size_t>(t * config.hidden_size)],
                                      static_cast<std::size_t>(config.hidden_size) * sizeof(float)) == 0;
        INFO(path.name << ": token " << changed << " changes, seen at " << t);
        if (own_begin != begin || t < changed) CHECK(same);
        if (t == changed) CHECK_FALSE(same);
      }
    }
  }
}

TEST_CASE("document mask: attention statistics of packed pieces are those of one piece per sequence") {
  const ModelConfig config = small_model();
  const std::vector<Piece> pieces = pieces_of(config);
  /// Five statistics per layer and head, summed over the batches.
  const auto measure = [&](const std::vector<HostBatch>& batches, bool mask) {
    Values sums;
    for (const HostBatch& batch : batches) {
      TestModel m(config, {.rows = 1,
                           .tokens = std::ssize(batch.ids),
                           .path = AttentionPath::full,
                           .backward = false,
                           .document_mask = mask,
                           .measure = true});
      m.initialize(3);
      m.upload(batch);
      Values one(static_cast<std::size_t>(5 * config.num_hidden_layers * config.num_attention_heads));
      const auto statistic = [&](std::int64_t which) {
        const std::int64_t count = config.num_hidden_layers * config.num_attention_heads;
        return Tensor(one.data() + which * count, DType::f64, {config.num_hidden_layers, config.num_attention_heads});
      };
      evaluate(m.stream, m.state.model(), m.state.batch, m.state.sums.losses(),
               {.selected_mass = statistic(0),
                .entropy = statistic(1),
                .distance = statistic(2),
                .norm = statistic(3),
                .sink = statistic(4),
                .sink_tokens = 3});
      sums.resize(one.size());
      for (std::size_t i = 0; i < one.size(); ++i) sums[i] += one[i];
    }
    return sums;
  };
  std::vector<HostBatch> alone;
  for (const Piece& piece : pieces) {
    const bool last = &piece == &pieces.back();
    alone.push_back(packed({piece}, config.block_size,
                           last ? 0 : (piece.tokens() + config.block_size - 1) / config.block_size * config.block_size,
                           0));
  }
  const HostBatch row = packed(pieces, config.block_size, 0, 0);
  const Values want = measure(alone, false), got = measure({row}, true), crossing = measure({row}, false);
  CHECK(relative_error(got, want) < 1e-6);  // f32 scores
  CHECK(relative_error(crossing, want) > 1e-2);
}
