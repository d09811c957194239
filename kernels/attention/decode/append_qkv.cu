// A thread takes one pair (i, i + D/2) of a head of q, k or v, or one gate, through all tokens of one sequence. It
// reads back only cache elements of its own columns. Further CTAs only start loads for later kernels.
#include "append_qkv.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 128;
/// First column_ctas CTAs per sequence, then those that start loads.
__global__ void __launch_bounds__(kThreads) append_qkv_kernel(const __grid_constant__ AppendArgs a, int column_ctas) {
  wait_for_previous_kernel();
  const int b = static_cast<int>(blockIdx.x) / column_ctas, thread = static_cast<int>(threadIdx.x);
  if (b >= a.B) {
    const int before = a.B * column_ctas, workers = (static_cast<int>(gridDim.x) - before) * kWarpSize;
    if (thread < kWarpSize) a.prefetch.start((static_cast<int>(blockIdx.x) - before) * kWarpSize + thread, workers);
    return;
  }
  const int half = a.D / 2, pairs = (a.HQ + 2 * a.HK) * half, gates = kGates * a.HQ;
  const int item = (static_cast<int>(blockIdx.x) - b * column_ctas) * kThreads + thread;
  if (item >= pairs + gates) return;
  const int head = item / half, d = item % half;
  for (int t = 0; t < a.T; ++t) {
    const std::int64_t query = std::int64_t{b} * a.T + t;
    const __nv_bfloat16* from = a.qkvg + query * a.width();
    if (item >= pairs) {
      const int gate = item - pairs;
      a.gates[query * gates + gate] = sigmoid(__bfloat162float(from[2 * pairs + gate]));
      continue;
    }
    from += head * a.D + d;
    const int position = a.positions[query];
    const ElementPair x = load_pair(from, half), rotated = rotate(x, a.angle(position, d));
    if (head < a.HQ) {
      store_pair(a.q + (query * a.HQ + head) * a.D + d, half, rotated);
      continue;
    }
    const bool is_k = head < a.HQ + a.HK;
    const int column = (head - a.HQ - (is_k ? 0 : a.HK)) * a.D + d;
    a.append(is_k ? a.k_cache : a.v_cache, is_k ? a.k_mean : a.v_mean, b, position, column, is_k ? rotated : x);
  }
}

}  // namespace

void append_qkv(Stream& stream, const AppendQkv& p) {
  const AppendArgs args(p);
  const auto columns = ctas_for((args.HQ + 2 * args.HK) * (args.D / 2) + kGates * args.HQ, kThreads);
  const auto others =
      args.prefetch.is_empty() ? 0u : static_cast<unsigned>(stream.cuda().properties.multiProcessorCount);
  launch(stream, "append_qkv", append_qkv_kernel,
         {.grid = columns * static_cast<unsigned>(args.B) + others, .block = kThreads, .waits = true}, args,
         static_cast<int>(columns));
}

}  // namespace ssa::cuda
