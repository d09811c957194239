#include "append_select.h"

namespace ssa {

void validate(const AppendSelect& p) {
  validate(p.append);
  SSA_CHECK(p.append.k_mean, "append_select: no k_mean, from whose scores blocks are chosen");
  validate(p.select());
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const AppendSelect&) { return 0; }
#endif

}  // namespace ssa
