// The checks that every communicator makes of its arguments.
#pragma once

#include "ssa/comm/comm.h"

namespace ssa {

/// `whole` holds `size` parts of the shape of `part`.
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
