// Which keys a query token attends to, for kernels that process dense ranges of keys. Each mask is monotone: the range
// [key_begin(t), key_end(t)) moves up with t, and so does [query_begin(u), query_end(u)), the tokens that attend to
// key u.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <climits>

namespace ssa::cuda {

/// Keys 0 .. t.
struct Causal {
  __host__ __device__ bool is_visible(int t, int u) const { return u <= t; }
  __host__ __device__ int key_begin(int) const { return 0; }
  __host__ __device__ int key_end(int t) const { return t + 1; }
  __host__ __device__ int query_begin(int u) const { return u; }
  __host__ __device__ int query_end(int) const { return INT_MAX; }
};

/// Keys t - window + 1 .. t.
struct Windowed {
  int window;
  __host__ __device__ bool is_visible(int t, int u) const {
    return static_cast<unsigned>(t - u) < static_cast<unsigned>(window);
  }
  __host__ __device__ int key_begin(int t) const { return t >= window ? t - window + 1 : 0; }
  __host__ __device__ int key_end(int t) const { return t + 1; }
  __host__ __device__ int query_begin(int u) const { return u; }
  __host__ __device__ int query_end(int u) const { return u > INT_MAX - window ? INT_MAX : u + window; }
};

/// Keys are means of blocks; complete blocks are visible.
struct CompleteBlocks {
  int block_size;
  __host__ __device__ bool is_visible(int t, int u) const { return (u + 1) * block_size <= t + 1; }
  __host__ __device__ int key_begin(int) const { return 0; }
  __host__ __device__ int key_end(int t) const { return (t + 1) / block_size; }
  __host__ __device__ int query_begin(int u) const { return (u + 1) * block_size - 1; }
  __host__ __device__ int query_end(int) const { return INT_MAX; }
};

}  // namespace ssa::cuda
