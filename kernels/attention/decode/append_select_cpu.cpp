#include "append_select.h"

namespace ssa::cpu {

void append_select(Stream& stream, const AppendSelect& p) {
  cpu::append_qkv(stream, p.append);
  cpu::select_blocks(stream, p.select());
}

}  // namespace ssa::cpu
