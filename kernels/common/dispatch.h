// An op is a free function over one parameter struct. Both backends implement it, and one line picks the backend.
//
// Conventions of every op header:
//   B sequences per micro-batch, T tokens per sequence, M = B * T; H hidden_size, F intermediate_size, V vocab_size;
//   HQ query heads, HK key/value heads, G = HQ / HK (query head h reads key/value head h / G), D head_dim;
//   block_size tokens per block, N = ceil(T / block_size) blocks per sequence, S block_counts.
//   "act" is the dtype of weights and activations: bf16 on CUDA, f32 on the CPU. The CPU ops also run with all act and
//   f32 tensors in f64, for derivative tests.
//   d_x is the gradient of x. Unless the header says otherwise, gradients of activations are overwritten (=), gradients
//   of parameters are accumulated (+=), outputs may not alias inputs, and a repeated run on the same device gives the
//   same bits.
//   `validate` throws Error that names the op, the tensor, and the shapes found and expected.
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

/// Declares op `name` over struct `Params`: the CPU and CUDA implementations, `validate`, and the function that calls
/// them.
#define SSA_OP(name, Params) SSA_DECLARE_OP(name, Params, 0)

/// The same for an op whose CUDA implementation uses Stream::scratch. cuda::scratch_bytes says how much, from shapes
/// alone: the implementation reserves no more, and a measuring stream collects it. The CPU uses none.
#define SSA_OP_WITH_SCRATCH(name, Params)     \
  namespace cuda {                            \
  std::size_t scratch_bytes(const Params& p); \
  }                                           \
  SSA_DECLARE_OP(name, Params, cuda::scratch_bytes(p))

#define SSA_DECLARE_OP(name, Params, cuda_scratch)                                 \
  namespace cpu {                                                                  \
  void name(Stream& stream, const Params& p);                                      \
  }                                                                                \
  namespace cuda {                                                                 \
  void name(Stream& stream, const Params& p);                                      \
  }                                                                                \
  void validate(const Params& p);                                                  \
  inline void name(Stream& stream, const Params& p) {                              \
    validate(p);                                                                   \
    if (stream.is_measuring()) {                                                   \
      if (stream.kind() == DeviceKind::cuda) stream.measure_scratch(cuda_scratch); \
      return;                                                                      \
    }                                                                              \
    const Stream::OpScope scope(stream, #name);                                    \
    SSA_DISPATCH(name);                                                            \
  }                                                                                \
  static_assert(true)
