#include "ssa/train/fp8_weights.h"

#include "kernels/quantize_fp8/quantize_fp8_part.h"
#include "ssa/train/model_state.h"

namespace ssa {
namespace {

std::size_t index_of(LinearLayer which) { return static_cast<std::size_t>(which); }

/// As products in FP8 expect their operands, in bytes.
constexpr auto kUnit = static_cast<std::int64_t>(Arena::kAlignment);

/// Where the transposes begin after `count` bytes. They have multiples of 256 elements and follow one another. As much
/// memory as rounding up takes is left: padding, if all of a layer's matrices have such transposes, or where the
/// transpose would be that has memory of its own.
std::int64_t aligned(std::int64_t count) { return (count + kUnit - 1) / kUnit * kUnit; }

Shape scales_of(const Shape& matrix) { return fp8_scales_shape(matrix[0], matrix[1], Fp8Blocks::square); }

/// Scales of w and w^T of every linear layer that is in FP8 anywhere, flat. Where w^T has padded rows, its values, too:
/// it is larger than w, and the gathered weights have no room for it.
struct PassMemory {
  Tensor w_scales, w_t_scales, w_t_values;
};
using PassMemories = std::array<PassMemory, kLinearLayers.size()>;

PassMemories allocate_pass(Arena& arena, const ModelConfig& c, const Fp8Layers& fp8) {
  PassMemories all;
  for (const LinearLayer which : kLinearLayers) {
    if (!fp8.has_in_any_layer(which)) continue;
    const auto [inputs, outputs] = widths_of(which, c);
    const auto scales = [&](const Shape& matrix) {
      return arena.allocate("fp8 scales of a pass", DType::f32, {scales_of(matrix).count()});
    };
    PassMemory& memory = all[index_of(which)];
    memory = {.w_scales = scales({outputs, inputs}), .w_t_scales = scales({inputs, outputs}), .w_t_values = {}};
    if (outputs % kFp8Alignment != 0)
      memory.w_t_values =
          arena.allocate("fp8 weights^T of a pass", DType::u8, {fp8_values_shape(inputs, outputs).count()});
  }
  return all;
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
  std::vector<PassMemories> memories;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::size_t bucket = BucketOrder(c).layer(i);
    const Range range = table.buckets()[bucket].range;
    const Tensor memory(gathered[bucket].data(), DType::u8, {static_cast<std::int64_t>(gathered[bucket].bytes())});
    const auto width = static_cast<std::int64_t>(size_of(gathered[bucket].dtype()));
    if (memories.size() < kLayerBuffers) memories.push_back(allocate_pass(arena, c, fp8));

    Fp8GatheredLayer& layer = layers.emplace_back();
    const auto is_aligned = [&](LinearLayer which) {
      return (range_of(table, c, i, which).begin - range.begin) % kUnit == 0;
    };
    const bool all = fp8.has_all_of(i) && std::ranges::all_of(kLinearLayers, is_aligned);
    if (all) layer.bytes = memory.rows(0, range.count());
    std::int64_t blocks = 0, next_t = aligned(range.count());
    for (const LinearLayer which : kLinearLayers) {
      if (!fp8.has(i, which)) continue;
      const Range matrix = range_of(table, c, i, which);
      const auto [inputs, outputs] = widths_of(which, c);
      const std::int64_t at = matrix.begin - range.begin, begin = all ? at : width * at;
      const PassMemory& pass = memories[static_cast<std::size_t>(i) % kLayerBuffers][index_of(which)];
      Fp8Buffer w{.values = memory.rows(begin, memory.count()), .scales = pass.w_scales};
      Fp8Buffer w_t{.values = pass.w_t_values, .scales = pass.w_t_scales};
      if (!w_t.values) {
        const std::int64_t begin_t = all ? next_t : begin + matrix.count();
        w_t.values = memory.rows(begin_t, begin_t + matrix.count());
        next_t += matrix.count();
      }
      layer.weights[index_of(which)] = {.w = w.matrix(outputs, inputs, Fp8Blocks::square),
                                        .w_t = w_t.matrix(inputs, outputs, Fp8Blocks::square)};
      blocks += pass.w_scales.count();
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
