// How documents become rows of max_length tokens: row_loader.h. On its own so that the config needs no loader.
#pragma once

#include <string_view>

namespace ssa {

/// greedy: a piece that does not fit starts a new row, the rest is padding; concat: end to end, cut every max_length.
enum class Packing { greedy, concat };

constexpr std::string_view name_of(Packing packing) { return packing == Packing::greedy ? "greedy" : "concat"; }

}  // namespace ssa
