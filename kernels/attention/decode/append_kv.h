// Puts new tokens into a key/value cache, and the mean of a block of keys (values) into its place when its last token
// comes:
//   k_cache[b, positions[b, t]] = k[b, t];   the same for v
//   k_mean[b, n] = mean of k_cache[b, n block_size .. (n + 1) block_size)   where positions[b, t] ends block n
// Means are those of the stored (rounded) keys, as qkv_rope.h has them. Blocks that no token of the call ends keep
// their means: that of an incomplete block is whatever was there.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct AppendKv {
  Tensor k_cache;      ///< [B, C, HK, D] act, C tokens a row at most; only the new tokens are written
  Tensor v_cache;      ///< [B, C, HK, D] act
  Tensor k_mean = {};  ///< [B, ceil(C / block_size), HK, D] act; absent = not wanted
  Tensor v_mean = {};  ///< [B, ceil(C / block_size), HK, D] act; absent = not wanted
  Tensor k;            ///< [B, T, HK, D] act
  Tensor v;            ///< [B, T, HK, D] act
  Tensor positions;    ///< [B, T] i32, each in [0, C), ascending in a row
  std::int64_t block_size;
};
SSA_OP(append_kv, AppendKv);

}  // namespace ssa
