#include "ssa/train/fp8_weights.h"

#include "kernels/quantize_fp8/quantize_fp8_part.h"
#include "ssa/train/model_state.h"

namespace ssa {
namespace {

std::size_t index_of(LinearLayer which) { return static_cast<std::size_t>(which); }

/// Where the transposes begin after `count` bytes: as products in FP8 expect their operands. Matrices that may be in FP8
/// have multiples of 256 elements, so that as much padding follows them as this adds.
std::int64_t aligned(std::int64_t count) {
  constexpr auto kUnit = static_cast<std::int64_t>(Arena::kAlignment);
  return (count + kUnit - 1) / kUnit * kUnit;
}

Shape scales_of(const Shape& matrix) { return fp8_scales_shape(matrix[0], matrix[1], Fp8Blocks::square); }

/// Scales of w and w^T of every linear layer that is in FP8 anywhere.
using Scales = std::array<std::array<Tensor, 2>, kLinearLayers.size()>;

Scales allocate_scales(Arena& arena, const ModelConfig& c, const Fp8Layers& fp8) {
  Scales scales;
  for (const LinearLayer which : kLinearLayers) {
    if (!fp8.has_in_any_layer(which)) continue;
    const auto [inputs, outputs] = widths_of(which, c);
    for (const bool transposed : {false, true})
      scales[index_of(which)][transposed] = arena.allocate(
          "fp8 scales of a pass", DType::f32, scales_of(transposed ? Shape{inputs, outputs} : Shape{outputs, inputs}));
  }
  return scales;
}

/// Elements [begin, end) of a bucket that a rank owns of one matrix.
struct Part {
  std::int64_t first;    ///< in the matrix
  std::int64_t of_rank;  ///< in what the rank owns of the bucket
  std::int64_t count;    ///< may be 0
};

Part part_of(const ModelState& state, std::int64_t i, LinearLayer which, int rank) {
  const ParamTable& table = state.table();
  const Bucket& bucket = table.buckets()[BucketOrder(state.shape().model).layer(i)];
  const Range matrix = range_of(table, state.shape().model, i, which), slice = table.slice(bucket, rank);
  const Range both = common(matrix, slice);
  if (both.count() == 0) return {0, 0, 0};
  return {both.begin - matrix.begin, both.begin - slice.begin, both.count()};
}

Tensor owned_part(const ModelState& state, std::int64_t i, const Part& part) {
  const Bucket& bucket = state.table().buckets()[BucketOrder(state.shape().model).layer(i)];
  return state.owned_weights(bucket).rows(part.of_rank, part.of_rank + part.count);
}

const Fp8GatheredLayer& layer_of(const ModelState& state, std::int64_t i) {
  return state.fp8_layers[static_cast<std::size_t>(i)];
}

/// Sends each rank's part of a matrix, of which `whole` has this rank's.
void send_parts(Stream& stream, Comm& shard, const ModelState& state, std::int64_t i, LinearLayer which,
                const Tensor& whole) {
  const Tensor flat = whole.view({whole.count()});
  for (int rank = 0; rank < shard.size(); ++rank)
    if (const Part part = part_of(state, i, which, rank); part.count > 0)
      shard.broadcast(stream, flat.rows(part.first, part.first + part.count), rank);
}

}  // namespace

std::vector<Fp8GatheredLayer> lay_out_gathered_fp8(Arena& arena, const ModelConfig& c, const Fp8Layers& fp8,
                                                   const ParamTable& table, const std::vector<Tensor>& gathered) {
  std::vector<Fp8GatheredLayer> layers;
  std::vector<Scales> scales;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::size_t bucket = BucketOrder(c).layer(i);
    const Range range = table.buckets()[bucket].range;
    const Tensor memory(gathered[bucket].data(), DType::u8, {static_cast<std::int64_t>(gathered[bucket].bytes())});
    const auto width = static_cast<std::int64_t>(size_of(gathered[bucket].dtype()));
    if (scales.size() < kLayerBuffers) scales.push_back(allocate_scales(arena, c, fp8));

    Fp8GatheredLayer& layer = layers.emplace_back();
    const bool all = fp8.has_all_of(i);
    if (all) layer.bytes = memory.rows(0, range.count());
    std::int64_t blocks = 0;
    for (const LinearLayer which : kLinearLayers) {
      if (!fp8.has(i, which)) continue;
      const Range matrix = range_of(table, c, i, which);
      const auto [inputs, outputs] = widths_of(which, c);
      const std::int64_t at = matrix.begin - range.begin, begin = all ? at : width * at;
      const std::int64_t begin_t = all ? aligned(range.count()) + at : begin + matrix.count();
      const auto& [of_w, of_w_t] = scales[static_cast<std::size_t>(i) % kLayerBuffers][index_of(which)];
      layer.weights[index_of(which)] = {
          .w = {.values = memory.rows(begin, begin + matrix.count()).view({outputs, inputs}),
                .scales = of_w,
                .blocks = Fp8Blocks::square},
          .w_t = {.values = memory.rows(begin_t, begin_t + matrix.count()).view({inputs, outputs}),
                  .scales = of_w_t,
                  .blocks = Fp8Blocks::square}};
      blocks += of_w.count();
    }
    if (blocks == 0) continue;
    layer.maxima = arena.allocate("fp8 maxima of blocks", DType::i32, {blocks});
    std::int64_t before = 0;
    for (const LinearLayer which : kLinearLayers) {
      if (!fp8.has(i, which)) continue;
      const Shape shape = layer.weights[index_of(which)].w.scales.shape();
      layer.maxima_of[index_of(which)] = layer.maxima.rows(before, before + shape.count()).view(shape);
      before += shape.count();
    }
  }
  return layers;
}

void find_fp8_maxima(Stream& stream, Comm& shard, const ModelState& state, std::int64_t i) {
  const Fp8GatheredLayer& layer = layer_of(state, i);
  for (const LinearLayer which : kLinearLayers) {
    if (!state.shape().pass.fp8.has(i, which)) continue;
    const Part part = part_of(state, i, which, shard.rank());
    const auto [inputs, outputs] = widths_of(which, state.shape().model);
    fp8_part_maxima(stream, {.maxima = layer.maxima_of[index_of(which)],
                             .x = owned_part(state, i, part),
                             .first = part.first,
                             .rows = outputs,
                             .columns = inputs});
  }
  shard.all_reduce(stream, layer.maxima, ReduceOp::max);
}

void gather_fp8_weights(Stream& stream, Comm& shard, const ModelState& state, std::int64_t i) {
  const Fp8GatheredLayer& layer = layer_of(state, i);
  const Bucket& bucket = state.table().buckets()[BucketOrder(state.shape().model).layer(i)];
  const Tensor gathered = state.pass_weights[BucketOrder(state.shape().model).layer(i)];
  for (const LinearLayer which : kLinearLayers) {
    const Part part = part_of(state, i, which, shard.rank());
    const Tensor own = owned_part(state, i, part);
    if (state.shape().pass.fp8.has(i, which)) {
      const Fp8Matrix& w = layer.weights[index_of(which)].w;
      quantize_fp8_part(stream, {.out = w, .maxima = layer.maxima_of[index_of(which)], .x = own, .first = part.first});
      if (!layer.bytes) send_parts(stream, shard, state, i, which, w.values);
    } else {
      const Range matrix = range_of(state.table(), state.shape().model, i, which);
      const Tensor w = gathered.rows(matrix.begin - bucket.range.begin, matrix.end - bucket.range.begin);
      if (part.count > 0) stream.copy(w.rows(part.first, part.first + part.count).data(), own.data(), own.bytes());
      send_parts(stream, shard, state, i, which, w);
    }
  }
  if (!layer.bytes) return;
  const std::int64_t each = layer.bytes.count() / shard.size();
  shard.all_gather(stream, layer.bytes.rows(shard.rank() * each, (shard.rank() + 1) * each), layer.bytes);
}

void transpose_fp8_weights(Stream& stream, const ModelState& state, std::int64_t i) {
  for (const Fp8Weight& weight : layer_of(state, i).weights)
    if (weight.w) transpose_fp8(stream, {.out = weight.w_t, .x = weight.w});
}

}  // namespace ssa
