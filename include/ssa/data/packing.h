// How documents are packed into rows (row_loader.h). A separate header, because the config does not need the loader.
#pragma once

#include <string_view>

namespace ssa {

/// greedy: a piece that does not fit starts a new row, and the rest of the row is padding. concat: documents are
/// concatenated and cut every max_length tokens.
enum class Packing { greedy, concat };

constexpr std::string_view name_of(Packing packing) { return packing == Packing::greedy ? "greedy" : "concat"; }

}  // namespace ssa
