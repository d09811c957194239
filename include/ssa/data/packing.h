// How documents are packed into rows (row_loader.h). A separate header, because the config does not need the loader.
#pragma once

#include <initializer_list>
#include <string_view>

namespace ssa {

/// greedy: a piece that does not fit starts a new row, and the rest of the row is padding. concat: documents are
/// concatenated and cut every max_length tokens. best_fit: each piece goes where the least room is left.
enum class Packing { greedy, concat, best_fit };

inline constexpr std::initializer_list<Packing> kPackings = {Packing::greedy, Packing::concat, Packing::best_fit};

constexpr std::string_view name_of(Packing packing) {
  switch (packing) {
    case Packing::greedy: return "greedy";
    case Packing::concat: return "concat";
    case Packing::best_fit: return "best_fit";
  }
  return "?";
}

}  // namespace ssa
