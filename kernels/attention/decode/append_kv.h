// Appends tokens to a key/value cache, and computes the mean of each block of keys (values) that they complete:
//   k_cache[b, positions[b, t]] = k[b, t];   the same for v
//   k_mean[b, n] = mean of k_cache[b, n * block_size .. (n + 1) * block_size), where a new token is the last of block n
// Means are taken over the stored (rounded) keys, as in qkv_rope.h. Nothing else is written: k_mean of an
// incomplete block is unchanged.
//
// One thread writes an element, in token order: a repeated run gives the same bits. A wrong shape or dtype throws
// Error. Positions are not checked.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct AppendKv {
  Tensor k_cache;      ///< [B, C, HK, D] act, up to C tokens per sequence; updated in place
  Tensor v_cache;      ///< [B, C, HK, D] act; updated in place
  Tensor k_mean = {};  ///< [B, ceil(C / block_size), HK, D] act; updated in place; optional
  Tensor v_mean = {};  ///< [B, ceil(C / block_size), HK, D] act; updated in place; optional
  Tensor k;            ///< [B, T, HK, D] act
  Tensor v;            ///< [B, T, HK, D] act
  Tensor positions;    ///< [B, T] i32, each in [0, C), ascending within a sequence
  std::int64_t block_size;
};
SSA_OP(append_kv, AppendKv);

}  // namespace ssa
