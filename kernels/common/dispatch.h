// An op is a free function over one parameter struct, implemented by both backends and dispatched in one line.
//
// Conventions of every op header:
//   B rows (sequences) in a micro-batch, T tokens a row, M = B * T; H hidden_size, F intermediate_size, V vocab_size;
//   HQ query heads, HK key/value heads, G = HQ / HK (query head h reads key/value head h / G), D head_dim;
//   block_size tokens a block, N = ceil(T / block_size) blocks a row, S block_counts.
//   "act" is the dtype of weights and activations: bf16 on CUDA, f32 on the CPU. The CPU ops also run with every
//   act and f32 tensor in f64, which is how tests check derivatives.
//   d_x is the gradient of x. Gradients of activations are overwritten (=), gradients of parameters are added to (+=),
//   unless the header says otherwise. Outputs may not alias inputs unless it says so. Results are bit-repeatable on the
//   same device, again unless it says so. `validate` throws Error naming the op, the tensor and both shapes.
#pragma once

#include "ssa/runtime/stream.h"
#include "ssa/runtime/tensor.h"

#ifndef SSA_WITH_CUDA
#define SSA_WITH_CUDA 0
#endif

#if SSA_WITH_CUDA
#define SSA_DISPATCH(name) stream.kind() == DeviceKind::cuda ? cuda::name(stream, p) : cpu::name(stream, p)
#else
#define SSA_DISPATCH(name) cpu::name(stream, p)
#endif

/// Declares op `name` over struct `Params`: its two implementations, its checks, and the call that picks.
#define SSA_OP(name, Params)                          \
  namespace cpu {                                     \
  void name(Stream& stream, const Params& p);         \
  }                                                   \
  namespace cuda {                                    \
  void name(Stream& stream, const Params& p);         \
  }                                                   \
  void validate(const Params& p);                     \
  inline void name(Stream& stream, const Params& p) { \
    validate(p);                                      \
    const Stream::OpScope scope(stream, #name);       \
    SSA_DISPATCH(name);                               \
  }                                                   \
  static_assert(true)
