// Block selections, tensors and minimum work for the benchmarks of the attention ops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bench/bench.h"
#include "kernels/attention/documents.h"
#include "ssa/base/random.h"

namespace ssa::bench {

enum class Selection {
  random,        ///< random blocks, different for each token
  concentrated,  ///< as in trained models: the first block, the newest ones, and a few that 32 adjacent tokens share
};

constexpr const char* name_of(Selection s) { return s == Selection::random ? "random" : "concentrated"; }

/// [rows, tokens, key_value_heads, block_counts]: ascending, including the own block, then -1.
inline std::vector<std::int32_t> make_selection(const Shapes& s, Selection kind) {
  constexpr std::int64_t kGroupTokens = 32, kNewest = 4;
  const std::int64_t slots = s.model.block_counts;
  std::vector<std::int32_t> indices;
  indices.reserve(static_cast<std::size_t>(s.M() * s.model.num_key_value_heads * slots));
  for (std::int64_t i = 0; i < s.M() * s.model.num_key_value_heads; ++i) {
    const std::int64_t row = i / s.model.num_key_value_heads / s.tokens, t = i / s.model.num_key_value_heads % s.tokens;
    const std::int64_t head = i % s.model.num_key_value_heads, own = t / s.model.block_size;
    std::vector<std::int32_t> chosen = {static_cast<std::int32_t>(own)};
    const auto wanted = static_cast<std::size_t>(std::min(slots, own + 1));
    const auto take = [&](std::int64_t n) {
      const auto block = static_cast<std::int32_t>(n);
      if (chosen.size() < wanted && std::find(chosen.begin(), chosen.end(), block) == chosen.end())
        chosen.push_back(block);
    };
    if (kind == Selection::concentrated) {
      take(0);
      for (std::int64_t distance = 1; distance < kNewest && distance <= own; ++distance) take(own - distance);
    }
    const std::int64_t key =
        kind == Selection::concentrated ? (row * s.tokens + t / kGroupTokens * kGroupTokens) * 64 + head : i;
    for (std::uint64_t draw = 0; chosen.size() < wanted && draw < 400; ++draw) {
      const double u = random_uniform(3, RandomPurpose::test, static_cast<std::uint64_t>(key), draw);
      // One in eight concentrated draws is for this token only.
      const double own_u = random_uniform(4, RandomPurpose::test, static_cast<std::uint64_t>(i), draw);
      const bool alone = kind == Selection::concentrated && own_u < 0.125;
      take(static_cast<std::int64_t>((alone ? own_u * 8 : u) * static_cast<double>(own)));
    }
    std::sort(chosen.begin(), chosen.end());
    chosen.resize(static_cast<std::size_t>(slots), -1);
    indices.insert(indices.end(), chosen.begin(), chosen.end());
  }
  return indices;
}

/// (query, key) pairs of the selection, over all sequences and key/value heads.
inline double selected_pairs(const Shapes& s, const std::vector<std::int32_t>& indices) {
  double pairs = 0;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const std::int64_t t = static_cast<std::int64_t>(i) / s.model.block_counts / s.model.num_key_value_heads % s.tokens;
    if (indices[i] >= 0)
      pairs += static_cast<double>(std::min(s.model.block_size, t + 1 - indices[i] * s.model.block_size));
  }
  return pairs;
}

/// (query, key) pairs over all sequences and key/value heads, if token t of a document attends to keys_of(t) keys.
template <class KeysOf>
double pairs_of(const Shapes& s, const KeysOf& keys_of) {
  const std::int64_t document = s.document_tokens ? s.document_tokens : s.tokens;
  std::int64_t keys = 0;
  for (std::int64_t t = 0; t < s.tokens; ++t) keys += keys_of(t % document);
  return static_cast<double>(s.rows * s.model.num_key_value_heads * keys);
}

inline double causal_pairs(const Shapes& s) {
  return pairs_of(s, [](std::int64_t t) { return t + 1; });
}

inline double window_pairs(const Shapes& s, std::int64_t window) {
  return pairs_of(s, [=](std::int64_t t) { return std::min(window, t + 1); });
}

/// (query, block) pairs where the block is complete at the query.
inline double complete_block_pairs(const Shapes& s) {
  return pairs_of(s, [&](std::int64_t t) { return (t + 1) / s.model.block_size; });
}

/// FLOPs of one matrix product of attention over so many pairs.
inline double product_flops(const Shapes& s, double pairs) {
  return 2 * pairs * static_cast<double>(s.model.num_attention_heads / s.model.num_key_value_heads * s.model.head_dim);
}

/// Sequences of documents of s.document_tokens tokens.
inline DocumentBounds documents_of(Bench& bench, const Shapes& s) {
  if (s.document_tokens == 0) return {};
  const auto begin = [s](std::int64_t i) { return i % s.tokens / s.document_tokens * s.document_tokens; };
  const auto end = [=](std::int64_t i) { return std::min(s.tokens, begin(i) + s.document_tokens); };
  const auto tensor = [&](const auto& value) {
    return bench.integers({s.rows, s.tokens}, [=](std::int64_t i) { return static_cast<std::int32_t>(value(i)); });
  };
  return {.begin = tensor(begin), .end = tensor(end)};
}

/// The tensors that all attention ops take.
struct AttentionTensors {
  Shape query, key, row;
  Tensor q, k, v;
  DocumentBounds documents;

  AttentionTensors(Bench& bench, std::int64_t keys) : AttentionTensors(bench, bench.shapes, keys) {}
  AttentionTensors(Bench& bench, const Shapes& s, std::int64_t keys)
      : query{s.rows, s.tokens, s.model.num_attention_heads, s.model.head_dim},
        key{s.rows, keys, s.model.num_key_value_heads, s.model.head_dim},
        row{s.rows, s.tokens, s.model.num_attention_heads},
        q(bench.random(DType::bf16, query)),
        k(bench.random(DType::bf16, key)),
        v(bench.random(DType::bf16, key)),
        documents(documents_of(bench, s)) {}
};

}  // namespace ssa::bench
