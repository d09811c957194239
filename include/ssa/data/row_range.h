// A range of the rows of a run. A separate header, because the config does not need the loader.
#pragma once

#include <cstdint>

namespace ssa {

/// Rows first to last of a run, both included, counted from 0 over all epochs: row i of epoch e is number
/// e * rows_per_epoch + i.
struct RowRange {
  std::int64_t first = 0, last = 0;
  bool operator==(const RowRange&) const = default;
};

}  // namespace ssa
