// The decoder against the forward pass over all tokens: the logits after every token must be the same, for every length
// of the prompt.
#include "ssa/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/matmul/matmul.h"
#include "ssa/comm/comm.h"
#include "ssa/train/optimizer_step.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/op_runner.h"
#include "support/skip.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

namespace {

constexpr std::int64_t kPromptTokens = 300;
/// f32 sums in another order, through two layers.
constexpr float kTolerance = 1e-4f;

struct DecoderCase {
  const char* name;
  AttentionPath path;
  std::int64_t block_size, block_counts, window = 0;
  BlockSelection selection = BlockSelection::exact;
  bool rope_scaling = false, tied = true;
};

ModelConfig config_of(const DecoderCase& c, DeviceKind kind) {
  ModelConfig config = small_model();
  if (kind == DeviceKind::cuda) config.head_dim = 64;  // supported by the kernels
  config.block_size = c.block_size;
  config.block_counts = c.block_counts;
  config.window_size = c.window;
  config.tie_word_embeddings = c.tied;
  if (c.rope_scaling) config.rope_scaling = RopeScaling{.factor = 4, .original_max_position_embeddings = 64};
  return config;
}

std::vector<std::int32_t> random_ids(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(random_bits(seed, RandomPurpose::test, 1, i) % 61);
  return ids;
}

/// A model, and the logits of its forward pass after each of `tokens` tokens.
struct Reference {
  TestModel model;
  explicit Reference(const DecoderCase& c, std::int64_t tokens = kPromptTokens, DeviceKind kind = DeviceKind::cpu)
      : model(config_of(c, kind), {.rows = 1, .tokens = tokens, .path = c.path, .backward = false}, c.selection, kind) {
    model.initialize(21);
    SingleComm comm;
    publish_weights(model.stream, comm, model.state);
  }

  /// [tokens, V]
  std::vector<float> logits(const std::vector<std::int32_t>& ids) {
    HostBatch batch{ids, std::vector<std::int32_t>(ids.size(), -100), std::vector<std::int32_t>(ids.size()), {0}};
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    model.upload(batch);
    forward(model.stream, model.state.model(), model.state.batch, {}, {});
    const ModelParams& weights = model.state.model().weights;
    const std::int64_t T = model.state.shape().pass.tokens, V = weights.lm_head.dim(0);
    const Buffer memory(model.stream, static_cast<std::size_t>(T * V) * sizeof(float));
    const Tensor out(memory.data(), DType::f32, {T, V});
    matmul(model.stream,
           {.out = out, .a = model.state.activations.final_norm, .b = weights.lm_head, .transpose_b = true});
    return model.read<float>(out);
  }

  Decoder decoder(const DecoderCase& c, std::int64_t rows, std::int64_t capacity, std::int64_t prompt) {
    return {model.stream,
            model.state.model().config,
            model.state.model().weights,
            {.rows = rows, .capacity = capacity, .prompt = prompt, .path = c.path, .selection = c.selection}};
  }
};

/// The largest distance of row `row` of `got` [.., V] from row `want_row` of `want`; infinity for NaN.
float distance(std::span<const float> got, std::int64_t row, std::span<const float> want, std::int64_t want_row) {
  constexpr std::int64_t V = 61;
  float largest = 0;
  for (std::int64_t i = 0; i < V; ++i) {
    const float d =
        std::abs(got[static_cast<std::size_t>(row * V + i)] - want[static_cast<std::size_t>(want_row * V + i)]);
    if (!(d <= largest)) largest = std::isnan(d) ? INFINITY : d;
  }
  return largest;
}

const std::vector<DecoderCase> kCases = {
    {"full", AttentionPath::full, 4, 3},
    {"full, llama3 rope", AttentionPath::full, 4, 3, 0, BlockSelection::exact, true, false},
    {"selected, 1 block", AttentionPath::selected, 4, 1},
    {"selected, 3 blocks", AttentionPath::selected, 4, 3},
    {"selected, 8 blocks of 16", AttentionPath::selected, 16, 8},
    {"selected, all blocks", AttentionPath::selected, 16, 100},
    {"selected, blocks of one token", AttentionPath::selected, 1, 5},
    {"selected, llama3 rope", AttentionPath::selected, 16, 4, 0, BlockSelection::exact, true, false},
    {"selected, reference", AttentionPath::selected, 4, 4, 0, BlockSelection::reference},
    {"nsa", AttentionPath::nsa, 4, 3},
    {"nsa, 2 blocks of 16 and a window", AttentionPath::nsa, 16, 2, 7},
    {"nsa, all blocks", AttentionPath::nsa, 16, 32, 40},
    {"nsa, llama3 rope", AttentionPath::nsa, 16, 4, 20, BlockSelection::exact, true}};

}  // namespace

TEST_CASE("decoder: a prompt and steps give the logits of the forward pass, in every path, budget and length") {
  for (const DecoderCase& c : kCases) {
    Reference reference(c);
    const std::vector<std::int32_t> ids = random_ids(kPromptTokens, 22);
    const std::vector<float> want = reference.logits(ids);
    Decoder decoder = reference.decoder(c, 1, kPromptTokens, kPromptTokens);
    const std::span<const std::int32_t> all(ids);
    // All tokens but the first by steps; then prompts that end around the edges of blocks, with steps across the next.
    for (const std::int64_t prompt :
         {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 298, 299, 300}) {
      const std::int64_t end = prompt == 1 ? kPromptTokens : std::min<std::int64_t>(kPromptTokens, prompt + 18);
      float largest = distance(decoder.prefill(0, all.first(static_cast<std::size_t>(prompt))), 0, want, prompt - 1);
      for (std::int64_t t = prompt; t < end; ++t)
        largest = std::max(largest, distance(decoder.step(all.subspan(static_cast<std::size_t>(t), 1)), 0, want, t));
      INFO(c.name << ", prompt of " << prompt << " tokens, steps to " << end << ": largest difference " << largest);
      CHECK(largest < kTolerance);
      CHECK(decoder.length(0) == end);
    }
  }
}

TEST_CASE("decoder: the logits depend on block_counts below the number of blocks") {
  // Otherwise the test above would not check the selection.
  const std::vector<std::int32_t> ids = random_ids(kPromptTokens, 22);
  DecoderCase few{"", AttentionPath::selected, 16, 2}, more = few, all = few;
  more.block_counts = 4;
  all.block_counts = 100;
  const std::vector<float> at_2 = Reference(few).logits(ids), at_4 = Reference(more).logits(ids),
                           at_all = Reference(all).logits(ids);
  CHECK(distance(at_2, kPromptTokens - 1, at_4, kPromptTokens - 1) > 100 * kTolerance);
  CHECK(distance(at_4, kPromptTokens - 1, at_all, kPromptTokens - 1) > 100 * kTolerance);
}

TEST_CASE("decoder: sequences of different lengths are independent, and may pause, end and restart") {
  for (const DecoderCase& c : kCases) {
    INFO(c.name);
    constexpr std::int64_t kCapacity = 70;
    Reference reference(c, kCapacity);
    const std::int64_t prompts[] = {33, 5, 16};
    std::vector<std::int32_t> ids[3];
    std::vector<float> want[3];
    for (std::uint64_t row = 0; row < 3; ++row) {
      ids[row] = random_ids(kCapacity, 30 + row);
      want[row] = reference.logits(ids[row]);
    }
    Decoder decoder = reference.decoder(c, 3, kCapacity, 40);
    float largest = 0;
    const auto start = [&](std::int64_t row, std::int64_t prompt) {
      const std::span<const std::int32_t> first(ids[row].data(), static_cast<std::size_t>(prompt));
      largest = std::max(largest, distance(decoder.prefill(row, first), 0, want[row], prompt - 1));
    };
    for (const std::int64_t row : {1, 0, 2}) start(row, prompts[row]);
    for (std::int64_t step = 0; step < 60; ++step) {
      if (step == 50) start(0, 11);  // after it was full and paused
      std::int32_t next[3];
      for (std::int64_t row = 0; row < 3; ++row) {
        const std::int64_t length = decoder.length(row);
        const bool pauses = length == kCapacity || (row == 1 && step % 3 == 0);
        next[row] = pauses ? -1 : ids[row][static_cast<std::size_t>(length)];
      }
      const std::span<const float> got = decoder.step(next);
      for (std::int64_t row = 0; row < 3; ++row)
        if (next[row] >= 0) largest = std::max(largest, distance(got, row, want[row], decoder.length(row) - 1));
    }
    CHECK(decoder.length(0) == 21);
    CHECK(decoder.length(1) == 45);
    CHECK(decoder.length(2) == kCapacity);
    INFO("largest difference " << largest);
    CHECK(largest < kTolerance);
  }
}

TEST_CASE("decoder: on CUDA a prompt and steps give the logits of the forward pass, to the precision of bf16") {
  if (skip_without_gpu()) return;
  struct Case {
    DecoderCase decoder;
    double tolerance;
  };
  // Two roundings of 2^-9 per value through two layers. With few selected blocks, near ties matter.
  for (const auto& [c, tolerance] :
       {Case{{"full", AttentionPath::full, 16, 4}, 0.05}, Case{{"all blocks", AttentionPath::selected, 16, 100}, 0.05},
        Case{{"4 blocks", AttentionPath::selected, 16, 4}, 0.3},
        Case{{"nsa, all blocks", AttentionPath::nsa, 32, 100, 40}, 0.05},
        Case{{"nsa, 2 blocks", AttentionPath::nsa, 16, 2, 7}, 0.3}}) {
    Reference reference(c, kPromptTokens, DeviceKind::cuda);
    const std::vector<std::int32_t> ids = random_ids(kPromptTokens, 22);
    const std::vector<float> want = reference.logits(ids);
    for (const std::int64_t prompt : {1, 15, 16, 100, 255}) {
      Decoder decoder = reference.decoder(c, 1, kPromptTokens, kPromptTokens);
      const std::span<const std::int32_t> all(ids);
      Values got, wanted;
      const auto compare = [&](std::span<const float> logits, std::int64_t t) {
        got.insert(got.end(), logits.begin(), logits.end());
        wanted.insert(wanted.end(), want.begin() + t * 61, want.begin() + (t + 1) * 61);
      };
      compare(decoder.prefill(0, all.first(static_cast<std::size_t>(prompt))), prompt - 1);
      for (std::int64_t t = prompt; t < kPromptTokens; ++t)
        compare(decoder.step(all.subspan(static_cast<std::size_t>(t), 1)), t);
      const double error = relative_error(got, wanted);
      INFO(c.name << ", prompt of " << prompt << " tokens: relative error " << error);
      CHECK(error < tolerance);
    }
  }
}

TEST_CASE("decoder: prompts, steps and shapes that do not fit are errors") {
  const DecoderCase c{"", AttentionPath::selected, 4, 3};
  Reference reference(c, 8);
  const std::vector<std::int32_t> ids = random_ids(8, 1);
  const std::span<const std::int32_t> all(ids);
  Decoder decoder = reference.decoder(c, 2, 8, 6);
  check_error(error_of([&] { decoder.prefill(0, all.first(7)); }), "prompt of 7 tokens", "1 to 6");
  check_error(error_of([&] { decoder.prefill(0, all.first(0)); }), "prompt of 0 tokens");
  check_error(error_of([&] { decoder.prefill(2, all.first(1)); }), "row 2 of 2");
  check_error(error_of([&] { decoder.step(all.first(1)); }), "1 tokens for 2 rows");
  check_error(error_of([&] { decoder.step(all.first(2)); }), "row 0 has no prompt");
  decoder.prefill(0, all.first(6));
  const std::int32_t only_first[] = {1, -1};
  decoder.step(only_first);
  decoder.step(only_first);
  check_error(error_of([&] { decoder.step(only_first); }), "row 0 is full with 8 tokens");
  check_error(error_of([&] { reference.decoder(c, 1, 8, 9); }), "prompts of up to 9", "capacity 8");
  const DecoderCase ssa{"", AttentionPath::ssa, 4, 3};
  check_error(error_of([&] { reference.decoder(ssa, 1, 8, 8); }), "path ssa");
}
