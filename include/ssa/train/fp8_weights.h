// The weights of the linear layers in FP8 at ZeRO stage 3: ranks round their parts with common scales, and send bytes.
// The result is bit-identical to rounding the gathered weights (kernels/quantize_fp8/quantize_fp8_part.h).
//
// The FP8 weights of a layer and their transposes are in the memory of its gathered weights, which has at least 2 bytes
// per parameter. If all four matrices are in FP8, and each would then begin at a multiple of 256 bytes, it begins with
// a byte per parameter of the bucket, which one all_gather fills, and the transposes follow in the same order, at a
// multiple of 256 bytes. Otherwise a matrix that is in FP8 and its transpose are where the matrix is else, and the
// ranks send their parts of each matrix by broadcasts. A transpose whose rows are padded, because w has no multiple of
// 16 rows, has memory of its own in either case.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/model/activations.h"
#include "ssa/model/param_table.h"
#include "ssa/runtime/arena.h"

namespace ssa {

class ModelState;

/// Of a layer.
struct Fp8GatheredLayer {
  Fp8LayerWeights weights = {};  ///< views of the layer's gathered weights; absent where a matrix is not in FP8
  Tensor bytes;                  ///< u8 [bucket]: every weights[].w, if one all_gather fills them; else absent
  /// i32: the largest magnitudes of the blocks of all matrices, over the ranks; a layer keeps its own. And the part of
  /// each matrix.
  Tensor maxima;
  std::array<Tensor, kLinearLayers.size()> maxima_of = {};
};

/// `gathered`: act, where a pass reads the weights of each bucket (StateTensors::pass_weights). Empty if no linear
/// layer is in FP8.
std::vector<Fp8GatheredLayer> lay_out_gathered_fp8(Arena& arena, const ModelConfig& config, const Fp8Layers& fp8,
                                                   const ParamTable& table, const std::vector<Tensor>& gathered);

/// Finds the maxima of layer i, after its weights changed. A collective of the ranks that share a state.
void find_fp8_maxima(Stream& stream, Comm& shard, const ModelState& state, std::int64_t i);

/// Gathers layer i: weights[].w where a matrix is in FP8, and the others as a pass without FP8 reads them. A
/// collective.
void gather_fp8_weights(Stream& stream, Comm& shard, const ModelState& state, std::int64_t i);

/// Transposes what gather_fp8_weights left: weights[].w_t.
void transpose_fp8_weights(Stream& stream, const ModelState& state, std::int64_t i);

}  // namespace ssa
