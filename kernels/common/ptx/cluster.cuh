// Clusters: adjacent CTAs of a grid that run at the same time and can write to each other's shared memory (PTX ISA,
// "barrier.cluster", "mapa", "st.async"; compute capability 9.0 and later). LaunchShape::cluster makes them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "mbarrier.cuh"
#include "src/runtime/cuda_context.h"

namespace ssa::cuda {

inline constexpr int kMaxCluster = 8;  ///< CTAs; more are not portable

/// Whether the code that the GPU runs for `kernel` has clusters: it may come from the PTX of an older GPU.
template <class... Parameters>
bool knows_clusters(const char* op, void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), op);
  return attributes.ptxVersion >= 90;
}

/// __syncthreads() of the cluster.
__device__ __forceinline__ void cluster_sync() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#else
  __trap();
#endif
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
/// The CTA's place in its cluster.
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// Arrivals of warps at barriers of an array, in all CTAs of the cluster at once. Ordinary writes of this CTA are not
/// made visible to the other CTAs: with .release.cluster every arrival would wait for a fence of the whole GPU. So it
/// is only for stages that TMA fills and that nobody else writes.
template <int kCtas>
class ClusterArrival {
 public:
  static_assert(kCtas <= kWarpSize);

  /// A warp arrives kArrivalsOfWarp times at a barrier of each CTA. Lane i arrives at CTA i; in a build for racecheck,
  /// every lane at every CTA.
  __device__ __forceinline__ ClusterArrival(const Barrier& first, int lane) : lane_(lane) {
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address_) : "r"(first.address()), "r"(lane % kCtas));
  }

  /// At barrier `index`, called by all lanes.
  __device__ __forceinline__ void arrive(int index) const {
    __syncwarp();
    const std::uint32_t to = address_ + index * static_cast<int>(sizeof(Barrier));
    if constexpr (kArrivalsOfWarp == 1) {
      if (lane_ < kCtas) arrive_at(to);
    } else {
#pragma unroll
      for (int i = 0; i < kCtas; ++i) arrive_at(__shfl_sync(kFullMask, to, i));
    }
  }

 private:
  __device__ static __forceinline__ void arrive_at(std::uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
  }

  std::uint32_t address_;
  int lane_;
};
#endif

/// Receives kCount values in shared memory, each sent once by one CTA of the cluster. Every CTA has a ClusterInbox and
/// waits for all its values before it ends, so no CTA writes to the shared memory of one that has ended. Values are
/// counted where they arrive, so no cluster-wide barrier is needed after the writes.
///
/// CTAs that exchange values several times take two inboxes in turn, and call `expect` before they send. That is safe:
/// a CTA sends to an inbox again only after it has received the values of the turn between, and each CTA sends those
/// after it has read the inbox.
template <int kCount>
struct ClusterInbox {
  float2 values[kCount];
  Barrier arrived;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  /// Called by every thread, before another inbox is opened.
  __device__ __forceinline__ void init() {
    if (threadIdx.x == 0) {
      arrived.init(1);
      fence_barrier_init();
    }
  }

  /// Called by every thread, first.
  __device__ __forceinline__ void open() {
    init();
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
  }

  /// Called by every thread, before the first `send`.
  __device__ __forceinline__ void wait_until_all_are_open() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
    expect();
  }

  /// Called by every thread, before the first `send` of a later turn.
  __device__ __forceinline__ void expect() {
    // Bytes may arrive before they are expected: the phase waits for this arrival too.
    if (threadIdx.x == 0) arrived.arrive_expect_tx(sizeof values);
  }

  /// Writes `value` to values[index] of CTA `rank`.
  __device__ __forceinline__ void send(int rank, int index, float2 value) {
    asm volatile(
        "{\n.reg .b32 to, counter;\n"
        "mapa.shared::cluster.u32 to, %0, %2;\nmapa.shared::cluster.u32 counter, %1, %2;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [to], {%3, %4}, [counter];\n}" ::"r"(
            shared_address(values + index)),
        "r"(arrived.address()), "r"(rank), "f"(value.x), "f"(value.y)
        : "memory");
  }

  /// Called by every thread, before it reads `values`. `use`: how often it has waited before.
  __device__ __forceinline__ void wait_for_values(int use = 0) { arrived.wait(use % 2); }
#else
  // Kernels that use clusters also compile for older GPUs, but must not be launched there.
  __device__ __forceinline__ void init() { __trap(); }
  __device__ __forceinline__ void open() { __trap(); }
  __device__ __forceinline__ void wait_until_all_are_open() { __trap(); }
  __device__ __forceinline__ void expect() { __trap(); }
  __device__ __forceinline__ void send(int, int, float2) { __trap(); }
  __device__ __forceinline__ void wait_for_values(int = 0) { __trap(); }
#endif
};

}  // namespace ssa::cuda
