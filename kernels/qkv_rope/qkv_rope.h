// From the fused projection to what attention reads: split, rotary embedding (Su et al. 2021) of q and k, sigmoid of
// the gate logits, mean of k and v over blocks.
//
// Columns of qkvg: HQ*D of q, HK*D of k, HK*D of v, then HQ*3 gate logits (head-major; component 0 compressed,
// 1 selected, 2 sliding window). Rotation is of pairs (i, i + D/2), the Hugging Face layout, by the angle of the
// position:
//   rotate(x)[i]       = x[i] cos - x[i + D/2] sin
//   rotate(x)[i + D/2] = x[i + D/2] cos + x[i] sin
// k_mean[b, n] is the mean of the stored (rounded) k over the tokens that block n of row b has: a last partial block is
// averaged over fewer.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct QkvRopeForward {
  Tensor q;            ///< [B, T, HQ, D] act
  Tensor k;            ///< [B, T, HK, D] act
  Tensor v;            ///< [B, T, HK, D] act
  Tensor gates;        ///< [B, T, HQ, 3] f32, in (0, 1)
  Tensor k_mean = {};  ///< [B, N, HK, D] act; absent = not wanted
  Tensor v_mean = {};  ///< [B, N, HK, D] act; absent = not wanted
  Tensor qkvg;         ///< [M, (HQ + 2 HK) D + 3 HQ] act
  Tensor positions;    ///< [B, T] i32, each below P
  Tensor cos_sin;      ///< [P, D/2, 2] f32: cosine and sine of position x inverse frequency
  std::int64_t block_size;
};
SSA_OP(qkv_rope_forward, QkvRopeForward);

/// The transpose: inverse rotation of d_q and d_k, each k (v) token also receiving d_k_mean (d_v_mean) of its block
/// divided by the block's token count, and d_logit = d_gate * gate * (1 - gate).
struct QkvRopeBackward {
  Tensor d_qkvg;         ///< [M, (HQ + 2 HK) D + 3 HQ] act
  Tensor d_q;            ///< [B, T, HQ, D] f32
  Tensor d_k;            ///< [B, T, HK, D] f32
  Tensor d_v;            ///< [B, T, HK, D] f32
  Tensor d_gates;        ///< [B, T, HQ, 3] f32
  Tensor d_k_mean = {};  ///< [B, N, HK, D] f32; absent = 0
  Tensor d_v_mean = {};  ///< [B, N, HK, D] f32; absent = 0
  Tensor gates;          ///< [B, T, HQ, 3] f32
  Tensor positions;      ///< [B, T] i32
  Tensor cos_sin;        ///< [P, D/2, 2] f32
  std::int64_t block_size;
};
SSA_OP(qkv_rope_backward, QkvRopeBackward);

}  // namespace ssa
