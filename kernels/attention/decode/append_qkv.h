// qkv_rope_forward (qkv_rope.h) of new tokens, whose keys and values go to the cache of decoding, and the mean of each
// block of keys (values) that they complete:
//   q, gates: as of qkv_rope_forward
//   k_cache[b, positions[b, t]] = its k[b, t];   the same for v
//   k_mean[b, n] = mean of k_cache[b, n * block_size .. (n + 1) * block_size), where a new token is the last of block n
// Means are taken over the stored (rounded) keys, as in qkv_rope.h. Nothing else is written: k_mean of an
// incomplete block is unchanged.
//
// One thread writes an element, in token order: a repeated run gives the same bits. A wrong shape or dtype throws
// Error. Positions are not checked.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/common/read_later.h"

namespace ssa {

struct AppendQkv {
  Tensor q;            ///< [B, T, HQ, D] act, overwritten
  Tensor gates;        ///< [B, T, HQ, 3] f32, overwritten
  Tensor k_cache;      ///< [B, C, HK, D] act, up to C tokens per sequence; updated in place
  Tensor v_cache;      ///< [B, C, HK, D] act; updated in place
  Tensor k_mean = {};  ///< [B, ceil(C / block_size), HK, D] act; updated in place; optional
  Tensor v_mean = {};  ///< [B, ceil(C / block_size), HK, D] act; updated in place; optional
  Tensor qkvg;         ///< [B T, (HQ + 2 HK) D + 3 HQ] act
  Tensor positions;    ///< [B, T] i32, each in [0, C) and in [0, P), ascending within a sequence
  Tensor cos_sin;      ///< [P, D/2, 2] f32
  std::int64_t block_size;
  ReadLater read_later = {};
};
SSA_OP(append_qkv, AppendQkv);

}  // namespace ssa
