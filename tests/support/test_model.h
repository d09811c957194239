// A small model with its memory, for tests of forward and backward passes.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "ssa/base/random.h"
#include "ssa/data/row_loader.h"
#include "ssa/train/model_state.h"

namespace ssa::test {

/// Two layers, blocks of 4 tokens, 3 selected.
inline ModelConfig small_model(std::int64_t vocab_size = 61) {
  ModelConfig c;
  c.vocab_size = vocab_size;
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  c.initializer_range = 0.2;  // large enough that logits and block scores differ clearly
  c.block_size = 4;
  c.block_counts = 3;
  return c;
}

/// A path of each attention method, and what nsa has with a window and ssa with the other stream.
struct PathCase {
  const char* name;
  AttentionPath path;
  std::int64_t window;
  std::int32_t full_stream;
};

inline std::vector<PathCase> path_cases(std::int64_t window) {
  return {{"full", AttentionPath::full, 0, 0},
          {"moba", AttentionPath::selected, 0, 0},
          {"nsa", AttentionPath::nsa, 0, 0},
          {"nsa with a window", AttentionPath::nsa, window, 0},
          {"ssa, sparse stream", AttentionPath::ssa, 0, 0},
          {"ssa, full stream", AttentionPath::ssa, 0, 1}};
}

/// One micro-batch on the host; each token's target is the next token of its document.
struct HostBatch {
  std::vector<std::int32_t> ids, targets, positions, full_stream;
};

class TestModel {
 public:
  TestModel(const ModelConfig& config, const PassShape& pass, BlockSelection selection = BlockSelection::exact,
            DeviceKind kind = DeviceKind::cpu)
      : stream(kind),
        table(config),
        state(stream, {.model = config, .pass = with_selection(pass, selection), .kind = kind}, table) {}

  static PassShape with_selection(PassShape pass, BlockSelection selection) {
    pass.selection = selection;
    return pass;
  }

  Stream stream;
  ParamTable table;
  ModelState state;

  /// Initial weights. The RMSNorm weights are moved off 1, so that an error in one cannot cancel.
  void initialize(std::uint64_t seed) {
    load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
      initialize_param(table, state.shape().model, i, seed, out, first);
      if (table.params()[i].decay) return;
      for (std::size_t j = 0; j < out.size(); ++j)
        out[j] += static_cast<float>(0.2 * random_uniform(seed, RandomPurpose::test, i, j));
    });
  }

  void upload(const HostBatch& batch) {
    const MicroBatch& to = state.batch;
    stream.copy(to.ids.data(), batch.ids.data(), to.ids.bytes());
    stream.copy(to.targets.data(), batch.targets.data(), to.targets.bytes());
    stream.copy(to.positions.data(), batch.positions.data(), to.positions.bytes());
    stream.copy(to.full_stream.data(), batch.full_stream.data(), to.full_stream.bytes());
    std::vector<std::int32_t> begins(batch.positions.size()), ends(begins);
    if (to.documents) {
      const auto tokens = static_cast<std::size_t>(to.ids.dim(1));
      for (std::size_t at = 0; at < begins.size(); at += tokens)
        find_pieces(std::span(batch.positions).subspan(at, tokens), std::span(begins).subspan(at, tokens),
                    std::span(ends).subspan(at, tokens));
      stream.copy(to.documents.begin.data(), begins.data(), to.documents.begin.bytes());
      stream.copy(to.documents.end.data(), ends.data(), to.documents.end.bytes());
    }
    stream.synchronize();
  }

  /// The elements of a tensor whose dtype is T.
  template <class T>
  std::vector<T> read(const Tensor& tensor) {
    std::vector<T> values(static_cast<std::size_t>(tensor.count()));
    SSA_CHECK(kDTypeOf<T> == tensor.dtype(), "a tensor of ", name_of(tensor.dtype()), " read as ",
              name_of(kDTypeOf<T>));
    stream.copy(values.data(), tensor.data(), tensor.bytes());
    stream.synchronize();
    return values;
  }

  /// Fills the gradients with NaN, padding included: an element that is added to before it is written stays NaN.
  void poison_gradients() {
    const std::vector<float> nan(static_cast<std::size_t>(state.gradients.count()),
                                 std::numeric_limits<float>::quiet_NaN());
    stream.copy(state.gradients.data(), nan.data(), state.gradients.bytes());
    stream.synchronize();
  }

  /// Forward and backward of one micro-batch. Adds to the sums; overwrites the gradients or adds to them.
  void add_micro_batch(const HostBatch& batch, const PassScales& scales, Gradients gradients) {
    upload(batch);
    forward_backward(stream, state.model(), state.batch, scales, state.sums.losses(), gradients);
    stream.synchronize();
  }

  /// Gradients and sums of a training step with one micro-batch.
  void step(const HostBatch& batch, const PassScales& scales) {
    poison_gradients();
    state.sums.clear(stream);
    add_micro_batch(batch, scales, Gradients::overwrite);
  }
};

/// Sequences of two documents with random ids. The last token of a document has no target.
inline HostBatch random_batch(std::int64_t rows, std::int64_t tokens, std::int64_t vocab_size, std::uint64_t seed) {
  HostBatch batch;
  const std::int64_t second = (tokens + 1) / 2;  // where the second document starts
  for (std::int64_t i = 0; i < rows * tokens; ++i) {
    const double u = random_uniform(seed, RandomPurpose::test, 0, static_cast<std::uint64_t>(i));
    batch.ids.push_back(static_cast<std::int32_t>(u * static_cast<double>(vocab_size)));
    const std::int64_t t = i % tokens;
    batch.positions.push_back(static_cast<std::int32_t>(t < second ? t : t - second));
  }
  for (std::int64_t i = 0; i < rows * tokens; ++i) {
    const std::int64_t t = i % tokens;
    const bool labeled = t + 1 < tokens && t + 1 != second;
    batch.targets.push_back(labeled ? batch.ids[static_cast<std::size_t>(i + 1)] : -100);
  }
  batch.full_stream.assign(static_cast<std::size_t>(rows), 0);
  return batch;
}

}  // namespace ssa::test
