// The attention that each layer computes. An attention path is one entry of `branches_of`, which memory layout, forward
// and backward, decoding, FLOP counts and the check of GPU support all use.
#pragma once

#include "ssa/base/error.h"
#include "ssa/model/model_config.h"

namespace ssa {

enum class AttentionPath {
  full,      ///< full causal attention, gated by g_slc
  selected,  ///< attention over the selected blocks, gated by g_slc
  nsa,       ///< compressed + selected + sliding-window attention, each with its gate
  ssa,       ///< full and selected attention plus the alignment loss; full_stream chooses which output is passed on
};

/// The attention branches of a path.
struct Branches {
  bool full = false;        ///< full causal attention
  bool selected = false;    ///< attention over the selected blocks, and the selection itself
  bool compressed = false;  ///< attention over the block means
  bool window = false;      ///< sliding-window attention
  bool aligned = false;     ///< full and selected are aligned, and one of the two is passed on
};

constexpr Branches branches_of(AttentionPath path, const ModelConfig& config) {
  switch (path) {
    case AttentionPath::full: return {.full = true};
    case AttentionPath::selected: return {.selected = true};
    case AttentionPath::nsa: return {.selected = true, .compressed = true, .window = config.window_size > 0};
    case AttentionPath::ssa: return {.full = true, .selected = true, .aligned = true};
  }
  fail("unknown attention path");
}

/// The path a method trains with.
constexpr AttentionPath training_path(Method method) {
  switch (method) {
    case Method::ssa: return AttentionPath::ssa;
    case Method::full: return AttentionPath::full;
    case Method::moba: return AttentionPath::selected;
    case Method::nsa: return AttentionPath::nsa;
  }
  fail("unknown method");
}

/// The path of a trained model without full attention: its own if that has none, else the selected blocks.
constexpr AttentionPath sparse_path(Method method, const ModelConfig& config) {
  const AttentionPath path = training_path(method);
  return branches_of(path, config).full ? AttentionPath::selected : path;
}

/// Whether a trained model can also run with full attention: not when other branches contribute to its output.
constexpr bool has_full_path(Method method, const ModelConfig& config) {
  const Branches branches = branches_of(training_path(method), config);
  return !branches.compressed && !branches.window;
}

}  // namespace ssa
