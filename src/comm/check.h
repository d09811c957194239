// Argument checks shared by all communicators.
#pragma once

#include "ssa/comm/comm.h"

namespace ssa {

/// Throws unless `whole` consists of `size` parts of the size of `part`.
inline void check_parts(const char* call, const Tensor& part, const Tensor& whole, int size) {
  SSA_CHECK(part.dtype() == whole.dtype(), call, ": parts are ", name_of(part.dtype()), ", expected ",
            name_of(whole.dtype()));
  SSA_CHECK(part.count() * size == whole.count(), call, ": ", whole.shape().to_string(), " is not ", size, " parts of ",
            part.shape().to_string());
}

inline void check_root(int root, int size) {
  SSA_CHECK(0 <= root && root < size, "broadcast: root ", root, " of ", size, " ranks");
}

}  // namespace ssa
