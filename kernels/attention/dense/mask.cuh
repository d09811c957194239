// Which keys a query token attends to, for kernels that process dense ranges of keys. Each mask is monotone: the range
// [key_begin(t), key_end(t)) moves up with t, and so does [query_begin(u), query_end(u)), the tokens that attend to
// key u.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <climits>
#include <cstdint>

namespace ssa::cuda {

/// Keys 0 .. t.
struct Causal {
  static constexpr bool kLowerBound = false;  ///< whether key_begin is not always 0
  static constexpr bool kBlockMeans = false;  ///< whether keys are means of blocks
  __host__ __device__ bool is_visible(int t, int u) const { return u <= t; }
  __host__ __device__ int key_begin(int) const { return 0; }
  __host__ __device__ int key_end(int t) const { return t + 1; }
  __host__ __device__ int query_begin(int u) const { return u; }
  __host__ __device__ int query_end(int) const { return INT_MAX; }
  __host__ __device__ int tokens_per_key() const { return 1; }
};

/// Keys t - window + 1 .. t.
struct Windowed {
  static constexpr bool kLowerBound = true, kBlockMeans = false;
  int window;
  __host__ __device__ bool is_visible(int t, int u) const {
    return static_cast<unsigned>(t - u) < static_cast<unsigned>(window);
  }
  __host__ __device__ int key_begin(int t) const { return t >= window ? t - window + 1 : 0; }
  __host__ __device__ int key_end(int t) const { return t + 1; }
  __host__ __device__ int query_begin(int u) const { return u; }
  __host__ __device__ int query_end(int u) const { return u > INT_MAX - window ? INT_MAX : u + window; }
  __host__ __device__ int tokens_per_key() const { return 1; }
};

/// Keys are means of blocks; complete blocks are visible.
struct CompleteBlocks {
  static constexpr bool kLowerBound = false, kBlockMeans = true;
  int block_size;
  __host__ __device__ bool is_visible(int t, int u) const { return (u + 1) * block_size <= t + 1; }
  __host__ __device__ int key_begin(int) const { return 0; }
  __host__ __device__ int key_end(int t) const { return (t + 1) / block_size; }
  __host__ __device__ int query_begin(int u) const { return (u + 1) * block_size - 1; }
  __host__ __device__ int query_end(int) const { return INT_MAX; }
  __host__ __device__ int tokens_per_key() const { return block_size; }
};

/// The keys that another mask shows, of the token's document piece only (kernels/attention/documents.h). The keys that
/// a tile of queries sees are still one range, from the piece of its first query to its last query.
template <class Base>
struct InDocuments {
  static constexpr bool kLowerBound = true, kBlockMeans = Base::kBlockMeans;
  Base base;
  const int *begin, *end;  ///< [B, T]; after of_sequence() those of the sequence
  int T;
  // Tiles reach beyond the end of a sequence, where the indices below are those of its last token.
  __device__ int key_begin(int t) const { return max(base.key_begin(t), piece_begin(t)); }
  __device__ int key_end(int t) const { return base.key_end(t); }
  __device__ int query_begin(int u) const { return base.query_begin(u); }
  __device__ int query_end(int u) const {
    return min(base.query_end(u), __ldg(end + min(u * base.tokens_per_key(), T - 1)));
  }
  /// The first key of the piece that token t is in.
  __device__ int piece_begin(int t) const { return __ldg(begin + min(t, T - 1)) / base.tokens_per_key(); }
};

template <class Mask>
inline constexpr bool kIsInDocuments = false;
template <class Base>
inline constexpr bool kIsInDocuments<InDocuments<Base>> = true;

/// The mask without documents.
template <class Mask>
__host__ __device__ const Mask& base_of(const Mask& mask) {
  return mask;
}
template <class Base>
__host__ __device__ const Base& base_of(const InDocuments<Base>& mask) {
  return mask.base;
}

/// The mask of sequence b.
template <class Mask>
__device__ const Mask& of_sequence(const Mask& mask, std::int64_t) {
  return mask;
}
template <class Base>
__device__ InDocuments<Base> of_sequence(const InDocuments<Base>& mask, std::int64_t b) {
  return {mask.base, mask.begin + b * mask.T, mask.end + b * mask.T, mask.T};
}

/// The first token that a kv tile visits, which begins with key u. If u is the first block of a document piece, the
/// piece's tokens before the end of this block see no key, and no other tile visits them: this one does, so that their
/// d_q is written.
template <class Mask>
__device__ int first_query_of_tile(const Mask& mask, int u) {
  return mask.query_begin(u);
}
template <class Base>
__device__ int first_query_of_tile(const InDocuments<Base>& mask, int u) {
  const int t = u * mask.base.tokens_per_key();
  return Base::kBlockMeans && mask.piece_begin(t) == u ? t : mask.query_begin(u);
}

/// What contains(u) tells of the keys of a token, and contains(t) of the tokens of a key.
template <class Mask>
struct KeysByRule {
  const Mask& mask;
  int t;
  __device__ bool contains(int u) const { return mask.is_visible(t, u); }
};
template <class Mask>
struct QueriesByRule {
  const Mask& mask;
  int u;
  __device__ bool contains(int t) const { return mask.is_visible(t, u); }
};
struct Indices {
  int begin;
  unsigned count;
  __device__ Indices(int first, int after_last)
      : begin(first), count(static_cast<unsigned>(max(0, after_last - first))) {}
  __device__ bool contains(int i) const { return static_cast<unsigned>(i - begin) < count; }
};

/// The keys of token t, and the tokens of key u: with documents, what is read from memory is read once.
template <class Mask>
__device__ KeysByRule<Mask> keys_of(const Mask& mask, int t) {
  return {mask, t};
}
template <class Base>
__device__ Indices keys_of(const InDocuments<Base>& mask, int t) {
  return {mask.key_begin(t), mask.key_end(t)};
}
template <class Mask>
__device__ QueriesByRule<Mask> queries_of(const Mask& mask, int u) {
  return {mask, u};
}
template <class Base>
__device__ Indices queries_of(const InDocuments<Base>& mask, int u) {
  return {mask.query_begin(u), mask.query_end(u)};
}

}  // namespace ssa::cuda
