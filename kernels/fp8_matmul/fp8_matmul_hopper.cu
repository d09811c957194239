#include "fp8_matmul_hopper.h"

#include <algorithm>

#include "fp8_matmul_hopper.cuh"

namespace ssa::cuda {
namespace {

using C = Fp8HopperConfig;

/// Of the values of an operand, in boxes of box_rows rows of 128.
CUtensorMap values_map(const Fp8Matrix& m, std::int64_t rows, int box_rows) {
  const auto size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t columns = size(m.values.dim(1));
  return encode_tensor_map<2>("fp8_matmul", CU_TENSOR_MAP_DATA_TYPE_UINT8, m.values.data(), {columns, size(rows)},
                              {columns}, {C::kBlockK, static_cast<cuuint32_t>(box_rows)});
}

CUtensorMap out_map(const Fp8Matmul& p, std::int64_t rows) {
  const auto size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t columns = size(p.out.dim(1));
  return encode_tensor_map<2>("fp8_matmul", CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p.out.data(), {columns, size(rows)},
                              {columns * sizeof(__nv_bfloat16)}, {64, kWarpgroupRows});
}

/// How a product is divided among the clusters. Fp8HopperArgs describes the fields that have no comment here.
struct Work {
  int most;  ///< clusters at a time
  bool share_rows;
  int cluster_rows, cluster_columns;
  int whole_tiles, parts;
  double rounds;  ///< about how long it takes
};

/// Pairs the tiles one way. If at most half of the clusters have a tile in the last round, the sums of these tiles are
/// split.
Work plan_work(bool share_rows, int row_tiles, int column_tiles, int steps, int most, int most_parts) {
  const auto pairs = [](int tiles) { return (tiles + C::kCluster - 1) / C::kCluster; };
  Work work{};
  work.most = most;
  work.share_rows = share_rows;
  work.cluster_rows = share_rows ? row_tiles : pairs(row_tiles);
  work.cluster_columns = share_rows ? pairs(column_tiles) : column_tiles;
  work.parts = 1;
  const int tiles = work.cluster_rows * work.cluster_columns, last = tiles % most;
  work.whole_tiles = tiles;
  work.rounds = tiles / most;
  if (last == 0) return work;
  if (steps >= C::kSplitSteps) work.parts = std::max(1, std::min(most, most_parts) / last);
  work.parts = std::min(work.parts, std::max(1, steps / C::kPartSteps));
  if (work.parts > 1) work.whole_tiles = tiles - last;
  work.rounds += 1.0 / work.parts;
  return work;
}

/// Two tiles next to each other share their rows, which takes less from L2, unless sharing their squares takes fewer
/// rounds.
Work plan_work(int row_tiles, int column_tiles, int steps, int most, int most_parts) {
  const Work rows = plan_work(true, row_tiles, column_tiles, steps, most, most_parts);
  const Work squares = plan_work(false, row_tiles, column_tiles, steps, most, most_parts);
  return squares.rounds < rows.rounds ? squares : rows;
}

/// The product as rows times squares.
struct Operands {
  explicit Operands(const Fp8Matmul& p)
      : transposed(p.a.blocks == Fp8Blocks::square),
        rows(transposed ? p.b : p.a),
        squares(transposed ? p.a : p.b),
        R(transposed ? p.out.dim(1) : fp8_whole_rows(p.a.rows)),
        S(transposed ? fp8_whole_rows(p.a.rows) : p.out.dim(1)),
        steps(static_cast<int>(fp8_blocks_of(p.a.columns))) {}

  bool transposed;
  const Fp8Matrix &rows, &squares;
  std::int64_t R, S;
  int steps;
};

Work plan_work(const CudaContext& context, const Operands& operands) {
  const int most = std::max(1, context.properties.multiProcessorCount / C::kCluster);
  constexpr std::size_t kPartBytes = sizeof(float) * C::kCluster * C::kBlockM * C::kBlockN;
  return plan_work(static_cast<int>(ctas_for(operands.R, C::kBlockM)),
                   static_cast<int>(ctas_for(operands.S, C::kBlockN)), operands.steps, most,
                   static_cast<int>(context.blas_workspace_bytes / kPartBytes));
}

template <class Out, bool kTransposed>
void start(Stream& stream, const Fp8Matmul& p, Out* out) {
  const Operands operands(p);
  const auto& [transposed, rows, squares, R, S, steps] = operands;
  Fp8HopperArgs<Out> a{};
  a.rows = values_map(rows, R, C::kRowBox);
  a.squares = values_map(squares, S, C::kSquareBox);
  if constexpr (std::is_same_v<Out, __nv_bfloat16> && !kTransposed) a.out_map = out_map(p, R);
  a.row_scales = rows.scales.as<float>();
  a.square_scales = squares.scales.as<float>();
  a.square_stride = squares.scales.dim(1);
  a.out = out;
  a.out_stride = p.out.dim(1);
  a.R = static_cast<int>(R);
  a.S = static_cast<int>(S);
  a.steps = steps;
  a.accumulate = p.accumulate;

  CudaContext& context = stream.cuda();
  const Work work = plan_work(context, operands);
  a.share_rows = work.share_rows;
  a.cluster_rows = work.cluster_rows;
  a.cluster_columns = work.cluster_columns;
  a.whole_tiles = work.whole_tiles;
  a.parts = work.parts;
  const int split_tiles = work.cluster_rows * work.cluster_columns - work.whole_tiles;
  a.items = work.whole_tiles + split_tiles * work.parts;
  a.part_sums = static_cast<float4*>(context.blas_workspace);
  launch(stream, "fp8_matmul", fp8_matmul_hopper_kernel<Out, kTransposed>,
         {.grid = static_cast<unsigned>(std::min(work.most, a.items) * C::kCluster),
          .block = C::kThreads,
          .shared_bytes = sizeof(C::Shared),
          .cluster = C::kCluster,
          .waits = true},
         a);
  launch(stream, "fp8_matmul", fp8_add_parts_kernel<Out, kTransposed>,
         {.grid = dim3(static_cast<unsigned>(split_tiles * C::kCluster), C::kPieces * C::kAddSlices),
          .block = C::kWarps * kWarpSize,
          .waits = true},
         a);
}

}  // namespace

bool fp8_matmul_hopper_splits(Stream& stream, const Fp8Matmul& p) {
  return plan_work(stream.cuda(), Operands(p)).parts > 1;
}

void fp8_matmul_hopper(Stream& stream, const Fp8Matmul& p) {
  SSA_CHECK(has_wgmma(stream), "fp8_matmul: this GPU or this build has no kernels in wgmma");
  const bool transposed = Operands(p).transposed;
  if (p.out.dtype() == DType::f32) {
    float* out = p.out.as<float>();
    transposed ? start<float, true>(stream, p, out) : start<float, false>(stream, p, out);
  } else {
    __nv_bfloat16* out = bf16(p.out);
    transposed ? start<__nv_bfloat16, true>(stream, p, out) : start<__nv_bfloat16, false>(stream, p, out);
  }
}

}  // namespace ssa::cuda
