// Prepares the inputs of attention from the fused projection: splits qkvg, applies rotary position embedding (RoPE; Su
// et al., arXiv 2104.09864) to q and k, takes the sigmoid of the gate logits and the block means of k and v.
//
// A row of qkvg has HQ*D columns of q, HK*D of k, HK*D of v, then HQ*3 gate logits: per head compressed, selected,
// sliding window. As in Hugging Face's Llama, RoPE rotates the pairs (i, i + D/2) by the angle of the token's position:
//   rotate(x)[i]       = x[i] cos - x[i + D/2] sin
//   rotate(x)[i + D/2] = x[i + D/2] cos + x[i] sin
// The means are the keys and values of compressed attention and of block selection:
//   k_mean[b, n] = mean over the tokens of block n in sequence b of k as stored (rounded); the same for v
// A partial last block is averaged over the tokens it has.
//
// All outputs are overwritten, except for the padding of d_qkvg, and may not alias inputs. One thread computes an
// output element, in a fixed order: a repeated run gives the same bits. A wrong shape or dtype throws Error. Positions
// are not checked.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

struct QkvRopeForward {
  Tensor q;            ///< [B, T, HQ, D] act
  Tensor k;            ///< [B, T, HK, D] act
  Tensor v;            ///< [B, T, HK, D] act
  Tensor gates;        ///< [B, T, HQ, 3] f32, in (0, 1)
  Tensor k_mean = {};  ///< [B, N, HK, D] act; optional
  Tensor v_mean = {};  ///< [B, N, HK, D] act; optional
  Tensor qkvg;         ///< [M, (HQ + 2 HK) D + 3 HQ] act, rows may be padded
  Tensor positions;    ///< [B, T] i32, each in [0, P)
  Tensor cos_sin;      ///< [P, D/2, 2] f32: cosine and sine of position x inverse frequency
  std::int64_t block_size;
};
SSA_OP(qkv_rope_forward, QkvRopeForward);

/// The gradient of qkvg. Token m is in block n, which has `tokens` tokens:
///   q columns: rotate^-1(d_q)
///   k columns: rotate^-1(d_k + d_k_mean[n] / tokens);   v columns: d_v + d_v_mean[n] / tokens
///   gate logits: d_gate * gate * (1 - gate)
struct QkvRopeBackward {
  Tensor d_qkvg = {};    ///< [M, (HQ + 2 HK) D + 3 HQ] act, rows may be padded; absent if the next two are given
  Fp8Matrix fp8 = {};    ///< row blocks, overwritten: d_qkvg as quantize_fp8 rounds it; D a multiple of 16
  Fp8Matrix fp8_t = {};  ///< square blocks, overwritten: the same, transposed
  Tensor d_q;            ///< [B, T, HQ, D] f32
  Tensor d_k;            ///< [B, T, HK, D] f32
  Tensor d_v;            ///< [B, T, HK, D] f32
  Tensor d_gates;        ///< [B, T, HQ, 3] f32
  Tensor d_k_mean = {};  ///< [B, N, HK, D] f32; absent = 0
  Tensor d_v_mean = {};  ///< [B, N, HK, D] f32; absent = 0
  Tensor gates;          ///< [B, T, HQ, 3] f32, from the forward
  Tensor positions;      ///< [B, T] i32
  Tensor cos_sin;        ///< [P, D/2, 2] f32
  std::int64_t block_size;
};
SSA_OP(qkv_rope_backward, QkvRopeBackward);

}  // namespace ssa
